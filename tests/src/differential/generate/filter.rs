//! The configuration of ext_proc filters.

use serde_json::{Map, Value, json};

use super::{Plan, some};
use crate::differential::random::Random;

pub(super) const BODY_MODES: [(usize, &str); 5] = [
    (4, "NONE"),
    (5, "STREAMED"),
    (4, "BUFFERED"),
    (3, "BUFFERED_PARTIAL"),
    (4, "FULL_DUPLEX_STREAMED"),
];

const ATTRIBUTES: [&str; 20] = [
    "request.path",
    "request.method",
    "request.host",
    "request.headers",
    "request.headers['x-client']",
    "request.size",
    "request.total_size",
    "request.protocol",
    "request.query",
    "response.code",
    "response.code_details",
    "response.flags",
    "response.headers",
    "response.trailers",
    "response.size",
    "response.total_size",
    "response.grpc_status",
    "xds.route_name",
    "xds.cluster_name",
    "upstream.request_attempt_count",
];

pub(super) fn add(random: &mut Random, plan: &mut Plan, out: &mut Map<String, Value>) {
    let alone = plan.filters == 1;
    out.insert("filter".into(), filter(random, plan, alone).into());
    if plan.over_http {
        return;
    }
    let names = &["second", "third"][..plan.filters - 1];
    let more: Vec<Value> = names
        .iter()
        .map(|name| {
            let last = names.last() == Some(name);
            let mut one = json!({"name": name, "filter": filter(random, plan, last)});
            if random.chance(12) {
                one["per_route"] = per_route(random, plan);
            }
            one
        })
        .collect();
    if !more.is_empty() {
        out.insert("more_filters".into(), more.into());
    }
    if random.chance(2) {
        out.insert("filter_disabled".into(), true.into());
    }
}

/// `ExternalProcessor`. Only the last one may just observe: it would not wait for its stream, which then opens together with
/// the next filter's, and the processor's scripts go by the order of streams.
fn filter(random: &mut Random, plan: &mut Plan, last: bool) -> Map<String, Value> {
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    let timeout = plan.unanswered || random.chance(3);
    if timeout {
        set("message_timeout", "0.3s".into());
    }
    if random.chance(25) {
        set("failure_mode_allow", true.into());
    }
    if random.chance(10) {
        set("mutation_rules", rules(random));
    }
    if random.chance(5) {
        let status = random.pick(&[503, 403, 418, 200]);
        set("status_on_error", json!({"code": status}));
    }
    if random.chance(6) {
        set("disable_immediate_response", true.into());
    }
    if random.chance(18) {
        let attributes = some(random, &ATTRIBUTES, 15);
        set("request_attributes", json!(attributes));
    }
    if random.chance(18) {
        let attributes = some(random, &ATTRIBUTES, 15);
        set("response_attributes", json!(attributes));
    }
    if random.chance(3) {
        let mapped = json!({
            "@type": "type.googleapis.com/envoy.extensions.http.ext_proc.processing_request_modifiers.\
                      mapped_attribute_builder.v3.MappedAttributeBuilder",
            "mapped_request_attributes": {"my.size": "request.size", "my.const": "'x'"},
            "mapped_response_attributes": {"my.code": "response.code"},
        });
        let modifier = json!({"name": "mapped", "typed_config": mapped});
        set("processing_request_modifier", modifier);
    }
    if random.chance(4) {
        let prefix = random.pick(&["one", "two"]);
        set("stat_prefix", (*prefix).into());
    }
    if random.chance(8) {
        let rules = random.pick(&[
            r#"{"allowed_headers": {"patterns": [{"prefix": "x-"}, {"prefix": ":"}]}}"#,
            r#"{"disallowed_headers": {"patterns": [{"exact": "x-client"}, {"exact": "x-t"}]}}"#,
            r#"{"allowed_headers": {"patterns": [{"exact": "content-length"}]}, "disallowed_headers": {"patterns": [{"prefix": ":"}]}}"#,
        ]);
        set("forward_rules", parsed(rules));
    }
    if plan.over_http {
        let uri = json!({"uri": "http://side.local/process", "cluster": "side", "timeout": "1s"});
        set("grpc_service", Value::Null);
        set("http_service", json!({"http_service": {"http_uri": uri}}));
        let mode = header_modes(random);
        set("processing_mode", mode.into());
        return out;
    }
    if random.chance(10) {
        let namespaces = json!({"untyped": ["ns"], "typed": ["ns.typed"]});
        let mut options = Map::new();
        if random.chance(80) {
            options.insert("receiving_namespaces".into(), json!({"untyped": ["ns"]}));
        }
        if random.chance(60) {
            options.insert("forwarding_namespaces".into(), namespaces);
        }
        set("metadata_options", options.into());
    }
    if random.chance(8) {
        let (name, value) = random.weighted(&[
            (3, ("route_cache_action", "\"CLEAR\"")),
            (2, ("route_cache_action", "\"RETAIN\"")),
            (1, ("disable_clear_route_cache", "true")),
        ]);
        set(name, parsed(value));
    }
    if random.chance(5) {
        set("max_message_timeout", "2s".into());
    }
    if random.chance(5) {
        set("allow_content_length_header", true.into());
    }
    if random.chance(4) {
        let metadata = json!([{"key": "x-md", "value": "%REQ(x-client)%"}]);
        let mut grpc = json!({"cluster_name": "processor"});
        // Pieces of which it is not known how large they are may fit, or not.
        if random.chance(40) && plan.request_apart && plan.response_apart {
            grpc["max_receive_message_length"] = 1000.into();
        }
        if random.chance(40) {
            grpc["authority"] = "processor.local".into();
        }
        let service = json!({"envoy_grpc": grpc, "initial_metadata": metadata});
        set("grpc_service", service);
    }
    let observed = random.chance(6) && last;
    if observed {
        set("observability_mode", true.into());
        plan.deferred = random.chance(50);
        if plan.deferred {
            set("deferred_close_timeout", "0.2s".into());
        }
    }
    let mode = processing_mode(random, observed);
    let streams_request = mode.get("request_body_mode") == Some(&json!("STREAMED"));
    let is_duplex = |name| mode.get(name) == Some(&json!("FULL_DUPLEX_STREAMED"));
    let duplex = is_duplex("request_body_mode") || is_duplex("response_body_mode");
    plan.duplex |= duplex;
    if !mode.is_empty() || random.chance(20) {
        set("processing_mode", mode.into());
    }
    // Within a small limit Envoy reads a body in pieces of its own choice, each of which is sent at once.
    if streams_request && !observed && random.chance(12) && !plan.limited {
        set("send_body_without_waiting_for_header_response", true.into());
    }
    if plan.overrides {
        set("allow_mode_override", true.into());
        if random.chance(20) {
            let modes =
                json!([{"request_body_mode": "STREAMED"}, {"response_body_mode": "BUFFERED"}]);
            set("allowed_override_modes", modes);
        }
    }
    out
}

