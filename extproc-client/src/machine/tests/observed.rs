//! Events that an observer of everything is told.

use super::play::*;
use crate::machine::Side::Request;

fn has(lines: &[String], line: &str) {
    assert!(lines.iter().any(|told| told == line), "{line}\n{lines:#?}");
}

#[test]
fn messages_heads_and_bodies_both_ways() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "BUFFERED", "response_header_mode": "SKIP"}"#,
    ));
    p.request(&[("x-a", "1")], false);
    p.part(rh(nothing()));
    p.data(Request, "hello", true);
    let lines = p.transcript.take();
    has(&lines, "Request in: POST http://test.local/p false");
    has(&lines, "Request in: b\"hello\" true");
    has(&lines, r#"reply: {"request_headers":{"response":{}}} true"#);
    // Two bytes of the body were asked for.
    let sent = lines.last().unwrap();
    assert!(sent.starts_with("sent: "), "{sent}");
    assert!(
        sent.contains(r#""request_body":{"body":"aGU=","end_of_stream":true}"#),
        "{sent}"
    );
    p.part(rb(common(None, body("new"))));
    let lines = p.transcript.take();
    has(&lines, "Request out: POST http://test.local/p false");
    has(&lines, "Request out: b\"new\" false");
    p.exchange.over();
    assert_eq!(p.transcript.take(), ["ended: 2/2 changed=1"]);
}

#[test]
fn each_change_of_a_header_with_the_rule_that_refused_it() {
    let mut p = Play::new(config(
        r#""mutation_rules": {"disallow_expression": {"regex": "x-no.*"}}"#,
    ));
    p.request(&[("x-gone", "1")], true);
    p.transcript.take();
    let mut message = set(&[
        ("X-A", "1"),
        ("x-no-way", "1"),
        ("x-envoy-a", "1"),
        (":method", "PUT"),
        (":status", "12"),
    ]);
    message.remove_headers = vec!["x-gone".into(), "host".into()];
    p.part(rh(common(Some(message), None)));
    let lines = p.transcript.take();
    for line in [
        "Remove: Some(RequestHeaders) x-gone",
        "refused: Some(RequestHeaders) host Removal",
        "Set: Some(RequestHeaders) x-a",
        "refused: Some(RequestHeaders) x-no-way DisallowExpression",
        "refused: Some(RequestHeaders) x-envoy-a Envoy",
        "refused: Some(RequestHeaders) :method Routing",
        "refused: Some(RequestHeaders) :status Value",
    ] {
        has(&lines, line);
    }
}

#[test]
fn what_the_table_of_failures_decided() {
    for (extra, verdict) in [
        ("", "LocalReply { status: 504, because: Off }"),
        (r#""failure_mode_allow": true"#, "FailedOpen"),
    ] {
        let mut p = Play::new(config(extra));
        p.request(&[], true);
        p.wait(1000);
        has(
            &p.transcript.take(),
            &format!("failed: Timeout ext_proc_error_per-message_timeout_exceeded {verdict}"),
        );
    }
}

#[test]
fn the_reason_why_a_mode_is_not_taken() {
    for (extra, line) in [
        ("", "mode ignored: NotAllowed"),
        (r#""allow_mode_override": true"#, "mode: Reply"),
        (
            r#""allow_mode_override": true, "allowed_override_modes": [{"response_body_mode": "BUFFERED"}]"#,
            "mode ignored: NotListed",
        ),
        (
            r#""allow_mode_override": true, "send_body_without_waiting_for_header_response": true"#,
            "mode ignored: Configured",
        ),
    ] {
        let mut p = Play::new(config(extra));
        p.request(&[], false);
        p.transcript.take();
        p.reply(crate::wire::Reply {
            part: Some(rh(nothing())),
            mode_override: Some(crate::wire::ModeReply {
                request_body_mode: 2,
                ..Default::default()
            }),
            ..Default::default()
        });
        has(&p.transcript.take(), line);
    }
}
