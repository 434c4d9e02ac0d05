//! Any interleaving of events, valid or not, leaves the exchange whole.

use proptest::prelude::*;

use super::play::*;
use crate::{
    host::ExchangeContext,
    machine::Side::{self, Request, Response},
    types::{limits::Limits, stream::Close},
    wire::{BodyMutation, ImmediateReply, ModeReply, Part, Reply},
};

const BUFFER: usize = 64;

#[derive(Clone, Debug)]
enum Step {
    Data(Side, u8, bool),
    Trailers(Side),
    ResponseHead(bool),
    Reply(Kind, Shape),
    Override(i32, i32, i32),
    Close(i32),
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Immediate,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Empty,
    Replace,
    Body,
    Clear,
    Stream(bool),
    Header,
    BadHeader,
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Request), Just(Response)]
}

fn step() -> impl Strategy<Value = Step> {
    use Kind::*;
    let kind = prop::sample::select(vec![
        RequestHeaders,
        RequestBody,
        RequestTrailers,
        ResponseHeaders,
        ResponseBody,
        ResponseTrailers,
        Immediate,
        Nothing,
    ]);
    let shape = prop_oneof![
        4 => Just(Shape::Empty),
        1 => Just(Shape::Replace),
        1 => Just(Shape::Body),
        1 => Just(Shape::Clear),
        2 => any::<bool>().prop_map(Shape::Stream),
        1 => Just(Shape::Header),
        1 => Just(Shape::BadHeader),
    ];
    prop_oneof![
        4 => (side(), any::<u8>(), any::<bool>()).prop_map(|(s, n, end)| Step::Data(s, n % 40, end)),
        1 => side().prop_map(Step::Trailers),
        2 => any::<bool>().prop_map(Step::ResponseHead),
        8 => (kind, shape).prop_map(|(k, s)| Step::Reply(k, s)),
        1 => (0..7i32, 0..7i32, 0..4i32).prop_map(|(a, b, c)| Step::Override(a, b, c)),
        1 => (0..20i32).prop_map(Step::Close),
        1 => (0..300u64).prop_map(Step::Wait),
    ]
}

pub(super) fn any_config() -> impl Strategy<Value = crate::FilterConfig> {
    let body = || {
        prop::sample::select(vec![
            "NONE",
            "STREAMED",
            "BUFFERED",
            "BUFFERED_PARTIAL",
            "FULL_DUPLEX_STREAMED",
            "GRPC",
        ])
    };
    let flags = prop::array::uniform6(any::<bool>());
    (body(), body(), flags).prop_map(|(request, response, flags)| {
        let [allow, override_, without, observe, headers, trailers] = flags;
        let send = |on| if on { "SEND" } else { "SKIP" };
        let trailer = |mode: &str| send(trailers || mode == "FULL_DUPLEX_STREAMED");
        config(&format!(
            r#""failure_mode_allow": {allow}, "allow_mode_override": {override_},
            "send_body_without_waiting_for_header_response": {without},
            "observability_mode": {observe},
            "processing_mode": {{
                "request_header_mode": "{}", "response_header_mode": "{}",
                "request_body_mode": "{request}", "response_body_mode": "{response}",
                "request_trailer_mode": "{}", "response_trailer_mode": "{}"}}"#,
            send(headers),
            send(headers || allow),
            trailer(request),
            trailer(response),
        ))
    })
}

fn reply(kind: Kind, shape: Shape) -> Reply {
    let mut common = match shape {
        Shape::Empty => nothing(),
        Shape::Replace => replace(common(None, body("REPLACED"))),
        Shape::Body => common(None, body("B")),
        Shape::Clear => common(None, Some(BodyMutation::Clear(true))),
        Shape::Stream(end) => stream("S", end),
        Shape::Header => common(Some(set(&[("x-a", "1")])), None),
        Shape::BadHeader => common(Some(set(&[("a b", "1")])), None),
    };
    let part = match kind {
        Kind::RequestHeaders => rh(common),
        Kind::RequestBody => rb(common),
        Kind::RequestTrailers => rt(common.header_mutation.take()),
        Kind::ResponseHeaders => sh(common),
        Kind::ResponseBody => sb(common),
        Kind::ResponseTrailers => st(common.header_mutation.take()),
        Kind::Immediate => Part::Immediate(ImmediateReply::default()),
        Kind::Nothing => return Reply::default(),
    };
    Reply {
        part: Some(part),
        ..Reply::default()
    }
}

/// Parts that were sent on in one direction.
#[derive(Default)]
struct Sent {
    heads: usize,
    ends: usize,
    body: usize,
    after_end: bool,
}

impl Sent {
    fn take(&mut self, lines: &[String], prefix: &str) {
        for line in lines.iter().filter_map(|line| line.strip_prefix(prefix)) {
            let end = line.starts_with("END") || line.starts_with("TRAILERS");
            let data = line.starts_with('"');
            let cut = line == "ABORT" || line == "CANCEL";
            if self.ends > 0 && (end || data) {
                self.after_end = true;
            }
            assert!(
                !(end || data) || self.heads > 0,
                "body before head: {lines:?}"
            );
            if data {
                self.body += 1;
            } else if end || cut || line.ends_with(" END") {
                self.ends += usize::from(!cut || line == "ABORT");
                self.heads += usize::from(line.ends_with(" END"));
            } else {
                self.heads += 1;
            }
        }
    }
}

