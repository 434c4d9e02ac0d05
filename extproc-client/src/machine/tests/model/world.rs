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
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, processing_request};
use http::{HeaderMap, HeaderValue};
use prost::Message as _;

use super::{
    Class,
    event::{Answer, Change, Event, Status, letters, pieces},
    fault::{Fault, Subject},
    search::Digest,
    spec::{Broken, Fit, Local, Shown, Spec, Stream, Way},
};
use crate::{
    config::BodyMode,
    host::{ExchangeContext, Limits},
    machine::{
        Action, Exchange, Outbound,
        Side::{self, Request, Response},
    },
    observer::{self, Observer, Phase},
    transport::{Close, Message},
};

/// One exchange at one moment.
#[derive(Clone)]
pub(super) struct World {
    subject: Subject,
    spec: Spec,
    class: Arc<Class>,
    log: Arc<Log>,
    now: Instant,
    /// Taken out of the machine, and not taken by the processor's connection.
    waiting: Option<(Phase, Message)>,
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
    fn on_event(&self, event: &observer::Event<'_>) {
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
        let exchange = Exchange::new(class.config.clone(), context, Some(log.clone()));
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

    /// Whether nothing can happen any more.
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

    fn upstream_may_answer(&self) -> bool {
        self.spec.request.head_sent && !self.spec.cancelled
    }

    /// Whether the driver reads the body of this side.
    fn may_read(&self, side: Side) -> bool {
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
        let fails = match event {
            Event::Close(code) => {
                self.spec.stream = Stream::Ended;
                code != 0
            }
            Event::Refused => {
                self.spec.stream = Stream::Ended;
                true
            }
            Event::Timeout => true,
            Event::Reply(_) => fit == Fit::No || told.spurious,
            _ => false,
        } && !self.class.config.observability_mode
            || matches!(event, Event::Close(1..));
        let opens = fails && self.spec.may_fail_open();
        let copies_end = self.class.config.observability_mode && was_over;
        if opens || copies_end || event == Event::Close(0) && self.spec.local != Local::Begun {
            self.spec.release();
        }
        self.drain(event)?;
        let is_over = self.spec.is_over();
        if !was_over {
            let must_end = fails && !opens
                || matches!(event, Event::Broken(_) | Event::Gone)
                || matches!(event, Event::Reply(Answer::Immediate))
                    && !self.class.config.observability_mode
                || matches!(event, Event::Reply(Answer::Headers(_, Status::Refused)))
                    && !self.class.config.observability_mode
                    && fit == Fit::Yes
                    && !self.spec.cancelled
                || event == Event::Close(0) && self.spec.local == Local::Begun;
            if must_end && !is_over {
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

    fn judge_reply(&mut self, answer: Answer, fit: Fit, told: Told) -> Result<(), Broken> {
        if self.class.config.observability_mode {
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
                let head = http::Response::new(()).into_parts().0;
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

    /// Bytes of full duplex bodies that are on their way to the processor are its own.
    fn hand_over(&mut self) {
        let queued = self.subject.exchange.outbound.iter();
        let queued = queued.filter_map(|outbound| match outbound {
            Outbound::Message(phase, message) => Some((*phase, message)),
            _ => None,
        });
        let waiting = self
            .waiting
            .as_ref()
            .map(|(phase, message)| (*phase, message));
        let mut given = [Request, Response].map(|side| (side, self.spec.way(side).shown.clone()));
        for (phase, message) in waiting.into_iter().chain(queued) {
            if let Shown::Body { bytes, .. } = shown(message) {
                given[usize::from(side_of(phase) == Response)]
                    .1
                    .push_str(&bytes);
            }
        }
        for (side, given) in given {
            let way = self.spec.way_mut(side);
            if way.mode.body.is_duplex() {
                way.hand_over(&given);
            }
        }
    }

    // === what comes out ===

    fn drain(&mut self, event: Event) -> Result<(), Broken> {
        if event == Event::Taken {
            self.take()?;
        }
        loop {
            if self.subject.closes_next() {
                self.waiting = None;
            }
            if self.waiting.is_some() {
                if self.class.slow && self.spec.stream != Stream::Ended {
                    break;
                }
                self.take()?;
            }
            match self.subject.poll_outbound() {
                None => break,
                Some(Outbound::Open) => {
                    self.note(|| "    -> processor: open".into());
                    self.spec.opened()?;
                    if self.class.refused {
                        self.note(|| "    (refused)".into());
                        return self.apply(Event::Refused);
                    }
                    self.subject.exchange.opened();
                }
                Some(Outbound::Close(closing)) => {
                    self.note(|| format!("    -> processor: close {closing:?}"));
                    self.spec.closed()?;
                }
                Some(Outbound::Message(phase, message)) => self.waiting = Some((phase, message)),
            }
        }
        let heads = [Request, Response].map(|side| self.spec.way(side).head_sent);
        let mut cancelled = false;
        while let Some(action) = self.subject.poll_action() {
            cancelled |= matches!(action, Action::CancelRequest);
            self.act(action)?;
        }
        for (side, had) in [Request, Response].into_iter().zip(heads) {
            if !had && self.spec.way(side).head_sent {
                self.give_away(side)?;
            }
        }
        if self.class.slow {
            self.hand_over();
        }
        // A request that is too large is answered with a response that is processed as one of an upstream.
        if cancelled && !self.spec.is_over() && self.subject.exchange.response.has_head() {
            let way = &mut self.spec.response;
            (way.has_head, way.has_ended) = (true, true);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<(), Broken> {
        let Some((phase, message)) = self.waiting.take() else {
            return Ok(());
        };
        let shown = shown(&message);
        self.note(|| format!("    -> processor: {:?} {shown:?}", side_of(phase)));
        self.spec.shown(side_of(phase), &shown)
    }

    fn act(&mut self, action: Action) -> Result<(), Broken> {
        match action {
            Action::RequestHead { end, .. } => self.send_head(Request, end),
            Action::ResponseHead { end, .. } => self.send_head(Response, end),
            Action::CancelRequest => {
                self.note(|| "    -> upstream: cancel".into());
                self.spec.cancelled();
                Ok(())
            }
            Action::Data(side, data) => {
                let bytes = letters(&data);
                self.note(|| format!("    -> {}: {bytes:?}", peer(side)));
                self.spec.data_sent(side, &bytes)
            }
            Action::Trailers(side, _) => {
                self.note(|| format!("    -> {}: trailers", peer(side)));
                self.spec.trailers_sent(side)
            }
            Action::End(side) => {
                self.note(|| format!("    -> {}: end", peer(side)));
                self.spec.end_sent(side)
            }
            Action::Abort { .. } => {
                self.note(|| "    -> client: cut".into());
                self.spec.aborted()
            }
        }
    }

    fn send_head(&mut self, side: Side, end: bool) -> Result<(), Broken> {
        let ending = if end { ", end" } else { "" };
        self.note(|| format!("    -> {}: head{ending}", peer(side)));
        if side == Response && (self.spec.cancelled || !self.spec.response.has_head) {
            self.spec.answered |= !self.spec.response.has_head || self.spec.stream != Stream::Open;
        }
        self.spec.head_sent(side, end)
    }

    /// What the driver does once it has a head and all that came with it.
    fn give_away(&mut self, side: Side) -> Result<(), Broken> {
        if self.passes_by(side) {
            self.note(|| format!("    -> {}: the rest of the body, unseen", peer(side)));
            self.spec.given_away(side)?;
            if side == Response {
                // Nobody is left to whom the exchange matters.
                self.spec.gone = true;
            }
        }
        Ok(())
    }

    /// As `take_passing_request` and `take_passing_response` of the driver.
    fn passes_by(&self, side: Side) -> bool {
        let open = !self.spec.way(side).end_sent && !self.spec.answered;
        let alone = match side {
            Request => true,
            Response => {
                let request = &self.spec.request;
                self.subject.exchange.is_finished() && (request.taken || request.end_sent)
            }
        };
        open && alone && self.spec.local == Local::None && self.subject.passes_by(side)
    }

    // === rules about waiting ===

    /// Each call has a timer.
    fn check_timers(&self) -> Result<(), Broken> {
        if self.spec.stream != Stream::Open
            || self.spec.is_over()
            || self.class.config.observability_mode
        {
            return Ok(());
        }
        for side in [Request, Response] {
            let way = self.spec.way(side);
            // As in Envoy, where a full duplex processor takes all the time it wants.
            if way.mode.body.is_duplex()
                || !way.is_asked()
                || self.is_pipelined(way)
                || way.end_sent
            {
                continue;
            }
            if self.subject.next_timeout().is_none() {
                return Err(format!(
                    "no timer runs for what the processor has of the {side:?}"
                ));
            }
        }
        Ok(())
    }

    /// The exchange is over, or something must come that moves it.
    fn check_progress(&self) -> Result<(), Broken> {
        let spec = &self.spec;
        let must_come = spec.is_over()
            || self.waiting.is_some()
            || self.subject.next_timeout().is_some()
            || self.may_read(Request)
            || self.may_read(Response)
            || self.upstream_owes()
            || spec.stream == Stream::Open && self.processor_owes();
        match must_come {
            true => Ok(()),
            false => Err("everything has come, and the exchange is not over".into()),
        }
    }

    /// A request that is upstream as a whole is answered.
    fn upstream_owes(&self) -> bool {
        let request = &self.spec.request;
        let whole = request.end_sent || request.taken;
        whole && self.upstream_may_answer() && !self.spec.response.has_head
    }

    /// As in Envoy, no timer runs for a processor that has got a body in full duplex, that streams the response itself, or
    /// that has answered one of several chunks: those exchanges end by the timeouts of routes and streams.
    fn processor_owes(&self) -> bool {
        let owes =
            |way: &Way| way.is_asked() && (way.mode.body.is_duplex() || self.is_pipelined(way));
        owes(&self.spec.request) || owes(&self.spec.response) || self.spec.local == Local::Begun
    }

    /// As in Envoy, in STREAMED a reply stops the timer, which the next message starts again. Which one that is depends on what
    /// waits for a slow connection.
    fn is_pipelined(&self, way: &Way) -> bool {
        let waits = self.class.slow && way.mode.body == BodyMode::Streamed;
        way.is_pipelined() || waits && !way.bodies.is_empty()
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }
}

fn request_head() -> http::request::Parts {
    let request = http::Request::post("http://test.local/p").body(()).unwrap();
    request.into_parts().0
}

fn peer(side: Side) -> &'static str {
    match side {
        Request => "upstream",
        Response => "client",
    }
}

fn side_of(phase: Phase) -> Side {
    match phase {
        Phase::RequestHeaders | Phase::RequestBody | Phase::RequestTrailers => Request,
        Phase::ResponseHeaders | Phase::ResponseBody | Phase::ResponseTrailers => Response,
    }
}

fn shown(message: &Message) -> Shown {
    use processing_request::Request::*;
    let message = ProcessingRequest::decode(message.to_bytes()).unwrap();
    match message.request.unwrap() {
        RequestHeaders(headers) | ResponseHeaders(headers) => Shown::Headers {
            end: headers.end_of_stream,
        },
        RequestBody(body) | ResponseBody(body) => Shown::Body {
            bytes: letters(&body.body),
            end: body.end_of_stream,
            drains: body.drain_complete,
        },
        RequestTrailers(_) | ResponseTrailers(_) => Shown::Trailers,
    }
}
