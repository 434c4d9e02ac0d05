//! The machine under check, and faults that can be planted in it.

use std::{fmt, mem, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, request, response};

use crate::{
    machine::{Action, Exchange, Outbound, Side, half::Head, progress::Shown},
    types::stream::Close,
    wire::Reply,
};

/// A fault between the machine and the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A piece of a request's body goes on without being shown.
    PieceUnshown,
    /// A message for the processor is forgotten.
    MessageForgotten,
    /// Once the response headers are answered the stream is closed, and the rest passes by.
    RestPasses,
    /// The rest of a request's body is given away with its head.
    BodyGivenAway,
    /// A piece of a body goes on twice.
    PieceTwice,
    /// A piece of a body is lost.
    PieceLost,
    /// The end of a message goes on twice.
    EndTwice,
    /// The end of a message does not go on.
    EndLost,
    /// The head of a message goes on twice.
    HeadTwice,
    /// A message follows the close.
    MessageAfterClose,
    /// A message follows the end of the body.
    MessageAfterEnd,
    /// No timer runs.
    NoTimer,
    /// No more of a request's body is read.
    NothingRead,
    /// A reply that fits nothing is overlooked.
    WrongReplyTaken,
    /// A reply that fits is overlooked.
    RightReplyRefused,
    /// `failure_mode_allow` is not looked at.
    AlwaysOpen,
    /// A timeout is overlooked.
    TimeoutIgnored,
    /// The stream stays open when the exchange is over.
    StreamLeftOpen,
    /// An input that leads to a panic.
    Panic,
}

/// The machine, perhaps with a fault.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) exchange: Exchange,
    pub(super) fault: Option<Fault>,
    /// Outputs that a fault gives out again.
    again: Again,
}

#[derive(Clone, Debug, Default)]
struct Again {
    outbound: Option<Box<Outbound>>,
    action: Option<Box<Action>>,
    message: Option<Box<Outbound>>,
}

impl fmt::Debug for Subject {
    /// Everything on which the machine's future depends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exchange {
            // The same throughout a walk.
            config: _,
            context: _,
            watch: _,
            guards_framing: _,
            form: _,
            // For those who look, not for what comes next.
            seen: _,
            summary: _,
            request,
            response,
            stream,
            complete,
            first_message_sent,
            committed,
            local,
            outbound,
            // Follows from what waits there.
            copied: _,
            actions,
        } = &self.exchange;
        for direction in [request, response] {
            // Of a head only counts where it is.
            let mut rest = direction.clone();
            rest.head = Head::Awaited;
            write!(f, "{:?}{rest:?}", mem::discriminant(&direction.head))?;
        }
        write!(
            f,
            "{stream:?}{complete}{first_message_sent}{committed}{local:?}{outbound:?}{actions:?}{:?}",
            self.again
        )
    }
}

impl Subject {
    pub(super) fn new(exchange: Exchange, fault: Option<Fault>) -> Self {
        Self {
            exchange,
            fault,
            again: Again::default(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(super) fn request_head(&mut self, head: request::Parts, end: bool, now: Instant) {
        self.exchange.request_head(head, end, now);
    }

    pub(super) fn response_head(&mut self, head: response::Parts, end: bool, now: Instant) {
        self.exchange.response_head(head, end, now);
    }

    pub(super) fn data(&mut self, side: Side, data: Bytes, end: bool, now: Instant) {
        assert!(!self.has(Fault::Panic), "a planted panic");
        if self.has(Fault::PieceUnshown)
            && side == Side::Request
            && !end
            && self.exchange.request.is_forwarded()
        {
            return self.exchange.emit_data(side, data);
        }
        self.exchange.data(side, data, end, now);
    }

    pub(super) fn trailers(&mut self, side: Side, trailers: HeaderMap, now: Instant) {
        self.exchange.trailers(side, trailers, now);
    }

    pub(super) fn failed(&mut self, side: Side) {
        match side {
            Side::Request => self.exchange.request_failed(None),
            Side::Response => self.exchange.response_failed(None, None),
        }
    }

    pub(super) fn reply(&mut self, reply: Reply, now: Instant) {
        let ends = self.exchange.is_last(&reply);
        let answers = matches!(reply.part, Some(crate::wire::Part::Immediate(_)));
        if self.has(Fault::WrongReplyTaken) && ends && !answers
            || self.has(Fault::RightReplyRefused) && !ends && reply.part.is_some()
        {
            return;
        }
        let rest_passes = self.has(Fault::RestPasses)
            && matches!(reply.part, Some(crate::wire::Part::ResponseHeaders(_)));
        self.exchange.handle_reply(reply, now);
        if rest_passes {
            self.exchange.close_stream();
            self.exchange.pass_everything();
        }
    }

    pub(super) fn close(&mut self, close: Close) {
        let close = match self.has(Fault::AlwaysOpen) {
            true => Close::status(0, ""),
            false => close,
        };
        self.exchange.handle_close(close);
    }

    pub(super) fn not_opened(&mut self, close: Close) {
        self.exchange.not_opened(close);
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        if !self.has(Fault::TimeoutIgnored) {
            self.exchange.handle_timeout(now);
        }
    }

    pub(super) fn end(&mut self) {
        if !self.has(Fault::StreamLeftOpen) {
            self.exchange.end();
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.has(Fault::NoTimer) {
            true => None,
            false => self.exchange.next_timeout(),
        }
    }

    pub(super) fn wants_frame(&self, side: Side) -> bool {
        self.exchange.wants_frame(side) && !(self.has(Fault::NothingRead) && side == Side::Request)
    }

    pub(super) fn passes_by(&self, side: Side) -> bool {
        self.exchange.passes_by(side) || self.has(Fault::BodyGivenAway) && side == Side::Request
    }

    pub(super) fn closes_next(&self) -> bool {
        self.exchange.closes_next()
    }

    pub(super) fn poll_outbound(&mut self) -> Option<Outbound> {
        if let Some(again) = self.again.outbound.take() {
            return Some(*again);
        }
        let mut next = self.exchange.poll_outbound()?;
        if let Outbound::Message(phase, message) = &next {
            let is_body = *phase == Side::Request.body();
            if self.has(Fault::MessageForgotten) && is_body {
                next = self.exchange.poll_outbound()?;
            } else if self.has(Fault::MessageAfterClose) {
                self.again.message = Some(Box::new(Outbound::Message(*phase, message.clone())));
            } else if self.has(Fault::MessageAfterEnd)
                && is_body
                && self.exchange.request.shown == Shown::Whole
            {
                self.again.outbound = Some(Box::new(next.clone()));
            }
        }
        if matches!(next, Outbound::Close(_)) {
            self.again.outbound = self.again.message.take();
        }
        Some(next)
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        if let Some(again) = self.again.action.take() {
            return Some(*again);
        }
        let next = self.exchange.poll_action()?;
        let lost = match &next {
            Action::Data(..) => self.has(Fault::PieceLost),
            Action::End(_) => self.has(Fault::EndLost),
            _ => false,
        };
        if lost {
            return self.exchange.poll_action();
        }
        let twice = match &next {
            Action::Data(..) => self.has(Fault::PieceTwice),
            Action::End(_) | Action::Trailers(..) => self.has(Fault::EndTwice),
            Action::RequestHead { .. } => self.has(Fault::HeadTwice),
            _ => false,
        };
        if twice {
            self.again.action = Some(Box::new(next.clone()));
        }
        Some(next)
    }
}
