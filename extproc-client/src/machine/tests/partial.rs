//! BUFFERED_PARTIAL: what fits the buffer limit.

use super::play::*;
use crate::machine::Side::Request;

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
