//! What each body mode sends and lets go on, in the order of `BodySendMode`.

use std::sync::Arc;

use super::play::*;
use crate::{
    host::{ExchangeContext, Host},
    machine::Side::{Request, Response},
    types::limits::Limits,
    wire::{BodyMutation, StreamedBody},
};

const DUPLEX: &str =
    r#"{"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}"#;

pub(super) fn limited(json: &str, buffer: usize) -> Play {
    Play::with(mode(json), small(buffer))
}

fn small(buffer: usize) -> ExchangeContext {
    ExchangeContext {
        limits: Limits {
            request_buffer: buffer,
            response_buffer: buffer,
            ..Limits::default()
        },
        ..ExchangeContext::default()
    }
}

// === STREAMED ===

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

// === BUFFERED ===

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

// === BUFFERED_PARTIAL ===

#[test]
fn partial_sends_what_exceeds_the_limit_once() {
    let mut p = limited(r#"{"request_body_mode": "BUFFERED_PARTIAL"}"#, 4);
    p.request(&[], false);
    assert!(p.part(rh(nothing())).is_empty());
    assert!(
        p.data(Request, "1234", false).is_empty(),
        "equal is not more"
    );
    assert_eq!(p.data(Request, "5", false), ["RB \"12345\""]);
    assert!(
        p.data(Request, "6", false).is_empty(),
        "queued behind the reply"
    );
    assert_eq!(
        p.part(rb(common(Some(set(&[("x-b", "1")])), body("NEW")))),
        [
            "upstream: POST http://test.local/p x-b=1",
            "upstream: \"NEW\"",
            "upstream: \"6\""
        ]
    );
    assert_eq!(
        p.data(Request, "7", true),
        ["upstream: \"7\"", "upstream: END"]
    );
}

#[test]
fn partial_under_the_limit_is_buffered() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "BUFFERED_PARTIAL", "request_trailer_mode": "SEND"}"#,
    ));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "aaa", false);
    assert_eq!(p.trailers(Request, &[("x-t", "1")]), ["RB \"aaa\""]);
    assert_eq!(
        p.part(rb(nothing())),
        [
            "RT",
            "upstream: POST http://test.local/p",
            "upstream: \"aaa\""
        ]
    );
    assert_eq!(p.part(rt(None)), ["upstream: TRAILERS x-t=1"]);
}

// === FULL_DUPLEX_STREAMED ===

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

// === GRPC ===

/// Empty gRPC messages, as they come in one read, are given to the processor as it takes them.
#[test]
fn many_grpc_messages_wait_in_their_frames() {
    const MESSAGES: usize = 5_000;
    let frames = bytes::Bytes::from(vec![0; 5 * MESSAGES + 3]);
    for (trailers, sent) in [(false, 0), (true, 0), (false, 2), (true, 2)] {
        let mut p = Play::new(mode(
            r#"{"request_body_mode": "GRPC", "request_trailer_mode": "SEND"}"#,
        ));
        p.request(&[], false);
        p.part(rh(nothing()));
        let (exchange, now) = (&mut p.exchange, p.now);
        // Some come before, a piece of the next one with them.
        let (first, rest) = (frames.slice(..5 * sent + 2), frames.slice(5 * sent + 2..));
        exchange.data(Request, first, false, now);
        let before = std::iter::from_fn(|| exchange.poll_outbound()).count();
        assert_eq!(before, sent);
        exchange.data(Request, rest.slice(..rest.len() - 3), !trailers, now);
        if trailers {
            exchange.trailers(Request, http::HeaderMap::new(), now);
        }
        let mut got = sent;
        let mut last = None;
        while let Some(crate::machine::Outbound::Message(phase, _)) = exchange.poll_outbound() {
            assert!(!exchange.wants_frame(Request));
            assert!(
                exchange.outbound.len() <= 256,
                "{}",
                exchange.outbound.len()
            );
            got += 1;
            last = Some(phase);
        }
        assert_eq!(got, MESSAGES + 1);
        assert_eq!(
            last.unwrap() == crate::observer::Phase::RequestTrailers,
            trailers
        );
    }
}

#[test]
fn grpc_messages_that_wait_end_once() {
    const MESSAGES: usize = 400;
    let mut p = Play::new(mode(r#"{"request_body_mode": "GRPC"}"#));
    p.request(&[], false);
    let frames = bytes::Bytes::from(vec![0; 5 * MESSAGES]);
    let (exchange, now) = (&mut p.exchange, p.now);
    exchange.data(Request, frames, true, now);
    // Some have left when the headers are answered, so that there is room for the rest.
    let before = std::iter::from_fn(|| exchange.poll_outbound())
        .take(200)
        .count();
    let reply = crate::wire::Reply {
        part: Some(rh(nothing())),
        ..crate::wire::Reply::default()
    };
    exchange.handle_reply(reply, now);
    let after = std::iter::from_fn(|| exchange.poll_outbound());
    assert_eq!(before + after.count(), MESSAGES + 1);
}

/// Of what nobody is shown any more, no end is missed either.
#[test]
fn half_a_grpc_message_behind_a_complete_response_is_no_error() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "GRPC"}"#));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "\0\0\0", false);
    p.response(&[], true);
    p.transcript.take();
    p.exchange.trailers(Request, http::HeaderMap::new(), p.now);
    let told = p.transcript.take();
    assert!(
        !told.iter().any(|line| line.starts_with("failed")),
        "{told:?}"
    );
    let lines = p.part(sh(nothing()));
    assert!(
        lines.iter().any(|line| line.starts_with("client: 200")),
        "{lines:?}"
    );
}

/// What the processor has no need of any more passes by, with its frames.
#[test]
fn a_drain_lets_grpc_messages_that_wait_pass_by() {
    let mut p = Play::new(mode(r#"{"request_body_mode": "GRPC"}"#));
    p.request(&[], false);
    p.part(rh(nothing()));
    let frames = bytes::Bytes::from(vec![0; 5 * 1000]);
    p.exchange.data(Request, frames, false, p.now);
    p.exchange.handle_reply(
        crate::wire::Reply {
            request_drain_requests: true,
            ..Default::default()
        },
        p.now,
    );
    let sent = p.outputs();
    assert_eq!(
        (sent.len(), sent.last().unwrap().as_str()),
        (257, "RB \"\" drained")
    );
    let done = common(
        None,
        Some(BodyMutation::Streamed(StreamedBody {
            drain_complete: true,
            ..StreamedBody::default()
        })),
    );
    let lines = p.part(rb(done));
    let passed = format!("upstream: {:?}", "\0".repeat(5 * (1000 - 256)));
    assert_eq!(lines, [passed]);
}
