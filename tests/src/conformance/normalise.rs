//! The part of a run that is compared: the one place that leaves something out.
//!
//! An observation is JSON: `proxy`, `client` (one entry per request), `upstream` (requests in order of arrival),
//! `processor` (side streams in order of opening), `counters`, `log`. Everything that the peers saw is in it, except:
//!
//! 1. Fields: the order between *different* names does not count (values of one name keep theirs, and their number).
//!    `date` becomes `*`. Names beginning with `x-envoy-` are dropped, `server: envoy` too, and an `x-request-id` becomes
//!    `*`, each unless the scenario itself names the field.
//! 2. The wording of error replies that the proxy makes itself (status 400 or above, no `x-upstream` marker, a body that
//!    the scenario's processor did not supply): body, `content-length` unless 0 and `grpc-message` become `*`, at the
//!    client and in what the processor is shown.
//! 3. Boundaries of body chunks, unless `compare.chunks`: at client and upstream always, at the processor in directions
//!    that can be STREAMED or FULL_DUPLEX_STREAMED (bytes joined, the last end of stream counts; with `races` whatever the other direction sent between).
//!    The counters `stream_msgs_sent` and `stream_msgs_received` are reduced by the messages that joining left out.
//! 4. In attributes, addresses' ports become `<listener>`, `<cluster name>` or `<port>`, times, durations and
//!    `connection.id` become `*`.
//! 5. Messages that arrived after the processor's script had ended the stream.
//! 6. Addresses in `x-forwarded-for` that the scenario does not mention become `*` (proxies put their own there, which is
//!    another one on every machine). Of the side stream's request head the field is dropped altogether, unless named.
//!    Of `traceparent`, ids that the scenario does not mention become as many `*`.
//! 7. How the proxy ends a side stream that is over (half-close or reset): only that it ended.
//! 8. With `compare.split` the interleaving of the two directions of a side stream; with `parallel` the order of
//!    upstream requests and side streams (they are sorted by path).
//! 9. Requests with `content-type: application/json` (what an HTTP service gets) are compared as JSON values, the lists of
//!    fields in them sorted by name.
//! 10. The code with which the proxy resets a request to an HTTP/2 upstream that it no longer needs (Envoy writes
//!     INTERNAL_ERROR, we write CANCEL where RFC 9113 §7 has that for it): only that it did.
//! 11. Bodies longer than 400 bytes are represented by length, hash and first bytes.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::bootstrap::Ports;
use super::run::{Proxy, Run};
use super::scenario::Scenario;
use crate::support::client::Response;
use crate::support::exchange::{End, Fields, Received};
use crate::support::http1::latin1;
use crate::support::processor::StreamRecord;
use crate::support::upstream::Arrived;

const LONG: usize = 400;
const MASK: &str = "*";

/// The observation of a run.
#[must_use]
pub fn observation(scenario: &Scenario, run: &Run) -> Value {
    let normaliser = Normaliser::new(scenario, &run.ports);
    let proxy = match &run.proxy {
        Proxy::Ran => "ran".to_owned(),
        Proxy::Refused(Some(code)) if *code != 0 => "refused".to_owned(),
        other => format!("{other:?}"),
    };
    let mut out = Map::new();
    out.insert("proxy".into(), proxy.into());
    if run.proxy != Proxy::Ran {
        return Value::Object(out);
    }
    let clients = run.clients.iter().map(|c| normaliser.client(c)).collect();
    out.insert("client".into(), Value::Array(clients));
    let mut upstream: Vec<Value> = run
        .upstream
        .iter()
        .map(|a| normaliser.upstream(a))
        .collect();
    let mut streams: Vec<Value> = run.processor.iter().map(|s| normaliser.stream(s)).collect();
    if scenario.spec.parallel {
        upstream.sort_by_key(|u| u["head"][":path"].to_string());
        streams.sort_by_key(|s| s["messages"][0]["headers"][":path"].to_string());
    }
    out.insert("upstream".into(), Value::Array(upstream));
    let sent: usize = run.processor.iter().map(|s| s.messages.len()).sum();
    let shown: usize = streams.iter().map(shown_messages).sum();
    let left_out = u64::try_from(sent.saturating_sub(shown)).unwrap_or_default();
    let counters = run.counters.as_ref().map_or(Value::Null, |counters| {
        let counters = counters.iter().map(|(name, value)| {
            let counts_messages = name.contains("stream_msgs_");
            let less = if counts_messages { left_out } else { 0 };
            (name.clone(), json!(value.saturating_sub(less)))
        });
        Value::Object(counters.collect())
    });
    out.insert("processor".into(), Value::Array(streams));
    out.insert("counters".into(), counters);
    if scenario.spec.log.is_some() {
        out.insert("log".into(), json!(run.log));
    }
    Value::Object(out)
}

