//! Pings that tell whether the peer is still there.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep, timeout};

use crate::Traffic;

/// Time without a byte after a ping from which on the peer is doubted.
const DOUBT: Duration = Duration::from_secs(1);

/// Shortest time between two pings without a message between them. gRPC servers end a connection that pings more
/// often (gRPC proposal A8).
const REST: Duration = Duration::from_secs(300);

/// When a connection is pinged, and how long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Pings at fixed intervals.
    pub interval: Option<Interval>,
    /// Pings when a stream is open and nothing was read for this time; noticed within twice the time. Not again within
    /// five minutes unless a message came meanwhile.
    pub silence: Option<Duration>,
    /// Longest time without a byte of the peer after a ping.
    pub timeout: Duration,
}

/// Pings at fixed intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Time from one to the next.
    pub period: Duration,
    /// Longest random time that is added to it.
    pub jitter: Duration,
    /// Also while no stream is open.
    pub when_idle: bool,
}

impl Default for Keepalive {
    /// A ping after 10 s of silence, with 20 s for the answer.
    fn default() -> Self {
        Self {
            interval: None,
            silence: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(20),
        }
    }
}

impl Keepalive {
    /// Watches a connection and ends when its peer is gone. `streams` says whether any are open.
    pub async fn watch(
        &self,
        ping: Option<PingPong>,
        traffic: &Traffic,
        streams: impl Fn() -> bool,
    ) {
        let Some(mut ping) = ping else {
            return std::future::pending().await;
        };
        let mut heard = traffic.heard();
        let mut pinged: Option<(Instant, u64)> = None;
        loop {
            let due = match (&self.interval, self.silence) {
                (Some(interval), _) => {
                    sleep(interval.next()).await;
                    interval.when_idle || streams()
                }
                (None, Some(silence)) => {
                    sleep(silence).await;
                    let before = std::mem::replace(&mut heard, traffic.heard());
                    let rests = pinged.is_some_and(|(at, messages)| {
                        messages == traffic.messages() && at.elapsed() < REST
                    });
                    before == heard && streams() && !rests
                }
                (None, None) => return std::future::pending().await,
            };
            if due {
                pinged = Some((Instant::now(), traffic.messages()));
                if !self.is_answered(&mut ping, traffic).await {
                    return;
                }
                heard = traffic.heard();
            }
        }
    }

    /// Pings. Any byte is as good as an answer, which may have to wait behind others.
    async fn is_answered(&self, ping: &mut PingPong, traffic: &Traffic) -> bool {
        let mut answer = std::pin::pin!(ping.ping(Ping::opaque()));
        let mut heard = traffic.heard();
        let mut last = Instant::now();
        loop {
            let left = (last + self.timeout).saturating_duration_since(Instant::now());
            if let Ok(answer) = timeout(left.min(DOUBT), answer.as_mut()).await {
                return answer.is_ok();
            }
            if std::mem::replace(&mut heard, traffic.heard()) != heard {
                last = Instant::now();
            } else if last.elapsed() >= self.timeout {
                return false;
            } else {
                traffic.doubt();
            }
        }
    }
}

impl Interval {
    fn next(&self) -> Duration {
        // The remainder fits: it is at most 1000.
        let random = RandomState::new().build_hasher().finish() % 1001;
        let part = u32::try_from(random).unwrap_or(1000);
        self.period
            .saturating_add(self.jitter.saturating_mul(part) / 1000)
    }
}
