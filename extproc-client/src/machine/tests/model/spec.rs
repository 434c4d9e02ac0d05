//! The rules that hold for every exchange, told from outside: from what went in and what came out.
//!
//! Nothing here looks into the machine, so that a rule cannot be bent by the state it is to judge. A rule that Envoy 1.40
//! breaks as well, and that is broken here on purpose to behave as Envoy does, is narrowed, with the reason beside it.

use std::collections::VecDeque;

use super::event::{Answer, CHANGED, Change, REPLACED, Status};
use crate::{
    config::{BodyMode, DirectionMode, FilterConfig},
    machine::Side::{self, Request, Response},
};

/// A rule that was broken.
pub(super) type Broken = String;

/// The past of one exchange, as far as rules speak of it.
#[derive(Clone, Hash)]
pub(super) struct Spec {
    pub(super) request: Way,
    pub(super) response: Way,
    pub(super) stream: Stream,
    /// The processor ended the stream cleanly, or failed and may be done without: the rest passes by.
    pub(super) released: bool,
    /// The request goes nowhere any more.
    pub(super) cancelled: bool,
    /// The response was cut.
    pub(super) aborted: bool,
    /// The exchange was answered here.
    pub(super) answered: bool,
    /// The processor streams the response.
    pub(super) local: Local,
    pub(super) gone: bool,
    allows_failure: bool,
    observes: bool,
    sends_early: bool,
    takes_immediate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    Unopened,
    Open,
    /// By this side.
    Closed,
    /// By the processor.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Local {
    None,
    Begun,
    Ended,
}

/// A call that has one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    NotMade,
    Waiting,
    Answered,
}

/// One direction.
#[derive(Clone, Hash)]
pub(super) struct Way {
    pub(super) mode: DirectionMode,
    /// What arrived.
    pub(super) has_head: bool,
    pub(super) fed: String,
    pub(super) has_ended: bool,
    pub(super) has_trailers: bool,
    /// A frame of the body arrived, be it an empty one.
    pub(super) has_data: bool,
    /// What the processor was shown.
    pub(super) headers: Call,
    pub(super) shown: String,
    /// Full duplex: bytes that were given to the stream.
    given: String,
    pub(super) body_shown: bool,
    end_shown: bool,
    pub(super) trailers: Call,
    /// Bytes of body messages that have no reply, in order.
    pub(super) bodies: VecDeque<String>,
    /// A reply came while a later message was outstanding.
    pipelined: bool,
    /// Full duplex: the processor has said the last of this direction, and was shown nothing since.
    pub(super) told_all: bool,
    /// Full duplex: the end of the body was said.
    end_told: bool,
    /// BUFFERED_PARTIAL: the one message was answered.
    partial_answered: bool,
    pub(super) drain_announced: bool,
    /// The body that has to go on, as far as it is known, and as far as it went on.
    pub(super) due: String,
    pub(super) sent: String,
    /// The processor wants nothing more of this direction.
    left: bool,
    /// What still arrives is dropped.
    drops: bool,
    pub(super) head_sent: bool,
    pub(super) end_sent: bool,
    /// The body was given away to pass by.
    pub(super) taken: bool,
}

/// Whether a reply answers what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// Where the protocol does not say.
    Either,
}

/// A message for the processor.
#[derive(Debug)]
pub(super) enum Shown {
    Headers {
        end: bool,
    },
    Body {
        bytes: String,
        end: bool,
        drains: bool,
    },
    Trailers,
}

fn broken<T>(rule: &str) -> Result<T, Broken> {
    Err(rule.into())
}

fn rule(holds: bool, rule: impl Into<String>) -> Result<(), Broken> {
    match holds {
        true => Ok(()),
        false => Err(rule.into()),
    }
}

