//! Phase × failure: the table in `machine::failure`, row by row.

use super::play::*;
use crate::{
    context::outcome::{Outcome, RefusedRequest, ResponseFlags, UpstreamFailure},
    machine::Side::{self, Request, Response},
    types::stream::Close,
    wire::Reply,
};

const MODES: &str = r#""processing_mode": {"request_body_mode": "STREAMED",
    "response_body_mode": "STREAMED", "request_trailer_mode": "SEND",
    "response_trailer_mode": "SEND"}"#;

/// An exchange up to the phase of that number, 0 to 5: its message is out and not answered.
fn up_to(phase: usize, extra: &str) -> Play {
    let mut p = Play::new(config(&format!("{MODES}{extra}")));
    let steps: [fn(&mut Play); 6] = [
        |p| drop(p.request(&[], false)),
        |p| {
            p.part(rh(nothing()));
            p.data(Request, "abc", false);
        },
        |p| {
            p.part(rb(nothing()));
            p.trailers(Request, &[("x-t", "1")]);
        },
        |p| {
            p.part(rt(None));
            p.response(&[], false);
        },
        |p| {
            p.part(sh(nothing()));
            p.data(Response, "abc", false);
        },
        |p| {
            p.part(sb(nothing()));
            p.trailers(Response, &[("x-t", "1")]);
        },
    ];
    for step in &steps[..=phase] {
        step(&mut p);
    }
    p
}

/// The client's end of the failure: a status while the response was not begun, else a cut.
fn expect_failed(p: &mut Play, phase: usize, lines: Vec<String>, status: u16) {
    let last = lines.last().unwrap();
    if phase < 4 {
        assert!(
            last.starts_with(&format!("client: {status} ")),
            "{phase}: {lines:?}"
        );
    } else {
        assert_eq!(last, "client: ABORT", "{phase}");
    }
    assert!(p.exchange.is_finished());
}

#[test]
fn error_close() {
    for phase in 0..6 {
        let mut p = up_to(phase, "");
        let lines = p.close(Close::status(13, "boom msg").with_details("via_upstream"));
        expect_failed(&mut p, phase, lines, 500);
        assert_eq!(
            p.details,
            "ext_proc_error_gRPC_error_13{boom_msg{via_upstream}}"
        );
        let counters = p.counters();
        for counter in [
            "streams_failed",
            "server_half_closed",
            "immediate_responses_sent",
        ] {
            assert!(counters.contains(&(counter, 1)), "{phase}: {counters:?}");
        }
    }
}

