//! The message timeout of one direction.

use std::time::{Duration, Instant};

/// Time until a reply has to be here.
#[derive(Clone, Copy, Debug, Default)]
enum Due {
    #[default]
    Never,
    At(Instant),
    /// The processor asked for another timeout, which it may do once per call.
    Overridden(Instant),
}

/// Timer of the calls of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    due: Due,
    /// Time of the oldest message that is not answered.
    sent: Option<Instant>,
}

impl Timer {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.due {
            Due::Never => None,
            Due::At(deadline) | Due::Overridden(deadline) => Some(deadline),
        }
    }

    /// A message goes out. Without a timeout what runs goes on running.
    pub(super) fn start(&mut self, now: Instant, timeout: Option<Duration>) {
        self.sent.get_or_insert(now);
        let deadline = timeout
            .map(|timeout| now + timeout)
            .or_else(|| self.deadline());
        self.due = deadline.map_or(Due::Never, Due::At);
    }

    /// A reply was accepted. Returns when the call began.
    pub(super) fn finish(&mut self) -> Option<Instant> {
        self.stop();
        self.sent.take()
    }

    pub(super) fn began(&self) -> Option<Instant> {
        self.sent
    }

    pub(super) fn stop(&mut self) {
        self.due = Due::Never;
    }

    /// Restarts a running timer with another timeout, once per call.
    pub(super) fn extend(&mut self, now: Instant, timeout: Duration) -> bool {
        match self.due {
            Due::At(_) => {
                self.due = Due::Overridden(now + timeout);
                true
            }
            Due::Never | Due::Overridden(_) => false,
        }
    }
}
