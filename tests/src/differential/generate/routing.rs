//! Routes, limits, the connection manager, and filters beside ext_proc.

use serde_json::{Map, Value, json};

use super::Plan;
use super::filter::{parsed, per_route};
use crate::differential::random::Random;

pub(super) fn add(random: &mut Random, plan: Plan, out: &mut Map<String, Value>) {
    if plan.alternative {
        alternative(random, plan, out);
    } else {
        if random.chance(12) {
            out.insert("per_route".into(), per_route(random, &plan));
        }
        if random.chance(12) {
            out.insert("route".into(), route(random));
        }
    }
    if random.chance(4) {
        out.insert("per_vhost".into(), per_route(random, &plan));
    }
    if random.chance(3) {
        out.insert("per_route_config".into(), per_route(random, &plan));
    }
    if plan.limited {
        let limit = random.pick(&[1000, 1000, 16_384]);
        out.insert(
            "limits".into(),
            json!({"listener": limit, "cluster": limit}),
        );
    }
    if random.chance(8) {
        let manager = manager(random);
        // Addresses are told apart in headers, and not in the JSON of an HTTP service.
        if !plan.over_http || manager.get("use_remote_address").is_none() {
            out.insert("hcm".into(), manager);
        }
    }
    for place in ["filters_before", "filters_after"] {
        if random.chance(4) {
            out.insert(place.into(), json!([beside(random)]));
        }
    }
    if random.chance(3) {
        let headers = json!([{"header": {"key": "x-vhost", "value": "%RESPONSE_CODE%"}}]);
        out.insert("vhost".into(), json!({"response_headers_to_add": headers}));
    }
}

fn alternative(random: &mut Random, plan: Plan, out: &mut Map<String, Value>) {
    let mut alt = match random.below(8) {
        0 => json!({"direct_response": {"status": 410, "body": {"inline_string": "gone"}}}),
        1 => json!({"redirect": {"path_redirect": "/elsewhere"}}),
        _ => json!({"route": {"cluster": "alt"}}),
    };
    alt["match"] = json!({"prefix": "/alt"});
    let mut rest = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}});
    for one in [&mut alt, &mut rest] {
        if random.chance(40) {
            one["per_route"] = per_route(random, &plan);
        }
        if one.get("route").is_some() && random.chance(4) {
            one["route"]["idle_timeout"] = "0.4s".into();
        }
        if plan.filters > 1 && random.chance(6) {
            let off = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
            one["typed_per_filter_config"] = json!({"second": off});
        }
    }
    let mut routes = vec![alt];
    if random.chance(20) {
        let headers = json!([{"name": "x-client", "string_match": {"exact": "changed"}}]);
        let matched = json!({"prefix": "/", "headers": headers});
        routes.push(json!({"match": matched, "route": {"cluster": "alt"}}));
    }
    routes.push(rest);
    out.insert("routes".into(), routes.into());
    let mut script = json!({});
    if random.chance(40) {
        script["protocol"] = (*random.pick(&["h1", "h2"])).into();
    }
    out.insert("upstreams".into(), json!({"alt": script}));
}

fn route(random: &mut Random) -> Value {
    let text = random.weighted(&[
        (3, r#"{"route": {"timeout": "0.4s"}}"#),
        (2, r#"{"route": {"prefix_rewrite": "/rewritten/"}}"#),
        (2, r#"{"request_headers_to_add": [{"header": {"key": "x-route", "value": "%REQ(x-client)%"}}]}"#),
        (2, r#"{"response_headers_to_add": [{"header": {"key": "x-route", "value": "a"}}], "response_headers_to_remove": ["x-up"]}"#),
        (2, r#"{"route": {"host_rewrite_literal": "rewritten.local"}}"#),
        (2, r#"{"route": {"retry_policy": {"retry_on": "5xx,reset,connect-failure", "num_retries": 1}}}"#),
        (1, r#"{"direct_response": {"status": 410, "body": {"inline_string": "gone"}}, "route": null}"#),
        (1, r#"{"redirect": {"path_redirect": "/elsewhere"}, "route": null}"#),
        (2, r#"{"name": "named"}"#),
    ]);
    parsed(text)
}

fn manager(random: &mut Random) -> Value {
    let text = random.weighted(&[
        (3, r#"{"common_http_protocol_options": {"max_headers_count": 20}}"#),
        (1, r#"{"max_request_headers_kb": 1}"#),
        (2, r#"{"common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"}}"#),
        (2, r#"{"proxy_100_continue": true}"#),
        (4, r#"{"upgrade_configs": [{"upgrade_type": "websocket"}]}"#),
        (2, r#"{"use_remote_address": true}"#),
        (2, r#"{"via": "a-proxy"}"#),
        (2, r#"{"server_header_transformation": "OVERWRITE", "server_name": "a-server"}"#),
        (2, r#"{"merge_slashes": true, "normalize_path": true}"#),
        (3, r#"{"stream_idle_timeout": "0.5s"}"#),
        (2, r#"{"request_timeout": "0.5s"}"#),
    ]);
    parsed(text)
}

fn beside(random: &mut Random) -> Value {
    let filters = "type.googleapis.com/envoy.extensions.filters.http";
    match random.below(3) {
        0 => json!({
            "name": "envoy.filters.http.set_metadata",
            "typed_config": {
                "@type": format!("{filters}.set_metadata.v3.Config"),
                "metadata": [{"metadata_namespace": "ns", "value": {"set": "before"}}],
            },
        }),
        1 => json!({
            "name": "envoy.filters.http.cors",
            "typed_config": {"@type": format!("{filters}.cors.v3.Cors")},
        }),
        _ => json!({
            "name": "envoy.filters.http.header_mutation",
            "typed_config": {
                "@type": format!("{filters}.header_mutation.v3.HeaderMutation"),
                "mutations": {
                    "request_mutations": [{"append": {"header": {"key": "x-beside", "value": "1"}}}, {"remove": "x-gone"}],
                    "response_mutations": [{"append": {"header": {"key": "x-beside-up", "value": "1"}}}],
                },
            },
        }),
    }
}
