//! Immediate responses and responses that the processor streams.

use super::play::*;
use crate::{
    machine::Side::{Request, Response},
    types::stream::Close,
    wire::*,
};

fn immediate(code: i32, body: &str) -> ImmediateReply {
    ImmediateReply {
        status: Some(HttpStatus { code }),
        body: bytes::Bytes::copy_from_slice(body.as_bytes()),
        details: "why not".into(),
        ..ImmediateReply::default()
    }
}

fn local(part: LocalPart) -> Part {
    Part::Local(LocalReply { part: Some(part) })
}

fn local_headers(fields: &[(&str, &str)], end_of_stream: bool) -> Part {
    let headers = set(fields)
        .set_headers
        .into_iter()
        .filter_map(|option| option.header)
        .collect();
    local(LocalPart::Headers(LocalHeaders {
        headers: Some(HeaderList { headers }),
        end_of_stream,
    }))
}

#[test]
fn ends_the_exchange_at_once() {
    let mut p = Play::new(config(""));
    p.request(&[], false);
    let mut reply = immediate(403, "denied");
    reply.headers = Some(set(&[
        ("x-a", "1"),
        ("content-length", "99"),
        ("content-type", "text/x"),
    ]));
    assert_eq!(
        p.part(Part::Immediate(reply)),
        [
            "close",
            "upstream: CANCEL",
            "client: 403 content-length=6 content-type=text/x x-a=1",
            "client: \"denied\"",
            "client: END"
        ]
    );
    assert_eq!(p.details, "why_not");
    assert!(p.data(Request, "late", true).is_empty());
}

/// Both are part of a head.
#[test]
fn details_and_the_message_of_grpc_are_cut() {
    const TOLD: usize = 16 * 1024;
    let mut p = Play::new(config(""));
    p.request(&[("content-type", "application/grpc")], false);
    let mut reply = immediate(403, &"b".repeat(TOLD + 1));
    reply.details = "d".repeat(TOLD - 1) + "\u{e9}";
    let made = p.part(Part::Immediate(reply)).join("\n");
    let message = format!("grpc-message={}", "b".repeat(TOLD));
    assert!(made.contains(&message) && !made.contains(&(message + "b")));
    assert_eq!(p.details, "d".repeat(TOLD - 1));
}

#[test]
fn is_accepted_while_nothing_is_outstanding() {
    let mut p = Play::new(config(""));
    p.request(&[], true);
    p.part(rh(nothing()));
    let lines = p.part(Part::Immediate(immediate(429, "")));
    assert_eq!(lines, ["close", "upstream: CANCEL", "client: 429 END"]);
}

#[test]
fn statuses_below_200_become_200() {
    for code in [0, 100, 199, -5] {
        let mut p = Play::new(config(""));
        p.request(&[], true);
        let lines = p.part(Part::Immediate(immediate(code, "")));
        assert_eq!(lines.last().unwrap(), "client: 200 END");
    }
}

