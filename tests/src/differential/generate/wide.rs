//! Choices beyond those of [`super::source`], from a source of their own: the scenarios of a seed stay what they are without them.

use serde_json::{Map, Value, json};

use super::filter::{per_route, processing_mode};
use super::processor::is_apart;
use super::{APART, Plan, some};
use crate::differential::random::Random;

/// Separates the choices made here from those of the seed itself.
const SALT: u64 = 0x77a1_d0ff_51de_0001;

/// Separates the choices of [`around`], which came later.
const SALT_AROUND: u64 = 0x77a1_d0ff_51de_0002;

const HEADS: [&str; 2] = ["request_headers", "response_headers"];

pub(super) fn add(seed: u64, index: u64, mut plan: Plan, out: &mut Map<String, Value>) {
    let random = &mut Random::of(seed ^ SALT, index);
    if plan.over_http {
        return;
    }
    if let Some(more) = out.get_mut("more_filters").and_then(Value::as_array_mut) {
        for one in more.iter_mut() {
            if random.chance(50) {
                one["per_route"] = per_route(random, &plan);
            }
            if let Some(filter) = one["filter"].as_object_mut() {
                configure(random, &mut plan, filter);
            }
        }
    }
    if let Some(filter) = out.get_mut("filter").and_then(Value::as_object_mut) {
        configure(random, &mut plan, filter);
    }
    if random.chance(8) && out["upstream"].get("absent").is_none() {
        out["upstream"]["informational"] = informational(random);
    }
    if let Some(client) = out.get_mut("client") {
        partial_messages(random, plan, client);
    }
    let Some(script) = out.get_mut("processor") else {
        return;
    };
    match script.get_mut("streams").and_then(Value::as_array_mut) {
        Some(streams) => {
            for one in streams {
                answer(random, plan, one);
            }
        }
        None => answer(random, plan, script),
    }
}

/// Surroundings of the ext_proc filters: forms of local replies, the filter `buffer`, fields that `connection` names.
pub(super) fn around(seed: u64, index: u64, plan: Plan, out: &mut Map<String, Value>) {
    let random = &mut Random::of(seed ^ SALT_AROUND, index);
    if plan.over_http {
        return;
    }
    if random.chance(8) {
        let manager = out.entry("hcm").or_insert_with(|| json!({}));
        manager["local_reply_config"] = local_reply_config(random);
    }
    // With small limits it would be the smaller one that holds.
    let place = *random.pick(&["filters_before", "filters_after"]);
    if random.chance(8) && !plan.limited && !out.contains_key(place) {
        out.insert(place.to_owned(), json!([buffer()]));
    }
    let client = &mut out["client"];
    let plain = client["protocol"] != "h2" && client.get("upgrade_send").is_none();
    if random.chance(10)
        && plain
        && let Some(headers) = client.get_mut("headers").and_then(Value::as_array_mut)
        && !headers.iter().any(is_connection)
    {
        let named = *random.pick(&[
            "x-client",
            "x-gone, x-none",
            "cookie",
            "keep-alive",
            "close",
        ]);
        headers.push(format!("connection: {named}").into());
    }
}

fn is_connection(line: &Value) -> bool {
    let line = line.as_str().unwrap_or_default();
    ["connection:", "upgrade:", "te:"]
        .iter()
        .any(|name| line.starts_with(name))
}

