//! BUFFERED: the whole body, and what is larger than the buffer limit.

use std::sync::Arc;

use super::play::*;
use crate::{
    host::{ExchangeContext, Host},
    machine::Side::{Request, Response},
    wire::BodyMutation,
};

#[test]
fn buffered_body_is_one_message() {
    let mut p = Play::new(mode(r#"{"response_body_mode": "BUFFERED"}"#));
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[("content-length", "6")], false);
    assert!(
        p.part(sh(nothing())).is_empty(),
        "the head waits for the body"
    );
    assert!(p.data(Response, "aaa", false).is_empty());
    assert_eq!(p.data(Response, "bbb", true), ["SB \"aaabbb\" end"]);
    assert_eq!(
        p.part(sb(nothing())),
        [
            "close",
            "client: 200 content-length=6",
            "client: \"aaabbb\"",
            "client: END"
        ]
    );
}

#[test]
fn buffered_body_and_content_length_have_to_agree() {
    for (mutation, reply, status) in [
        (vec![], body("12345"), "200"),
        (vec![], body("1234"), "500"),
        (vec![("content-length", "4")], body("1234"), "200"),
        (vec![], Some(BodyMutation::Clear(true)), "500"),
        (
            vec![("content-length", "0")],
            Some(BodyMutation::Clear(true)),
            "200",
        ),
        (vec![("content-length", "4")], None, "200"),
    ] {
        let mut p = Play::new(config(
            r#""failure_mode_allow": true, "processing_mode": {"response_body_mode": "BUFFERED"}"#,
        ));
        p.request(&[], true);
        p.part(rh(nothing()));
        p.response(&[("content-length", "5")], false);
        p.part(sh(nothing()));
        p.data(Response, "hello", true);
        let lines = p.part(sb(common(Some(set(&mutation)), reply.clone())));
        let head = lines.iter().find_map(|line| line.strip_prefix("client: "));
        assert!(
            head.unwrap().starts_with(status),
            "{mutation:?} {reply:?}: {lines:?}"
        );
    }
}

#[test]
fn buffered_empty_chunked_body() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "BUFFERED"}"#));
    p.request(&[], false);
    p.part(rh(nothing()));
    assert_eq!(p.data(Request, "", true), ["RB \"\" end"]);
    assert_eq!(
        p.part(rb(nothing())),
        ["upstream: POST http://test.local/p", "upstream: END"]
    );
}

#[test]
fn buffered_trailers() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "BUFFERED", "request_trailer_mode": "SEND"}"#,
    ));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    assert_eq!(p.trailers(Request, &[("x-t", "1")]), ["RB \"aaa\""]);
    assert_eq!(p.part(rb(common(None, body("B")))), ["RT"]);
    assert_eq!(
        p.part(rt(None)),
        [
            "upstream: POST http://test.local/p",
            "upstream: \"B\"",
            "upstream: TRAILERS x-t=1"
        ]
    );
}

#[test]
fn buffered_trailers_that_are_not_asked_for_are_the_last() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "BUFFERED", "response_header_mode": "SKIP"}"#,
    ));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    assert_eq!(p.trailers(Request, &[("x-t", "1")]), ["RB \"aaa\""]);
    assert_eq!(
        p.part(rb(nothing())),
        [
            "close",
            "upstream: POST http://test.local/p",
            "upstream: \"aaa\"",
            "upstream: TRAILERS x-t=1"
        ]
    );
}

#[test]
fn buffered_body_over_the_limit_is_413_that_the_processor_sees() {
    let mut p = limited(r#"{"request_body_mode": "BUFFERED"}"#, 4);
    p.request(&[], false);
    p.part(rh(nothing()));
    assert_eq!(p.data(Request, "12345", false), ["SH", "upstream: CANCEL"]);
    let lines = p.part(sh(nothing()));
    assert_eq!(
        lines[1],
        "client: 413 content-length=17 content-type=text/plain"
    );
    assert_eq!(p.details, "request_payload_too_large");
}

/// Not even if somebody in front has answered, too.
#[test]
fn a_held_head_behind_a_413_goes_nowhere() {
    #[derive(Debug)]
    struct Answered;
    impl Host for Answered {
        fn is_answered(&self) -> bool {
            true
        }
    }
    let context = ExchangeContext {
        host: Some(Arc::new(Answered)),
        ..small(4)
    };
    let mut p = Play::with(mode(r#"{"request_body_mode": "BUFFERED"}"#), context);
    p.request(&[], false);
    assert_eq!(p.data(Request, "12345", false), ["SH", "upstream: CANCEL"]);
    assert!(p.exchange.take_answered().is_none());
}

#[test]
fn buffered_response_over_the_limit_is_500() {
    let mut p = limited(r#"{"response_body_mode": "BUFFERED"}"#, 4);
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[], false);
    p.part(sh(nothing()));
    let lines = p.data(Response, "12345", false);
    assert_eq!(
        lines[2],
        "client: 500 content-length=21 content-type=text/plain"
    );
    assert_eq!(p.details, "response_payload_too_large");
}

#[test]
fn a_request_over_the_limit_behind_a_response_is_no_local_reply() {
    let prefix = "\0\0\u{1}\0\0";
    let begun = |end| {
        let mut p = limited(r#"{"request_body_mode": "GRPC"}"#, 4);
        p.request(&[], false);
        p.part(rh(nothing()));
        p.response(&[], end);
        p.part(sh(nothing()));
        p.transcript.take();
        p
    };
    let mut p = begun(false);
    let lines = p.data(Request, prefix, false);
    assert!(lines.contains(&"upstream: CANCEL".into()), "{lines:?}");
    let told = p.transcript.take();
    let wanted = "request_payload_too_large Cut { because: NotCovered }";
    assert!(told.iter().any(|line| line.contains(wanted)), "{told:?}");
    // Nobody keeps what comes behind a complete response.
    let mut p = begun(true);
    assert_eq!(p.data(Request, prefix, false), [""; 0]);
    let told = p.transcript.take();
    assert!(
        !told.iter().any(|line| line.contains("too_large")),
        "{told:?}"
    );
    // A response that the processor has gives way.
    let mut p = limited(r#"{"request_body_mode": "GRPC"}"#, 4);
    p.request(&[], false);
    p.part(rh(nothing()));
    p.response(&[], false);
    let lines = p.data(Request, prefix, false);
    assert!(
        lines.iter().any(|line| line.starts_with("client: 413 ")),
        "{lines:?}"
    );
}

#[test]
fn a_wrong_reply_to_a_request_behind_a_complete_response_cuts_the_request() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "STREAMED"}"#));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    p.response(&[], true);
    p.part(sh(nothing()));
    p.transcript.take();
    p.part(rt(None));
    let told = p.transcript.take();
    let wanted = "RequestCut { because: Off }";
    assert!(told.iter().any(|line| line.contains(wanted)), "{told:?}");
}