impl Way {
    fn new(mode: DirectionMode) -> Self {
        Self {
            mode,
            has_head: false,
            fed: String::new(),
            has_ended: false,
            has_trailers: false,
            has_data: false,
            headers: Call::NotMade,
            shown: String::new(),
            given: String::new(),
            body_shown: false,
            end_shown: false,
            trailers: Call::NotMade,
            bodies: VecDeque::new(),
            pipelined: false,
            told_all: false,
            end_told: false,
            partial_answered: false,
            drain_announced: false,
            due: String::new(),
            sent: String::new(),
            left: false,
            drops: false,
            head_sent: false,
            end_sent: false,
            taken: false,
        }
    }

    /// Whether the processor has a message without a reply.
    pub(super) fn is_asked(&self) -> bool {
        self.headers == Call::Waiting || self.trailers == Call::Waiting || self.owes_body()
    }

    fn owes_body(&self) -> bool {
        match self.mode.body.is_duplex() {
            true => self.body_shown && !self.told_all,
            false => !self.bodies.is_empty(),
        }
    }

    /// Whether the processor has given this direction up, so that bytes may go on unseen.
    fn is_given_up(&self) -> bool {
        self.mode.body == BodyMode::None
            // As in Envoy: the rest follows the one message.
            || self.mode.body == BodyMode::BufferedPartial && self.partial_answered
    }

    /// A piece of the body arrived.
    pub(super) fn feed(&mut self, bytes: &str) {
        self.fed.push_str(bytes);
        if !self.drops {
            self.due.push_str(bytes);
        }
    }

    /// Whether a reply came while later chunks were outstanding. As in Envoy, it stops the timer, which the next message
    /// starts again.
    pub(super) fn is_pipelined(&self) -> bool {
        self.pipelined && self.headers != Call::Waiting && !self.bodies.is_empty()
    }

    /// The processor wants nothing more of this direction.
    fn leave(&mut self) {
        self.told_all = true;
        self.left = true;
        // What was shown early and is not answered is not waited for.
        if self.trailers == Call::Waiting {
            self.trailers = Call::Answered;
        }
        self.mode.body = BodyMode::None;
        self.mode.trailers = false;
    }

    /// Full duplex: all of this was given to the stream. As in Envoy, it belongs to the processor from then on.
    pub(super) fn hand_over(&mut self, given: &str) {
        let Some(more) = given
            .strip_prefix(&self.given)
            .filter(|more| !more.is_empty())
        else {
            return;
        };
        if let Some(at) = self.due.rfind(more) {
            self.due.replace_range(at..at + more.len(), "");
        }
        self.given = given.into();
    }

    fn exchange_bytes(&mut self, bytes: &str, instead: &str) {
        match self.due.find(bytes) {
            Some(at) if !bytes.is_empty() => {
                self.due.replace_range(at..at + bytes.len(), instead);
            }
            _ => self.due.insert_str(self.sent.len(), instead),
        }
    }
}

impl Spec {
    pub(super) fn new(config: &FilterConfig) -> Self {
        Self {
            request: Way::new(config.mode.request()),
            response: Way::new(config.mode.response()),
            stream: Stream::Unopened,
            released: false,
            cancelled: false,
            aborted: false,
            answered: false,
            local: Local::None,
            gone: false,
            allows_failure: config.failure_mode_allow,
            observes: config.observability_mode,
            sends_early: config.send_body_without_waiting,
            takes_immediate: !config.disable_immediate_response,
        }
    }

    pub(super) fn way(&self, side: Side) -> &Way {
        match side {
            Request => &self.request,
            Response => &self.response,
        }
    }

    pub(super) fn way_mut(&mut self, side: Side) -> &mut Way {
        match side {
            Request => &mut self.request,
            Response => &mut self.response,
        }
    }

    /// Whether the client has its response, or none will come.
    pub(super) fn is_over(&self) -> bool {
        self.response.end_sent || self.aborted || self.gone
    }

    // === to the processor ===

    pub(super) fn opened(&mut self) -> Result<(), Broken> {
        rule(
            self.stream == Stream::Unopened,
            "the stream is opened twice",
        )?;
        self.stream = Stream::Open;
        Ok(())
    }

    pub(super) fn closed(&mut self) -> Result<(), Broken> {
        rule(
            self.stream == Stream::Open,
            "a stream that is not open is closed",
        )?;
        self.stream = Stream::Closed;
        Ok(())
    }

