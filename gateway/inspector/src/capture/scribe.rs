//! Writes one event down, in words.

use extproc_client::observer::{Event, ModeOrigin, Phase, Side, Verdict, Watched};
use serde_json::{Value, json, value::RawValue};

use super::{
    causes::{answered, ended, explains, misfit},
    replies::replaces_body,
    short,
};
use crate::{
    Settings, printed,
    record::{ALLOCATION, Entry, Kind, LastReply, Processor, State},
    redact::Redactor,
};

/// Writes one event down.
pub(super) struct Scribe<'a> {
    pub(super) settings: &'a Settings,
    pub(super) redactor: Redactor<'a>,
    pub(super) processor: &'a mut Processor,
    pub(super) at: u64,
    /// Bytes more that the record takes.
    pub(super) size: usize,
    pub(super) status: Option<u16>,
    pub(super) route: Option<String>,
    /// Whoever follows is to be told.
    pub(super) changed: bool,
}

impl Scribe<'_> {
    pub(super) fn write(&mut self, exchange: &Watched<'_>, event: &Event<'_>) {
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
                let details = self.redactor.words(details);
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
                match exchange.config.observability_mode() {
                    true => *state = State::Unchanged,
                    false => self.processor.unanswered[phase.index()] += 1,
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
                self.processor.reply = json.as_ref().map(|json| {
                    let answers = answered(json);
                    LastReply {
                        answers,
                        replaces_body: answers.is_some_and(|answers| replaces_body(json, answers)),
                    }
                });
                let known = self.processor.reply.and_then(|reply| reply.answers);
                let answers = known.unwrap_or("no answer");
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
                let text = misfit(self.processor, detail);
                self.cause(Kind::Failure, None, text);
            }
            Event::StreamClosed => self.closed("closed"),
            Event::ServerHalfClosed => self.closed("ended by the processor"),
            Event::StreamFailed { close } => {
                self.processor.ended_with = Some((close.code(), short(&self.redactor.words(close.message()))));
                let text = ended(close, &mut self.redactor);
                self.closed(&short(&text));
                self.cause(Kind::Failure, None, format!("side stream failed: {text}"));
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
                let cause = match self.processor.cause.take() {
                    Some((kind, cause)) if explains(kind, row) => format!("{row}: {cause}"),
                    _ => row.to_string(),
                };
                let details = self.redactor.words(details);
                let text = format!("{cause}; {follows} ({details})");
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
                self.cause(Kind::Timeout, Some(phase), text);
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
                    "" => "no details given".to_owned(),
                    details => self.redactor.words(details),
                };
                self.note(&format!("the filter answers {status} ({details})"));
            }
            Event::ModeOverridden { mode, origin, .. } => {
                self.processor.flag("mode");
                self.processor.mode = *mode;
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

    /// An entry that is the cause of the failure, should one follow.
    fn cause(&mut self, kind: Kind, phase: Option<Phase>, text: String) {
        let text = self.redactor.known(text);
        self.processor.cause = Some((kind, short(&text)));
        self.entry(kind, phase, text);
    }

    /// Notes the outcome that was waited for.
    pub(super) fn settle(&mut self, state: State) {
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

    pub(super) fn refused(&mut self, phase: Option<Phase>, text: &str) {
        self.processor.flag("refused");
        self.cause(Kind::Refused, phase, text.to_owned());
    }

    fn note(&mut self, text: &str) {
        self.entry(Kind::Note, None, text);
    }

    pub(super) fn entry(&mut self, kind: Kind, phase: Option<Phase>, text: impl Into<String>) {
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
            self.redactor.message(json);
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
        let mut text = short(&self.redactor.known(text));
        text.shrink_to_fit();
        // As text: a tree of values would take many times as much.
        let message =
            message.and_then(|json| RawValue::from_string(printed::json(json.to_string())).ok());
        let json = message.as_ref().map_or(0, |json| json.get().len());
        let entries = &mut self.processor.entries;
        let before = entries.capacity();
        entries.push(Entry {
            at_us: self.at,
            kind,
            phase: phase.map(Phase::name),
            text,
            message,
            bytes,
            latency_us: None,
        });
        let room = (entries.capacity() - before) * size_of::<Entry>();
        let text = entries.last().map_or(0, |entry| entry.text.capacity());
        // What follows is added to the text of a reply.
        self.size += room + text + json + 4 * ALLOCATION;
    }

    fn has_room(&self) -> bool {
        self.processor.entries.len() < self.settings.entries
    }
}
