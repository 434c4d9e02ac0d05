//! Writes down what an observer is told.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::{
    bytes::Bytes,
    config::{GrpcTarget, Service},
    http::{HeaderMap, request, response},
    observer::{
        Effect, Event, HeaderChange, HttpPart, ModeOrigin, Observer, Operation, Phase, Side,
        Verdict, Watched,
    },
};
use serde_json::{Value, json};

use crate::{
    Settings,
    record::{Entry, Field, Kind, Message, Passage, Processor, Record, State},
    redact::without_userinfo,
    ring::{Ring, lock},
};

/// Pieces of a body whose sizes are kept.
const PIECES: usize = 256;

/// Bytes of a text that is kept, such as a path or a message of gRPC.
const TEXT: usize = 2048;

/// Keeps transcripts of exchanges. An observer for any number of layers.
#[derive(Debug)]
pub struct Inspector {
    pub(crate) settings: Settings,
    pub(crate) ring: Ring,
}

impl Inspector {
    /// Keeps as much as the settings say.
    pub fn new(settings: Settings) -> Self {
        Self {
            ring: Ring::new(settings.exchanges, settings.bytes),
            settings,
        }
    }

    /// Whether an exchange that begins with this head is to be recorded.
    fn wants(&self, id: u64, line: &str) -> bool {
        let sampled = id.is_multiple_of(self.settings.one_in.max(1));
        let matches = |only: &String| line.contains(only.as_str());
        sampled && self.settings.only.as_ref().is_none_or(matches)
    }

    /// The record of this exchange, made if the exchange begins here.
    fn begin(&self, exchange: &Watched<'_>, head: &request::Parts) {
        let redaction = &self.settings.redaction;
        let authority = head
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| head.headers.get("host").and_then(|host| host.to_str().ok()))
            .unwrap_or_default();
        let authority = short(without_userinfo(authority));
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = short(&redaction.url(path));
        let shared = match self.ring.get(exchange.id) {
            Some(shared) => shared,
            None if self.wants(exchange.id, &format!("{} {authority} {path}", head.method)) => {
                let mut record = Record::new(exchange.id, head);
                record.authority = authority;
                record.path = path;
                let source = exchange.context.facts.source;
                record.client = source.map(|source| source.to_string()).unwrap_or_default();
                if let Some(host) = &exchange.context.host {
                    let facts = host.route_facts();
                    record.route = match facts.route_name.is_empty() {
                        true => facts.virtual_host_name.clone(),
                        false => facts.route_name.clone(),
                    };
                }
                self.ring.insert(record)
            }
            None => {
                self.ring.skipped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        /// Bytes of a processor without entries.
        const PROCESSOR: usize = 1024;
        let mut record = lock(&shared);
        if record.size == 0 {
            return;
        }
        record.size += PROCESSOR;
        self.ring.add(PROCESSOR);
        record.done = false;
        record.processors.push(Processor {
            filter: exchange.filter.to_owned(),
            config: config(exchange),
            phases: [State::NotSent; 6],
            sent: 0,
            received: 0,
            wait_us: 0,
            latencies_us: Vec::new(),
            flags: Vec::new(),
            verdict: None,
            endpoint: None,
            reused: None,
            attempts: 0,
            closed: None,
            request: Passage::default(),
            response: Passage::default(),
            entries: Vec::new(),
            omitted: 0,
            done: false,
            settings: exchange.config.clone(),
        });
    }
}

impl Observer for Inspector {
    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        if let Event::Arrived {
            part: HttpPart::Request(head),
            ..
        } = event
        {
            self.begin(exchange, head);
        }
        let Some(shared) = self.ring.get(exchange.id) else {
            return;
        };
        {
            let mut guard = lock(&shared);
            let record = &mut *guard;
            // One that made room meanwhile.
            if record.size == 0 {
                return;
            }
            let at = micros(record.start.elapsed());
            record.total_us = at;
            // A filter's name may stand in a chain twice; the later one is the inner one until it is done.
            let of_filter = |p: &&mut Processor| p.filter == exchange.filter;
            let mut all = record.processors.iter_mut().filter(of_filter);
            let Some(processor) = all.next_back() else {
                return;
            };
            let mut scribe = Scribe {
                settings: &self.settings,
                processor,
                at,
                size: 0,
                status: None,
                route: None,
                changed: false,
            };
            scribe.write(exchange, event);
            let (size, changed) = (scribe.size, scribe.changed);
            let (status, route) = (scribe.status, scribe.route);
            record.status = status.or(record.status);
            if let Some(route) = route {
                record.route = route;
            }
            record.size += size;
            record.done = record.processors.iter().all(|processor| processor.done);
            self.ring.add(size);
            if changed {
                self.ring.changed(record);
            }
        }
        self.ring.make_room();
    }
}