    pub(super) fn shown(&mut self, side: Side, shown: &Shown) -> Result<(), Broken> {
        match self.stream {
            Stream::Open => {}
            Stream::Unopened => return broken("a message before the stream is opened"),
            Stream::Closed => return broken("a message after the close"),
            Stream::Ended => return broken("a message after the processor ended the stream"),
        }
        let observes = self.observes;
        let way = self.way_mut(side);
        let duplex = way.mode.body.is_duplex();
        rule(
            !way.end_shown && way.trailers == Call::NotMade,
            "a message after the end of its direction",
        )?;
        match shown {
            Shown::Headers { end } => {
                rule(way.headers == Call::NotMade, "headers are shown twice")?;
                way.headers = Call::Waiting;
                way.end_shown = *end;
            }
            Shown::Body { bytes, end, drains } => {
                way.shown.push_str(bytes);
                rule(
                    way.fed.starts_with(&way.shown),
                    format!("shown are {:?}, of {:?}", way.shown, way.fed),
                )?;
                rule(!end || way.has_ended, "an end is shown that did not come")?;
                way.end_shown = *end;
                way.body_shown = true;
                way.drain_announced |= drains;
                way.told_all = false;
                match duplex {
                    true => way.hand_over(&way.shown.clone()),
                    // On its way when the processor gave the direction up.
                    false if way.left => {}
                    false => {
                        way.bodies.push_back(bytes.clone());
                        way.pipelined = false;
                    }
                }
            }
            Shown::Trailers => {
                rule(way.has_trailers, "trailers are shown that did not come")?;
                rule(
                    duplex || observes || !way.is_asked(),
                    "trailers are shown before what came before them is answered",
                )?;
                way.trailers = Call::Waiting;
            }
        }
        if observes {
            way.headers = Call::Answered;
            way.bodies.clear();
        }
        Ok(())
    }

    // === from the processor ===

    pub(super) fn fit(&self, answer: Answer) -> Fit {
        let yes = |fits| if fits { Fit::Yes } else { Fit::No };
        if self.local == Local::Begun {
            return match answer {
                Answer::LocalBody(_) | Answer::LocalTrailers => Fit::Yes,
                Answer::Immediate => yes(self.takes_immediate),
                Answer::Longer | Answer::Drain(_) => Fit::Either,
                Answer::Trailers(side) if self.way(side).mode.body.is_duplex() => Fit::Either,
                _ => Fit::No,
            };
        }
        match answer {
            Answer::Headers(side, _) => yes(self.way(side).headers == Call::Waiting),
            Answer::Override(..) => yes(self.request.headers == Call::Waiting),
            Answer::Body(side, change) => self.fit_body(self.way(side), change),
            Answer::Trailers(side) => {
                let way = self.way(side);
                // As in Envoy, which takes one at any time in full duplex.
                yes(way.mode.body.is_duplex() || way.trailers == Call::Waiting)
            }
            Answer::Immediate => yes(self.takes_immediate),
            Answer::Nothing => Fit::No,
            Answer::Drain(side) => yes(self.way(side).mode.body.is_duplex()),
            Answer::Longer | Answer::Switch => Fit::Either,
            Answer::LocalHead(end) => {
                let streams = matches!(
                    self.request.mode.body,
                    BodyMode::None | BodyMode::FullDuplexStreamed
                );
                let asked = self.request.headers == Call::Waiting && !self.response.has_head;
                yes(asked && (end || streams))
            }
            Answer::LocalBody(_) | Answer::LocalTrailers => Fit::No,
        }
    }

    /// Whether a reply fits that only a processor gives that has the message.
    pub(super) fn is_asked(&self, answer: Answer) -> bool {
        match answer {
            Answer::Trailers(side) => self.way(side).trailers == Call::Waiting,
            _ => self.fit(answer) != Fit::No,
        }
    }

