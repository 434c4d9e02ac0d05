//! Body mode GRPC, which Envoy does not have.

use super::{bodies::limited, play::*};
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
