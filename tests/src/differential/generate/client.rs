//! Clients.

use serde_json::{Map, Value, json};

use super::{APART, Plan, body, some};
use crate::differential::random::Random;

pub(super) fn add(random: &mut Random, plan: Plan, out: &mut Map<String, Value>) {
    if plan.filters == 1 && random.chance(2) {
        return upgrade(random, out);
    }
    let one = request(random, plan);
    match random.below(100) {
        0..8 => {
            let mut others = [request(random, plan), request(random, plan)];
            // They are merged over the first one, whose ways are none of their own.
            for name in one.as_object().into_iter().flat_map(Map::keys) {
                for other in &mut others {
                    if other.get(name).is_none() {
                        other[name] = Value::Null;
                    }
                }
            }
            out.insert("clients".into(), json!(others));
        }
        8..11 => {
            out.insert("repeat".into(), 2.into());
        }
        // Sorted by path, so each has its own.
        11..13 => {
            let others = json!([{"path": "/one"}, {"path": "/two"}]);
            out.insert("clients".into(), others);
            out.insert("parallel".into(), true.into());
        }
        _ => {}
    }
    out.insert("client".into(), one);
}

fn upgrade(random: &mut Random, out: &mut Map<String, Value>) {
    let hcm = json!({"upgrade_configs": [{"upgrade_type": "websocket"}]});
    let headers = json!(["connection: Upgrade", "upgrade: websocket"]);
    out.insert("hcm".into(), hcm);
    let mut client = json!({"headers": headers, "path": "/socket"});
    if random.chance(80) {
        client["upgrade_send"] = "ping".into();
    }
    out.insert("client".into(), client);
}

fn request(random: &mut Random, plan: Plan) -> Value {
    let mut out = json!({});
    let http2 = random.chance(55);
    if http2 {
        out["protocol"] = "h2".into();
    }
    let grpc = http2 && random.chance(6);
    let has_body = grpc || random.chance(70);
    let method = match has_body {
        true => random.weighted(&[(80, "POST"), (10, "PUT"), (5, "DELETE"), (5, "GET")]),
        false => random.weighted(&[
            (70, "GET"),
            (15, "HEAD"),
            (8, "POST"),
            (4, "OPTIONS"),
            (3, "DELETE"),
        ]),
    };
    if method != "GET" {
        out["method"] = method.into();
    }
    out["path"] = random
        .weighted(&[
            (60, "/p"),
            (20, "/p?a=b&c=%20d"),
            (15, "/alt/x"),
            (5, "/a//b/../c"),
            (1, "/p#fragment"),
        ])
        .into();
    if random.chance(5) {
        out["authority"] = (*random.pick(&["other.local:8080", "[::1]:80", "a.b"])).into();
    }
    let mut headers: Vec<String> = vec!["x-client: 1".into()];
    let further = [
        "x-client: 2",
        "x-gone: 1",
        "user-agent: random/1",
        "cookie: a=b",
        "accept-encoding: gzip",
        "x-request-id: id-1",
        "x-forwarded-for: 10.0.0.1",
        "x-envoy-client: 1",
        "x_under: 1",
        "referer: http://r/",
        "x-empty: ",
    ];
    headers.extend(some(random, &further, 6).into_iter().map(str::to_owned));
    let mut has_trailers = false;
    if grpc {
        headers.extend([
            "content-type: application/grpc".into(),
            "te: trailers".into(),
        ]);
        let mut messages = vec![json!({"grpc": "hello"})];
        if random.chance(50) {
            messages.push(json!({"pause": APART}));
            messages.push(json!({"grpc": {"size": 40}}));
        }
        out["body"] = messages.into();
    } else if has_body {
        let parts = body(
            random,
            plan.request_apart,
            plan.limited,
            ["one", "two", "three"],
        );
        if let Some(kind) = random.pick(&[None, None, Some("text/plain"), Some("application/json")])
        {
            headers.push(format!("content-type: {kind}"));
        }
        if http2 && random.chance(30) {
            let size = size(&parts);
            headers.push(format!("content-length: {size}"));
        } else if !http2 && random.chance(40) {
            out["framing"] = "length".into();
        }
        out["body"] = parts;
        if random.chance(5) {
            headers.push("expect: 100-continue".into());
            out["expect_continue"] = true.into();
        }
        if random.chance(4) {
            out["after_head"] = true.into();
        }
    }
    if (has_body || random.chance(5)) && out.get("framing").is_none() && random.chance(30) {
        out["trailers"] = json!(some(random, &["x-t: 1", "x-t: 2", "x-other: a"], 60));
        has_trailers = true;
    }
    if http2 && !has_trailers && random.chance(15) {
        out["separate_end"] = true.into();
    }
    if http2 && !has_body && !has_trailers && random.chance(2) {
        headers.push("content-length: 0".into());
        out["separate_end"] = true.into();
    }
    if !http2 && random.chance(1) {
        out["version"] = "1.0".into();
    }
    if random.chance(3) {
        out["half_open"] = true.into();
    }
    if random.chance(4) {
        out["cancel"] = (*random.pick(&[30, 90, 200])).into();
    }
    out["headers"] = json!(headers);
    out
}

/// Number of bytes of a body.
pub(super) fn size(parts: &Value) -> usize {
    serde_json::from_value(parts.clone())
        .map(|body: crate::support::script::Body| body.size())
        .unwrap_or_default()
}