fn shown_messages(stream: &Value) -> usize {
    ["messages", "request", "response"]
        .iter()
        .filter_map(|key| stream[*key].as_array())
        .map(Vec::len)
        .sum()
}

struct Normaliser<'a> {
    scenario: &'a Scenario,
    ports: &'a Ports,
    /// Header names that the scenario speaks about.
    named: BTreeSet<String>,
    /// The processor's part of the scenario as text, in which supplied bodies are found.
    supplied: String,
    joined: [bool; 2],
    local_port: Option<Regex>,
}

impl<'a> Normaliser<'a> {
    fn new(scenario: &'a Scenario, ports: &'a Ports) -> Self {
        let mut named: BTreeSet<String> = scenario.spec.compare.keep.clone();
        for key in ["client", "clients", "upstream", "upstreams", "processor"] {
            if let Some(part) = scenario.source.get(key) {
                names(part, &mut named);
            }
        }
        let processor = scenario.source.get("processor");
        Self {
            scenario,
            ports,
            named,
            supplied: processor.map(Value::to_string).unwrap_or_default(),
            joined: ["request_body_mode", "response_body_mode"]
                .map(|key| streams(&scenario.source, key)),
            local_port: Regex::new(r"127\.0\.0\.1:(\d+)").ok(),
        }
    }

    fn client(&self, response: &Response) -> Value {
        let received = &response.received;
        let mut out = Map::new();
        if !received.informational.is_empty() {
            let heads = received.informational.iter().map(|h| self.fields(h));
            out.insert("informational".into(), heads.collect());
        }
        if let Some(head) = &received.head {
            out.insert("head".into(), self.fields(head));
            self.rest(received, &mut out);
            if self.is_local_error(&out, "head") {
                mask_local(&mut out, "head", &self.supplied);
            }
        }
        out.insert("end".into(), received.end.name().into());
        if let Some([from, to]) = self.scenario.spec.time {
            let time = match response.head_after.map(|t| t.as_millis()) {
                None => "never",
                Some(t) if t < u128::from(from) => "early",
                Some(t) if t > u128::from(to) => "late",
                Some(_) => "in time",
            };
            out.insert("time".into(), time.into());
        }
        Value::Object(out)
    }

    fn upstream(&self, arrived: &Arrived) -> Value {
        let received = &arrived.received;
        let mut out = Map::new();
        out.insert("cluster".into(), arrived.cluster.clone().into());
        if let Some(head) = &received.head {
            out.insert("head".into(), self.fields(head));
        }
        self.rest(received, &mut out);
        if received.field("content-type").as_deref() == Some("application/json")
            && let Ok(mut json) = serde_json::from_slice(&received.body())
        {
            sort_fields(&mut json);
            out.insert("body".into(), json);
        }
        let end = received.end.name();
        let end = if end.starts_with("reset ") {
            "reset"
        } else {
            end.as_str()
        };
        out.insert("end".into(), end.into());
        Value::Object(out)
    }

    fn rest(&self, received: &Received, out: &mut Map<String, Value>) {
        out.insert("body".into(), body(&latin1(&received.body())));
        if self.scenario.spec.compare.chunks {
            let sizes: Vec<usize> = received.chunks.iter().map(|c| c.len()).collect();
            out.insert("chunks".into(), json!(sizes));
        }
        if let Some(trailers) = &received.trailers {
            out.insert("trailers".into(), self.fields(trailers));
        }
    }

    fn stream(&self, stream: &StreamRecord) -> Value {
        let mut out = Map::new();
        let own_address = |name: &str| name == "x-forwarded-for" && !self.named.contains(name);
        let head: Fields = stream
            .head
            .iter()
            .filter(|(name, _)| !own_address(name))
            .cloned()
            .collect();
        out.insert("head".into(), self.fields(&head));
        let messages = self.messages(&stream.messages);
        if self.scenario.spec.compare.split {
            let (request, response): (Vec<_>, Vec<_>) = messages
                .into_iter()
                .partition(|m| m["kind"].as_str().is_some_and(|k| k.starts_with("request")));
            out.insert("request".into(), Value::Array(request));
            out.insert("response".into(), Value::Array(response));
        } else {
            out.insert("messages".into(), Value::Array(messages));
        }
        let ended = stream.end != End::Open || stream.ended_by_script;
        out.insert("ended".into(), ended.into());
        if !stream.notes.is_empty() {
            out.insert("notes".into(), json!(stream.notes));
        }
        Value::Object(out)
    }

