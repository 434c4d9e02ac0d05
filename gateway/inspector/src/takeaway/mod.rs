//! Forms in which an exchange can be taken away.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::record::{Field, Kind, Message, Processor, Record};

/// Headers that a client sets by itself.
const OF_CLIENT: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// The request as a command line of curl.
pub(crate) fn curl(record: &Record) -> String {
    let url = format!("http://{}{}", record.authority, record.path);
    let mut out = format!("curl -i -X {} {}", quoted(&record.method), quoted(&url));
    let Some(first) = record.processors.first() else {
        return out + "\n";
    };
    for (name, value) in fields(&first.request.before.head) {
        if !OF_CLIENT.contains(&name.as_str()) {
            // A header without a value is written with a semicolon.
            let field = match value.is_empty() {
                true => format!("{name};"),
                false => format!("{name}: {value}"),
            };
            let _ = write!(out, " \\\n  -H {}", quoted(&field));
        }
    }
    let body = &first.request.before.body;
    match STANDARD.decode(body).map(String::from_utf8) {
        Ok(Ok(text)) if text.is_empty() => {}
        Ok(Ok(text)) if !text.contains('\0') => {
            // `--data-raw` takes an `@` at the beginning as it is.
            let _ = write!(out, " \\\n  --data-raw {}", quoted(&text));
        }
        _ => {
            return format!("echo {body} | base64 -d | {out} \\\n  --data-binary @-\n");
        }
    }
    out + "\n"
}

/// A text for a shell, which takes nothing in it for its own.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A test of a processor with the SDK's `FakeProxy`: the recorded request is played, and what came of it is expected.
pub(crate) fn fake_proxy(record: &Record) -> String {
    let Some(p) = record.processors.first() else {
        return String::new();
    };
    let mut out = format!(
        "// Exchange {id}: put your processor in the place of `processor`.\n\
         #[tokio::test]\n\
         async fn exchange_{id}() -> Result<(), Box<dyn std::error::Error>> {{\n    \
         let proxy = FakeProxy::new(processor){mode};\n    \
         let mut exchange = proxy.exchange();\n    \
         let request = Message::request({method:?}, {path:?})",
        id = record.id,
        mode = body_mode(p),
        method = record.method,
        path = record.path,
    );
    // Writing to a string does not fail.
    for (name, value) in fields(&p.request.before.head) {
        let _ = write!(out, "\n        .header({name:?}, {value:?})");
    }
    let body = STANDARD.decode(&p.request.before.body).unwrap_or_default();
    if !body.is_empty() {
        let text = String::from_utf8_lossy(&body);
        let _ = write!(out, "\n        .body({:?})", &*text);
    }
    out.push_str(";\n");
    if p.flags.contains(&"answered") {
        let status = record.status.unwrap_or_default();
        let _ = writeln!(
            out,
            "    let answer = exchange.request(request).await?.responded()?;\n    \
             assert_eq!(answer.status(), {status});"
        );
    } else {
        out.push_str("    let forwarded = exchange.request(request).await?.forwarded()?;\n");
        for (name, value) in changed(p) {
            let _ = writeln!(
                out,
                "    assert_eq!(forwarded.get({name:?}), Some({value:?}));"
            );
        }
    }
    out.push_str("    exchange.finish().await?;\n    Ok(())\n}\n");
    out
}

fn body_mode(p: &Processor) -> &'static str {
    match p.config["processing_mode"]["request_body_mode"].as_str() {
        Some("STREAMED") => ".request_body(BodyMode::Streamed)",
        Some("BUFFERED") => ".request_body(BodyMode::Buffered)",
        Some("BUFFERED_PARTIAL") => ".request_body(BodyMode::BufferedPartial)",
        Some("FULL_DUPLEX_STREAMED") => ".request_body(BodyMode::FullDuplexStreamed)",
        _ => "",
    }
}

/// Headers of the request that the processor added or changed.
fn changed(p: &Processor) -> Vec<&Field> {
    let before: Vec<&Field> = fields(&p.request.before.head).collect();
    fields(&p.request.after.head)
        .filter(|field| !before.contains(field))
        .collect()
}

