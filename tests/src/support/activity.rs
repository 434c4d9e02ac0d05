//! A shared note of when something last happened, to tell that an exchange has come to rest.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// When any peer of a scenario last saw or did something.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        let now = Instant::now();
        Self {
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

    /// Waits until nothing happened for a while: `short` once `done` says that nothing more can come, `long` before
    /// that, and never longer than `limit` in all.
    pub async fn settle(
        &self,
        short: Duration,
        long: Duration,
        limit: Duration,
        done: impl Fn() -> bool,
    ) {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            let quiet = self.last.lock().map_or(long, |last| last.elapsed());
            if quiet >= if done() { short } else { long } {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