    /// The messages of a side stream. Where inputs race, another direction's message in between does not keep two pieces
    /// of a body from being joined: it may as well have come before or after both.
    fn messages(&self, messages: &[Value]) -> Vec<Value> {
        let mut out: Vec<Value> = Vec::new();
        let mut local_error = false;
        for message in messages {
            if message.get("after_end").is_some() {
                continue;
            }
            let mut message = message.clone();
            let kind = message["kind"].as_str().unwrap_or_default().to_owned();
            if let Some(list) = message.get("headers").and_then(Value::as_array) {
                let fields: Fields = list
                    .iter()
                    .map(|pair| {
                        let text = |i: usize| pair[i].as_str().unwrap_or_default();
                        (text(0).to_owned(), crate::support::http1::bytes_of(text(1)))
                    })
                    .collect();
                message["headers"] = self.fields(&fields);
            }
            if let Some(attributes) = message.get_mut("attributes") {
                self.mask_attributes("", attributes);
            }
            if kind == "response_headers"
                && let Some(map) = message.as_object_mut()
            {
                local_error = self.is_local_error(map, "headers");
                if local_error {
                    mask_local(map, "headers", &self.supplied);
                }
            }
            if kind == "response_body" && local_error {
                message["body"] = MASK.into();
            }
            let join = match kind.as_str() {
                "request_body" => self.joined[0],
                "response_body" => self.joined[1],
                _ => false,
            };
            let side = |kind: &str| kind.starts_with("request");
            let before = out.iter_mut().rev().find(|earlier| {
                let earlier = earlier["kind"].as_str().unwrap_or_default();
                !self.scenario.spec.races || side(earlier) == side(&kind)
            });
            if join
                && !self.scenario.spec.compare.chunks
                && let Some(last) = before
                && last["kind"] == message["kind"]
            {
                join_body(last, &message);
            } else {
                out.push(message);
            }
        }
        for message in &mut out {
            if let Some(text) = message.get("body").and_then(Value::as_str) {
                message["body"] = body(text);
            }
        }
        out
    }

    /// A field list as a map; several values of one name become a list.
    fn fields(&self, fields: &Fields) -> Value {
        let mut map: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        for (name, value) in fields {
            let lower = name.to_lowercase();
            let mut value = latin1(value);
            if lower == "date" {
                value = MASK.into();
            } else if !self.named.contains(&lower) {
                if lower.starts_with("x-envoy-") || (lower == "server" && value == "envoy") {
                    continue;
                }
                if lower == "x-request-id" {
                    value = MASK.into();
                }
            }
            if lower == "x-forwarded-for" {
                value = self.mask_addresses(&value);
            }
            if lower == "traceparent" {
                value = self.mask_ids(&value);
            }
            if lower == "x-forwarded-port"
                && let Ok(port) = value.parse()
                && !self
                    .scenario
                    .source
                    .to_string()
                    .contains(&format!("{lower}: {value}"))
            {
                value = self.port_name(port);
            }
            if value.len() > LONG {
                value = body(&value).to_string();
            }
            map.entry(name.clone()).or_default().push(value);
        }
        let one_or_many = |mut values: Vec<String>| match values.len() {
            1 => values.pop().map_or(Value::Null, Value::from),
            _ => json!(values),
        };
        let map = map.into_iter().map(|(n, v)| (n, one_or_many(v)));
        Value::Object(map.collect())
    }

    fn mask_addresses(&self, list: &str) -> String {
        let source = self.scenario.source.to_string();
        let shown = list.split(',').map(|address| {
            let known = source.contains(address.trim());
            if known { address } else { MASK }
        });
        shown.collect::<Vec<_>>().join(",")
    }

    fn mask_ids(&self, traceparent: &str) -> String {
        let source = self.scenario.source.to_string();
        let parts: Vec<&str> = traceparent.split('-').collect();
        let [version, trace, span, flags] = parts.as_slice() else {
            return traceparent.to_owned();
        };
        let shown = |id: &str| match source.contains(id) {
            true => id.to_owned(),
            false => MASK.repeat(id.len()),
        };
        format!("{version}-{}-{}-{flags}", shown(trace), shown(span))
    }

