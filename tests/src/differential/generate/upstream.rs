//! Upstreams.

use serde_json::{Map, Value, json};

use super::client::size;
use super::{Plan, body, some};
use crate::differential::random::Random;

pub(super) fn add(random: &mut Random, plan: Plan, out: &mut Map<String, Value>) {
    let upgrades = out["client"].get("upgrade_send").is_some();
    if upgrades && random.chance(80) {
        let headers = json!(["connection: Upgrade", "upgrade: websocket"]);
        out.insert(
            "upstream".into(),
            json!({"status": 101, "headers": headers}),
        );
    } else {
        let mut script = upstream(random, plan);
        // Over HTTP/2 the script's body would come whatever the method, which is no HTTP.
        let clients = json!([out["client"], out.get("clients")]).to_string();
        if script["protocol"] == "h2"
            && clients.contains("HEAD")
            && let Some(script) = script.as_object_mut()
        {
            script
                .retain(|name, _| !["body", "bodies", "echo", "trailers"].contains(&name.as_str()));
        }
        out.insert("upstream".into(), script);
    }
    if plan.over_http {
        let mut side = side(random);
        // It is merged over the upstream, whose ways are none of its own.
        for name in out["upstream"].as_object().into_iter().flat_map(Map::keys) {
            if side.get(name).is_none() {
                side[name] = Value::Null;
            }
        }
        out.insert("upstreams".into(), json!({"side": side}));
    }
}

fn upstream(random: &mut Random, plan: Plan) -> Value {
    let mut out = json!({});
    match random.below(100) {
        0..2 => return json!({"absent": true}),
        2 => return json!({"refuse": true}),
        3 => return json!({"raw": "nonsense\r\n\r\n", "close": true}),
        4 => return json!({"silent": true}),
        _ => {}
    }
    let http2 = random.chance(50);
    if http2 {
        out["protocol"] = "h2".into();
    }
    let status = random.weighted(&[
        (70, 200),
        (6, 201),
        (5, 204),
        (4, 304),
        (5, 404),
        (4, 500),
        (4, 503),
        (2, 302),
    ]);
    if status != 200 {
        out["status"] = status.into();
    }
    let mut headers: Vec<String> = vec!["x-up: 1".into()];
    let further = [
        "x-up: 2",
        "set-cookie: a=b",
        "set-cookie: c=d",
        "cache-control: no-store",
        "location: /there",
        "server: up",
        "etag: \"1\"",
        "vary: accept",
    ];
    headers.extend(some(random, &further, 8).into_iter().map(str::to_owned));
    let bodyless = matches!(status, 204 | 304);
    if random.chance(6) {
        headers.push("content-type: application/grpc".into());
        if random.chance(30) {
            headers.push("grpc-status: 7".into());
        }
    } else if random.chance(30) {
        headers.push("content-type: text/plain".into());
    }
    let has_body = !bodyless && random.chance(75);
    if has_body {
        let words = ["uno", "dos", "tres"];
        let parts = body(random, plan.response_apart, plan.limited, words);
        if http2 && random.chance(30) {
            headers.push(format!("content-length: {}", size(&parts)));
        } else if !http2 {
            match random.below(10) {
                0..4 => out["framing"] = "length".into(),
                4 => out["framing"] = "close".into(),
                _ => {}
            }
        }
        out["body"] = parts;
        if !headers
            .iter()
            .any(|line| line.starts_with("content-length"))
            && random.chance(3)
        {
            out["bodies"] = json!(["first", [], "third"]);
        }
    } else if !bodyless && random.chance(10) {
        out["echo"] = true.into();
    }
    let chunked = http2 || out.get("framing").is_none();
    if !bodyless && chunked && random.chance(30) {
        out["trailers"] = json!(some(
            random,
            &["x-t: up", "x-other: 1", "grpc-status: 0"],
            60
        ));
    } else if http2 && random.chance(15) {
        out["separate_end"] = true.into();
    }
    match random.below(100) {
        0..8 => out["wait"] = "head".into(),
        8..11 => out["wait"] = json!({"bytes": 3}),
        _ => {}
    }
    if random.chance(20) {
        out["delay"] = (*random.pick(&[30, 90, 150])).into();
    }
    if random.chance(4) {
        let status = random.weighted(&[(3, 103), (1, 100)]);
        let headers = ["link: </s.css>"];
        out["informational"] = json!([{"status": status, "headers": headers}]);
    }
    if random.chance(7) {
        let at = random.pick(&["before-head", "after-head", "after-body"]);
        out["reset"] = (*at).into();
        if http2 && random.chance(30) {
            out["reset_code"] = (*random.pick(&[0, 7, 8])).into();
        }
    }
    if !http2 && random.chance(5) {
        out["close"] = true.into();
    }
    if random.chance(3) {
        out["no_marker"] = true.into();
    }
    out["headers"] = json!(headers);
    out
}

/// A processor that is an HTTP service.
fn side(random: &mut Random) -> Value {
    let request = random.weighted(&[
        (4, r#"{"request_headers":{}}"#),
        (2, r#"{"request_headers":{"response":{"header_mutation":{"set_headers":[{"header":{"key":"x-new","raw_value":"dmFsdWU="}}],"remove_headers":["x-client"]}}}}"#),
        (1, r#"{"immediateResponse":{"status":{"code":"Forbidden"},"body":"bm8="}}"#),
        (1, r#"{"response_headers":{}}"#),
        (1, r#"{}"#),
        (1, r#"{"request_headers"#),
    ]);
    let response = random.weighted(&[
        (4, r#"{"response_headers":{}}"#),
        (2, r#"{"responseHeaders":{"response":{"headerMutation":{"setHeaders":[{"header":{"key":"x-new","rawValue":"dmFsdWU="}}]}}}}"#),
        (1, r#"{"immediate_response":{"status":{"code":500},"details":"why"}}"#),
        (1, r#""#),
    ]);
    let mut out = json!({"bodies": [request, response], "framing": "length", "protocol": "h1"});
    out["body"] = response.into();
    if random.chance(10) {
        out["status"] = 503.into();
    }
    out
}
