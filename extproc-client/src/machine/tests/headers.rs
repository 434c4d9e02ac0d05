//! Headers and trailers: which messages are sent, what replies change, how the stream ends early.

use super::play::*;
use crate::machine::Side::{Request, Response};

#[test]
fn default_mode_sends_both_header_blocks() {
    let mut p = Play::new(config(""));
    assert_eq!(p.request(&[("x-a", "1")], true), ["open", "RH end"]);
    assert_eq!(
        p.part(rh(common(Some(set(&[("x-b", "2")])), None))),
        ["upstream: POST http://test.local/p x-a=1 x-b=2 END"]
    );
    assert_eq!(p.response(&[], false), ["SH"]);
    assert_eq!(
        p.part(sh(common(Some(set(&[("x-c", "3")])), None))),
        ["close", "client: 200 x-c=3"],
        "nothing more can come: the stream is closed at once"
    );
    assert_eq!(
        p.data(Response, "abc", true),
        ["client: \"abc\"", "client: END"]
    );
    assert_eq!(
        p.counters(),
        [
            ("stream_msgs_received", 2),
            ("stream_msgs_sent", 2),
            ("streams_closed", 1),
            ("streams_started", 1)
        ]
    );
}

/// A finished exchange is closed gracefully if asked for; a failed one is reset in any case.
#[test]
fn graceful_close() {
    let graceful = || config("").with_graceful_close(Some(std::time::Duration::from_secs(1)));
    let mut p = Play::new(graceful());
    p.request(&[], true);
    p.part(rh(common(None, None)));
    p.response(&[], true);
    assert_eq!(
        p.part(sh(common(None, None))),
        ["close within 1s", "client: 200 END"]
    );

    let mut p = Play::new(graceful());
    p.request(&[], true);
    p.exchange.end();
    assert_eq!(p.outputs(), ["close within 1s"], "the client left");

    let mut p = Play::new(graceful());
    p.request(&[], true);
    assert_eq!(p.wait(200)[0], "close", "no reply in time");

    let mut p = Play::new(graceful());
    p.request(&[], true);
    assert_eq!(
        p.part(sh(common(None, None)))[0],
        "close",
        "a reply to nothing"
    );
}

#[test]
fn nothing_to_send_opens_no_stream() {
    let mut p = Play::new(mode(
        r#"{"request_header_mode": "SKIP", "response_header_mode": "SKIP",
            "request_body_mode": "STREAMED"}"#,
    ));
    assert_eq!(
        p.request(&[], true),
        ["upstream: POST http://test.local/p END"]
    );
    assert_eq!(p.response(&[], true), ["client: 200 END"]);
    p.exchange.end();
    assert!(p.counters().is_empty());
}

#[test]
fn the_first_message_carries_the_protocol_config_whatever_it_is() {
    let mut p = Play::new(mode(
        r#"{"request_header_mode": "SKIP", "response_header_mode": "SKIP",
            "response_body_mode": "BUFFERED"}"#,
    ));
    p.request(&[], true);
    p.response(&[], false);
    assert_eq!(p.data(Response, "abc", true), ["open", "SB \"abc\" end"]);
    let config = p.first.take().unwrap().protocol_config.unwrap();
    assert_eq!(
        (config.request_body_mode, config.response_body_mode),
        (0, 2)
    );
}

#[test]
fn response_direction_off_closes_after_the_request() {
    let mut p = Play::new(mode(r#"{"response_header_mode": "SKIP"}"#));
    p.request(&[], false);
    assert_eq!(
        p.part(rh(nothing())),
        ["close", "upstream: POST http://test.local/p"]
    );
}

#[test]
fn trailers_alone() {
    let mut p = Play::new(mode(
        r#"{"request_header_mode": "SKIP", "response_header_mode": "SKIP",
            "request_trailer_mode": "SEND"}"#,
    ));
    assert_eq!(
        p.request(&[], false),
        ["upstream: POST http://test.local/p"]
    );
    assert_eq!(p.data(Request, "abc", false), ["upstream: \"abc\""]);
    assert_eq!(p.trailers(Request, &[("x-t", "1")]), ["open", "RT"]);
    assert_eq!(
        p.part(rt(Some(set(&[("x-u", "2")])))),
        ["close", "upstream: TRAILERS x-t=1 x-u=2"]
    );
}

#[test]
fn trailers_wait_for_the_headers_reply() {
    let mut p = Play::new(mode(r#"{"response_trailer_mode": "SEND"}"#));
    p.request(&[], true);
    p.part(rh(nothing()));
    assert_eq!(p.response(&[], false), ["SH"]);
    assert!(p.data(Response, "abc", false).is_empty());
    assert!(p.trailers(Response, &[("x-t", "1")]).is_empty());
    assert_eq!(
        p.part(sh(nothing())),
        ["ST"],
        "the head waits for this reply too"
    );
    assert_eq!(
        p.part(st(None)),
        [
            "close",
            "client: 200",
            "client: \"abc\"",
            "client: TRAILERS x-t=1"
        ]
    );
}

#[test]
fn replace_ends_the_direction() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "STREAMED", "request_trailer_mode": "SEND"}"#,
    ));
    assert_eq!(p.request(&[("content-length", "6")], false), ["open", "RH"]);
    assert!(p.data(Request, "abc", false).is_empty());
    let mutation = Some(set(&[("content-length", "99"), (":method", "PUT")]));
    assert_eq!(
        p.part(rh(replace(common(mutation, body("NEW"))))),
        ["upstream: PUT http://test.local/p", "upstream: \"NEW\""]
    );
    assert!(
        p.data(Request, "def", false).is_empty(),
        "the old body is dropped"
    );
    assert_eq!(
        p.trailers(Request, &[("x-t", "1")]),
        ["upstream: TRAILERS x-t=1"],
        "its trailers are not, and nobody asks the processor"
    );
}

