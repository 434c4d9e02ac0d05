//! An exchange with everything around it: peers, driver and processor, reduced to what may happen next.
//!
//! The driver's part is played as `driver/core.rs` plays it: outputs are drained after each input; a frame is read only if
//! the machine wants one and nothing waits for the processor; a body that passes by is given away with its head.

use std::{
    fmt::Write,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::{
    Class,
    event::{Answer, Change, Event, Status, pieces},
    fault::{Fault, Subject},
    fit::Fit,
    search::Digest,
    spec::{Broken, Local, Spec, Stream},
};
use crate::{
    context::outcome::Outcome,
    host::ExchangeContext,
    machine::{
        Exchange,
        Side::{self, Request, Response},
    },
    observer::{self, Observer},
    types::{limits::Limits, mode::BodyMode, phase::Phase, stream::Close},
    wire::message::Message,
};

/// One exchange at one moment.
#[derive(Clone)]
pub(super) struct World {
    pub(super) subject: Subject,
    pub(super) spec: Spec,
    pub(super) class: Arc<Class>,
    log: Arc<Log>,
    now: Instant,
    /// Message that was taken out of the machine, and not taken by the processor's connection.
    pub(super) waiting: Option<(Phase, Message)>,
    has_empty: bool,
    /// Written only where a transcript is asked for.
    pub(super) lines: Option<Vec<String>>,
}

/// Events that the machine told its observer during one input.
#[derive(Default)]
struct Log(Mutex<Told>);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    received: bool,
    spurious: bool,
    failed_open: bool,
    overridden: bool,
}

impl Observer for Log {
    fn detail(&self, _: &ExchangeContext) -> observer::Detail {
        observer::Detail::Counts
    }

    fn event(&self, _: &observer::Watched<'_>, event: &observer::Event<'_>) {
        let mut told = self.0.lock().unwrap();
        match event {
            observer::Event::MessageReceived { .. } => told.received = true,
            observer::Event::SpuriousMessage { .. } => told.spurious = true,
            observer::Event::FailureModeAllowed => told.failed_open = true,
            observer::Event::ModeOverridden { .. } => told.overridden = true,
            _ => {}
        }
    }
}

impl World {
    pub(super) fn new(class: &Arc<Class>, fault: Option<Fault>, now: Instant) -> Self {
        let log = Arc::new(Log::default());
        let context = ExchangeContext {
            limits: Limits {
                request_buffer: class.buffer,
                response_buffer: class.buffer,
                ..Limits::default()
            },
            ..ExchangeContext::default()
        };
        let exchange = Exchange::new(
            class.config.clone(),
            context,
            Some(&observer::Watcher::new("model", log.clone())),
        );
        let mut world = Self {
            subject: Subject::new(exchange, fault),
            spec: Spec::new(&class.config),
            class: class.clone(),
            log,
            now,
            waiting: None,
            has_empty: false,
            lines: None,
        };
        if class.response_only {
            world.subject.exchange.skip_request(&request_head());
            let way = &mut world.spec.request;
            (way.has_head, way.has_ended) = (true, true);
            (way.head_sent, way.end_sent) = (true, true);
        }
        world
    }

    /// Two worlds with the same print have the same future.
    pub(super) fn fingerprint(&self) -> u64 {
        let Self {
            subject,
            spec,
            class: _,
            log: _,
            now: _,
            waiting,
            has_empty,
            lines: _,
        } = self;
        let mut digest = Digest::default();
        spec.hash(&mut digest);
        // Writing to a digest does not fail.
        let _ = write!(digest, "{subject:?}{waiting:?}{has_empty}");
        digest.finish()
    }

    /// True if nothing can happen any more.
    pub(super) fn is_done(&self) -> bool {
        self.spec.gone
    }

