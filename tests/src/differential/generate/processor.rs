//! Processors: most answer rightly most of the time.

use serde_json::{Map, Value, json};

use super::filter::processing_mode;
use super::{APART, Plan, some};
use crate::differential::random::Random;

/// A number in the field `request_headers`.
pub(in crate::differential) const WRONG_WIRE_TYPE: &str = "\u{8}\u{1}";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Headers,
    Body,
    Trailers,
}

const KINDS: [(&str, Part); 6] = [
    ("request_headers", Part::Headers),
    ("request_body", Part::Body),
    ("request_trailers", Part::Trailers),
    ("response_headers", Part::Headers),
    ("response_body", Part::Body),
    ("response_trailers", Part::Trailers),
];

pub(super) fn add(random: &mut Random, plan: Plan, out: &mut Map<String, Value>) {
    if plan.over_http {
        return;
    }
    let mut script = if plan.filters > 1 {
        let streams: Vec<Value> = (0..plan.filters).map(|_| script(random, plan)).collect();
        json!({"streams": streams})
    } else {
        script(random, plan)
    };
    match random.below(100) {
        number @ 0..2 => {
            script = json!({(["absent", "refuse"][number]): true});
            // How far a request got before that was known is the system's choice.
            out["compare"]["skip"] =
                json!(["upstream", "counters/ext_proc.stream_msgs_sent", "log"]);
        }
        2 => script["max_streams"] = 1.into(),
        _ => {}
    }
    out.insert("processor".into(), script);
}

fn script(random: &mut Random, plan: Plan) -> Value {
    let mut out = json!({});
    for (kind, part) in KINDS {
        if !random.chance(28) {
            continue;
        }
        if !is_apart(plan, kind) {
            // What becomes of the pieces must not depend on how many there are.
            let end = match random.below(4) {
                0 => json!({"immediate": immediate(random)}),
                1 => failure(random),
                2 => json!([{"sleep": APART}, "continue"]),
                _ => json!({"reply": {"set": ["x-new: 1"]}}),
            };
            out[kind] = match plan.duplex {
                true => json!([end]),
                false => json!({"always": end}),
            };
            continue;
        }
        if part == Part::Body && random.chance(40) {
            out[kind] = json!({"always": answer(random, plan, kind, part)});
            continue;
        }
        let mut answers = Vec::new();
        if part == Part::Body && random.chance(50) {
            answers.push(json!("continue"));
            if random.chance(30) {
                answers.push(json!("continue"));
            }
        }
        answers.push(answer(random, plan, kind, part));
        if part == Part::Body && random.chance(40) {
            answers.push(answer(random, plan, kind, part));
        }
        out[kind] = answers.into();
    }
    if random.chance(2) {
        out["open"] = match random.below(4) {
            0 => failure(random),
            1 => json!({"response_headers": {}}),
            2 => json!({"request_headers": {"set": ["x-early: 1"]}}),
            _ => json!({"immediate": {"status": 403}}),
        };
    }
    if plan.unanswered && random.chance(60) {
        let (kind, _) = *random.pick(&KINDS);
        out[kind] = match is_apart(plan, kind) {
            true => json!(["silence"]),
            false => json!({"always": "silence"}),
        };
    } else if plan.unanswered && random.chance(30) {
        out["after"] = (*random.pick(&["silence", "close"])).into();
    }
    out
}

/// Tells whether messages of this kind come one by one. Within small limits, bodies are read in pieces of the proxy's choice.
pub(super) fn is_apart(plan: Plan, kind: &str) -> bool {
    match kind {
        "request_body" => plan.request_apart && !plan.limited,
        "response_body" => plan.response_apart && !plan.limited,
        _ => true,
    }
}

