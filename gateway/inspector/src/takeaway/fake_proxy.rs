//! A test of a processor with the `FakeProxy` of `extproc-sdk`.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::{BodyMode, SendMode, observer::Side};

use super::{OF_CLIENT, fields};
use crate::record::{Message, Passage, Processor, Record};

/// A function that plays the exchange to a processor and expects what came of it, with all that it uses. It compiles as it is.
pub(crate) fn fake_proxy(record: &Record) -> String {
    let Some(p) = record.processors.first() else {
        return String::new();
    };
    let settings = settings(p);
    let mode = match settings.contains("BodyMode::") {
        true => "BodyMode, ",
        false => "",
    };
    let id = record.id;
    let mut out = format!(
        "use extproc_sdk::{{{mode}Processor, testing::{{FakeProxy, Message}}}};\n\n\
         /// Exchange {id} as it was recorded. Call it with your processor, in a test that is `async`.\n\
         async fn exchange_{id}(processor: impl Processor) -> Result<(), Box<dyn std::error::Error>> {{\n    \
         let mut exchange = FakeProxy::new(processor){settings}.exchange();\n"
    );
    // Writing to a string does not fail.
    if let Some(verdict) = &p.verdict {
        // In quotes and escaped: part of it is a processor's own words.
        let _ = writeln!(out, "    // As it was recorded, this failed: {verdict:?}");
    }
    let pseudo = [
        (":authority", record.authority.as_str()),
        (":path", &record.path),
        (":method", &record.method),
        (":scheme", "http"),
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
            let response = message(&[(":status", &came)], &p.response.before);
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
    match out.is_empty() {
        true => out,
        false => out + "\n        ",
    }
}

/// A message with these pseudo-headers, as an expression.
fn message(pseudo: &[(&str, &str)], message: &Message) -> String {
    let mut out = String::from("Message::default()");
    let own = fields(&message.head).filter(|(name, _)| !OF_CLIENT.contains(&name.as_str()));
    let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in pseudo.iter().copied().chain(own) {
        let _ = write!(out, "\n        .header({name:?}, {value:?})");
    }
    let body = STANDARD.decode(&message.body).unwrap_or_default();
    match String::from_utf8(body) {
        _ if message.bytes == 0 => {}
        // Of a body that was not recorded, or not the whole of it, the length is true.
        Ok(text) if text.len() as u64 == message.bytes => {
            let _ = write!(out, "\n        .body({text:?})");
        }
        Err(error) if error.as_bytes().len() as u64 == message.bytes => {
            let bytes = error.into_bytes();
            let _ = write!(
                out,
                "\n        .body(b\"{}\".as_slice())",
                bytes.escape_ascii()
            );
        }
        _ => {
            let _ = write!(out, "\n        .body(\"?\".repeat({}))", message.bytes);
        }
    }
    for (name, value) in message.trailers.iter().flatten() {
        let _ = write!(out, "\n        .trailer({name:?}, {value:?})");
    }
    out
}

fn status_of(message: &Message) -> String {
    let mut fields = message.head.iter().flatten();
    let status = fields.find(|(name, _)| name == ":status");
    status.map_or_else(String::new, |(_, status)| status.clone())
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

/// Headers that the filter added, changed and removed, and a body that it replaced.
fn expect(out: &mut String, name: &str, passage: &Passage, side: Side) {
    let before: Vec<_> = fields(&passage.before.head).collect();
    let after: Vec<_> = fields(&passage.after.head).collect();
    // What is between client, gateway and upstream is none of the processor's.
    let is_own = |field: &str| !OF_CLIENT.contains(&field);
    for (field, value) in after
        .iter()
        .filter(|field| is_own(&field.0) && !before.contains(field))
    {
        let _ = writeln!(
            out,
            "    assert!({name}.get_all({field:?}).any(|value| value == {value:?}));"
        );
    }
    for (field, _) in before.iter().filter(|field| is_own(&field.0)) {
        if !after.is_empty() && !after.iter().any(|(kept, _)| kept == field) {
            let _ = writeln!(out, "    assert_eq!({name}.get({field:?}), None);");
        }
    }
    let (came, went) = (&passage.before, &passage.after);
    let body = STANDARD.decode(&went.body).unwrap_or_default();
    if came.body != went.body
        && body.len() as u64 == went.bytes
        && let Ok(text) = String::from_utf8(body)
    {
        let _ = writeln!(out, "    assert_eq!({name}.text(), {text:?});");
    }
    if side == Side::Response && status_of(came) != status_of(went) {
        let _ = writeln!(out, "    assert_eq!({name}.status(), {});", status_of(went));
    }
}
