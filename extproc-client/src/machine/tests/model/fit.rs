//! Replies: which one fits, and what it says about the exchange.

use super::{
    event::{Answer, CHANGED, Change, REPLACED, Status},
    spec::{Local, Spec},
    way::{Call, Way},
};
use crate::{
    machine::Side::{self, Request},
    types::mode::BodyMode,
};

/// Relation of a reply to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// Either, since the protocol does not say.
    Either,
}

impl Spec {
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
                // As in Envoy, which takes one at any time in full duplex. It does not have drains.
                let any_time = way.mode.body.is_duplex() && !way.drain_announced;
                yes(any_time || way.trailers == Call::Waiting)
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

    /// True if a processor gives this reply that answers only what it got.
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
                true if way.told_all => Fit::No,
                // More was shown after the end was told.
                true if way.end_told => Fit::Either,
                true => Fit::Yes,
                false => Fit::No,
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
                way.done_early |= way.trailers == Call::NotMade;
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
}