/// The answer to one message.
fn answer(random: &mut Random, plan: Plan, kind: &str, part: Part) -> Value {
    // Between the times at which pieces of bodies come.
    let wait = json!({"sleep": *random.pick(&[20_u64, APART + 10, 130])});
    match random.below(100) {
        0..52 => message(random, plan, kind, part),
        52..62 => json!([wait, message(random, plan, kind, part)]),
        62..66 => json!([wait, "continue"]),
        66..69 => failure(random),
        69..72 => json!([wait, failure(random)]),
        72..74 => json!([message(random, plan, kind, part), wait, failure(random)]),
        74..76 => json!([message(random, plan, kind, part), failure(random)]),
        76..82 => json!({"immediate": immediate(random)}),
        82..84 => json!([wait, {"immediate": immediate(random)}]),
        84..86 => {
            json!([message(random, plan, kind, part), wait, {"immediate": immediate(random)}])
        }
        // Twice, at once and later; of another kind.
        86..88 => json!(["continue", "continue"]),
        88..90 => json!(["continue", wait, message(random, plan, kind, part)]),
        // Such a reply may end a body of which it is not known how much has come.
        90..93 if plan.duplex && !plan.request_apart => "continue".into(),
        90..93 => {
            let (other, _) = *random.pick(&KINDS);
            json!({other: common(random, plan, other, part)})
        }
        93..94 => json!({"empty": true}),
        94..95 => match random.below(4) {
            0 => json!({"garbage": WRONG_WIRE_TYPE}),
            _ => json!({"garbage": "\u{ff}\u{ff}\u{ff}"}),
        },
        95..98 if kind == "request_headers" || plan.duplex => local(random),
        95..97 => json!([{"dynamic_metadata": {"ns": {"k": "alone"}}}, "continue"]),
        97..98 if plan.unanswered => "silence".into(),
        98..99 => json!([{"override_message_timeout": 1500}, wait, "continue"]),
        _ => "goaway".into(),
    }
}

/// The reply that a message asks for, with more or less in it.
fn message(random: &mut Random, plan: Plan, kind: &str, part: Part) -> Value {
    let mut out = json!({"reply": common(random, plan, kind, part)});
    if part == Part::Headers && plan.overrides && random.chance(50) {
        let mode = processing_mode(random, false);
        out["mode_override"] = mode.into();
    }
    if random.chance(6) {
        out["dynamic_metadata"] = json!({"ns": {"k": "v"}, "other": {"n": 1}});
    }
    if random.chance(2) {
        out["override_message_timeout"] = 1500.into();
    }
    out
}

/// `CommonResponse`.
fn common(random: &mut Random, plan: Plan, kind: &str, part: Part) -> Value {
    let mut out = json!({});
    if random.chance(50) {
        out["set"] = fields(random, plan, kind, part).into();
    }
    if random.chance(20) {
        let names = [
            "x-client",
            "x-up",
            "x-t",
            "content-type",
            "x-none",
            "content-length",
            "host",
        ];
        out["remove"] = json!(some(random, &names, 30));
    }
    if random.chance(2) {
        let many = random.pick(&["set_many", "remove_many"]);
        out[*many] = (*random.pick(&[10, 25, 101])).into();
    }
    if part == Part::Trailers {
        return out;
    }
    if random.chance(if part == Part::Body { 60 } else { 12 }) {
        body(random, plan, &mut out);
    }
    if random.chance(if part == Part::Headers { 12 } else { 3 }) {
        out["replace"] = true.into();
        if random.chance(60) {
            let size = if plan.limited { 3000 } else { 100 };
            let bodies = [json!("replaced"), json!(""), json!({"size": size})];
            out["body"] = random.pick(&bodies).clone();
        }
        if random.chance(15) {
            out["trailers"] = json!(["x-t: replaced"]);
        }
    }
    if random.chance(if plan.alternative { 40 } else { 4 }) {
        out["clear_route_cache"] = true.into();
    }
    out
}

fn body(random: &mut Random, plan: Plan, out: &mut Value) {
    let stream = if plan.duplex { 60 } else { 6 };
    if random.chance(stream) {
        let pieces = [json!("streamed"), json!(""), json!({"size": 3000})];
        out["stream"] = random.pick(&pieces).clone();
        if random.chance(25) {
            out["eos"] = true.into();
        }
        return;
    }
    match random.below(10) {
        0..6 => {
            let bodies = [
                json!("changed"),
                json!("abc"),
                json!(""),
                json!({"size": 3000}),
            ];
            out["body"] = random.pick(&bodies).clone();
            if random.chance(40) {
                let length = super::client::size(&out["body"]);
                let mut set = out["set"].as_array().cloned().unwrap_or_default();
                set.push(format!("content-length: {length}").into());
                out["set"] = set.into();
            }
        }
        6..9 => out["clear_body"] = random.chance(80).into(),
        _ => out["empty_body_mutation"] = true.into(),
    }
}

