//! A test of a processor with the `FakeProxy` of `extproc-sdk`.

use std::fmt::Write as _;

use extproc_client::{BodyMode, SendMode, observer::Side};

use serde_json::{Map, Value};

use super::{OF_CLIENT, fields, has_length, is_true, kept, path};
use crate::{
    printed,
    record::{Field, Kind, Message, Passage, Processor, Record},
};

/// A function that plays the exchange to the processor of the filter with this number and expects what came of it, with all
/// that it uses. It compiles as it is.
pub(crate) fn fake_proxy(record: &Record, index: usize) -> String {
    let Some(p) = record.processors.get(index) else {
        return String::new();
    };
    let settings = settings(p);
    let used = |name: &str, import: &'static str| match settings.contains(name) {
        true => import,
        false => "",
    };
    let mode = used("BodyMode::", "BodyMode, ");
    let json = used("serde_json::", "serde_json, ");
    let id = record.id;
    let mut out = format!(
        "use extproc_sdk::{{{mode}Processor, {json}testing::{{FakeProxy, Message}}}};\n\n\
         /// Exchange {id} as it was recorded. Call it with your processor, in a test that is `async`.\n\
         async fn exchange_{id}(processor: impl Processor) -> Result<(), Box<dyn std::error::Error>> {{\n    \
         let mut exchange = FakeProxy::new(processor){settings}.exchange();\n"
    );
    // Writing to a string does not fail.
    if let Some(verdict) = &p.verdict {
        // In quotes and escaped: part of it is a processor's own words.
        let _ = writeln!(out, "    // As it was recorded, this failed: {verdict:?}");
    }
    if p.settings.settings_json().get("forward_rules").is_some() {
        out.push_str("    // The filter has forward_rules; here the processor sees all headers.\n");
    }
    let is_secure = record
        .entrance
        .as_ref()
        .is_some_and(|entrance| entrance.tls.is_some());
    let pseudo = [
        Field::text(":authority", record.authority.as_str()),
        Field::text(":path", path(record)),
        Field::text(":method", record.method.as_str()),
        Field::text(":scheme", if is_secure { "https" } else { "http" }),
    ];
    let _ = writeln!(
        out,
        "    let request = {};",
        message(&pseudo, &p.request.before)
    );
    let answered = p.flags.contains(&"answered");
    let status = record.status.unwrap_or_default().to_string();
    if answered && p.response.before.head.is_none() {
        expect_answer(&mut out, "request", &status);
    } else {
        play(&mut out, "forwarded", &p.request, Side::Request);
        if p.response.before.head.is_some() {
            let came = status_of(&p.response.before);
            let response = message(&[Field::text(":status", came)], &p.response.before);
            let _ = writeln!(out, "    let response = {response};");
            match answered {
                true => expect_answer(&mut out, "response", &status),
                false => play(&mut out, "returned", &p.response, Side::Response),
            }
        }
    }
    out.push_str("    exchange.finish().await?;\n    Ok(())\n}\n");
    out
}

/// Settings of the proxy that differ from its defaults.
fn settings(p: &Processor) -> String {
    let mode = p.settings.processing_mode();
    let mut out = String::new();
    for (side, headers, body, trailers) in [
        (
            "request",
            mode.request_header_mode,
            mode.request_body_mode,
            mode.request_trailer_mode,
        ),
        (
            "response",
            mode.response_header_mode,
            mode.response_body_mode,
            mode.response_trailer_mode,
        ),
    ] {
        if headers == SendMode::Skip {
            let _ = write!(out, "\n        .{side}_headers(false)");
        }
        if body != BodyMode::None {
            let _ = write!(out, "\n        .{side}_body(BodyMode::{body:?})");
        }
        if trailers == SendMode::Send {
            let _ = write!(out, "\n        .{side}_trailers(true)");
        }
    }
    if p.settings.observability_mode() {
        out.push_str("\n        .observe_only()");
    }
    let all = p.settings.settings_json();
    for (field, call) in [
        ("allow_content_length_header", "keep_content_length"),
        (
            "send_body_without_waiting_for_header_response",
            "body_without_waiting",
        ),
    ] {
        if all[field] == true {
            let _ = write!(out, "\n        .{call}()");
        }
    }
    // An override that `allowed_override_modes` kept from it is ignored again.
    let mut refused = p.entries.iter().filter(|entry| entry.kind == Kind::Refused);
    if all["allow_mode_override"] == true
        && !refused.any(|entry| entry.text.starts_with("mode_override"))
    {
        out.push_str("\n        .allow_mode_override()");
    }
    if all.get("mutation_rules").is_some() {
        // As far as the exchange shows them.
        let _ = match p.refused.as_slice() {
            [] => write!(out, "\n        .mutation_rules(|_| true)"),
            names => write!(
                out,
                "\n        .mutation_rules(|name| !{names:?}.contains(&name))"
            ),
        };
    }
    out.push_str(&surroundings(p));
    match out.is_empty() {
        true => out,
        false => out + "\n        ",
    }
}

