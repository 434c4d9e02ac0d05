//! Bytes that a processor may send: good replies, damaged in every way, at any time; and mutations of headers with
//! anything in them.
//!
//! A run is short and always the same; `EXTPROC_FUZZ_RUNS=1000000` makes a long one with other damages each time. A
//! reply that was found belongs into [`seeds`].

use bytes::Bytes;
use proptest::{prelude::*, sample::Index, test_runner::RngSeed};
use prost::Message as _;

use super::{play::*, properties::any_config};
use crate::{
    machine::Side::{Request, Response},
    wire::{BodyMutation, ImmediateReply, ModeReply, Part, Reply},
};

fn runs() -> ProptestConfig {
    let asked = std::env::var("EXTPROC_FUZZ_RUNS").ok();
    match asked.and_then(|text| text.parse().ok()) {
        Some(cases) => ProptestConfig::with_cases(cases),
        None => ProptestConfig {
            cases: 2000,
            rng_seed: RngSeed::Fixed(7),
            failure_persistence: None,
            ..ProptestConfig::default()
        },
    }
}

/// Good replies of every kind.
fn seeds() -> Vec<Vec<u8>> {
    let headers = set(&[("x-a", "1"), (":path", "/b"), ("content-length", "3")]);
    let parts = vec![
        rh(nothing()),
        rh(common(Some(headers.clone()), None)),
        rh(replace(common(Some(headers.clone()), body("REPLACED")))),
        sh(common(Some(set(&[(":status", "201")])), None)),
        sh(replace(common(None, body("")))),
        rb(common(None, body("B"))),
        rb(common(None, Some(BodyMutation::Clear(true)))),
        rb(stream("S", false)),
        sb(stream("S", true)),
        rt(Some(headers)),
        st(Some(set(&[("x-t", "1")]))),
        Part::Immediate(ImmediateReply::default()),
    ];
    let replies = parts.into_iter().map(|part| Reply {
        part: Some(part),
        ..Reply::default()
    });
    let mode = Reply {
        part: Some(rh(nothing())),
        mode_override: Some(ModeReply {
            request_body_mode: 4,
            response_body_mode: 2,
            ..ModeReply::default()
        }),
        override_message_timeout: Some(prost_types::Duration {
            seconds: 1,
            nanos: -1,
        }),
        ..Reply::default()
    };
    let mut seeds: Vec<Vec<u8>> = replies.map(|reply| reply.encode_to_vec()).collect();
    seeds.push(mode.encode_to_vec());
    // A streamed response of the processor's own: head with `end_of_stream`, body, trailers.
    seeds.push(b"\x5a\x04\x0a\x02\x18\x01".to_vec());
    seeds.push(b"\x5a\x07\x12\x05\x0a\x01x\x10\x01".to_vec());
    seeds.push(b"\x5a\x02\x1a\x00".to_vec());
    seeds
}

/// Bytes that are no reply any more, or another one.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let damages = prop::collection::vec(
        (
            any::<Index>(),
            0..4_usize,
            prop::collection::vec(any::<u8>(), 0..3),
        ),
        0..4,
    );
    (prop::sample::select(seeds()), damages).prop_map(|(mut bytes, damages)| {
        for (at, length, instead) in damages {
            let start = at.index(bytes.len() + 1);
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, instead);
        }
        bytes
    })
}

#[derive(Clone, Debug)]
enum Event {
    Reply(Vec<u8>),
    Data(bool, bool),
    Response(bool),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => damaged().prop_map(Event::Reply),
        2 => any::<(bool, bool)>().prop_map(|(side, end)| Event::Data(side, end)),
        1 => any::<bool>().prop_map(Event::Response),
        1 => (0..300_u64).prop_map(Event::Wait),
    ]
}

/// Texts for header mutations.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            ":",
            ":path",
            ":method",
            ":status",
            ":authority",
            ":scheme",
            "host",
            "content-length",
            "connection",
            "transfer-encoding",
            "x-a",
            "X-A",
            "x a",
            "x\r\ny",
            "/",
            "/a b",
            "/ HTTP/1.1\r\nx: 1",
            "http://b/",
            "GET",
            "CONNECT",
            "200",
            "100",
            "999",
            "\r\nx-b: 1",
            "a\0b",
            "\u{ff}",
            " a ",
        ])
        .prop_map(str::to_owned),
        "[\\x00-\\x7f]{0,12}",
        "\\PC{0,12}",
    ]
}

fn clean(lines: &[String]) -> bool {
    // Body bytes are shown with escapes.
    lines.iter().all(|line| !line.contains(['\r', '\n', '\0']))
}

proptest! {
    #![proptest_config(runs())]

    #[test]
    fn replies(config in any_config(), events in prop::collection::vec(event(), 0..12)) {
        let mut p = Play::new(config);
        let mut lines = p.request(&[("content-length", "3")], false);
        let (mut upstream, mut client) = (0, 0);
        for event in events {
            let head = |line: &&String| line.starts_with("upstream: POST") || line.starts_with("upstream: PUT");
            upstream += lines.iter().filter(head).count();
            client += lines.iter().filter(|line| line.starts_with("client: 2")).count();
            prop_assert!(upstream <= 1 && client <= 1, "{lines:?}");
            prop_assert!(clean(&lines), "{lines:?}");
            lines = match event {
                Event::Reply(bytes) => match Reply::decode(Bytes::from(bytes)) {
                    Ok(reply) => {
                        p.exchange.handle_reply(reply, p.now);
                        p.outputs()
                    }
                    Err(_) => Vec::new(),
                },
                Event::Data(request, end) => {
                    let side = if request { Request } else { Response };
                    match p.exchange.wants_frame(side) {
                        true => p.data(side, "ddd", end),
                        false => Vec::new(),
                    }
                }
                Event::Response(end) if upstream > 0 && client == 0 => p.response(&[], end),
                Event::Response(_) => Vec::new(),
                Event::Wait(millis) => p.wait(millis),
            };
        }
        p.exchange.end();
        prop_assert_eq!(p.exchange.next_timeout(), None, "nothing runs after the end");
    }

    #[test]
    fn header_mutations(
        entries in prop::collection::vec((text(), text()), 0..6),
        removed in prop::collection::vec(text(), 0..3),
        all in any::<bool>(),
    ) {
        let pairs: Vec<_> = entries.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut mutation = set(&pairs);
        mutation.remove_headers = removed;
        let rules = format!(r#""mutation_rules": {{"allow_all_routing": {all}, "allow_envoy": {all}}}"#);
        let mut p = Play::new(config(&rules));
        p.request(&[("x-own", "1")], true);
        let lines = p.part(rh(common(Some(mutation.clone()), None)));
        prop_assert!(clean(&lines), "{lines:?}");
        for line in lines.iter().filter(|line| line.starts_with("upstream: ")) {
            let words: Vec<_> = line.split(' ').collect();
            if matches!(words[1], "END" | "CANCEL") {
                continue;
            }
            // With `allow_all_routing` the scheme may be any.
            prop_assert!(words[2].contains("://") || words[2].starts_with('/'), "{line}");
        }
        if lines.iter().any(|line| line.starts_with("upstream: ")) {
            p.response(&[("x-own", "1")], true);
            let lines = p.part(sh(common(Some(mutation), None)));
            prop_assert!(clean(&lines), "{lines:?}");
            for line in lines.iter().filter_map(|line| line.strip_prefix("client: ")) {
                let status = line.split(' ').next().and_then(|word| word.parse::<u16>().ok());
                prop_assert!(status.is_none_or(|status| (200..1000).contains(&status)), "{line}");
            }
        }
    }
}
