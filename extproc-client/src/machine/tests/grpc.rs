//! Body mode GRPC, which Envoy does not have.

use super::play::*;
use crate::{
    machine::Side::{Request, Response},
    wire::{BodyMutation, StreamedBody},
};

#[test]
fn grpc_messages_leave_their_frames_and_get_new_ones() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "GRPC", "request_trailer_mode": "SEND"}"#,
    ));
    p.request(&[("content-type", "application/grpc")], false);
    p.part(rh(nothing()));
    assert!(
        p.data(Request, "\0\0\0\0\x03ab", false).is_empty(),
        "not whole yet"
    );
    assert_eq!(
        p.data(Request, "c\0\0\0\0\x01x\0\0", false),
        ["RB \"abc\"", "RB \"x\""]
    );
    assert_eq!(
        p.data(Request, "\0\0\0", false),
        ["RB \"\""],
        "an empty message is one"
    );
    assert_eq!(p.data(Request, "", true), ["RB \"\" end"]);
    assert_eq!(
        p.part(rb(stream("new", false))),
        ["upstream: \"\\0\\0\\0\\0\\u{3}new\""]
    );
    let end = common(
        None,
        Some(BodyMutation::Streamed(StreamedBody {
            end_of_stream: true,
            end_of_stream_without_message: true,
            ..StreamedBody::default()
        })),
    );
    assert_eq!(p.part(rb(end)), ["upstream: END"]);
}

#[test]
fn grpc_message_beyond_the_limit() {
    let mut p = limited(
        r#"{"request_body_mode": "GRPC", "request_trailer_mode": "SEND"}"#,
        100,
    );
    p.request(&[], false);
    assert_eq!(
        p.data(Request, "\0\0\0\0\x7f", false),
        ["SH", "upstream: CANCEL"],
        "413, announced length alone is enough"
    );
}

/// A response has trailers in nearly every case, and the trailer mode is not asked for them.
#[test]
fn grpc_trailers_do_not_overtake_messages() {
    let mut p = Play::new(mode(r#"{"response_body_mode": "GRPC"}"#));
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[], false);
    p.part(sh(nothing()));
    assert_eq!(p.data(Response, "\0\0\0\0\x03abc", false), ["SB \"abc\""]);
    assert_eq!(p.trailers(Response, &[("grpc-status", "0")]), ["ST"]);
    assert_eq!(
        p.part(sb(stream("new", false))),
        ["client: \"\\0\\0\\0\\0\\u{3}new\""]
    );
    assert_eq!(
        p.part(st(None)),
        ["close", "client: TRAILERS grpc-status=0"]
    );
}

#[test]
fn grpc_trailers_stay_when_the_processor_ends_the_body() {
    let mut p = Play::new(mode(r#"{"response_body_mode": "GRPC"}"#));
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[], false);
    p.part(sh(nothing()));
    p.data(Response, "\0\0\0\0\x01a", false);
    p.trailers(Response, &[("grpc-status", "0")]);
    assert_eq!(
        p.part(sb(stream("b", true))),
        ["client: \"\\0\\0\\0\\0\\u{1}b\""]
    );
    assert_eq!(
        p.part(st(None)),
        ["close", "client: TRAILERS grpc-status=0"]
    );
}

/// The frames that go on are new ones: what was cut short must not look whole behind them.
#[test]
fn grpc_body_that_ends_within_a_message() {
    let response = || {
        let mut p = Play::new(mode(r#"{"response_body_mode": "GRPC"}"#));
        p.request(&[], true);
        p.part(rh(nothing()));
        p.response(&[], false);
        p.part(sh(nothing()));
        assert_eq!(
            p.data(Response, "\0\0\0\0\x01a\0\0\0\0\x03b", false),
            ["SB \"a\""]
        );
        p
    };
    let cut = ["close", "upstream: CANCEL", "client: ABORT"];
    assert_eq!(response().data(Response, "", true), cut);
    assert_eq!(response().trailers(Response, &[("grpc-status", "0")]), cut);

    let mut p = Play::new(mode(r#"{"request_body_mode": "GRPC"}"#));
    p.request(&[("content-type", "application/grpc")], false);
    p.part(rh(nothing()));
    let lines = p.data(Request, "\0\0\0\0\x03b", true);
    assert_eq!(lines[..2], ["close", "upstream: CANCEL"]);
    assert!(lines[2].contains("grpc-status=13"), "{lines:?}");
}

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

/// Messages that the processor no longer needs pass by, with their frames.
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
