//! FULL_DUPLEX_STREAMED: replies that are independent of what was sent.

use super::play::*;
use crate::{
    machine::Side::{Request, Response},
    wire::{BodyMutation, StreamedBody},
};

const DUPLEX: &str =
    r#"{"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}"#;

#[test]
fn duplex_replies_are_independent_in_number_and_size() {
    let mut p = Play::new(mode(DUPLEX));
    p.request(&[], false);
    assert_eq!(
        p.data(Request, "aaa", false),
        ["RB \"aaa\""],
        "before the headers reply"
    );
    assert_eq!(p.data(Request, "bbb", true), ["RB \"bbb\" end"]);
    assert!(
        p.part(rh(nothing())).is_empty(),
        "with the whole body at the processor, the head waits for its first piece"
    );
    assert_eq!(
        p.part(rb(stream("A", false))),
        ["upstream: POST http://test.local/p", "upstream: \"A\""]
    );
    assert_eq!(p.part(rb(stream("B", false))), ["upstream: \"B\""]);
    assert_eq!(
        p.part(rb(stream("C", true))),
        ["upstream: \"C\"", "upstream: END"]
    );
    assert!(
        p.part(rb(stream("D", true)))
            .last()
            .unwrap()
            .contains("500"),
        "after the end"
    );
}

#[test]
fn duplex_body_beyond_the_end_is_answered_and_dropped() {
    let mut p = Play::new(mode(DUPLEX));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    assert_eq!(
        p.part(rb(stream("A", true))),
        ["upstream: \"A\"", "upstream: END"]
    );
    assert_eq!(p.data(Request, "bbb", false), ["RB \"bbb\""]);
    assert!(p.part(rb(stream("B", true))).is_empty());
    let lines = p.part(rb(stream("C", true)));
    assert_eq!(lines.last().unwrap(), "client: 500 END", "one too many");
}

#[test]
fn duplex_trailers_are_sent_as_they_come() {
    let mut p = Play::new(mode(DUPLEX));
    p.request(&[], false);
    p.part(rh(nothing()));
    assert_eq!(p.data(Request, "aaa", false), ["RB \"aaa\""]);
    assert_eq!(p.trailers(Request, &[("x-t", "1")]), ["RT"]);
    assert_eq!(p.part(rb(stream("A", false))), ["upstream: \"A\""]);
    assert_eq!(p.part(rt(None)), ["upstream: TRAILERS x-t=1"]);
}

#[test]
fn duplex_head_waits_for_the_next_reply_if_trailers_are_here() {
    let whole = || {
        let mut p = Play::new(mode(DUPLEX));
        p.request(&[], false);
        assert_eq!(p.data(Request, "aaa", false), ["RB \"aaa\""]);
        assert_eq!(p.trailers(Request, &[("x-t", "1")]), ["RT"]);
        assert!(p.part(rh(nothing())).is_empty());
        p
    };
    let mut p = whole();
    assert_eq!(
        p.part(rb(stream("A", false))),
        ["upstream: POST http://test.local/p", "upstream: \"A\""]
    );
    assert_eq!(p.part(rt(None)), ["upstream: TRAILERS x-t=1"]);
    let mut p = whole();
    assert_eq!(
        p.part(rt(None)),
        [
            "upstream: POST http://test.local/p",
            "upstream: TRAILERS x-t=1"
        ]
    );
}

#[test]
fn duplex_trailers_survive_an_end_of_stream_that_came_before_them() {
    let mut p = Play::new(mode(DUPLEX));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    p.trailers(Request, &[("x-t", "1")]);
    assert_eq!(p.part(rb(stream("A", true))), ["upstream: \"A\""]);
    assert_eq!(p.part(rt(None)), ["upstream: TRAILERS x-t=1"]);
}

#[test]
fn duplex_trailers_of_a_response_do_not_survive_it() {
    let mut p = Play::new(mode(
        r#"{"response_body_mode": "FULL_DUPLEX_STREAMED", "response_trailer_mode": "SEND"}"#,
    ));
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[], false);
    p.part(sh(nothing()));
    p.data(Response, "aaa", false);
    p.trailers(Response, &[("x-t", "1")]);
    assert_eq!(
        p.part(sb(stream("A", true))),
        ["close", "client: \"A\"", "client: END"]
    );
}

#[test]
fn duplex_wants_streamed_responses_alone() {
    for reply in [nothing(), common(None, body("A"))] {
        let mut p = Play::new(mode(DUPLEX));
        p.request(&[], false);
        p.part(rh(nothing()));
        p.data(Request, "aaa", false);
        p.part(rb(reply));
        assert!(
            p.details.starts_with("spurious_message:_Normal_body"),
            "{}",
            p.details
        );
    }
}

#[test]
fn duplex_pieces_of_an_answered_request_are_answered_behind_its_headers() {
    let mut p = Play::new(mode(DUPLEX));
    p.request(&[], false);
    p.data(Request, "aaa", false);
    p.response(&[], true);
    assert!(p.part(rh(nothing())).is_empty());
    assert!(p.part(rb(stream("A", false))).is_empty());
    p.part(rb(nothing()));
    assert!(
        p.details.starts_with("spurious_message:_Normal_body"),
        "{}",
        p.details
    );
}

#[test]
fn duplex_has_no_message_timeout() {
    let mut p = Play::new(mode(DUPLEX));
    p.request(&[], false);
    assert_eq!(p.exchange.next_timeout(), None);
    p.data(Request, "aaa", false);
    assert_eq!(p.exchange.next_timeout(), None);
}

#[test]
fn a_drain_lets_the_rest_pass_by() {
    let mut p = Play::new(mode(DUPLEX));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    let drain = crate::wire::Reply {
        request_drain_requests: true,
        ..Default::default()
    };
    assert_eq!(p.reply(drain.clone()), ["RB \"\" drained"]);
    assert!(p.reply(drain).is_empty(), "once is enough");
    assert!(!p.exchange.wants_frame(Request), "reading is paused");
    assert_eq!(p.part(rb(stream("A", false))), ["upstream: \"A\""]);
    let done = common(
        None,
        Some(BodyMutation::Streamed(StreamedBody {
            drain_complete: true,
            ..StreamedBody::default()
        })),
    );
    assert!(p.part(rb(done)).is_empty());
    assert!(p.exchange.wants_frame(Request));
    assert_eq!(
        p.data(Request, "bbb", true),
        ["upstream: \"bbb\"", "upstream: END"]
    );
}