    fn fit_body(&self, way: &Way, change: Change) -> Fit {
        if way.headers == Call::Waiting {
            return Fit::No;
        }
        let streamed = matches!(change, Change::Streamed(_) | Change::Drained);
        if way.mode.body.is_duplex() {
            return match streamed && way.body_shown {
                true if change == Change::Drained && !way.drain_announced => Fit::No,
                true if !way.told_all => Fit::Yes,
                // The end was told, and then more was shown.
                true if way.end_told && !way.end_shown => Fit::Either,
                _ => Fit::No,
            };
        }
        match (way.bodies.is_empty(), streamed) {
            (true, _) => Fit::No,
            (false, false) => Fit::Yes,
            // As in Envoy: of a body that is shown as a whole, `streamed_response` is no change.
            (false, true) if way.mode.body != BodyMode::Streamed => Fit::Yes,
            (false, true) if way.head_sent || self.sends_early => Fit::No,
            (false, true) => Fit::Either,
        }
    }

    /// A reply was accepted.
    pub(super) fn accepted(&mut self, answer: Answer) {
        match answer {
            Answer::Headers(side, status) => self.headers_accepted(side, status),
            Answer::Override(..) => self.headers_accepted(Request, Status::Continue),
            Answer::Body(side, change) => {
                let way = self.way_mut(side);
                match change {
                    Change::Streamed(end) => {
                        if way.mode.body.is_duplex() {
                            way.due.insert_str(way.sent.len(), CHANGED);
                            if end {
                                way.due.truncate(way.sent.len() + CHANGED.len());
                                way.told_all = true;
                                way.end_told = true;
                                way.drops = true;
                            }
                            return;
                        }
                        way.bodies.pop_front();
                    }
                    Change::Drained => {
                        return way.leave();
                    }
                    Change::Nothing => {
                        way.bodies.pop_front();
                    }
                    Change::Body => {
                        if let Some(bytes) = way.bodies.pop_front() {
                            way.exchange_bytes(&bytes, CHANGED);
                        }
                    }
                }
                way.partial_answered = true;
                way.pipelined = !way.bodies.is_empty();
            }
            Answer::Trailers(side) => {
                let way = self.way_mut(side);
                // As in Envoy, where it answers whatever is asked in full duplex.
                for call in [&mut way.headers, &mut way.trailers] {
                    if *call == Call::Waiting {
                        *call = Call::Answered;
                    }
                }
                way.told_all = true;
            }
            Answer::LocalHead(end) => {
                self.local = if end { Local::Ended } else { Local::Begun };
                self.response.has_head = true;
                self.response.has_ended = true;
                self.request.headers = Call::Answered;
            }
            Answer::LocalBody(end) => {
                self.response.due.push_str(CHANGED);
                if end {
                    self.local = Local::Ended;
                }
            }
            Answer::LocalTrailers => self.local = Local::Ended,
            Answer::Immediate
            | Answer::Nothing
            | Answer::Longer
            | Answer::Switch
            | Answer::Drain(_) => {}
        }
    }

    fn headers_accepted(&mut self, side: Side, status: Status) {
        let way = self.way_mut(side);
        way.headers = Call::Answered;
        way.pipelined = !way.bodies.is_empty();
        match status {
            Status::Continue | Status::Refused => {}
            Status::Replace | Status::ReplaceBody => {
                // As in Envoy: pieces that were shown early are the processor's, and dropped.
                for bytes in std::mem::take(&mut way.bodies) {
                    way.exchange_bytes(&bytes, "");
                }
                way.leave();
            }
        }
        if status == Status::ReplaceBody {
            way.due = REPLACED.into();
            way.drops = true;
        }
    }

    // === failures ===

    /// Whether a failure that `failure_mode_allow` covers lets everything pass: the bytes of full duplex are gone, and a
    /// response that the processor streams has no other end.
    pub(super) fn may_fail_open(&self) -> bool {
        // As in Envoy, an empty frame counts.
        let lost = |way: &Way| way.mode.body.is_duplex() && way.has_data;
        self.allows_failure
            && !lost(&self.request)
            && !lost(&self.response)
            && self.local != Local::Begun
    }

