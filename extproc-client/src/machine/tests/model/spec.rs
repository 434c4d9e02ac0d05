//! The rules that hold for every exchange, told from outside: from what went in and what came out.
//!
//! Nothing here looks into the machine, so that a rule cannot be bent by the state it is to judge. A rule that Envoy 1.40
//! breaks as well, and that is broken here on purpose to behave as Envoy does, is narrowed, with the reason beside it.

use super::way::{Call, Way};
use crate::{
    config::FilterConfig,
    machine::Side::{self, Request, Response},
    types::mode::BodyMode,
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
    pub(super) allows_failure: bool,
    pub(super) observes: bool,
    pub(super) sends_early: bool,
    pub(super) takes_immediate: bool,
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

    /// True if the client has its response, or none will come.
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
                // On their way when the processor gave the direction up, they have no reply that fits.
                way.trailers = match way.left {
                    true => Call::Answered,
                    false => Call::Waiting,
                };
            }
        }
        if observes {
            way.headers = Call::Answered;
            way.bodies.clear();
        }
        Ok(())
    }

    // === failures ===

    /// True if a failure that `failure_mode_allow` covers lets everything pass. It cannot where the bytes of full duplex are gone, and a
    /// response that the processor streams has no other end.
    pub(super) fn may_fail_open(&self) -> bool {
        // As in Envoy, an empty frame counts.
        let lost = |way: &Way| way.mode.body.is_duplex() && way.has_data;
        self.allows_failure
            && !lost(&self.request)
            && !lost(&self.response)
            && self.local != Local::Begun
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
            free || !way.mode.trailers || way.done_early || way.trailers == Call::Answered,
            "trailers go on before their reply",
        )?;
        self.finished(side, false)
    }

    pub(super) fn end_sent(&mut self, side: Side) -> Result<(), Broken> {
        let way = self.way(side);
        // As in Envoy, where a full duplex processor that tells the end of the body has told that of the message.
        let loses = way.has_trailers && !way.end_told && self.local == Local::None;
        self.finished(side, loses)
    }

    fn finished(&mut self, side: Side, loses_trailers: bool) -> Result<(), Broken> {
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
        rule(!loses_trailers, "trailers are lost")?;
        rule(
            way.sent == way.due,
            format!(
                "gone on are {:?} and the end, due is {:?}",
                way.sent, way.due
            ),
        )
    }

    /// True if what goes on in this direction is an answer of our own.
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
