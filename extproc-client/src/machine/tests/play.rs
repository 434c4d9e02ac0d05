//! Plays events into a machine and writes down what comes out, one short line each.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, processing_request};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;

use crate::{
    FilterConfig,
    context::outcome::ResponseDetails,
    host::ExchangeContext,
    machine::{Action, Closing, Exchange, Outbound, Side},
    observer::{Event, HttpPart, Observer, Stats, Watched, Watcher},
    types::{limits::Limits, stream::Close},
    wire::*,
};

pub(super) struct Play {
    pub(super) exchange: Exchange,
    pub(super) stats: Arc<Stats>,
    pub(super) transcript: Arc<Transcript>,
    pub(super) now: Instant,
    /// The details of the last response that was made here.
    pub(super) details: String,
    pub(super) first: Option<ProcessingRequest>,
}

/// Events as short lines, but those that only count.
#[derive(Default)]
pub(super) struct Transcript(Mutex<Vec<String>>);

impl Transcript {
    /// The lines since the last call.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Transcript {
    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        assert!(exchange.id > 0 && exchange.filter == "test");
        let part = |part: &HttpPart<'_>| match part {
            HttpPart::Request(head) => format!("{} {}", head.method, head.uri),
            HttpPart::Response(head) => head.status.as_str().to_owned(),
            HttpPart::Data(data) => format!("{data:?}"),
            HttpPart::Trailers(trailers) => format!("{trailers:?}"),
        };
        let line = match event {
            Event::Arrived { side, part: p, end } => format!("{side:?} in: {} {end}", part(p)),
            Event::Forwarded { side, part: p, end } => format!("{side:?} out: {} {end}", part(p)),
            Event::MessageSent { message, left, .. } => {
                format!("sent: {} {left}", message.to_json(2))
            }
            Event::ReplyArrived { reply, heeded } => {
                format!("reply: {} {heeded}", reply.to_json(2))
            }
            Event::Header { phase, change } => match change.refused {
                Some(reason) => format!("refused: {phase:?} {} {reason:?}", change.name),
                None => format!("{:?}: {phase:?} {}", change.operation, change.name),
            },
            Event::ModeOverridden { origin, .. } => format!("mode: {origin:?}"),
            Event::ModeIgnored { reason } => format!("mode ignored: {reason:?}"),
            Event::Failed {
                row,
                details,
                verdict,
            } => format!("failed: {row:?} {details} {verdict:?}"),
            Event::RequestCancelled => "cancelled".into(),
            Event::Aborted { details } => format!("aborted: {details}"),
            Event::RouteCleared => "route cleared".into(),
            Event::Ended { summary, .. } => format!("ended: {summary}"),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

/// A configuration from the fields that differ from the default.
pub(super) fn config(json: &str) -> FilterConfig {
    let text = format!(
        r#"{{"grpc_service": {{"envoy_grpc": {{"cluster_name": "c"}}}}{}{json}}}"#,
        if json.is_empty() { "" } else { ", " }
    );
    serde_json::from_str(&text).unwrap()
}

/// A configuration that only sets the processing mode.
pub(super) fn mode(json: &str) -> FilterConfig {
    config(&format!(r#""processing_mode": {json}"#))
}

/// The same with buffers of so many bytes.
pub(super) fn limited(json: &str, buffer: usize) -> Play {
    Play::with(mode(json), small(buffer))
}

/// A host whose buffers hold so many bytes.
pub(super) fn small(buffer: usize) -> ExchangeContext {
    ExchangeContext {
        limits: Limits {
            request_buffer: buffer,
            response_buffer: buffer,
            ..Limits::default()
        },
        ..ExchangeContext::default()
    }
}

impl Play {
    pub(super) fn new(config: FilterConfig) -> Self {
        Self::with(config, ExchangeContext::default())
    }

    pub(super) fn with(config: FilterConfig, context: ExchangeContext) -> Self {
        let stats = Arc::new(Stats::default());
        let transcript = Arc::<Transcript>::default();
        Self {
            exchange: Exchange::new(
                Arc::new(config),
                context,
                Some(&Watcher::new(
                    "test",
                    Arc::new((stats.clone(), transcript.clone())),
                )),
            ),
            stats,
            transcript,
            now: Instant::now(),
            details: String::new(),
            first: None,
        }
    }

    // === the HTTP side ===

    pub(super) fn request(&mut self, headers: &[(&str, &str)], end: bool) -> Vec<String> {
        let mut request = http::Request::builder()
            .method("POST")
            .uri("http://test.local/p");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        self.exchange.request_head(head, end, self.now);
        self.outputs()
    }

    pub(super) fn response(&mut self, headers: &[(&str, &str)], end: bool) -> Vec<String> {
        let mut response = http::Response::builder().status(200);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let head = response.body(()).unwrap().into_parts().0;
        self.exchange.response_head(head, end, self.now);
        self.outputs()
    }

    pub(super) fn data(&mut self, side: Side, data: &str, end: bool) -> Vec<String> {
        let data = Bytes::copy_from_slice(data.as_bytes());
        self.exchange.data(side, data, end, self.now);
        self.outputs()
    }

    pub(super) fn trailers(&mut self, side: Side, trailers: &[(&str, &str)]) -> Vec<String> {
        let mut map = HeaderMap::new();
        for (name, value) in trailers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        self.exchange.trailers(side, map, self.now);
        self.outputs()
    }

    // === the processor's side ===

    pub(super) fn reply(&mut self, reply: Reply) -> Vec<String> {
        // Through the wire, as in life.
        let reply = Reply::decode(Bytes::from(reply.encode_to_vec())).unwrap();
        self.exchange.handle_reply(reply, self.now);
        self.outputs()
    }

    pub(super) fn part(&mut self, part: Part) -> Vec<String> {
        self.reply(Reply {
            part: Some(part),
            ..Reply::default()
        })
    }

    pub(super) fn close(&mut self, close: Close) -> Vec<String> {
        self.exchange.handle_close(close);
        self.outputs()
    }

    pub(super) fn wait(&mut self, millis: u64) -> Vec<String> {
        self.now += Duration::from_millis(millis);
        if self
            .exchange
            .next_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.exchange.handle_timeout(self.now);
        }
        self.outputs()
    }

    /// Counters that are not zero.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        self.stats.iter().filter(|(_, value)| *value > 0).collect()
    }

    pub(super) fn outputs(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(outbound) = self.exchange.poll_outbound() {
            lines.push(match outbound {
                Outbound::Open => {
                    self.exchange.opened();
                    "open".into()
                }
                Outbound::Close(Closing::Now | Closing::Flushed) => "close".into(),
                Outbound::Close(Closing::Within(time)) => format!("close within {time:?}"),
                Outbound::Message(phase, message) => {
                    self.exchange.sent(phase, &message, true);
                    let message = ProcessingRequest::decode(message.to_bytes()).unwrap();
                    let line = message_line(&message);
                    self.first.get_or_insert(message);
                    line
                }
            });
        }
        while let Some(action) = self.exchange.poll_action() {
            lines.push(self.action_line(action));
        }
        lines
    }

    fn action_line(&mut self, action: Action) -> String {
        let side = |side| match side {
            Side::Request => "upstream",
            Side::Response => "client",
        };
        match action {
            Action::RequestHead { head, end } => format!(
                "upstream: {} {}{}{}",
                head.method,
                head.uri,
                fields(&head.headers),
                if end { " END" } else { "" }
            ),
            Action::ResponseHead { head, end } => {
                if let Some(ResponseDetails(details)) = head.extensions.get() {
                    self.details = details.to_string();
                }
                format!(
                    "client: {}{}{}",
                    head.status.as_u16(),
                    fields(&head.headers),
                    if end { " END" } else { "" }
                )
            }
            Action::CancelRequest => "upstream: CANCEL".into(),
            Action::Data(at, data) => {
                format!("{}: {:?}", side(at), String::from_utf8_lossy(&data))
            }
            Action::Trailers(at, map) => format!("{}: TRAILERS{}", side(at), fields(&map)),
            Action::End(at) => format!("{}: END", side(at)),
            Action::Abort(answer) => {
                self.details = answer.details().to_owned();
                "client: ABORT".into()
            }
        }
    }
}

fn fields(map: &HeaderMap) -> String {
    map.iter()
        .map(|(name, value)| format!(" {name}={}", String::from_utf8_lossy(value.as_bytes())))
        .collect()
}

fn message_line(message: &ProcessingRequest) -> String {
    use processing_request::Request::*;
    let end = |end: bool| if end { " end" } else { "" };
    let body = |body: &[u8]| format!("{:?}", String::from_utf8_lossy(body));
    match message.request.as_ref().unwrap() {
        RequestHeaders(m) => format!("RH{}", end(m.end_of_stream)),
        ResponseHeaders(m) => format!("SH{}", end(m.end_of_stream)),
        RequestBody(m) => format!(
            "RB {}{}{}",
            body(&m.body),
            end(m.end_of_stream),
            if m.drain_complete { " drained" } else { "" }
        ),
        ResponseBody(m) => format!("SB {}{}", body(&m.body), end(m.end_of_stream)),
        RequestTrailers(_) => "RT".into(),
        ResponseTrailers(_) => "ST".into(),
    }
}

// === replies ===

pub(super) fn set(headers: &[(&str, &str)]) -> HeaderMutation {
    HeaderMutation {
        set_headers: headers
            .iter()
            .map(|(key, value)| HeaderOption {
                header: Some(HeaderEntry {
                    key: (*key).into(),
                    raw_value: Bytes::copy_from_slice(value.as_bytes()),
                }),
                append: None,
            })
            .collect(),
        remove_headers: Vec::new(),
    }
}

pub(super) fn common(mutation: Option<HeaderMutation>, body: Option<BodyMutation>) -> CommonReply {
    CommonReply {
        header_mutation: mutation,
        body_mutation: body.map(|mutation| BodyMutationMessage {
            mutation: Some(mutation),
        }),
        ..CommonReply::default()
    }
}

pub(super) fn replace(mut common: CommonReply) -> CommonReply {
    common.status = 1;
    common
}

pub(super) fn body(text: &str) -> Option<BodyMutation> {
    Some(BodyMutation::Body(Bytes::copy_from_slice(text.as_bytes())))
}

pub(super) fn stream(text: &str, end_of_stream: bool) -> CommonReply {
    common(
        None,
        Some(BodyMutation::Streamed(StreamedBody {
            body: Bytes::copy_from_slice(text.as_bytes()),
            end_of_stream,
            ..StreamedBody::default()
        })),
    )
}

pub(super) fn rh(common: CommonReply) -> Part {
    Part::RequestHeaders(HeadersReply {
        response: Some(common),
    })
}

pub(super) fn sh(common: CommonReply) -> Part {
    Part::ResponseHeaders(HeadersReply {
        response: Some(common),
    })
}

pub(super) fn rb(common: CommonReply) -> Part {
    Part::RequestBody(BodyReply {
        response: Some(common),
    })
}

pub(super) fn sb(common: CommonReply) -> Part {
    Part::ResponseBody(BodyReply {
        response: Some(common),
    })
}

pub(super) fn rt(header_mutation: Option<HeaderMutation>) -> Part {
    Part::RequestTrailers(TrailersReply { header_mutation })
}

pub(super) fn st(header_mutation: Option<HeaderMutation>) -> Part {
    Part::ResponseTrailers(TrailersReply { header_mutation })
}

pub(super) fn nothing() -> CommonReply {
    CommonReply::default()
}