/// `LocalReplyConfig`: a form for all, or another status, fields and text for errors.
fn local_reply_config(random: &mut Random) -> Value {
    let at_least_400 = json!({"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "k"}}}});
    match random.below(4) {
        0 => {
            json!({"body_format": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%:%REQ(:path)%"}}})
        }
        1 => {
            json!({"body_format": {"json_format": {"text": "%LOCAL_REPLY_BODY%", "client": "%REQ(x-client)%"}}})
        }
        2 => {
            json!({"mappers": [{"filter": at_least_400, "status_code": 499, "body": {"inline_string": "mapped"}}]})
        }
        _ => {
            let added = json!([{"header": {"key": "x-mapped", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]);
            json!({"mappers": [{"filter": at_least_400, "headers_to_add": added}]})
        }
    }
}

/// The filter `buffer` with room for all that is generated.
fn buffer() -> Value {
    json!({
        "name": "envoy.filters.http.buffer",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
            "max_request_bytes": 4_000_000,
        },
    })
}

/// More of what a filter may be told.
fn configure(random: &mut Random, plan: &mut Plan, filter: &mut Map<String, Value>) {
    let observed = filter.contains_key("observability_mode");
    let mut set = |name: &str, value: Value| filter.insert(name.to_owned(), value);
    if random.chance(15) {
        let codes = [400, 401, 404, 413, 429, 500, 502, 504, 511];
        set("status_on_error", json!({"code": random.pick(&codes)}));
    }
    if random.chance(12) {
        let rules = [
            json!({"allowed_headers": {"patterns": [{"suffix": "client"}, {"contains": "up"}]}}),
            json!({"allowed_headers": {"patterns": [{"exact": ":path"}, {"safe_regex": {"regex": "x-.*"}}]}}),
            json!({"disallowed_headers": {"patterns": [{"prefix": "x-", "ignore_case": true}, {"exact": ":status"}]}}),
            json!({"allowed_headers": {"patterns": [{"prefix": "x-"}]}, "disallowed_headers": {"patterns": [{"exact": "x-t"}, {"exact": "x-up"}]}}),
        ];
        set("forward_rules", random.pick(&rules).clone());
    }
    if random.chance(10) {
        set(
            "route_cache_action",
            (*random.pick(&["CLEAR", "RETAIN"])).into(),
        );
        filter.shift_remove("disable_clear_route_cache");
    }
    let mut set = |name: &str, value: Value| filter.insert(name.to_owned(), value);
    if random.chance(10) {
        set("disable_immediate_response", true.into());
    }
    if random.chance(12) {
        set(
            "max_message_timeout",
            (*random.pick(&["1s", "2s", "0.1s"])).into(),
        );
    }
    if random.chance(12) {
        let names = [
            "request.time",
            "request.useragent",
            "request.referer",
            "request.id",
            "request.scheme",
            "request.url_path",
            "request.headers['cookie']",
            "source.port > 0",
            "connection.mtls",
            "xds.virtual_host_name",
            "xds.filter_chain_name",
            "request.size + 1",
            "request.method == 'GET'",
        ];
        let names = some(random, &names, 25);
        set("request_attributes", json!(names));
    }
    if plan.overrides && random.chance(50) {
        let modes: Vec<Value> = (0..=random.below(3))
            .map(|_| processing_mode(random, false).into())
            .collect();
        set("allowed_override_modes", modes.into());
    }
    if observed && random.chance(30) {
        set("deferred_close_timeout", "0.3s".into());
    }
}

/// Interim responses: several, and of other codes.
fn informational(random: &mut Random) -> Value {
    let many = 1 + random.below(3);
    let one = |random: &mut Random| {
        let status = random.weighted(&[(3, 103), (2, 102), (1, 100)]);
        json!({"status": status, "headers": ["link: </s.css>", "x-up: interim"]})
    };
    (0..many).map(|_| one(random)).collect()
}

/// Messages of gRPC whose parts come one by one.
fn partial_messages(random: &mut Random, plan: Plan, client: &mut Value) {
    let grpc = client["headers"].to_string().contains("application/grpc");
    if !grpc || plan.limited || !random.chance(60) {
        return;
    }
    let pause = json!({"pause": APART});
    client["body"] = random
        .pick(&[
            json!(["\u{0}\u{0}\u{0}\u{0}\u{5}he", pause, "llo"]),
            json!([
                "\u{0}\u{0}\u{0}",
                pause,
                "\u{0}\u{5}hello\u{0}\u{0}\u{0}\u{0}\u{0}"
            ]),
            json!([{"grpc": "one"}, pause, "\u{0}\u{0}\u{0}\u{0}\u{9}cut off"]),
            json!([{"grpc": "one", "compressed": true}, pause, {"grpc": ""}]),
        ])
        .clone();
}

/// Answers of kinds that are nowhere else.
fn answer(random: &mut Random, plan: Plan, script: &mut Value) {
    if !random.chance(55) {
        return;
    }
    let kind = *random.pick(&HEADS);
    let change = json!({"reply": {"set": fields(random, kind), "remove": removed(random)}});
    script[kind] = json!([match random.below(12) {
        0..4 => change,
        4..6 if plan.overrides => {
            json!([{"mode_override": processing_mode(random, false)}, {"sleep": 20}, "continue"])
        }
        6 =>
            json!({"reply": {}, "typed_dynamic_metadata": {"ns.typed": {"type": "google.protobuf.StringValue", "value": "\n\u{1}x"}}}),
        7..9 => json!({"immediate": immediate(random)}),
        9 if kind == "request_headers" => unfinished(random),
        10 => {
            let timeout = *random.pick(&[0, 1, 400, 1500, 5000]);
            json!([{"override_message_timeout": timeout}, {"sleep": 130}, "continue"])
        }
        _ => change,
    }]);
    let body = random.pick(&["request_body", "response_body"]);
    if random.chance(15) && is_apart(plan, body) && script.get(*body).is_none() {
        let trailers = random.chance(30);
        let mut reply = json!({"clear_body": true});
        if trailers {
            reply["set"] = fields(random, body).into();
        }
        script[*body] = json!([{"reply": reply}]);
    }
    let trailers = random.pick(&["request_trailers", "response_trailers"]);
    if random.chance(20) {
        script[*trailers] =
            json!([{"reply": {"set": fields(random, trailers), "remove": removed(random)}}]);
    }
}

/// Entries of a header mutation, in full.
fn fields(random: &mut Random, kind: &str) -> Vec<Value> {
    let actions = [
        "APPEND_IF_EXISTS_OR_ADD",
        "ADD_IF_ABSENT",
        "OVERWRITE_IF_EXISTS_OR_ADD",
        "OVERWRITE_IF_EXISTS",
    ];
    let names = [
        "x-new",
        "x-client",
        "x-up",
        "x-t",
        "cookie",
        "set-cookie",
        "x-empty",
        "vary",
    ];
    (0..=random.below(3))
        .map(|_| {
            let name = match random.below(20) {
                0 if kind == "request_headers" => *random.pick(&[":method", ":scheme", ":path"]),
                1 if kind == "response_headers" => ":status",
                _ => *random.pick(&names),
            };
            let value = match name {
                ":method" => "PATCH",
                ":scheme" => "http",
                ":path" => "/wide",
                ":status" => *random.pick(&["201", "418", "503"]),
                _ => *random.pick(&["w", "w; y=1", ""]),
            };
            let mut field = json!({"name": name, "value": value});
            if random.chance(70) && !name.starts_with(':') {
                field["action"] = (*random.pick(&actions)).into();
            }
            if random.chance(30) {
                field["keep_empty"] = true.into();
            }
            if random.chance(15) {
                field["append"] = random.chance(50).into();
            }
            field
        })
        .collect()
}

fn removed(random: &mut Random) -> Vec<&'static str> {
    let names = [
        "x-client",
        "cookie",
        "set-cookie",
        "x-new",
        "user-agent",
        "accept-encoding",
        ":path",
        "X-Up",
    ];
    some(random, &names, 10)
}

/// `ImmediateResponse` with more than one header and something to remove.
fn immediate(random: &mut Random) -> Value {
    let mut set = fields(random, "immediate");
    set.extend(fields(random, "immediate"));
    let mut out = json!({
        "status": *random.pick(&[400, 401, 403, 418, 429, 503, 599]),
        "set": set,
        "remove": some(random, &["x-new", "content-type", "content-length", "set-cookie"], 40),
    });
    if random.chance(50) {
        out["body"] = random.pick(&[json!("wide"), json!({"size": 3000})]).clone();
    }
    if random.chance(20) {
        out["grpc"] = (*random.pick(&[0, 3, 16, 99])).into();
    }
    out
}

/// A streamed immediate response that ends before it is complete.
fn unfinished(random: &mut Random) -> Value {
    let head = json!({"local": {"headers": [":status: 200", "x-why: 1"]}});
    let body = json!({"local": {"body": "part"}});
    let pause = json!({"sleep": APART});
    let end = *random.pick(&["close", "silence"]);
    match random.below(3) {
        0 => json!([head, pause, end]),
        1 => json!([head, pause, body, pause, end]),
        _ => json!([head, pause, body, pause, {"error": 13}]),
    }
}
