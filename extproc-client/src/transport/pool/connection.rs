//! One connection: how it is made, and the task that serves it until it ends.

use std::{
    any::Any,
    future::{Future, poll_fn},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{PingPong, client::SendRequest};
use h2_guard::{Frames, Resets, Traffic};
use http::HeaderValue;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Connector, Settings, set::Set, stream::Open};

/// Receive window of a stream. It bounds what one exchange leaves unread. That of the connection is as wide as those of
/// all its streams. They are fixed: an adaptive window begins at 64 KiB and costs pings.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The largest window (RFC 9113 §6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// Streams whose windows fit into that of a connection.
pub(super) const MOST_STREAMS: usize = (LARGEST_WINDOW / STREAM_WINDOW) as usize;

/// Largest frame accepted. A reply with a body chunk, which is one read of a socket, is longer than a frame of the
/// default size; in one frame it need not be put together.
const FRAME: u32 = 128 * 1024;

/// Streams that may be opened before the peer has said how many it allows.
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// State that the streams of a connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    /// Open streams. Grows only under the set's lock.
    pub(super) live: AtomicUsize,
    /// Streams ever opened.
    pub(super) opened: AtomicU32,
    pub(super) forwarded_for: Option<HeaderValue>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) resets: Resets,
    pub(super) traffic: Arc<Traffic>,
    /// Streams whose reset has to wait for queued data go here: the connection's task drops them.
    pub(super) leaving: UnboundedSender<Box<Open>>,
}

/// Makes connections; a [`Connector`] with its type erased.
pub(super) trait Dial: Send + Sync {
    fn dial(
        &self,
        settings: &Settings,
    ) -> Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send + '_>>;
}

/// A connection just made, not yet served.
pub(super) struct Dialed {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) local: Option<IpAddr>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) serving: Option<Box<dyn Any + Send + Sync>>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) served: Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>,
    pub(super) ping: Option<PingPong>,
}

impl<C: Connector> Dial for C {
    fn dial(
        &self,
        settings: &Settings,
    ) -> Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send + '_>> {
        let limit = settings.connect_timeout;
        let streams = u32::try_from(settings.max_streams).unwrap_or(u32::MAX);
        let window = streams.saturating_mul(STREAM_WINDOW).min(LARGEST_WINDOW);
        Box::pin(async move {
            let io = timeout(limit, self.connect())
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
            let local = C::local_addr(&io).map(|address| address.ip());
            let peer = C::peer_addr(&io);
            let serving = C::serving(&io);
            let traffic = Arc::<Traffic>::default();
            let handshake = h2_guard::client()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(window)
                .max_frame_size(FRAME)
                .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
                .handshake(Frames::of_server(io, traffic.clone()));
            let (sender, mut connection) = timeout(limit, handshake)
                .await
                .map_err(|_| io::ErrorKind::TimedOut)?
                .map_err(io::Error::other)?;
            Ok(Dialed {
                sender,
                local,
                peer,
                serving,
                traffic,
                ping: connection.ping_pong(),
                served: Box::pin(connection),
            })
        })
    }
}

/// The value of `x-forwarded-for` for this address.
pub(super) fn forwarded_for(address: IpAddr) -> Option<HeaderValue> {
    HeaderValue::from_str(&address.to_canonical().to_string()).ok()
}

/// Serves a connection until it ends: moves its bytes, and takes it out of the set when it is too
/// old or idle. What the set no longer holds closes by itself after its last stream.
pub(super) async fn serve(
    set: Weak<Set>,
    connection: Arc<Connection>,
    mut served: Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>,
    ping: Option<PingPong>,
    settings: Settings,
    waiting: Arc<AtomicUsize>,
    mut leaving: UnboundedReceiver<Box<Open>>,
) {
    let io = poll_fn(|cx| {
        let result = served.as_mut().poll(cx);
        connection.traffic.turn();
        // Frames were read: the peer may have raised its limit of streams.
        if waiting.load(Ordering::SeqCst) > 0
            && let Some(set) = set.upgrade()
        {
            set.wake_for_room();
        }
        result
    });
    // Polled after `io`, which has written by then what the socket takes. Never ends, as `connection` has a sender.
    let resets = async { while leaving.recv().await.is_some() {} };
    // In a task of its own: its timers would be looked at each time that something is read or written.
    let mut minder = Minder(tokio::spawn({
        let (set, connection) = (set.clone(), connection.clone());
        async move {
            tokio::select! {
                () = keepalive(ping, &settings, &connection) => {}
                () = retire_in_time(&set, &connection, &settings) => {}
            }
        }
    }));
    tokio::select! {
        biased;
        result = io => match result {
            Ok(()) => tracing::debug!(connection = connection.id, "connection closed"),
            Err(error) => {
                tracing::debug!(connection = connection.id, %error, "connection failed");
            }
        },
        _ = &mut minder.0 => {
            tracing::debug!(connection = connection.id, "connection does not answer pings");
        }
        () = resets => {}
    }
    if let Some(set) = set.upgrade() {
        set.remove(connection.id);
    }
}

/// The task that looks after a connection's time limits, as long as the connection is served.
struct Minder(JoinHandle<()>);

impl Drop for Minder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends when the peer is gone.
async fn keepalive(ping: Option<PingPong>, settings: &Settings, connection: &Connection) {
    match &settings.keepalive {
        Some(keepalive) => {
            let streams = || connection.live.load(Ordering::SeqCst) > 0;
            keepalive.watch(ping, &connection.traffic, streams).await;
        }
        None => std::future::pending().await,
    }
}

/// Takes the connection out of the set when its time has come. Never ends.
async fn retire_in_time(set: &Weak<Set>, connection: &Connection, settings: &Settings) {
    let old = async {
        match settings.max_age {
            Some(age) => sleep(jittered(age)).await,
            None => std::future::pending().await,
        }
    };
    let idle = async {
        let Some(period) = settings.idle_timeout else {
            return std::future::pending().await;
        };
        let mut seen = connection.opened.load(Ordering::SeqCst);
        loop {
            sleep(period).await;
            let opened = connection.opened.load(Ordering::SeqCst);
            let Some(set) = set.upgrade() else { return };
            if opened == seen && set.remove_if_idle(connection.id) {
                return;
            }
            seen = opened;
        }
    };
    tokio::select! {
        () = old => if let Some(set) = set.upgrade() {
            set.remove(connection.id);
        },
        () = idle => {}
    }
    std::future::pending().await
}

/// `age` ± 10 %, so that connections made together do not end together.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 2001;
    // The remainder fits: it is at most 2000.
    let factor = u32::try_from(9000 + random).unwrap_or(10_000);
    age.saturating_mul(factor) / 10_000
}