/// Attributes and metadata that were sent. The proxy sends the same attributes in both directions.
fn surroundings(p: &Processor) -> String {
    let mut attributes = Map::new();
    let mut metadata = Map::new();
    for entry in p.entries.iter().filter(|entry| entry.kind == Kind::Sent) {
        let message = entry.message.as_ref().map(|message| message.get());
        let Some(Ok(message)) = message.map(serde_json::from_str::<Value>) else {
            continue;
        };
        if let Value::Object(groups) = &message["attributes"] {
            attributes.extend(
                groups
                    .values()
                    .filter_map(Value::as_object)
                    .flatten()
                    .map(pair),
            );
        }
        if let Value::Object(namespaces) = &message["metadata_context"]["filter_metadata"] {
            metadata.extend(namespaces.iter().map(pair));
        }
    }
    let mut out = String::new();
    if !attributes.is_empty() {
        let json = printed::json(Value::Object(attributes).to_string());
        let _ = write!(
            out,
            "\n        .attributes(serde_json::from_str({json:?})?)"
        );
    }
    for (namespace, value) in metadata {
        let json = printed::json(value.to_string());
        let _ = write!(
            out,
            "\n        .metadata({namespace:?}, serde_json::from_str({json:?})?)"
        );
    }
    out
}

fn pair((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// A message with these pseudo-headers, as an expression.
fn message(pseudo: &[Field], message: &Message) -> String {
    let mut out = String::from("Message::default()");
    let own = fields(&message.head).filter(|field| !OF_CLIENT.contains(&field.name.as_str()));
    for field in pseudo.iter().chain(own) {
        let _ = write!(out, "\n        .header({:?}, {})", field.name, value(field));
    }
    if message.bytes > 0 {
        let kept = kept(message);
        let text = match kept.len() as u64 == message.bytes {
            true => {
                std::str::from_utf8(&kept).map_or_else(|_| bytes(&kept), |text| format!("{text:?}"))
            }
            // Of a body that was not recorded, or not the whole of it, the length is true.
            false => format!("\"?\".repeat({})", message.bytes),
        };
        let _ = match has_length(message) {
            true => write!(out, "\n        .body({text})"),
            false => write!(out, "\n        .pieces([{text}])"),
        };
    }
    for field in message.trailers.iter().flatten() {
        let _ = write!(
            out,
            "\n        .trailer({:?}, {})",
            field.name,
            value(field)
        );
    }
    out
}

/// The value of a header as an expression.
fn value(field: &Field) -> String {
    match &field.raw {
        None => format!("{:?}", field.value),
        Some(raw) => bytes(raw),
    }
}

fn bytes(bytes: &[u8]) -> String {
    format!("b\"{}\".as_slice()", bytes.escape_ascii())
}

fn status_of(message: &Message) -> String {
    let mut fields = message.head.iter().flatten();
    let status = fields.find(|field| field.name == ":status");
    status.map_or_else(String::new, |status| status.value.clone())
}

/// The processor answers with this status.
fn expect_answer(out: &mut String, message: &str, status: &str) {
    let _ = writeln!(
        out,
        "    let answer = exchange.{message}({message}).await?.responded()?;\n    \
         assert_eq!(answer.status(), {status});"
    );
}

/// The message goes on, and is what came of it. It has a name where something is expected of it.
fn play(out: &mut String, name: &str, passage: &Passage, side: Side) {
    let message = match side {
        Side::Request => "request",
        Side::Response => "response",
    };
    let mut expected = String::new();
    expect(&mut expected, name, passage, side);
    let binding = match expected.is_empty() {
        true => String::new(),
        false => format!("let {name} = "),
    };
    let _ = writeln!(
        out,
        "    {binding}exchange.{message}({message}).await?.forwarded()?;"
    );
    out.push_str(&expected);
}

/// Headers and trailers that the filter added, changed and removed, and a body that it replaced.
fn expect(out: &mut String, name: &str, passage: &Passage, side: Side) {
    let (came, went) = (&passage.before, &passage.after);
    // What is between client, gateway and upstream is none of the processor's.
    let is_own = |field: &&Field| !OF_CLIENT.contains(&field.name.as_str());
    let before: Vec<_> = fields(&came.head).filter(is_own).collect();
    let after: Vec<_> = fields(&went.head).filter(is_own).collect();
    for field in after.iter().filter(|field| !before.contains(field)) {
        let (key, value) = (&field.name, value(field));
        let _ = match is_true(&field.value) {
            true => writeln!(
                out,
                "    assert!({name}.get_all_bytes({key:?}).any(|value| value == {}));",
                match field.raw {
                    None => format!("{value}.as_bytes()"),
                    Some(_) => value,
                }
            ),
            false => writeln!(
                out,
                "    assert!({name}.get_all_bytes({key:?}).next().is_some());"
            ),
        };
    }
    for field in &before {
        if !after.is_empty() && !after.iter().any(|kept| kept.name == field.name) {
            let key = &field.name;
            let _ = writeln!(
                out,
                "    assert_eq!({name}.get_all_bytes({key:?}).next(), None);"
            );
        }
    }
    let body = kept(went);
    if came.body != went.body
        && body.len() as u64 == went.bytes
        && let Ok(text) = String::from_utf8(body)
        && is_true(&text)
    {
        let _ = writeln!(out, "    assert_eq!({name}.text(), {text:?});");
    }
    let known: Vec<_> = came.trailers.iter().flatten().collect();
    for field in went.trailers.iter().flatten() {
        if !known.contains(&field) && is_true(&field.value) && field.raw.is_none() {
            let (key, value) = (&field.name, &field.value);
            let _ = writeln!(
                out,
                "    assert_eq!({name}.get_trailer({key:?}), Some({value:?}));"
            );
        }
    }
    if side == Side::Response && status_of(came) != status_of(went) && went.head.is_some() {
        let _ = writeln!(out, "    assert_eq!({name}.status(), {});", status_of(went));
    }
}
