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

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin, sync::Arc};

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::{Frames, traffic::Tally};

    const PING: u8 = 6;

    /// A connection of which the other end is in the hands of the test.
    async fn connect() -> (PingPong, Arc<Traffic>, DuplexStream) {
        let (near, mut far) = duplex(1 << 20);
        let traffic = Arc::<Traffic>::default();
        let frames = Frames::of_server(near, traffic.clone());
        let (sender, mut connection) = crate::client().handshake::<_, Bytes>(frames).await.unwrap();
        let ping = connection.ping_pong().unwrap();
        tokio::spawn(async move {
            let _sender = sender;
            let _ = poll_fn(|cx| Pin::new(&mut connection).poll(cx)).await;
        });
        far.read_exact(&mut [0; 24]).await.unwrap();
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        (ping, traffic, far)
    }

    /// Answers pings, and counts them.
    async fn answer(mut far: DuplexStream, pings: Arc<std::sync::atomic::AtomicUsize>) {
        let mut head = [0; 9];
        while far.read_exact(&mut head).await.is_ok() {
            let length = (usize::from(head[1]) << 8) | usize::from(head[2]);
            let mut payload = vec![0; length];
            far.read_exact(&mut payload).await.unwrap();
            if head[3] == PING {
                pings.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                head[4] = 1;
                far.write_all(&head).await.unwrap();
                far.write_all(&payload).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_doubted_and_given_up() {
        let (ping, traffic, _far) = connect().await;
        let begun = Instant::now();
        let keepalive = Keepalive::default();
        let watch = keepalive.watch(Some(ping), &traffic, || true);
        let doubted = async {
            while !traffic.is_doubted() {
                sleep(Duration::from_millis(100)).await;
            }
            begun.elapsed()
        };
        let ((), doubted) = tokio::join!(watch, doubted);
        assert!(doubted < Duration::from_secs(25), "{doubted:?}");
        assert!(
            begun.elapsed() <= Duration::from_secs(45),
            "{:?}",
            begun.elapsed()
        );
    }

    /// A gRPC server counts pings without messages between them.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_is_not_pinged_again_soon() {
        let (ping, traffic, far) = connect().await;
        let pings = Arc::default();
        tokio::spawn(answer(far, Arc::clone(&pings)));
        let counted = || pings.load(std::sync::atomic::Ordering::SeqCst);
        let keepalive = Keepalive::default();
        let watch = keepalive.watch(Some(ping), &traffic, || true);
        let test = async {
            sleep(Duration::from_secs(250)).await;
            assert_eq!(counted(), 1);
            traffic.add(&Tally {
                messages: 1,
                ..Tally::default()
            });
            sleep(Duration::from_secs(30)).await;
            assert_eq!(counted(), 2);
            sleep(Duration::from_secs(310)).await;
            assert_eq!(counted(), 3);
        };
        tokio::select! {
            () = watch => panic!("the peer is there"),
            () = test => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_pings_without_streams_but_at_intervals() {
        let second = Duration::from_secs(1);
        let interval = Some(Interval {
            period: second,
            jitter: Duration::ZERO,
            when_idle: true,
        });
        for (keepalive, expected) in [
            (Keepalive::default(), 0),
            (
                Keepalive {
                    interval,
                    ..Keepalive::default()
                },
                99,
            ),
        ] {
            let (ping, traffic, far) = connect().await;
            let pings = Arc::default();
            tokio::spawn(answer(far, Arc::clone(&pings)));
            let watch = keepalive.watch(Some(ping), &traffic, || false);
            assert!(timeout(second * 100, watch).await.is_err());
            let counted = pings.load(std::sync::atomic::Ordering::SeqCst);
            assert!(counted >= expected && counted <= expected + 1, "{counted}");
        }
    }
}