#[test]
fn cuts_a_response_that_was_begun() {
    let mut p = Play::new(mode(r#"{"response_body_mode": "STREAMED"}"#));
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[], false);
    p.part(sh(nothing()));
    p.data(Response, "abc", false);
    let lines = p.part(Part::Immediate(immediate(403, "denied")));
    assert_eq!(lines, ["close", "upstream: CANCEL", "client: ABORT"]);
}

#[test]
fn grpc_requests_get_a_grpc_status() {
    for (code, given, expected) in [
        (403, None, 7),
        (503, None, 14),
        (200, None, 2),
        (403, Some(5), 5),
    ] {
        let mut p = Play::new(config(""));
        p.request(&[("content-type", "application/grpc+proto")], false);
        let mut reply = immediate(code, "no, 100%");
        reply.grpc_status = given.map(|status| GrpcStatus { status });
        let lines = p.part(Part::Immediate(reply));
        assert_eq!(
            lines.last().unwrap(),
            &format!(
                "client: 200 content-type=application/grpc grpc-status={expected} grpc-message=no, 100%25 END"
            )
        );
    }
}

#[test]
fn disabled_is_spurious() {
    let mut p = Play::new(config(r#""disable_immediate_response": true"#));
    p.request(&[], true);
    let lines = p.part(Part::Immediate(immediate(403, "")));
    assert_eq!(lines.last().unwrap(), "client: 500 END");
    assert_eq!(
        p.details,
        "unhandled_immediate_response_due_to_config_disabled_it"
    );
}

#[test]
fn streamed_by_the_processor() {
    let mut p = Play::new(config(""));
    p.request(&[], false);
    assert_eq!(
        p.part(local_headers(&[(":status", "201"), ("x-a", "1")], false)),
        ["upstream: CANCEL", "client: 201 x-a=1"]
    );
    let piece = |text: &'static str, end_of_stream| {
        local(LocalPart::Body(StreamedBody {
            body: text.into(),
            end_of_stream,
            ..StreamedBody::default()
        }))
    };
    assert_eq!(p.part(piece("abc", false)), ["client: \"abc\""]);
    assert!(p.data(Request, "upload", false).is_empty(), "dropped");
    assert_eq!(
        p.part(piece("def", true)),
        ["close", "client: \"def\"", "client: END"]
    );
}

#[test]
fn streamed_order_and_modes() {
    for (json, part, details) in [
        (
            "{}",
            local(LocalPart::Body(StreamedBody::default())),
            "local_response_body_received_before_headers",
        ),
        (
            "{}",
            local(LocalPart::Trailers(HeaderList::default())),
            "local_response_trailers_received_before_headers",
        ),
        (
            r#"{"request_body_mode": "BUFFERED"}"#,
            local_headers(&[(":status", "200")], false),
            "streaming_local_response_body_is_only_supported_in_NONE_or_FULL_DUPLEX_STREAMED_modes",
        ),
        (
            "{}",
            local_headers(&[(":status", "abc")], false),
            "header_mutation_set_headers_failed",
        ),
        (
            "{}",
            Part::Local(LocalReply::default()),
            "Invalid_local_response_headers_continue",
        ),
    ] {
        let mut p = Play::new(mode(json));
        p.request(&[], false);
        let lines = p.part(part);
        assert_eq!(lines.last().unwrap(), "client: 500 END");
        assert_eq!(p.details, details);
    }
}

#[test]
fn streamed_and_left_alone_is_cut() {
    let mut p = Play::new(config(""));
    p.request(&[], true);
    p.part(local_headers(&[(":status", "200")], false));
    let lines = p.close(Close::status(0, ""));
    assert_eq!(
        lines.last().unwrap(),
        "client: ABORT",
        "Envoy lets the client wait for ever"
    );
}

/// More names than a header map can hold are an error of the processor's, wherever no limit is set.
#[test]
fn more_headers_than_a_map_holds() {
    let names: Vec<_> = (0..25_000).map(|n| format!("x-{n}")).collect();
    let mut many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();

    let mut p = Play::new(config(""));
    p.request(&[], true);
    let mut reply = immediate(403, "denied");
    reply.headers = Some(set(&many));
    let lines = p.part(Part::Immediate(reply));
    assert!(lines[2].starts_with("client: 403"), "what fits is set");

    let mut p = Play::new(config(""));
    p.request(&[], true);
    p.part(local_headers(&[(":status", "200")], false));
    let trailers = HeaderList {
        headers: set(&many)
            .set_headers
            .into_iter()
            .filter_map(|option| option.header)
            .collect(),
    };
    let lines = p.part(local(LocalPart::Trailers(trailers)));
    assert_eq!(lines.last().unwrap(), "client: ABORT");

    let unlimited = crate::types::limits::HeaderLimits {
        count: usize::MAX,
        bytes: usize::MAX,
    };
    let limits = crate::types::limits::Limits {
        request_headers: unlimited,
        ..Default::default()
    };
    let context = crate::host::ExchangeContext {
        limits,
        ..Default::default()
    };
    let mut p = Play::with(config(""), context);
    p.request(&[], true);
    let lines = p.part(rh(common(Some(set(&many)), None)));
    assert_eq!(lines.last().unwrap(), "client: 500 END");

    many.push((":status", "200"));
    let mut p = Play::new(config(""));
    p.request(&[], true);
    let lines = p.part(local_headers(&many, true));
    assert_eq!(lines.last().unwrap(), "client: 500 END");
    assert_eq!(p.details, "header_mutation_result_exceeds_limit");
}