/// A group of one scenario, in the form of `tests/scenarios`. JSON, which is YAML as well.
pub(crate) fn scenario(record: &Record) -> String {
    let Some(p) = record.processors.first() else {
        return String::new();
    };
    let mut filter = json!({"processing_mode": p.config["processing_mode"]});
    if p.config["failure_mode_allow"] == true {
        filter["failure_mode_allow"] = true.into();
    }
    let scenario = json!({
        "group": "recorded",
        "about": "an exchange that the inspector has recorded",
        "scenarios": [{
            "name": format!("exchange-{}", record.id),
            "filter": filter,
            "client": side(&p.request.before, json!({"method": record.method, "path": record.path})),
            "upstream": side(&p.response.before, json!({})),
            "processor": replies(p),
        }],
    });
    format!("{scenario:#}\n")
}

/// Headers and body of one side, beside what is there already.
fn side(message: &Message, mut side: Value) -> Value {
    let lines = fields(&message.head).filter(|(name, _)| !OF_CLIENT.contains(&name.as_str()));
    let lines: Vec<String> = lines
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    if !lines.is_empty() {
        side["headers"] = lines.into();
    }
    let body = STANDARD.decode(&message.body).unwrap_or_default();
    side["body"] = match body.is_empty() {
        true => Value::Null,
        false => String::from_utf8_lossy(&body).into(),
    };
    side
}

/// What the processor did in each phase, in the words of a scenario.
fn replies(p: &Processor) -> Value {
    let mut phases = serde_json::Map::new();
    let mut asked = "request_headers";
    for entry in &p.entries {
        match (entry.kind, entry.phase, &entry.message) {
            (Kind::Sent, Some(phase), _) => asked = phase,
            (Kind::Reply, _, Some(message)) => {
                let phase = entry.phase.unwrap_or(asked);
                let did = match message.get("immediate_response") {
                    Some(answer) => json!({"immediate": immediate(answer)}),
                    None => json!({"reply": reply(message.get(phase).unwrap_or(&Value::Null))}),
                };
                let all = phases.entry(phase).or_insert_with(|| json!([]));
                if let Value::Array(all) = all {
                    all.push(did);
                }
            }
            _ => {}
        }
    }
    phases.into()
}

fn reply(part: &Value) -> Value {
    let common = part.get("response").unwrap_or(&Value::Null);
    // A reply to trailers has its mutation at the top.
    let mutation = match part.get("header_mutation") {
        Some(mutation) => mutation,
        None => &common["header_mutation"],
    };
    let mut out = mutated(mutation);
    if common["status"] == "CONTINUE_AND_REPLACE" {
        out["replace"] = true.into();
    }
    if common["clear_route_cache"] == true {
        out["clear_route_cache"] = true.into();
    }
    let body = &common["body_mutation"];
    if let Some(text) = body.get("body").and_then(text) {
        out["body"] = text.into();
    }
    if body["clear_body"] == true {
        out["clear_body"] = true.into();
    }
    out
}

fn immediate(answer: &Value) -> Value {
    let mut out = mutated(&answer["headers"]);
    out["status"] = answer["status"]["code"].clone();
    if let Some(body) = answer.get("body").and_then(text) {
        out["body"] = body.into();
    }
    if let Some(details) = answer["details"].as_str() {
        out["details"] = details.into();
    }
    out
}

fn mutated(mutation: &Value) -> Value {
    let mut out = json!({});
    let set = mutation["set_headers"].as_array().into_iter().flatten();
    let set: Vec<String> = set
        .map(|option| {
            let header = &option["header"];
            let value = header.get("raw_value").and_then(text).unwrap_or_default();
            format!("{}: {value}", header["key"].as_str().unwrap_or_default())
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

/// Bytes as text.
fn text(base64: &Value) -> Option<String> {
    let bytes = STANDARD.decode(base64.as_str()?).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn fields(head: &Option<Vec<Field>>) -> impl Iterator<Item = &Field> {
    let all = head.iter().flatten();
    all.filter(|(name, _)| !name.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_nothing_for_its_own() {
        assert_eq!(quoted("a'; rm -rf $HOME `x`"), r"'a'\''; rm -rf $HOME `x`'");
    }
}