#[test]
fn error_close_with_failure_mode_allow() {
    for phase in 0..6 {
        let mut p = up_to(phase, r#", "failure_mode_allow": true"#);
        let lines = p.close(Close::unavailable(""));
        assert!(
            !lines.iter().any(|line| line.contains("500")),
            "{phase}: {lines:?}"
        );
        assert!(p.counters().contains(&("failure_mode_allowed", 1)));
        assert!(p.exchange.is_finished(), "the rest passes by");
    }
}

#[test]
fn clean_close_goes_on_in_every_phase() {
    for phase in 0..6 {
        let mut p = up_to(phase, "");
        let lines = p.close(Close::status(0, ""));
        let expected: &[&str] = match phase {
            0 => &["upstream: POST http://test.local/p"],
            1 => &["upstream: \"abc\""],
            2 => &["upstream: TRAILERS x-t=1"],
            3 => &["client: 200"],
            4 => &["client: \"abc\""],
            _ => &["client: TRAILERS x-t=1"],
        };
        assert_eq!(lines, expected, "{phase}");
        let counters = p.counters();
        assert!(counters.contains(&("streams_closed", 1)), "{counters:?}");
        assert!(
            counters.contains(&("server_half_closed", 1)),
            "{counters:?}"
        );
    }
}

#[test]
fn timeout() {
    for phase in 0..6 {
        let mut p = up_to(phase, r#", "status_on_error": {"code": 503}"#);
        assert!(p.wait(199).is_empty(), "{phase}");
        let lines = p.wait(1);
        expect_failed(&mut p, phase, lines, 504);
        assert_eq!(p.details, "ext_proc_error_per-message_timeout_exceeded");
        assert!(p.counters().contains(&("message_timeouts", 1)));
    }
}

#[test]
fn a_timeout_of_zero_is_due_at_once() {
    let mut p = Play::new(config(r#""message_timeout": "0s""#));
    p.request(&[], true);
    assert!(p.wait(0).last().unwrap().starts_with("client: 504"));
}

#[test]
fn spurious_reply_in_every_phase() {
    for phase in 0..6 {
        let mut p = up_to(phase, r#", "status_on_error": {"code": 503}"#);
        let wrong = match phase {
            0 => rt(None),
            _ => rh(nothing()),
        };
        let lines = p.part(wrong);
        expect_failed(&mut p, phase, lines, 503);
        assert!(
            p.counters().contains(&("spurious_msgs_received", 1)),
            "{phase}"
        );
    }
}

#[test]
fn an_empty_reply_and_one_out_of_the_blue_are_spurious() {
    let mut p = up_to(0, "");
    p.reply(Reply::default());
    assert_eq!(p.details, "unhandled_message");

    let mut p = Play::new(config(""));
    p.request(&[], true);
    p.part(rh(nothing()));
    assert!(
        p.part(sh(nothing()))
            .last()
            .unwrap()
            .starts_with("client: 500"),
        "while idle"
    );
}

#[test]
fn spurious_with_failure_mode_allow_goes_on_untouched() {
    let mut p = up_to(0, r#", "failure_mode_allow": true"#);
    assert_eq!(
        p.part(rt(Some(set(&[("x", "1")])))),
        ["close", "upstream: POST http://test.local/p"]
    );
}

#[test]
fn duplex_data_cannot_be_given_back() {
    const DUPLEX: &str = r#""failure_mode_allow": true, "processing_mode": {
        "request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}"#;
    let mut p = Play::new(config(DUPLEX));
    p.request(&[], false);
    p.data(Request, "abc", false);
    let lines = p.close(Close::status(13, ""));
    assert_eq!(lines.last().unwrap(), "client: 500 END");

    let mut p = Play::new(config(DUPLEX));
    p.request(&[], false);
    assert_eq!(
        p.close(Close::status(13, "")),
        ["upstream: POST http://test.local/p"],
        "nothing is lost yet"
    );
}

#[test]
fn error_after_everything_is_counted_and_ignored() {
    let mut p = Play::new(config(""));
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[], true);
    p.part(sh(nothing()));
    assert!(p.close(Close::status(13, "")).is_empty());
    assert!(p.counters().contains(&("streams_failed", 1)));
}

#[test]
fn override_timeout_restarts_the_timer_once_per_call() {
    let mut p = Play::new(config(r#""max_message_timeout": "1s""#));
    let longer = |millis: i32| Reply {
        override_message_timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: millis * 1_000_000,
        }),
        part: Some(rh(common(Some(set(&[("x-ignored", "1")])), None))),
        ..Reply::default()
    };
    p.request(&[], true);
    p.wait(150);
    assert!(p.reply(longer(500)).is_empty(), "the rest of it is ignored");
    assert!(p.wait(499).is_empty());
    p.reply(longer(500));
    assert!(
        p.wait(1).last().unwrap().starts_with("client: 504"),
        "the second was ignored"
    );
    let counters = p.counters();
    assert!(
        counters.contains(&("override_message_timeout_received", 1)),
        "{counters:?}"
    );
    assert!(
        counters.contains(&("override_message_timeout_ignored", 1)),
        "{counters:?}"
    );

    let mut p = Play::new(config(""));
    p.request(&[], true);
    p.reply(longer(500));
    assert!(
        p.wait(200).last().unwrap().starts_with("client: 504"),
        "no maximum: not allowed"
    );
}

#[test]
fn the_two_directions_have_their_own_timers() {
    let mut p = Play::new(config(
        r#""processing_mode": {"request_body_mode": "STREAMED"}"#,
    ));
    p.request(&[], false);
    p.part(rh(nothing()));
    p.data(Request, "abc", false);
    p.wait(100);
    p.response(&[], true);
    p.part(sh(nothing()));
    assert!(
        p.exchange.next_timeout().is_some(),
        "the chunk is still out"
    );
    assert!(p.wait(100).last().unwrap().contains("ABORT") || p.exchange.is_finished());
}

#[test]
fn an_upstream_that_fails_midway_cuts_the_response() {
    let side: Side = Response;
    let mut p = Play::new(config(""));
    p.request(&[], true);
    p.part(rh(nothing()));
    p.response(&[], false);
    p.part(sh(nothing()));
    p.data(side, "abc", false);
    p.exchange.response_failed(None, None);
    assert_eq!(p.outputs().last().unwrap(), "client: ABORT");
}

#[test]
fn a_request_that_a_filter_in_front_refuses_is_answered() {
    for body in ["BUFFERED", "STREAMED"] {
        let refused = RefusedRequest::new(
            http::StatusCode::BAD_REQUEST,
            "decompression_failed",
            "no gzip".into(),
        );
        let mut p = Play::new(mode(&format!(r#"{{"request_body_mode": "{body}"}}"#)));
        p.request(&[], false);
        p.part(rh(nothing()));
        p.data(Request, "abc", false);
        p.exchange.request_failed(Some(&refused));
        let outputs = p.outputs();
        let mut lines = outputs.iter();
        assert!(
            lines.any(|line| line.starts_with("client: 400")),
            "{outputs:?}"
        );
    }
}

#[test]
fn an_upstream_that_fails_while_its_head_is_held_is_answered_for() {
    let timeout = UpstreamFailure {
        status: http::StatusCode::GATEWAY_TIMEOUT,
        details: "response_timeout".into(),
        flags: ResponseFlags(4),
        source: None,
    };
    for (failure, line) in [
        (
            None,
            "client: 502 content-length=54 content-type=text/plain",
        ),
        (
            Some(&timeout),
            "client: 504 content-length=54 content-type=text/plain",
        ),
    ] {
        let mut p = Play::new(mode(r#"{"response_body_mode": "BUFFERED"}"#));
        p.request(&[], true);
        p.part(rh(nothing()));
        p.response(&[], false);
        p.part(sh(nothing()));
        p.data(Response, "abc", false);
        p.exchange.response_failed(failure, None);
        assert!(p.outputs().iter().any(|found| found == line), "{line}");
    }
}

#[test]
fn the_rest_of_a_request_behind_its_response_is_for_nobody() {
    let mut p = Play::new(mode(
        r#"{"request_header_mode": "SKIP", "request_body_mode": "STREAMED",
            "response_header_mode": "SKIP"}"#,
    ));
    p.request(&[], false);
    p.data(Request, "abc", false);
    p.response(&[], true);
    assert_eq!(p.data(Request, "def", true), Vec::<String>::new());
    assert_eq!(p.part(rh(nothing())), ["close"]);
}

#[test]
fn what_follows_a_local_reply_is_shown_to_nobody() {
    let mut p = Play::new(mode(
        r#"{"request_body_mode": "STREAMED", "request_trailer_mode": "SEND"}"#,
    ));
    p.request(&[], false);
    p.part(rh(nothing()));
    let mut head = http::Response::new(()).into_parts().0;
    Outcome::of_head_mut(&mut head).local = Some(http::StatusCode::OK);
    p.exchange.response_head(head, true, p.now);
    assert_eq!(p.outputs(), ["SH end"]);
    assert!(p.exchange.wants_frame(Request), "it is read all the same");
    assert_eq!(p.data(Request, "abc", false), Vec::<String>::new());
    assert_eq!(p.trailers(Request, &[("x-t", "1")]), Vec::<String>::new());
}