    /// The processor is not asked any more, and what it has is sent on.
    pub(super) fn release(&mut self) {
        self.released = true;
    }

    // === to upstream and client ===

    fn may_go_on(&self, side: Side) -> Result<(), Broken> {
        rule(!self.aborted, "something goes on after the cut")?;
        rule(
            !self.gone,
            "something goes on after the end of the exchange",
        )?;
        rule(
            side == Response || !self.cancelled,
            "something goes upstream after the request was cancelled",
        )
    }

    pub(super) fn head_sent(&mut self, side: Side, end: bool) -> Result<(), Broken> {
        self.may_go_on(side)?;
        let free = self.released || self.observes || self.answered || self.local != Local::None;
        let way = self.way_mut(side);
        rule(!way.head_sent, "a head goes on twice")?;
        way.head_sent = true;
        rule(
            free || !way.mode.headers || way.headers == Call::Answered,
            "a head goes on before its reply",
        )?;
        match end {
            true => self.end_sent(side),
            false => Ok(()),
        }
    }

    pub(super) fn data_sent(&mut self, side: Side, bytes: &str) -> Result<(), Broken> {
        self.may_go_on(side)?;
        let free = self.released || side == Response && self.local != Local::None;
        let observes = self.observes;
        let foreign = self.is_foreign(side);
        let way = self.way_mut(side);
        rule(way.head_sent, "a piece goes on before its head")?;
        rule(!way.end_sent, "a piece goes on after the end")?;
        way.sent.push_str(bytes);
        if foreign {
            return Ok(());
        }
        rule(
            way.due.starts_with(&way.sent),
            format!("gone on are {:?}, due is {:?}", way.sent, way.due),
        )?;
        if free || way.is_given_up() {
            return Ok(());
        }
        for byte in bytes.chars().filter(|byte| way.fed.contains(*byte)) {
            rule(
                way.shown.contains(byte) || observes && way.mode.body != BodyMode::Streamed,
                format!("{byte:?} goes on unseen by the processor"),
            )?;
            rule(
                !way.bodies.iter().any(|waiting| waiting.contains(byte)),
                format!("{byte:?} goes on before its reply"),
            )?;
        }
        Ok(())
    }

    pub(super) fn trailers_sent(&mut self, side: Side) -> Result<(), Broken> {
        let free = self.released || self.observes || side == Response && self.local != Local::None;
        let way = self.way(side);
        rule(
            way.has_trailers || self.local != Local::None,
            "trailers go on that did not come",
        )?;
        rule(
            free || !way.mode.trailers || way.trailers == Call::Answered,
            "trailers go on before their reply",
        )?;
        self.end_sent(side)
    }

    pub(super) fn end_sent(&mut self, side: Side) -> Result<(), Broken> {
        self.may_go_on(side)?;
        let foreign = self.is_foreign(side);
        let way = self.way_mut(side);
        rule(way.head_sent, "an end goes on before its head")?;
        rule(!way.end_sent, "an end goes on twice")?;
        way.end_sent = true;
        if foreign {
            return Ok(());
        }
        rule(
            way.has_ended || way.end_told,
            "an end goes on that nobody told",
        )?;
        rule(
            way.sent == way.due,
            format!(
                "gone on are {:?} and the end, due is {:?}",
                way.sent, way.due
            ),
        )
    }

    /// Whether what goes on in this direction is an answer of our own.
    fn is_foreign(&self, side: Side) -> bool {
        side == Response && self.answered
    }

    /// The body is given away to pass by.
    pub(super) fn given_away(&mut self, side: Side) -> Result<(), Broken> {
        let free = self.released || self.observes;
        let way = self.way_mut(side);
        way.taken = true;
        rule(
            free || way.is_given_up() && !way.mode.trailers,
            "the rest of a body is given away unseen by the processor",
        )
    }

    pub(super) fn cancelled(&mut self) {
        self.cancelled = true;
    }

    pub(super) fn aborted(&mut self) -> Result<(), Broken> {
        rule(!self.is_over(), "a response is cut that is complete")?;
        self.aborted = true;
        Ok(())
    }
}
