//! State that the peers of a scenario share: its clock, and the time of the last event, to tell that an exchange has come to
//! rest.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::clock::Clock;

const STEP: Duration = Duration::from_millis(5);

/// When any peer of a scenario last saw or did something.
#[derive(Debug)]
pub struct Activity {
    /// The time of scripts.
    pub clock: Clock,
    start: Instant,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            clock: Clock::default(),
            start: now,
            last: Mutex::new(now),
        }
    }
}

impl Activity {
    /// Something happened now.
    pub fn touch(&self) {
        if let Ok(mut last) = self.last.lock() {
            *last = Instant::now();
        }
    }

    /// Time since the scenario began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn last(&self) -> Instant {
        self.last.lock().map_or(self.start, |last| *last)
    }

    /// Waits until nothing happened for a while: `short` once `done` says that nothing more can come, `long` before
    /// that, and never longer than `limit` in all.
    pub async fn settle(
        &self,
        short: Duration,
        long: Duration,
        limit: Duration,
        done: impl Fn() -> bool,
    ) {
        let (mut passed, mut quiet) = (Duration::ZERO, Duration::ZERO);
        let mut before = self.last();
        while passed < limit && quiet < if done() { short } else { long } {
            self.clock.sleep(STEP).await;
            passed += STEP;
            quiet += STEP;
            let last = self.last();
            if last != before {
                (before, quiet) = (last, Duration::ZERO);
            }
        }
    }
}