fn fields(random: &mut Random, plan: Plan, kind: &str, part: Part) -> Vec<Value> {
    let mut out = vec![json!("x-new: 1")];
    let full = |name: &str, value: &str, append: bool| json!({"name": name, "value": value, "append": append});
    let common = [
        json!("x-new: 2"),
        json!("x-client: changed"),
        json!("x-up: changed"),
        json!("x-t: changed"),
        full("x-client", "added", true),
        full("x-up", "added", true),
        full("cookie", "e=f", true),
        full("set-cookie", "e=f", true),
        json!("x-empty: "),
        json!("x-envoy-new: 1"),
        json!("content-type: text/new"),
        json!({"name": "x-text", "text": "ignored"}),
        json!({"name": "x-bad", "value": "a\nb"}),
        json!({"missing": true, "name": ""}),
    ];
    out.extend(some(random, &common, 8));
    if part == Part::Headers {
        let of_any = ["content-type: application/grpc", "user-agent: set/1"];
        out.extend(some(random, &of_any, 4).into_iter().map(Value::from));
        let of_requests = [
            "host: set.local",
            ":authority: set.local:81",
            ":method: PUT",
            ":scheme: https",
        ];
        // Seldom those of the other direction, which is nothing that a message can have.
        let request = kind == "request_headers";
        let set = some(random, &of_requests, if request { 5 } else { 1 });
        out.extend(set.into_iter().map(Value::from));
        if request && random.chance(if plan.alternative { 60 } else { 5 }) {
            out.push(json!(":path: /alt/set"));
        }
        // What no message may have, so that it differs from Envoy.
        if random.chance(1) {
            out.push((*random.pick(&["connection: x-hop", "keep-alive: 5"])).into());
        }
        if request && random.chance(1) {
            let unusable = [":path: relative", ":path: ", ":authority: ", "host: "];
            out.push((*random.pick(&unusable)).into());
        }
        if random.chance(if request { 1 } else { 10 }) {
            out.push(json!(format!(":status: {}", random.pick(&[202, 204, 404]))));
        }
    }
    out
}

fn immediate(random: &mut Random) -> Value {
    let mut out = json!({});
    if random.chance(95) {
        let status = random.weighted(&[
            (8, 403),
            (4, 200),
            (2, 500),
            (2, 302),
            (1, 204),
            (1, 304),
            (1, 999),
            (1, 0),
        ]);
        out["status"] = status.into();
    }
    if random.chance(60) {
        out["body"] = "denied".into();
    }
    if random.chance(40) {
        let set = [
            "x-imm: 1",
            "content-type: text/imm",
            "x-envoy-imm: 1",
            "location: /x",
            ":status: 418",
        ];
        out["set"] = json!(some(random, &set, 35));
    }
    if random.chance(15) {
        out["grpc"] = 7.into();
    }
    if random.chance(20) {
        out["details"] = "a reason".into();
    }
    out
}

/// A streamed immediate response that comes to its end.
fn local(random: &mut Random) -> Value {
    let mut steps = Vec::new();
    let only_head = random.chance(25);
    let headers = match random.below(4) {
        0 => json!([":status: 200", "content-type: text/x"]),
        1 => json!([":status: 403", "x-why: 1"]),
        2 => json!([":status: 200", "content-length: 6"]),
        _ => json!([":status: 201"]),
    };
    steps.push(json!({"local": {"headers": headers, "eos": only_head}}));
    if only_head {
        return steps.into();
    }
    if random.chance(40) {
        steps.push(json!({"sleep": APART}));
    }
    let trailers = random.chance(30);
    steps.push(json!({"local": {"body": "one"}}));
    if random.chance(40) {
        steps.push(json!({"sleep": APART}));
    }
    steps.push(json!({"local": {"body": "two", "eos": !trailers}}));
    if trailers {
        steps.push(json!({"local": {"trailers": ["x-t: local"]}}));
    }
    steps.into()
}

/// An end that nobody asked for.
fn failure(random: &mut Random) -> Value {
    match random.below(8) {
        0..3 => json!({"error": *random.pick(&[13, 14, 4])}),
        3..5 => "close".into(),
        5 => json!({"reset": *random.pick(&[2, 8])}),
        6 => "abort".into(),
        _ => json!({"http": *random.pick(&[200, 503])}),
    }
}
