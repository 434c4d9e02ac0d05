//! A scenario of `tests/scenarios`, which plays an exchange to any proxy.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::observer::Phase;
use serde_json::{Map, Value, json};

use super::{OF_CLIENT, OF_PROXY, fields, has_length, kept, path};
use crate::{
    capture::answered,
    printed,
    record::{Field, Kind, Message, Processor, Record},
};

/// A group of one scenario. JSON, which is YAML as well. Of the filters it has everything but their processors.
pub(crate) fn scenario(record: &Record) -> String {
    let [first, more @ ..] = record.processors.as_slice() else {
        return String::new();
    };
    let innermost = more.last().unwrap_or(first);
    let mut client = side(
        &first.request.before,
        json!({"method": record.method, "path": path(record)}),
    );
    if !record.authority.is_empty() {
        client["authority"] = record.authority.as_str().into();
    }
    let mut upstream = side(&innermost.response.before, json!({"no_marker": true}));
    let head = innermost.response.before.head.iter().flatten();
    let status = head.filter(|field| field.name == ":status");
    if let Some(status) = status
        .filter_map(|field| field.value.parse::<u16>().ok())
        .next()
    {
        upstream["status"] = status.into();
    }
    // The streams of filters are opened from the client on.
    let opened = record.processors.iter().filter(|p| p.sent > 0);
    let streams: Vec<Value> = opened.map(script).collect();
    let processor = match streams.as_slice() {
        [one] => one.clone(),
        all => json!({"streams": all}),
    };
    let mut scenario = json!({
        "name": format!("exchange-{}", record.id),
        "filter": filter(first),
        "client": client,
        "upstream": upstream,
        "processor": processor,
    });
    if !more.is_empty() {
        let more = more
            .iter()
            .map(|p| json!({"name": p.filter, "filter": filter(p)}));
        scenario["more_filters"] = more.collect();
    }
    let group = json!({
        "group": "recorded",
        "about": "an exchange that the inspector has recorded",
        "scenarios": [scenario],
    });
    printed::json(format!("{group:#}\n"))
}

/// The configuration of a filter, all but its processor: overrides of routes are in it.
fn filter(p: &Processor) -> Value {
    let mut filter = p.settings.settings_json();
    // A machine that plays it again may be slower than its default.
    filter["message_timeout"] = format!("{}s", p.settings.message_timeout().as_secs_f64()).into();
    filter
}

/// Headers, body and trailers of one side, beside what is there already.
fn side(message: &Message, mut side: Value) -> Value {
    let is_own = |name: &str| !OF_CLIENT.contains(&name) && !OF_PROXY.contains(&name);
    let own = fields(&message.head).filter(|field| is_own(&field.name));
    let lines: Vec<Value> = own.map(line).collect();
    if !lines.is_empty() {
        side["headers"] = lines.into();
    }
    if message.bytes > 0 {
        side["body"] = body(message);
        if has_length(message) {
            side["framing"] = "length".into();
        }
    }
    if let Some(trailers) = &message.trailers {
        side["trailers"] = trailers.iter().map(line).collect();
    }
    side
}

fn line(field: &Field) -> Value {
    let Field { name, value, .. } = field;
    match value.is_ascii() {
        true => format!("{name}: {value}").into(),
        false => json!({"name": name, "value": payload(field.bytes())}),
    }
}

/// A body in its pieces; of one that was not recorded as a whole, the sizes are true.
fn body(message: &Message) -> Value {
    let kept = kept(message);
    let is_whole = kept.len() as u64 == message.bytes;
    let pieces = &message.pieces;
    if pieces.iter().sum::<u64>() != message.bytes {
        return match is_whole {
            true => payload(&kept),
            false => json!({"size": message.bytes}),
        };
    }
    let mut rest = kept.as_slice();
    let parts = pieces.iter().map(|size| {
        let len = usize::try_from(*size).unwrap_or(usize::MAX);
        match rest.split_at_checked(len).filter(|_| is_whole) {
            Some((part, after)) => {
                rest = after;
                payload(part)
            }
            None => json!({"size": size}),
        }
    });
    parts.collect()
}

fn payload(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => text.into(),
        _ => json!({"base64": STANDARD.encode(bytes)}),
    }
}

