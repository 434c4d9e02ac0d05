//! `mode_override` and observability mode.

use super::play::*;
use crate::{
    machine::Side::{Request, Response},
    wire::{ModeReply, Reply},
};

fn overriding(part: Option<crate::wire::Part>, mode: ModeReply) -> Reply {
    Reply {
        part,
        mode_override: Some(mode),
        ..Reply::default()
    }
}

#[test]
fn override_in_a_headers_reply() {
    let mut p = Play::new(config(r#""allow_mode_override": true"#));
    p.request(&[], false);
    let to_buffered = ModeReply {
        request_body_mode: 2,
        ..ModeReply::default()
    };
    assert!(
        p.reply(overriding(Some(rh(nothing())), to_buffered))
            .is_empty()
    );
    assert_eq!(p.data(Request, "abc", true), ["RB \"abc\" end"]);
}

#[test]
fn override_is_ignored_unless_allowed() {
    for json in [
        "",
        r#""allow_mode_override": true, "send_body_without_waiting_for_header_response": true"#,
        r#""allow_mode_override": true, "allowed_override_modes": [{"request_body_mode": "STREAMED"}]"#,
    ] {
        let mut p = Play::new(config(json));
        p.request(&[], false);
        let to_buffered = ModeReply {
            request_body_mode: 2,
            ..ModeReply::default()
        };
        assert_eq!(
            p.reply(overriding(Some(rh(nothing())), to_buffered)),
            ["upstream: POST http://test.local/p"],
            "{json}"
        );
    }
}

#[test]
fn an_empty_override_turns_bodies_off_and_keeps_the_rest() {
    let mut p = Play::new(config(
        r#""allow_mode_override": true, "processing_mode": {
            "request_body_mode": "BUFFERED", "response_header_mode": "SKIP"}"#,
    ));
    p.request(&[], false);
    assert_eq!(
        p.reply(overriding(Some(rh(nothing())), ModeReply::default())),
        ["close", "upstream: POST http://test.local/p"]
    );
}

#[test]
fn stand_alone_override_to_duplex() {
    let to_duplex = ModeReply {
        request_body_mode: 4,
        request_trailer_mode: 1,
        ..ModeReply::default()
    };
    let mut p = Play::new(config(r#""allow_mode_override": true"#));
    p.request(&[], false);
    assert!(p.data(Request, "abc", false).is_empty());
    assert_eq!(p.reply(overriding(None, to_duplex.clone())), ["RB \"abc\""]);
    assert_eq!(p.exchange.next_timeout(), None, "the timer stops");
    assert_eq!(
        p.part(rh(nothing())),
        ["upstream: POST http://test.local/p"]
    );
    assert_eq!(
        p.part(rb(stream("A", true))),
        ["upstream: \"A\"", "upstream: END"]
    );

    let mut p = Play::new(config(r#""allow_mode_override": true"#));
    p.request(&[], false);
    let without_trailers = ModeReply {
        request_trailer_mode: 0,
        ..to_duplex
    };
    p.reply(overriding(None, without_trailers));
    assert_eq!(p.details, "unhandled_message");
}

#[test]
fn copies_that_do_not_fit_are_cut() {
    let mut p = Play::new(config(
        r#""observability_mode": true, "processing_mode": {
            "request_body_mode": "STREAMED", "request_trailer_mode": "SEND"}"#,
    ));
    p.request(&[], false);
    let exchange = &mut p.exchange;
    let piece = bytes::Bytes::from(vec![b'x'; 100_000]);
    let now = std::time::Instant::now();
    let mut given = 0;
    // Nobody takes what is there for the processor.
    for _ in 0..100 {
        assert!(exchange.wants_frame(Request), "traffic waits for no copy");
        exchange.data(Request, piece.clone(), false, now);
        given += std::iter::from_fn(|| exchange.poll_action()).count();
    }
    assert_eq!(given, 100, "everything goes on");
    assert!(exchange.kept() <= 1024 * 1024 + 1024, "{}", exchange.kept());
    exchange.trailers(Request, http::HeaderMap::new(), now);
    let copies = std::iter::from_fn(|| exchange.poll_outbound()).count();
    assert_eq!(
        copies, 10,
        "of a cut body the beginning is sent, and no end"
    );
    assert_eq!(exchange.kept(), 0);
    let cut = |counter: &(&str, u64)| *counter == ("copies_cut", 1);
    assert!(p.counters().iter().any(cut), "counted once");
}

#[test]
fn observed_messages_are_copies() {
    let mut p = Play::new(config(
        r#""observability_mode": true, "processing_mode": {
            "request_body_mode": "STREAMED", "response_body_mode": "BUFFERED"}"#,
    ));
    assert_eq!(
        p.request(&[("content-length", "3")], false),
        [
            "open",
            "RH",
            "upstream: POST http://test.local/p content-length=3"
        ]
    );
    assert!(p.first.as_ref().unwrap().observability_mode);
    assert!(p.first.as_ref().unwrap().protocol_config.is_none());
    assert_eq!(
        p.data(Request, "abc", false),
        ["RB \"abc\"", "upstream: \"abc\""]
    );
    assert_eq!(p.data(Request, "", true), ["RB \"\" end", "upstream: END"]);
    assert!(
        p.part(rb(common(None, body("NEW")))).is_empty(),
        "replies are ignored"
    );
    assert_eq!(p.response(&[], false), ["SH", "client: 200"]);
    assert_eq!(
        p.data(Response, "abc", true),
        ["client: \"abc\"", "client: END"]
    );
    assert!(p.exchange.defers_close());
    assert!(
        p.counters()
            .iter()
            .all(|(name, _)| *name != "spurious_msgs_received")
    );
}
