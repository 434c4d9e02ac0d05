//! One direction of an exchange: what came, what the processor was shown of it, and what went on.

use std::collections::VecDeque;

use crate::types::mode::{BodyMode, DirectionMode};

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
    // === what came ===
    pub(super) has_head: bool,
    /// Bytes of the body.
    pub(super) fed: String,
    pub(super) has_ended: bool,
    pub(super) has_trailers: bool,
    /// A frame of the body arrived, be it an empty one.
    pub(super) has_data: bool,
    // === what the processor was shown, and said ===
    pub(super) headers: Call,
    /// Bytes of the body.
    pub(super) shown: String,
    /// Full duplex: bytes that were given to the stream.
    pub(super) given: String,
    pub(super) body_shown: bool,
    pub(super) end_shown: bool,
    pub(super) trailers: Call,
    /// Bytes of body messages that have no reply, in order.
    pub(super) bodies: VecDeque<String>,
    /// A reply came while a later message was outstanding.
    pub(super) pipelined: bool,
    /// Full duplex: the processor has said the last of this direction, and was shown nothing since.
    pub(super) told_all: bool,
    /// Full duplex: the end of the body was said.
    pub(super) end_told: bool,
    /// BUFFERED_PARTIAL: the one message was answered.
    pub(super) partial_answered: bool,
    pub(super) drain_announced: bool,
    /// Full duplex: a trailers reply came before the trailers.
    pub(super) done_early: bool,
    /// The processor wants nothing more of this direction.
    pub(super) left: bool,
    // === what went on ===
    /// The body that has to go on, as far as it is known.
    pub(super) due: String,
    /// The part of it that went on.
    pub(super) sent: String,
    /// True if later bytes are dropped.
    pub(super) drops: bool,
    pub(super) head_sent: bool,
    pub(super) end_sent: bool,
    /// The body was given away to pass by.
    pub(super) taken: bool,
}

impl Way {
    pub(super) fn new(mode: DirectionMode) -> Self {
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
            done_early: false,
            due: String::new(),
            sent: String::new(),
            left: false,
            drops: false,
            head_sent: false,
            end_sent: false,
            taken: false,
        }
    }

    /// True if the processor has a message without a reply.
    pub(super) fn is_asked(&self) -> bool {
        self.headers == Call::Waiting || self.trailers == Call::Waiting || self.owes_body()
    }

    fn owes_body(&self) -> bool {
        match self.mode.body.is_duplex() {
            true => self.body_shown && !self.told_all,
            false => !self.bodies.is_empty(),
        }
    }

    /// True if bytes may go on unseen, since the processor wants none or no more.
    pub(super) fn is_given_up(&self) -> bool {
        self.mode.body == BodyMode::None
            // As in Envoy, which takes it for the processor's word that it is done with the direction.
            || self.done_early
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

    /// Nobody wants more of this body than went on.
    pub(super) fn drop_rest(&mut self) {
        self.due.truncate(self.sent.len());
        self.drops = true;
    }

    /// True if a reply came while later chunks were outstanding. As in Envoy, it stops the timer, which the next message
    /// starts again.
    pub(super) fn is_pipelined(&self) -> bool {
        self.pipelined && self.headers != Call::Waiting && !self.bodies.is_empty()
    }

    /// The processor wants nothing more of this direction.
    pub(super) fn leave(&mut self) {
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

    /// The processor put other bytes in place of these.
    pub(super) fn exchange_bytes(&mut self, bytes: &str, instead: &str) {
        match self.due.find(bytes) {
            Some(at) if !bytes.is_empty() => {
                self.due.replace_range(at..at + bytes.len(), instead);
            }
            _ => self.due.insert_str(self.sent.len(), instead),
        }
    }
}