/// Something that happens on the HTTP side.
type Event = Box<dyn FnOnce(&mut Play) -> Vec<String>>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_interleaving(config in any_config(), steps in prop::collection::vec(step(), 0..40)) {
        let context = ExchangeContext {
            limits: Limits { request_buffer: BUFFER, response_buffer: BUFFER, ..Limits::default() },
            ..ExchangeContext::default()
        };
        let mut p = Play::with(config, context);
        let (mut upstream, mut client) = (Sent::default(), Sent::default());
        let mut forwarded = false;
        let mut lines = p.request(&[], false);
        for step in steps {
            forwarded |= lines.iter().any(|line| line.starts_with("upstream: POST"));
            upstream.take(&lines, "upstream: ");
            client.take(&lines, "client: ");
            prop_assert!(upstream.heads <= 1 && client.heads <= 1, "{lines:?}");
            prop_assert!(!client.after_end && !upstream.after_end, "after the end: {lines:?}");
            prop_assert!(client.ends <= 1, "{lines:?}");
            for side in [Request, Response] {
                // One frame more than the limit at most: back-pressure or an answer stops it there.
                let direction = p.exchange.direction(side);
                let kept = direction.held.len() + direction.queued;
                prop_assert!(kept <= 2 * (BUFFER + 40), "{kept} bytes kept");
            }
            lines = match step {
                Step::Data(side, len, end) if p.exchange.wants_frame(side) => {
                    p.data(side, &"d".repeat(len.into()), end)
                }
                Step::Trailers(side) if p.exchange.wants_frame(side) => {
                    p.trailers(side, &[("x-t", "1")])
                }
                Step::Data(..) | Step::Trailers(_) => Vec::new(),
                Step::ResponseHead(end) if forwarded => p.response(&[], end),
                Step::ResponseHead(_) => Vec::new(),
                Step::Reply(kind, shape) => p.reply(reply(kind, shape)),
                Step::Override(request, response, trailers) => p.reply(Reply {
                    mode_override: Some(ModeReply {
                        request_body_mode: request,
                        response_body_mode: response,
                        request_trailer_mode: trailers,
                        ..ModeReply::default()
                    }),
                    ..reply(Kind::RequestHeaders, Shape::Empty)
                }),
                Step::Close(code) => p.close(Close::status(code, "")),
                Step::Wait(millis) => p.wait(millis),
            };
        }
        p.exchange.end();
        prop_assert_eq!(p.exchange.next_timeout(), None, "nothing runs after the end");
    }

    /// A processor that changes nothing is not noticed.
    #[test]
    fn echo_changes_nothing(
        config in any_config(),
        chunks in prop::collection::vec("[a-z]{0,20}", 0..6),
        trailers in any::<bool>(),
        late in any::<bool>(),
    ) {
        // GRPC needs framed messages, and these are none.
        let framed = config.mode.request_body_mode == crate::BodyMode::Grpc;
        if framed || config.send_body_without_waiting && late {
            return Ok(());
        }
        let limit = Limits { request_buffer: 1000, ..Limits::default() };
        let context = ExchangeContext { limits: limit, ..ExchangeContext::default() };
        let mut p = Play::with(config, context);
        let mut wire: Vec<String> = Vec::new();
        let mut waiting: std::collections::VecDeque<String> = Default::default();
        let absorb = |lines: Vec<String>, waiting: &mut std::collections::VecDeque<String>, wire: &mut Vec<String>| {
            for line in lines {
                match line.starts_with("upstream") {
                    true => wire.push(line),
                    false => waiting.push_back(line),
                }
            }
        };
        let mut events: Vec<Event> = Vec::new();
        let last = chunks.len();
        for (index, chunk) in chunks.iter().cloned().enumerate() {
            let end = index + 1 == last && !trailers;
            events.push(Box::new(move |p| p.data(Request, &chunk, end)));
        }
        if trailers {
            events.push(Box::new(|p| p.trailers(Request, &[("x-t", "1")])));
        } else if chunks.is_empty() {
            events.push(Box::new(|p| p.data(Request, "", true)));
        }
        let lines = p.request(&[], false);
        absorb(lines, &mut waiting, &mut wire);
        let duplex = p.exchange.request.mode.body.is_duplex();
        let echo = |p: &mut Play, waiting: &mut std::collections::VecDeque<String>, wire: &mut Vec<String>| {
            while let Some(message) = waiting.pop_front() {
                let lines = match message.get(..2) {
                    Some("RH") => p.part(rh(nothing())),
                    Some("RT") => p.part(rt(None)),
                    Some("RB") => {
                        let text = message.split('"').nth(1).unwrap_or_default();
                        let end = message.ends_with(" end");
                        p.part(rb(if duplex { stream(text, end) } else { nothing() }))
                    }
                    _ => continue,
                };
                absorb(lines, waiting, wire);
            }
        };
        for event in events {
            if !late {
                echo(&mut p, &mut waiting, &mut wire);
            }
            let lines = event(&mut p);
            absorb(lines, &mut waiting, &mut wire);
        }
        echo(&mut p, &mut waiting, &mut wire);
        let body: String = wire.iter().filter_map(|l| l.split('"').nth(1)).collect();
        prop_assert_eq!(body, chunks.concat(), "{:?}", wire);
        let end = if trailers { "upstream: TRAILERS x-t=1" } else { "upstream: END" };
        prop_assert_eq!(wire.last().map(String::as_str), Some(end), "{:?}", wire);
    }
}