/// Writes one event down.
struct Scribe<'a> {
    settings: &'a Settings,
    processor: &'a mut Processor,
    at: u64,
    /// Bytes more that the record takes.
    size: usize,
    status: Option<u16>,
    route: Option<String>,
    /// Whoever follows is to be told.
    changed: bool,
}

impl Scribe<'_> {
    fn write(&mut self, exchange: &Watched<'_>, event: &Event<'_>) {
        match *event {
            Event::Arrived { side, part, end } => self.part(side, part, end, true),
            Event::Forwarded { side, part, end } => {
                if side == Side::Request
                    && let Some(host) = &exchange.context.host
                {
                    self.route = Some(host.route_facts().route_name.clone())
                        .filter(|route| !route.is_empty());
                }
                self.part(side, part, end, false);
            }
            Event::RequestCancelled => self.note("the request goes no further"),
            Event::Aborted { details } => {
                self.processor.flag("cut");
                self.entry(Kind::Failure, None, format!("the response is cut: {details}"));
            }
            Event::StreamStarted => self.entry(Kind::Stream, None, "side stream opened"),
            Event::StreamReached { facts } => {
                self.processor.endpoint = facts.endpoint.map(|at| at.to_string());
                self.processor.reused = facts.reused;
                self.processor.attempts = facts.attempts;
            }
            Event::MessageSent {
                phase,
                message,
                left,
            } => {
                self.processor.sent += 1;
                let state = &mut self.processor.phases[phase.index()];
                if matches!(state, State::NotSent | State::Unchanged) {
                    *state = State::Waiting;
                }
                if exchange.config.observability_mode() {
                    *state = State::Unchanged;
                }
                let body = match message.body_len() {
                    0 => String::new(),
                    len => format!(" with {len} bytes of the body"),
                };
                let lost = match left {
                    true => "",
                    false => ", which did not leave: the stream ended first",
                };
                let json = || message.to_json(self.settings.bodies);
                let json = self.has_room().then(json);
                let text = format!("{}{body}{lost}", phase.name());
                self.message(Kind::Sent, Some(phase), text, json, message.framed_len());
            }
            Event::ReplyArrived { reply, heeded } => {
                let bytes = reply.to_bytes().len();
                let json = self.has_room().then(|| reply.to_json(self.settings.bodies));
                let answers = json.as_ref().and_then(answered).unwrap_or("no answer");
                let unheeded = match (heeded, exchange.config.observability_mode()) {
                    (true, _) => "",
                    (false, true) => ", ignored in observability mode",
                    (false, false) => ", ignored: the exchange needs no more of the processor",
                };
                self.message(
                    Kind::Reply,
                    None,
                    format!("{answers}{unheeded}"),
                    json,
                    bytes,
                );
            }
            Event::MessageReceived {
                phase,
                latency,
                effect,
            } => self.accepted(phase, latency, effect),
            Event::Header { phase, change } => self.header(phase, change),
            Event::SpuriousMessage { detail } => {
                self.processor.flag("spurious");
                let waiting = self.processor.phases;
                let waits = waiting.iter().position(|state| *state == State::Waiting);
                let waits = waits.map_or("no message waits for a reply", |at| NAMES[at]);
                let text = format!("the reply does not fit ({detail}); waiting for: {waits}");
                self.entry(Kind::Failure, None, text);
            }
            Event::StreamClosed => self.closed("closed"),
            Event::ServerHalfClosed => self.closed("ended by the processor"),
            Event::StreamFailed { close } => {
                let mut text = format!("gRPC status {}", close.code());
                for more in [close.message(), close.details()] {
                    if !more.is_empty() {
                        let _ = write!(text, ": {more}");
                    }
                }
                self.closed(&short(&text));
                self.entry(Kind::Failure, None, format!("side stream failed: {text}"));
            }
            Event::Failed {
                row,
                details,
                verdict,
            } => {
                let follows = match verdict {
                    Verdict::FailedOpen => {
                        self.processor.flag("failed-open");
                        self.settle(State::FailedOpen);
                        "failure_mode_allow is set, so the exchange goes on without the processor"
                            .to_owned()
                    }
                    Verdict::LocalReply { status, because } => {
                        self.processor.flag("failed");
                        self.settle(State::Failed);
                        format!("{because}, so the client gets {status}")
                    }
                    Verdict::Cut { because } => {
                        self.processor.flag("failed");
                        self.settle(State::Failed);
                        format!("{because}, and the response had begun, so it is cut")
                    }
                    Verdict::RequestCut { because } => {
                        self.processor.flag("failed");
                        self.settle(State::Failed);
                        format!("{because}, and the client has its response, so the rest of the request is cut")
                    }
                    _ => String::new(),
                };
                let text = format!("{row}; {follows} ({details})");
                self.processor.verdict = Some(short(&text));
                self.entry(Kind::Failure, None, text);
                self.changed = true;
            }
            Event::FailureModeAllowed => {}
            Event::MessageTimeout { phase } => {
                self.processor.flag("timeout");
                self.processor.phases[phase.index()] = State::TimedOut;
                let limit = exchange.config.message_timeout();
                let text = format!(
                    "no reply to {} in time (message_timeout is {limit:?})",
                    phase.name()
                );
                self.entry(Kind::Timeout, Some(phase), text);
            }
            Event::CopyCut { phase } => {
                self.processor.flag("copy-cut");
                let text = format!("the copy of {} is cut: too much waits for the processor", phase.name());
                self.entry(Kind::Failure, Some(phase), text);
            }
            Event::RejectedHeaderMutation => self.processor.flag("refused"),
            Event::OverrideTimeoutReceived => self.note("a new timeout was set"),
            Event::OverrideTimeoutIgnored => self.refused(
                None,
                "override_message_timeout refused: max_message_timeout does not allow it, or no timer runs",
            ),
            Event::ClearRouteCacheIgnored => self.refused(
                None,
                "clear_route_cache refused: the reply has no header_mutation",
            ),
            Event::ClearRouteCacheDisabled => self.refused(
                None,
                "clear_route_cache refused: route_cache_action retains the route",
            ),
            Event::RouteCleared => self.note("the route is selected again"),
            Event::HttpNotOk => self.processor.flag("failed"),
            Event::ImmediateResponseSent { status, details } => {
                self.status = Some(status);
                let details = match details {
                    "" => "no details given",
                    details => details,
                };
                self.note(&format!("the filter answers {status} ({details})"));
            }
            Event::ModeOverridden { mode, origin, .. } => {
                self.processor.flag("mode");
                let origin = match origin {
                    ModeOrigin::Standalone => "a reply of its own",
                    _ => "the answer to headers",
                };
                let text = format!("processing mode changed by {origin}: {}", json!(mode));
                self.entry(Kind::Mode, None, text);
            }
            Event::ModeIgnored { reason } => {
                self.refused(None, &format!("mode_override ignored: {reason}"));
            }
            Event::Ended { summary, .. } => {
                self.processor.done = true;
                self.changed = true;
                self.note(&format!("over for this filter: {summary}"));
            }
            _ => {}
        }
    }

    /// A part of the HTTP message.
    fn part(&mut self, side: Side, part: HttpPart<'_>, end: bool, before: bool) {
        let redaction = &self.settings.redaction;
        let passage = match side {
            Side::Request => &mut self.processor.request,
            Side::Response => &mut self.processor.response,
        };
        let message = match before {
            true => &mut passage.before,
            false => &mut passage.after,
        };
        message.end |= end;
        let kind = match (side, before) {
            (Side::Request, true) => Kind::RequestIn,
            (Side::Request, false) => Kind::RequestOut,
            (Side::Response, true) => Kind::ResponseIn,
            (Side::Response, false) => Kind::ResponseOut,
        };
        let text = match part {
            HttpPart::Request(head) => {
                let path = redaction.url(&head.uri.to_string());
                let mut fields = vec![
                    (":method".to_owned(), head.method.to_string()),
                    (":uri".to_owned(), path.clone()),
                ];
                fields.extend(redaction.headers(&head.headers));
                self.size += size(&fields);
                message.head = Some(fields);
                format!("{} {}", head.method, short(&path))
            }
            HttpPart::Response(head) => {
                let fields = response_fields(head, |headers| redaction.headers(headers));
                self.size += size(&fields);
                message.head = Some(fields);
                if !before {
                    self.status = Some(head.status.as_u16());
                    self.changed = true;
                }
                format!("{}", head.status.as_u16())
            }
            HttpPart::Data(data) => {
                let kept = keep(message, data, self.settings.bodies);
                self.size += kept;
                if data.is_empty() {
                    return;
                }
                format!("{} bytes", data.len())
            }
            HttpPart::Trailers(trailers) => {
                let fields = redaction.headers(trailers);
                self.size += size(&fields);
                message.trailers = Some(fields);
                "trailers".to_owned()
            }
            _ => return,
        };
        let end = if end { ", the end" } else { "" };
        self.entry(kind, None, format!("{text}{end}"));
    }

    fn accepted(&mut self, phase: Option<Phase>, latency: Option<Duration>, effect: Effect) {
        self.processor.received += 1;
        let mut entries = self.processor.entries.iter_mut().rev();
        let reply = entries.find(|entry| entry.kind == Kind::Reply);
        let message = reply.as_ref().and_then(|reply| reply.message.as_ref());
        let state = match (phase, effect) {
            (None, _) => State::Answered,
            (_, Effect::Applied) => State::Changed,
            (_, Effect::Invalid | Effect::TooLarge | Effect::Refused) => State::Refused,
            // As in Envoy, a body that is replaced as a whole has no effect of its own.
            (Some(phase), _) if message.is_some_and(|json| replaces_body(json, phase)) => {
                State::Changed
            }
            _ => State::Unchanged,
        };
        let latency = latency.map(micros);
        if let Some(reply) = reply {
            reply.phase = phase.map(Phase::name);
            reply.latency_us = latency;
            reply.text.push_str(match state {
                State::Changed => ": changed something",
                State::Refused => ": asked for what is refused",
                State::Answered => "",
                _ => ": nothing changed",
            });
        }
        let Some(phase) = phase else {
            self.processor.flag("answered");
            return self.settle(state);
        };
        let shown = &mut self.processor.phases[phase.index()];
        if !matches!(*shown, State::Changed | State::Refused) {
            *shown = state;
        }
        if let Some(latency) = latency {
            self.processor.wait_us += latency;
            if self.processor.latencies_us.len() < PIECES {
                self.processor.latencies_us.push((phase.index(), latency));
            }
        }
    }

    fn header(&mut self, phase: Option<Phase>, change: &HeaderChange<'_>) {
        let redaction = &self.settings.redaction;
        let header = short(change.name);
        let value = short(&redaction.value(change.name, change.value));
        let asked = match change.operation {
            Operation::Set => format!("set {header}: {value}"),
            Operation::Append => format!("append to {header}: {value}"),
            Operation::Remove => format!("remove {header}"),
        };
        match change.refused {
            Some(reason) => self.refused(phase, &format!("{asked}: refused, {reason}")),
            None => self.entry(Kind::Header, phase, asked),
        }
    }

    /// What was waited for became this.
    fn settle(&mut self, state: State) {
        if let Some(waiting) = self.processor.waiting() {
            *waiting = state;
        }
    }

    fn closed(&mut self, how: &str) {
        // The first word about it says most.
        if self.processor.closed.is_none() {
            self.processor.closed = Some(how.to_owned());
            self.entry(Kind::Stream, None, format!("side stream: {how}"));
        }
    }

    fn refused(&mut self, phase: Option<Phase>, text: &str) {
        self.processor.flag("refused");
        self.entry(Kind::Refused, phase, text);
    }

    fn note(&mut self, text: &str) {
        self.entry(Kind::Note, None, text);
    }

    fn entry(&mut self, kind: Kind, phase: Option<Phase>, text: impl Into<String>) {
        self.push(kind, phase, text.into(), None, None);
    }

    fn message(
        &mut self,
        kind: Kind,
        phase: Option<Phase>,
        text: String,
        mut json: Option<Value>,
        bytes: usize,
    ) {
        if let Some(json) = &mut json {
            self.settings.redaction.message(json);
        }
        self.push(kind, phase, text, json, Some(bytes));
    }

    fn push(
        &mut self,
        kind: Kind,
        phase: Option<Phase>,
        text: String,
        message: Option<Value>,
        bytes: Option<usize>,
    ) {
        if !self.has_room() {
            self.processor.omitted += 1;
            return;
        }
        /// Bytes of an entry beside its text.
        const ENTRY: usize = 160;
        /// A tree of values takes so many times its text.
        const TREE: usize = 3;
        let text = short(&text);
        let json = message.as_ref().map_or(0, |json| json.to_string().len());
        self.size += ENTRY + text.len() + TREE * json;
        self.processor.entries.push(Entry {
            at_us: self.at,
            kind,
            phase: phase.map(Phase::name),
            text,
            message,
            bytes,
            latency_us: None,
        });
    }

    fn has_room(&self) -> bool {
        self.processor.entries.len() < self.settings.entries
    }
}