fn header_modes(random: &mut Random) -> Map<String, Value> {
    let mut out = Map::new();
    for name in ["request_header_mode", "response_header_mode"] {
        if random.chance(15) {
            let mode = random.weighted(&[(3, "SKIP"), (1, "SEND"), (1, "DEFAULT")]);
            out.insert(name.into(), mode.into());
        }
    }
    out
}

/// `ProcessingMode`, one that Envoy takes.
pub(super) fn processing_mode(random: &mut Random, observed: bool) -> Map<String, Value> {
    let mut out = header_modes(random);
    for side in ["request", "response"] {
        let mut mode = "NONE";
        if random.chance(75) {
            mode = random.weighted(&BODY_MODES);
            if observed && mode != "NONE" {
                mode = "STREAMED";
            }
            out.insert(format!("{side}_body_mode"), mode.into());
        }
        // Envoy refuses full duplex without trailers, all but always.
        let trailers = match mode {
            "FULL_DUPLEX_STREAMED" => !random.chance(1),
            _ => random.chance(45),
        };
        if trailers {
            out.insert(format!("{side}_trailer_mode"), "SEND".into());
        } else if random.chance(10) {
            out.insert(format!("{side}_trailer_mode"), "SKIP".into());
        }
    }
    out
}

fn rules(random: &mut Random) -> Value {
    let mut out = json!({});
    for name in [
        "allow_all_routing",
        "allow_envoy",
        "disallow_system",
        "disallow_all",
        "disallow_is_error",
    ] {
        if random.chance(match name {
            "allow_all_routing" => 50,
            "allow_envoy" => 30,
            _ => 12,
        }) {
            out[name] = true.into();
        }
    }
    if random.chance(25) {
        out["disallow_expression"] = json!({"regex": "x-(new|t)"});
    }
    if random.chance(15) {
        out["allow_expression"] = json!({"regex": "x-.*"});
    }
    out
}

/// `ExtProcPerRoute`.
pub(super) fn per_route(random: &mut Random, plan: &Plan) -> Value {
    if random.chance(18) {
        return json!({"disabled": true});
    }
    let mut out = Map::new();
    if random.chance(65) {
        let mut mode = processing_mode(random, false);
        // What differs on purpose: trailers behind the end of a message (docs/differences-from-envoy.md, after-the-end).
        for side in ["request", "response"] {
            let duplex = json!("FULL_DUPLEX_STREAMED");
            if mode.get(&format!("{side}_body_mode")) == Some(&duplex) && random.chance(90) {
                mode.insert(format!("{side}_trailer_mode"), "SEND".into());
            }
        }
        out.insert("processing_mode".into(), mode.into());
    }
    if random.chance(30) {
        out.insert("failure_mode_allow".into(), random.chance(50).into());
    }
    if random.chance(15) {
        let metadata = json!([{"key": "x-md", "value": "route"}]);
        out.insert("grpc_initial_metadata".into(), metadata);
    }
    if random.chance(15) {
        let attributes = some(random, &ATTRIBUTES, 15);
        out.insert("request_attributes".into(), json!(attributes));
    }
    if random.chance(10) {
        let options = json!({"receiving_namespaces": {"untyped": ["ns"]}});
        out.insert("metadata_options".into(), options);
    }
    if plan.alternative && random.chance(10) {
        let service =
            json!({"envoy_grpc": {"cluster_name": "processor", "authority": "other.local"}});
        out.insert("grpc_service".into(), service);
    }
    json!({"overrides": out})
}

pub(super) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