/// A processor that does the same again: for each message of a phase, the answers that came to it.
fn script(p: &Processor) -> Value {
    let mut phases: Vec<(&'static str, Vec<Vec<Value>>)> = Vec::new();
    let mut last = None;
    for entry in &p.entries {
        match (entry.kind, entry.phase, &entry.message) {
            (Kind::Sent, Some(phase), _) => {
                last = Some(phase);
                match phases.iter_mut().find(|(name, _)| *name == phase) {
                    Some((_, answers)) => answers.push(Vec::new()),
                    None => phases.push((phase, vec![Vec::new()])),
                }
            }
            (Kind::Reply, accepted, Some(reply)) => {
                let Ok(reply) = &serde_json::from_str::<Value>(reply.get()) else {
                    continue;
                };
                // One that fits nothing goes with the message before it.
                let asked = accepted.or(last);
                let found = phases.iter_mut().find(|(name, _)| Some(*name) == asked);
                if let Some((phase, answers)) = found {
                    let first = answers.iter().position(Vec::is_empty);
                    let at = first.unwrap_or_else(|| answers.len().saturating_sub(1));
                    if let Some(answer) = answers.get_mut(at) {
                        answer.push(step(phase, reply));
                    }
                }
            }
            _ => {}
        }
    }
    let mut script = Map::new();
    let observes = p.settings.observability_mode();
    for (phase, mut answers) in phases.into_iter().filter(|_| !observes) {
        let ended = p.ended_with.as_ref().filter(|_| last == Some(phase));
        if let (Some((code, message)), Some(answer)) = (ended, answers.last_mut()) {
            answer.push(json!({"error": code, "message": message}));
        }
        let answers = answers.into_iter().map(|steps| match steps.is_empty() {
            true => json!("silence"),
            false => steps.into(),
        });
        script.insert(phase.to_owned(), answers.collect());
    }
    if p.endpoint.is_none() && p.ended_with.is_some() {
        return json!({"absent": true});
    }
    script.into()
}

/// One reply to a message of `phase`.
fn step(phase: &str, reply: &Value) -> Value {
    let mut step = json!({});
    match answered(reply) {
        Some("immediate_response") => step["immediate"] = immediate(&reply["immediate_response"]),
        Some("streamed_immediate_response") => {
            step["local"] = local(&reply["streamed_immediate_response"]);
        }
        Some(name) if Phase::ALL.iter().any(|phase| phase.name() == name) => {
            let key = if name == phase { "reply" } else { name };
            step[key] = common(&reply[name]);
        }
        _ => {}
    }
    for name in ["mode_override", "dynamic_metadata", "request_drain"] {
        if let Some(value) = reply.get(name) {
            step[name] = value.clone();
        }
    }
    let seconds = reply["override_message_timeout"].as_str();
    let seconds = seconds.and_then(|text| text.strip_suffix('s')?.parse::<f64>().ok());
    if let Some(seconds) = seconds {
        step["override_message_timeout"] = ((seconds * 1000.0) as i64).into();
    }
    if step.as_object().is_some_and(Map::is_empty) {
        step["empty"] = true.into();
    }
    step
}

fn common(part: &Value) -> Value {
    let common = part.get("response").unwrap_or(&Value::Null);
    // A reply to trailers has its mutation at the top.
    let mutation = part
        .get("header_mutation")
        .unwrap_or_else(|| &common["header_mutation"]);
    let mut out = mutated(mutation);
    if common["status"] == "CONTINUE_AND_REPLACE" {
        out["replace"] = true.into();
    }
    if common["clear_route_cache"] == true {
        out["clear_route_cache"] = true.into();
    }
    let body = &common["body_mutation"];
    if let Some(bytes) = body.get("body").and_then(bytes) {
        out["body"] = payload(&bytes);
    }
    if body["clear_body"] == true {
        out["clear_body"] = true.into();
    }
    if let Some(streamed) = body.get("streamed_response") {
        let piece = streamed.get("body").and_then(bytes).unwrap_or_default();
        out["stream"] = payload(&piece);
        out["eos"] = (streamed["end_of_stream"] == true).into();
    }
    out
}

fn immediate(answer: &Value) -> Value {
    let mut out = mutated(&answer["headers"]);
    out["status"] = answer["status"]["code"].clone();
    if let Some(bytes) = answer.get("body").and_then(bytes) {
        out["body"] = payload(&bytes);
    }
    if let Some(details) = answer["details"].as_str() {
        out["details"] = details.into();
    }
    out
}

/// A part of a response that the processor streams.
fn local(part: &Value) -> Value {
    let (headers, body) = (&part["headers_response"], &part["body_response"]);
    let mut out = json!({});
    if headers.is_object() {
        let all = headers["headers"]["headers"]
            .as_array()
            .into_iter()
            .flatten();
        out["headers"] = all.map(header).collect();
        out["eos"] = (headers["end_of_stream"] == true).into();
    } else if body.is_object() {
        out["body"] = payload(&body.get("body").and_then(bytes).unwrap_or_default());
        out["eos"] = (body["end_of_stream"] == true).into();
    } else {
        let all = part["trailers_response"]["headers"]
            .as_array()
            .into_iter()
            .flatten();
        out["trailers"] = all.map(header).collect();
    }
    out
}

fn mutated(mutation: &Value) -> Value {
    let mut out = json!({});
    let set: Vec<Value> = mutation["set_headers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|option| {
            let field = &option["header"];
            if option["append_action"].is_null() && option["append"].is_null() {
                return header(field);
            }
            let value = field.get("raw_value").and_then(bytes).unwrap_or_default();
            let mut full = json!({"name": field["key"], "value": payload(&value)});
            for (name, of) in [("append", "append"), ("action", "append_action")] {
                if !option[of].is_null() {
                    full[name] = option[of].clone();
                }
            }
            full
        })
        .collect();
    if !set.is_empty() {
        out["set"] = set.into();
    }
    if let Some(remove) = mutation.get("remove_headers") {
        out["remove"] = remove.clone();
    }
    out
}

/// A header of a message, as a line if it is text.
fn header(header: &Value) -> Value {
    let value = header.get("raw_value").and_then(bytes).unwrap_or_default();
    let name = header["key"].as_str().unwrap_or_default();
    match std::str::from_utf8(&value) {
        Ok(text) if text.is_ascii() => format!("{name}: {text}").into(),
        _ => json!({"name": name, "value": payload(&value)}),
    }
}

fn bytes(base64: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(base64.as_str()?).ok()
}
