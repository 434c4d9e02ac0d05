//! Observability mode: the processor gets copies, nothing is held, replies are ignored.
//!
//! Copies never hold traffic up. They wait for the side stream up to the buffer limit; a body of which a piece does not fit is
//! copied no further, so that what a processor has of a body is its beginning, and `end_of_stream` says that it is all of it.

use std::time::Instant;

use bytes::Bytes;

use super::{Callback, Exchange, Side, body, progress::Came};
use crate::{observer::Event, types::pieces::Pieces};

/// Copies that may wait for the side stream, however small.
const COPIES: usize = 1024;

impl Exchange {
    pub(super) fn observe_head(&mut self, side: Side, now: Instant) {
        if self.direction(side).mode.headers {
            let end = self.direction(side).came == Came::HeadAlone;
            self.send_head(side, end, now);
        } else {
            // As in Envoy, where only a head that is copied keeps it.
            self.remove_length(side);
        }
        self.release_head(side);
    }

    pub(super) fn observe_data(&mut self, side: Side, data: Bytes, end: bool, now: Instant) {
        if self.observes_body(side) {
            match self.copy_fits(side, data.len()) {
                true => {
                    let mut copy = Pieces::from(data.clone());
                    // What waits is not to keep alive what it was read with.
                    if !self.outbound.is_empty() {
                        copy.compact();
                    }
                    self.send_body(side, copy, Self::flags(end), Callback::Idle, now);
                }
                false => self.cut_copy(side),
            }
        }
        self.pass(side, data, end);
    }

    pub(super) fn observe_trailers(&mut self, side: Side, now: Instant) {
        if self.direction(side).mode.trailers {
            self.send_trailers(side, now);
        }
        self.release(side);
    }

    fn copy_fits(&self, side: Side, bytes: usize) -> bool {
        self.outbound.len() < COPIES
            && self.copied + bytes <= self.direction(side).buffer_limit.max(bytes)
    }

    /// The rest of that body passes by.
    fn cut_copy(&mut self, side: Side) {
        let phase = side.body();
        self.direction_mut(side).mode.show_no_more();
        self.event(&Event::CopyCut { phase });
    }

    /// Tells whether the body is copied to the processor.
    pub(super) fn observes_body(&self, side: Side) -> bool {
        self.config.observability_mode && body::of(self.direction(side).mode.body).is_copied()
    }
}
