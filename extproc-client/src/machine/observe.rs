//! Observability mode: the processor gets copies, nothing is held, replies are ignored.

use std::time::Instant;

use bytes::Bytes;

use super::{Callback, Exchange, Side};
use crate::config::BodyMode;

impl Exchange {
    pub(super) fn observe_head(&mut self, side: Side, now: Instant) {
        if self.direction(side).mode.headers {
            let end = self.direction(side).no_body;
            self.send_head(side, end, now);
        } else {
            // As in Envoy, where only a head that is copied keeps it.
            self.remove_length(side);
        }
        self.release_head(side);
    }

    pub(super) fn observe_data(&mut self, side: Side, data: Bytes, end: bool, now: Instant) {
        if self.observes_body(side) {
            self.send_body(side, data.clone(), Self::flags(end), Callback::Idle, now);
        }
        self.pass(side, data, end);
    }

    pub(super) fn observe_trailers(&mut self, side: Side, now: Instant) {
        if self.direction(side).mode.trailers {
            self.send_trailers(side, now);
        }
        self.release(side);
    }

    /// Only STREAMED bodies are copied.
    pub(super) fn observes_body(&self, side: Side) -> bool {
        self.config.observability_mode && self.direction(side).mode.body == BodyMode::Streamed
    }
}