#[test]
fn replace_without_a_body_keeps_the_old_one() {
    let mut p = Play::new(config(""));
    p.request(&[("content-length", "3")], false);
    assert_eq!(
        p.part(rh(replace(nothing()))),
        ["upstream: POST http://test.local/p content-length=3"]
    );
    assert_eq!(
        p.data(Request, "abc", true),
        ["upstream: \"abc\"", "upstream: END"]
    );
}

#[test]
fn body_in_a_plain_headers_reply_is_ignored() {
    let mut p = Play::new(config(""));
    p.request(&[], true);
    assert_eq!(
        p.part(rh(common(None, body("NEW")))),
        ["upstream: POST http://test.local/p END"]
    );
}

#[test]
fn content_length_goes_where_the_body_may_change() {
    for (json, kept) in [
        (r#"{}"#, true),
        (r#"{"request_body_mode": "BUFFERED"}"#, true),
        (
            r#"{"request_body_mode": "BUFFERED", "request_header_mode": "SKIP"}"#,
            false,
        ),
        (r#"{"request_body_mode": "STREAMED"}"#, false),
        (r#"{"request_body_mode": "BUFFERED_PARTIAL"}"#, false),
        (
            r#"{"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}"#,
            false,
        ),
    ] {
        let mut p = Play::new(mode(json));
        let mut lines = p.request(&[("content-length", "3")], false);
        lines.extend(p.data(Request, "abc", true));
        lines.extend(p.part(rh(nothing())));
        lines.extend(p.part(rb(nothing())));
        let head = lines.iter().find(|line| line.starts_with("upstream: POST"));
        let has = head.is_some_and(|line| line.contains("content-length=3"));
        assert_eq!(has, kept, "{json}: {lines:?}");
    }
}

#[test]
fn limits_hold_before_and_after_a_mutation() {
    let many: Vec<(String, &str)> = (0..101).map(|i| (format!("x-{i}"), "v")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    for (mutation, details) in [
        (set(&many), "header_mutation_operation_count_exceeds_limit"),
        (set(&many[..97]), "header_mutation_result_exceeds_limit"),
        (
            set(&[("a b", "1")]),
            "header_mutation_set_contains_invalid_character",
        ),
        (
            set(&[("a", "b\r\nc")]),
            "header_mutation_set_contains_invalid_character",
        ),
    ] {
        let mut p = Play::new(config(r#""failure_mode_allow": true"#));
        p.request(&[], true);
        assert_eq!(
            p.part(rh(common(Some(mutation), None))),
            ["close", "upstream: CANCEL", "client: 500 END"],
            "failing open does not cover it"
        );
        assert_eq!(p.details, details);
        assert!(p.counters().contains(&("rejected_header_mutations", 1)));
    }
    let mut p = Play::new(config(""));
    p.request(&[], true);
    assert_eq!(
        p.part(rh(common(Some(set(&many[..96])), None))).len(),
        1,
        "100 are fine"
    );
}

#[test]
fn what_is_appended_to_a_field_of_one_line_is_joined() {
    let mut p = Play::new(config(""));
    p.request(&[("via", "a"), ("x-a", "1")], true);
    let mut message = set(&[("via", "b"), ("x-a", "2"), ("via", ""), ("via", "c")]);
    for option in &mut message.set_headers {
        option.append = Some(true);
    }
    assert_eq!(
        p.part(rh(common(Some(message), None))),
        ["upstream: POST http://test.local/p via=a,b,c x-a=1 x-a=2 END"]
    );
}