    // === what may come next ===

    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        if !self.spec.request.has_head {
            return vec![Event::Head(Request, false), Event::Head(Request, true)];
        }
        for side in [Request, Response] {
            self.peer_events(side, &mut events);
        }
        if self.waiting.is_some() {
            events.push(Event::Taken);
        }
        if self.spec.stream == Stream::Open {
            let answers = self.class.answers.iter().copied();
            events.extend(
                answers
                    .filter(|answer| self.may_reply(*answer))
                    .map(Event::Reply),
            );
            events.extend([Event::Close(0), Event::Close(13)]);
        }
        if self.spec.stream == Stream::Closed {
            // The driver may have read ahead.
            events.extend([Event::Reply(Answer::Immediate), Event::Close(13)]);
        }
        if self.subject.next_timeout().is_some() {
            events.push(Event::Timeout);
        }
        events.push(Event::Gone);
        events
    }

    fn peer_events(&self, side: Side, events: &mut Vec<Event>) {
        let way = self.spec.way(side);
        if side == Response && !way.has_head && self.upstream_may_answer() {
            events.extend([Event::Head(side, false), Event::Head(side, true)]);
        }
        if !self.may_read(side) {
            return;
        }
        if way.fed.len() < self.class.pieces(side) {
            events.extend([Event::Piece(side, false), Event::Piece(side, true)]);
        }
        if self.class.empty_pieces && !self.has_empty {
            events.push(Event::Empty(side));
        }
        events.extend([Event::End(side), Event::Broken(side)]);
        if self.class.trailers {
            events.push(Event::Trailers(side));
        }
    }

    /// Nobody answers what he did not get over a slow connection; of wrong replies, a few stand for all where
    /// [`Class::few_wrong`] says so.
    fn may_reply(&self, answer: Answer) -> bool {
        if self.class.slow {
            return self.spec.is_asked(answer);
        }
        let stands_for_all = matches!(
            answer,
            Answer::Headers(_, Status::Continue)
                | Answer::Body(_, Change::Nothing | Change::Streamed(false))
                | Answer::Trailers(_)
                | Answer::Immediate
                | Answer::Nothing
        );
        !self.class.few_wrong || stands_for_all || self.spec.fit(answer) != Fit::No
    }

    pub(super) fn upstream_may_answer(&self) -> bool {
        self.spec.request.head_sent && !self.spec.cancelled
    }

    /// True if the driver reads the body of this side.
    pub(super) fn may_read(&self, side: Side) -> bool {
        let way = self.spec.way(side);
        way.has_head
            && !way.has_ended
            && !way.taken
            && self.waiting.is_none()
            && !(side == Response && self.spec.cancelled)
            && (self.subject.wants_frame(side) || self.subject.exchange.is_overfull(side))
    }

    // === what happens then ===

    pub(super) fn apply(&mut self, event: Event) -> Result<(), Broken> {
        self.note(|| format!("{event:?}"));
        *self.log.0.lock().unwrap() = Told::default();
        if let Event::Piece(side, _) | Event::Empty(side) | Event::End(side) = event {
            self.spec.way_mut(side).has_data = true;
        }
        if self.spec.stream == Stream::Closed && matches!(event, Event::Reply(_) | Event::Close(_))
        {
            return self.apply_late(event);
        }
        let was_over = self.spec.is_over();
        let fit = match event {
            Event::Reply(answer) => self.spec.fit(answer),
            _ => Fit::Either,
        };
        self.feed(event);
        let told = *self.log.0.lock().unwrap();
        if let Event::Reply(answer) = event {
            self.judge_reply(answer, fit, told)?;
        }
        if matches!(event, Event::Close(_) | Event::Refused) {
            self.spec.stream = Stream::Ended;
        }
        let fails = self.fails(event, fit, told);
        let opens = fails && self.spec.may_fail_open();
        let copies_end = self.class.config.observability_mode && was_over;
        if opens || copies_end || event == Event::Close(0) && self.spec.local != Local::Begun {
            self.spec.released = true;
        }
        self.drain(event)?;
        if !was_over {
            let must_end = fails && !opens || self.ends(event, fit);
            if must_end && !self.spec.is_over() {
                return Err("a failure has neither failed the exchange nor opened it".into());
            }
            if opens && (self.spec.answered || self.spec.aborted) {
                return Err("a failure that is allowed has failed the exchange".into());
            }
        }
        if told.failed_open && !opens {
            return Err("a failure has opened an exchange that must fail".into());
        }
        if event == Event::Gone
            && self.spec.stream == Stream::Open
            && !self.class.config.observability_mode
        {
            return Err("the stream stays open when the exchange is over".into());
        }
        self.check_timers()?;
        self.check_progress()
    }

    /// Gives an input that was read ahead of the close, which counts for nothing.
    fn apply_late(&mut self, event: Event) -> Result<(), Broken> {
        self.feed(event);
        let exchange = &self.subject.exchange;
        let received = self.log.0.lock().unwrap().received;
        match received || exchange.has_messages() || !exchange.actions.is_empty() {
            true => Err("something that came after the close has an effect".into()),
            false => Ok(()),
        }
    }

    /// True for a failure that `failure_mode_allow` covers.
    fn fails(&self, event: Event, fit: Fit, told: Told) -> bool {
        match event {
            Event::Close(code) => code != 0,
            Event::Refused | Event::Timeout => true,
            Event::Reply(_) => self.listens() && (fit == Fit::No || told.spurious),
            _ => false,
        }
    }

    /// True for other events after which the client has its answer.
    fn ends(&self, event: Event, fit: Fit) -> bool {
        match event {
            Event::Broken(_) | Event::Gone => true,
            Event::Close(0) => self.spec.local == Local::Begun,
            Event::Reply(Answer::Immediate) => self.listens(),
            // What is refused changes nothing once the head of an answer of our own took the place of this one.
            Event::Reply(Answer::Headers(_, Status::Refused)) => {
                self.listens() && fit == Fit::Yes && !self.spec.cancelled
            }
            _ => false,
        }
    }

    /// True if replies count.
    fn listens(&self) -> bool {
        !self.class.config.observability_mode
    }

    fn judge_reply(&mut self, answer: Answer, fit: Fit, told: Told) -> Result<(), Broken> {
        if !self.listens() {
            return Ok(());
        }
        if told.received && fit == Fit::No {
            return Err("a reply is accepted that does not fit".into());
        }
        let counts = !matches!(answer, Answer::Drain(_));
        if counts && !told.received && fit == Fit::Yes {
            return Err("a reply that fits is not accepted".into());
        }
        if told.received || !counts {
            self.spec.accepted(answer);
        }
        if told.overridden {
            // Which overrides are honoured is told in the tests of `modes`; here counts that the mode holds.
            let exchange = &self.subject.exchange;
            self.spec.request.mode = exchange.request.mode;
            self.spec.response.mode = exchange.response.mode;
        }
        Ok(())
    }

    fn feed(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Head(Request, end) => {
                self.arrives(Request, "", end);
                self.subject.request_head(request_head(), end, now);
            }
            Event::Head(Response, end) => {
                self.arrives(Response, "", end);
                let mut head = http::Response::new(()).into_parts().0;
                if self.class.answered_elsewhere {
                    Outcome::of_head_mut(&mut head).local = Some(http::StatusCode::OK);
                    self.spec.request.drop_rest();
                }
                self.subject.response_head(head, end, now);
            }
            Event::Piece(side, end) => {
                let bytes = pieces(side)[self.spec.way(side).fed.len()];
                self.arrives(side, bytes, end);
                let framed = self.framed(side, bytes);
                self.subject.data(side, framed, end, now);
            }
            Event::Empty(side) => {
                self.has_empty = true;
                self.subject.data(side, Bytes::new(), false, now);
            }
            Event::End(side) => {
                self.arrives(side, "", true);
                self.subject.data(side, Bytes::new(), true, now);
            }
            Event::Trailers(side) => {
                self.arrives(side, "", true);
                self.spec.way_mut(side).has_trailers = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("x-t", HeaderValue::from_static("1"));
                self.subject.trailers(side, trailers, now);
            }
            Event::Broken(side) => {
                self.spec.way_mut(side).has_ended = true;
                self.subject.failed(side);
            }
            Event::Reply(answer) => self.subject.reply(answer.reply(), now),
            Event::Close(code) => {
                self.waiting = None;
                self.subject.close(Close::status(code, ""));
            }
            Event::Refused => {
                self.subject.not_opened(Close::unavailable("none"));
            }
            Event::Taken => {}
            Event::Timeout => {
                let due = self.subject.next_timeout().unwrap_or(now);
                self.subject.timeout(due);
            }
            Event::Gone => {
                self.spec.gone = true;
                self.subject.end();
            }
        }
    }

    fn arrives(&mut self, side: Side, bytes: &str, end: bool) {
        if end
            && side == Response
            && !self.spec.request.has_ended
            && !self.subject.exchange.complete
        {
            // As in Envoy, what still comes of the request is for nobody then.
            self.spec.request.drop_rest();
        }
        let way = self.spec.way_mut(side);
        way.has_head = true;
        way.has_ended |= end;
        way.feed(bytes);
    }

    /// In GRPC a piece is a message in its frame.
    fn framed(&self, side: Side, bytes: &'static str) -> Bytes {
        let mode = match side {
            Request => self.class.config.mode.request_body_mode,
            Response => self.class.config.mode.response_body_mode,
        };
        match mode {
            BodyMode::Grpc => [b"\0\0\0\0\x01", bytes.as_bytes()].concat().into(),
            _ => Bytes::from_static(bytes.as_bytes()),
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }
}

fn request_head() -> http::request::Parts {
    let request = http::Request::post("http://test.local/p").body(()).unwrap();
    request.into_parts().0
}
