//! Warnings about something that happens again and again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(5);

/// Lets the first warning pass, and then one per interval.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// A throttle that has not seen anything yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State {
            last: None,
            suppressed: 0,
        }))
    }

    /// The number of warnings that were suppressed since the last one that passed, if there were any; `None` if this one is
    /// to be suppressed.
    pub(crate) fn pass(&self) -> Option<Option<u64>> {
        // Only assignments run under the lock.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = |last: Instant| now.duration_since(last) >= INTERVAL;
        if !state.last.is_none_or(due) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        let suppressed = std::mem::take(&mut state.suppressed);
        Some((suppressed > 0).then_some(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_suppressed_is_counted() {
        let throttle = Throttle::new();
        assert_eq!(throttle.pass(), Some(None));
        assert_eq!(throttle.pass(), None);
        assert_eq!(throttle.pass(), None);
        throttle.0.lock().unwrap().last = Instant::now().checked_sub(INTERVAL);
        assert_eq!(throttle.pass(), Some(Some(2)));
        assert_eq!(throttle.pass(), None);
    }
}
