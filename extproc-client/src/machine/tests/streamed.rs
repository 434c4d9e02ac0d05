//! STREAMED: chunk by chunk.

use super::play::*;
use crate::{machine::Side::Request, wire::BodyMutation};

#[test]
fn streamed_chunks_are_pipelined_and_answered_in_order() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "STREAMED"}"#));
    p.request(&[], false);
    assert_eq!(
        p.part(rh(nothing())),
        ["upstream: POST http://test.local/p"]
    );
    assert_eq!(p.data(Request, "aaa", false), ["RB \"aaa\""]);
    assert_eq!(p.data(Request, "bbb", false), ["RB \"bbb\""]);
    assert_eq!(p.data(Request, "", true), ["RB \"\" end"]);
    assert_eq!(p.part(rb(nothing())), ["upstream: \"aaa\""]);
    assert_eq!(p.part(rb(common(None, body("B")))), ["upstream: \"B\""]);
    assert_eq!(
        p.part(rb(common(None, body("more")))),
        ["upstream: \"more\"", "upstream: END"]
    );
    let lines = p.part(rb(nothing()));
    assert_eq!(lines.last().unwrap(), "client: 500 END", "one too many");
}

#[test]
fn streamed_clear_body_drops_a_chunk() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "STREAMED"}"#));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", true);
    let clear = common(None, Some(BodyMutation::Clear(true)));
    assert_eq!(p.part(rb(clear)), ["upstream: END"]);
}

#[test]
fn streamed_data_held_for_the_headers_reply_is_one_chunk() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "STREAMED"}"#));
    p.request(&[], false);
    assert!(p.data(Request, "aaa", false).is_empty());
    assert!(p.data(Request, "bbb", false).is_empty());
    assert_eq!(
        p.part(rh(nothing())),
        ["RB \"aaabbb\"", "upstream: POST http://test.local/p"]
    );
}

#[test]
fn a_whole_body_held_for_the_headers_reply_is_processed_as_buffered() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "STREAMED"}"#));
    p.request(&[], false);
    assert!(p.data(Request, "aaa", true).is_empty());
    assert_eq!(
        p.part(rh(nothing())),
        ["RB \"aaa\" end"],
        "the head is still held"
    );
    assert_eq!(
        p.part(rb(common(Some(set(&[("x-b", "1")])), body("B")))),
        [
            "upstream: POST http://test.local/p x-b=1",
            "upstream: \"B\"",
            "upstream: END"
        ]
    );
}

#[test]
fn streamed_trailers_come_after_the_last_chunk() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "STREAMED", "request_trailer_mode": "SEND"}"#,
    ));
    p.request(&[], false);
    p.part(rh(nothing()));
    assert_eq!(p.data(Request, "aaa", false), ["RB \"aaa\""]);
    assert_eq!(p.data(Request, "bbb", false), ["RB \"bbb\""]);
    assert!(p.trailers(Request, &[("x-t", "1")]).is_empty());
    assert_eq!(p.part(rb(nothing())), ["upstream: \"aaa\""]);
    assert_eq!(p.part(rb(nothing())), ["RT", "upstream: \"bbb\""]);
    assert_eq!(p.part(rt(None)), ["upstream: TRAILERS x-t=1"]);
}

#[test]
fn streamed_without_waiting() {
    let config = config(
        r#""send_body_without_waiting_for_header_response": true,
           "processing_mode": {"request_body_mode": "STREAMED"}"#,
    );
    let mut p = Play::new(config.clone());
    p.request(&[], false);
    assert_eq!(p.data(Request, "aaa", false), ["RB \"aaa\""]);
    assert_eq!(
        p.part(rh(nothing())),
        ["upstream: POST http://test.local/p"]
    );
    assert_eq!(p.part(rb(common(None, body("A")))), ["upstream: \"A\""]);

    let mut p = Play::new(config);
    p.request(&[], false);
    p.data(Request, "aaa", false);
    assert!(
        p.part(rb(nothing()))
            .last()
            .unwrap()
            .starts_with("client: 500"),
        "too early"
    );
}

#[test]
fn streamed_response_in_the_wrong_mode_is_spurious() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "STREAMED"}"#));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    p.part(rb(stream("A", false)));
    assert!(
        p.details.starts_with("spurious_message:_streamed_response"),
        "{}",
        p.details
    );
}

#[test]
fn a_full_queue_stops_reading_until_it_is_half_empty() {
    let mut p = limited(r#"{"request_body_mode": "STREAMED"}"#, 10);
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "123456", false);
    assert!(p.exchange.wants_frame(Request));
    p.data(Request, "123456", false);
    assert!(!p.exchange.wants_frame(Request));
    p.part(rb(nothing()));
    assert!(
        !p.exchange.wants_frame(Request),
        "6 of 10 are more than half"
    );
    p.part(rb(nothing()));
    assert!(p.exchange.wants_frame(Request));
}

#[test]
fn many_small_chunks_stop_reading_however_few_bytes_they_have() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "STREAMED"}"#));
    p.request(&[], false);
    p.part(rh(nothing()));
    let mut chunks = 0;
    while p.exchange.wants_frame(Request) {
        p.data(Request, "a", false);
        chunks += 1;
    }
    assert_eq!(chunks, 256);
    for _ in 0..chunks / 2 {
        assert!(!p.exchange.wants_frame(Request));
        p.part(rb(nothing()));
    }
    assert!(p.exchange.wants_frame(Request));
}