const NAMES: [&str; 6] = [
    "an answer to request_headers",
    "an answer to request_body",
    "an answer to request_trailers",
    "an answer to response_headers",
    "an answer to response_body",
    "an answer to response_trailers",
];

/// The member of a reply that says what it answers.
fn answered(json: &Value) -> Option<&'static str> {
    [
        "request_headers",
        "request_body",
        "request_trailers",
        "response_headers",
        "response_body",
        "response_trailers",
        "immediate_response",
        "streamed_immediate_response",
        "override_message_timeout",
        "mode_override",
    ]
    .into_iter()
    .find(|name| json.get(name).is_some())
}

fn replaces_body(reply: &Value, phase: Phase) -> bool {
    let mutation = &reply[phase.name()]["response"]["body_mutation"];
    mutation.get("body").is_some() || mutation.get("clear_body").is_some()
}

fn response_fields(
    head: &response::Parts,
    headers: impl FnOnce(&HeaderMap) -> Vec<Field>,
) -> Vec<Field> {
    let mut fields = vec![(":status".to_owned(), head.status.as_str().to_owned())];
    fields.extend(headers(&head.headers));
    fields
}

/// Keeps the beginning of a body and the sizes of its pieces; gives the bytes that takes.
fn keep(message: &mut Message, data: &Bytes, most: usize) -> usize {
    message.bytes += data.len() as u64;
    let mut size = 0;
    if !data.is_empty() && message.pieces.len() < PIECES {
        message.pieces.push(data.len() as u64);
        size += 8;
    }
    // Three bytes are four characters, so that pieces can be joined, the last one aside.
    let kept = message.body.trim_end_matches('=').len() * 3 / 4;
    let room = most.saturating_sub(kept);
    if room > 0 && !data.is_empty() {
        // The last group is begun anew if it is not full.
        let whole = match message.body.ends_with('=') {
            true => message.body.len().saturating_sub(4),
            false => message.body.len(),
        };
        let mut tail = STANDARD
            .decode(message.body.split_off(whole))
            .unwrap_or_default();
        tail.extend_from_slice(&data[..data.len().min(room)]);
        STANDARD.encode_string(tail, &mut message.body);
        size += data.len().min(room) * 4 / 3;
    }
    size
}

fn size(fields: &[Field]) -> usize {
    /// Two strings beside their text.
    const FIELD: usize = 48;
    let lengths = fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + FIELD);
    lengths.sum()
}

/// The configuration as far as it explains what happens.
fn config(exchange: &Watched<'_>) -> Value {
    let config = exchange.config;
    let target = match config.service() {
        Service::Grpc(service) => match &service.target {
            GrpcTarget::Cluster { name, .. } => format!("cluster {name}"),
            GrpcTarget::Uri { target } => target.clone(),
            _ => String::new(),
        },
        Service::Http(service) => service.uri.to_string(),
        _ => String::new(),
    };
    json!({
        "processor": target,
        "processing_mode": config.processing_mode(),
        "message_timeout_us": micros(config.message_timeout()),
        "failure_mode_allow": config.failure_mode_allow(),
        "observability_mode": config.observability_mode(),
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// No more of a text than is worth keeping.
fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// An inspector that keeps one exchange, for a replay.
pub(crate) fn of_one(settings: &Settings) -> Arc<Inspector> {
    Arc::new(Inspector::new(Settings {
        exchanges: 1,
        one_in: 1,
        only: None,
        ..settings.clone()
    }))
}