    fn is_local_error(&self, message: &Map<String, Value>, head: &str) -> bool {
        let Some(head) = message.get(head) else {
            return false;
        };
        let status = head[":status"].as_str().unwrap_or_default();
        let is_error = status.parse::<u16>().is_ok_and(|s| s >= 400);
        if !(is_error || head.get("grpc-status").is_some()) || head.get("x-upstream").is_some() {
            return false;
        }
        let text = message.get("body").and_then(Value::as_str);
        text.is_none_or(|text| text.is_empty() || !self.supplied.contains(text))
    }

    fn mask_attributes(&self, key: &str, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, item) in map {
                    self.mask_attributes(name, item);
                }
            }
            Value::String(_) | Value::Number(_) if is_time(key) || key == "connection.id" => {
                *value = MASK.into();
            }
            Value::Number(number) if key.ends_with("port") => {
                if let Some(port) = number.as_u64() {
                    *value = self.port_name(port).into();
                }
            }
            Value::String(text) => {
                if let Some(pattern) = &self.local_port {
                    let masked = pattern.replace_all(text, |found: &regex::Captures<'_>| {
                        let port = found[1].parse().unwrap_or_default();
                        format!("127.0.0.1:{}", self.port_name(port))
                    });
                    *text = masked.into_owned();
                }
            }
            _ => {}
        }
    }

    fn port_name(&self, port: u64) -> String {
        if port == u64::from(self.ports.listener) {
            return "<listener>".into();
        }
        let upstream = self.ports.upstreams.iter();
        upstream
            .filter(|(_, p)| u64::from(**p) == port)
            .map(|(name, _)| format!("<{name}>"))
            .next()
            .unwrap_or_else(|| "<port>".into())
    }
}

/// Sorts the lists of header fields in a message to an HTTP service.
fn sort_fields(message: &mut Value) {
    match message {
        Value::Object(map) => map.values_mut().for_each(sort_fields),
        Value::Array(items) => {
            let name = |item: &Value| item["key"].as_str().unwrap_or_default().to_owned();
            items.sort_by_key(name);
        }
        _ => {}
    }
}

fn is_time(key: &str) -> bool {
    let last = key.rsplit(['.', '_']).next().unwrap_or_default();
    matches!(last, "time" | "duration" | "latency")
}

fn mask_local(message: &mut Map<String, Value>, head: &str, supplied: &str) {
    if let Some(Value::String(text)) = message.get("body")
        && !text.is_empty()
    {
        message.insert("body".into(), MASK.into());
    }
    if let Some(head) = message.get_mut(head).and_then(Value::as_object_mut) {
        for name in ["content-length", "grpc-message"] {
            if let Some(Value::String(value)) = head.get_mut(name)
                && value != "0"
                && !supplied.contains(value.as_str())
            {
                *value = MASK.into();
            }
        }
    }
}

fn join_body(into: &mut Value, next: &Value) {
    let text = |value: &Value| value["body"].as_str().unwrap_or_default().to_owned();
    let joined = match text(next) {
        mask if mask == MASK && text(into) == MASK => mask,
        more => text(into) + &more,
    };
    into["body"] = joined.into();
    into["eos"] = next["eos"].clone();
    let (Some(into), Some(next)) = (into.as_object_mut(), next.as_object()) else {
        return;
    };
    for (key, value) in next {
        if !matches!(key.as_str(), "kind" | "body" | "eos") {
            into.insert(key.clone(), value.clone());
        }
    }
}

fn body(text: &str) -> Value {
    if text.len() <= LONG {
        return text.into();
    }
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for c in text.chars() {
        hash = (hash ^ u64::from(u32::from(c))).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let start: String = text.chars().take(24).collect();
    json!({"length": text.chars().count(), "hash": format!("{hash:016x}"), "start": start})
}

/// Tells whether a body mode that can stream is set anywhere.
fn streams(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(name, item)| {
            (name == key
                && item
                    .as_str()
                    .is_some_and(|mode| mode == "STREAMED" || mode == "FULL_DUPLEX_STREAMED"))
                || streams(item, key)
        }),
        Value::Array(items) => items.iter().any(|item| streams(item, key)),
        _ => false,
    }
}

/// Collects the names of header fields in scripts.
fn names(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::String(line) => {
            let (name, _) = crate::support::script::split_line(line);
            if !name.is_empty() && name.len() < 60 && !name.contains(' ') {
                out.insert(name.to_lowercase());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, out)),
        Value::Object(map) => {
            for (key, item) in map {
                match key.as_str() {
                    "headers" | "trailers" | "set" | "remove" => names(item, out),
                    "name" => names(item, out),
                    _ if item.is_array() || item.is_object() => collect_nested(item, out),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn collect_nested(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_nested(item, out)),
        Value::Object(_) => names(value, out),
        _ => {}
    }
}
