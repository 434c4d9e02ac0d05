//! Time for which a client may keep a connection waiting: between requests, and inside a head.
//!
//! hyper has one timer for both, which begins while the connection is idle; Envoy has two
//! (`idle_timeout`, `request_headers_timeout`), and so have we.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use crate::http::lazy_timer::LazyTimer;

/// Event that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
}

/// The time that a client has for it.
#[derive(Debug)]
pub(crate) struct Waiting {
    idle: Option<Duration>,
    head: Option<Duration>,
    /// The limit of a head is that of the whole request.
    whole: bool,
    /// The awaited event, and its number among those of its kind.
    now: Option<(Phase, u64)>,
    alarm: LazyTimer,
    expired: Option<Phase>,
}

impl Waiting {
    /// `idle_timeout`, `request_headers_timeout` and `request_timeout`; `None` is no limit.
    pub(crate) fn new(
        idle: Option<Duration>,
        head: Option<Duration>,
        request: Option<Duration>,
    ) -> Self {
        let whole = request.is_some_and(|request| head.is_none_or(|head| request < head));
        Self {
            idle,
            head: if whole { request } else { head },
            whole,
            now: None,
            alarm: LazyTimer::default(),
            expired: None,
        }
    }

    /// Event that was awaited too long.
    pub(super) fn expired(&self) -> Option<Phase> {
        self.expired
    }

    /// Tells whether `request_timeout` is the limit of a head.
    pub(super) fn whole(&self) -> bool {
        self.whole
    }

    /// Nothing can be read now, and this is why that matters: a head or its first byte is to come, the
    /// `number`th on this connection. Ready once that has taken too long.
    ///
    /// `quiet_since` is when the last response was written, `None` while one is under way: whoever
    /// waits for a response waits for us.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Option<(Phase, u64)>,
        quiet_since: Option<Instant>,
    ) -> Poll<Phase> {
        if let Some(expired) = self.expired {
            return Poll::Ready(expired);
        }
        let Some((phase, _)) = now else {
            self.now = None;
            return Poll::Pending;
        };
        let limit = match phase {
            Phase::Idle => self.idle,
            Phase::Head => self.head,
        };
        let Some(limit) = limit else {
            self.now = now;
            return Poll::Pending;
        };
        if self.now != now {
            self.now = now;
            self.alarm.set(Instant::now() + limit);
        }
        loop {
            ready!(self.alarm.poll(cx));
            // hyper does not look for the next request again when the response has been written.
            let now = Instant::now();
            let end = match (quiet_since, phase) {
                (None, _) => now + limit,
                (Some(since), Phase::Idle) => since + limit,
                (Some(_), Phase::Head) => now,
            };
            if end <= now {
                self.expired = Some(phase);
                return Poll::Ready(phase);
            }
            self.alarm.set(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn wait(waiting: &mut Waiting, now: (Phase, u64)) -> (Phase, u64) {
        let begun = Instant::now();
        let phase = poll_fn(|cx| waiting.poll(cx, Some(now), Some(begun))).await;
        (phase, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_time() {
        let seconds = |n| Some(Duration::from_secs(n));
        let mut idle = Waiting::new(seconds(60), seconds(10), None);
        assert_eq!(wait(&mut idle, (Phase::Idle, 0)).await, (Phase::Idle, 60));
        let mut head = Waiting::new(seconds(60), seconds(10), None);
        assert_eq!(wait(&mut head, (Phase::Head, 0)).await, (Phase::Head, 10));
        assert_eq!(head.expired(), Some(Phase::Head));
        let mut head = Waiting::new(seconds(60), seconds(10), seconds(3));
        assert_eq!(wait(&mut head, (Phase::Head, 0)).await, (Phase::Head, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_its_own() {
        let limit = Some(Duration::from_secs(10));
        let mut waiting = Waiting::new(None, limit, None);
        for number in 0..5 {
            // No byte that comes gives more time, the next head does.
            for _ in 0..8 {
                let tick = tokio::time::timeout(
                    Duration::from_secs(1),
                    wait(&mut waiting, (Phase::Head, number)),
                );
                assert!(tick.await.is_err());
            }
        }
        assert_eq!(wait(&mut waiting, (Phase::Head, 4)).await.1, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_wait_for() {
        let mut waiting = Waiting::new(Some(Duration::from_secs(1)), None, None);
        let none = poll_fn(|cx| waiting.poll(cx, None, None));
        let long = Duration::from_secs(3600);
        assert!(tokio::time::timeout(long, none).await.is_err());
    }
}
