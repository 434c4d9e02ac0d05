//! A client's connection: which protocol it speaks, and serving it.

pub(crate) mod chains;
mod connection_log;
mod course;
pub(crate) mod drain;
mod egress;
mod forwarded;
pub(crate) mod guard;
mod heads;
mod http1;
mod http2;
mod ingress;
mod normalize;
mod open;
mod proxy_status;
mod readings;
mod sampling;
mod target;
mod timers;
pub(crate) mod tls;

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::Version;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout_at},
};

pub(crate) use self::open::open;
use self::{connection_log::Traffic, open::ClientStream};
use crate::{
    config::snapshot::{Codec, HttpManager},
    downstream::{
        chains::{Chain, ChainRuntime, ListenerShared, Slot},
        drain::Drain,
    },
    exchange::facts::{Peer, TlsFacts},
    limits::overload::Admitted,
    telemetry::stats::{Held, HttpStats},
};

/// Surroundings of a connection.
#[derive(Clone)]
struct Context {
    /// Filter chain that serves: a connection has the one that held when it began, an exchange likewise.
    pub(crate) chain: Arc<ChainRuntime>,
    slot: Slot,
    pub(crate) drain: Drain,
    pub(crate) peer: Arc<Peer>,
    /// For the line of the connection, if there is to be one.
    traffic: Option<Arc<Traffic>>,
    _active: Arc<(Lasting, Held<HttpStats>, Admitted)>,
}

/// Records how long a connection was there.
struct Lasting(Arc<ListenerShared>, Instant);

impl Drop for Lasting {
    fn drop(&mut self) {
        let stats = &self.0.stats;
        stats.downstream_cx_length_ms.record(self.1.elapsed(), None);
    }
}

impl Context {
    fn new(
        chain: Chain,
        remote: SocketAddr,
        (local, redirected): (SocketAddr, bool),
        tls: Option<TlsFacts>,
        admitted: Admitted,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Chain { slot, drainer, .. } = chain;
        let drain = drainer.drain();
        let chain = slot.load_full();
        let stats = &chain.shared.stats;
        stats.downstream_cx_total.add();
        Self {
            peer: Arc::new(Peer {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                remote,
                local,
                redirected,
                tls,
            }),
            _active: Arc::new((
                Lasting(chain.shared.clone(), Instant::now()),
                Held::new(stats, |stats| &stats.downstream_cx_active),
                admitted,
            )),
            traffic: None,
            chain,
            slot,
            drain,
        }
    }

    /// For an exchange that begins now: with the configuration that holds now.
    fn now(&self) -> Self {
        Self {
            chain: self.slot.load_full(),
            slot: self.slot.clone(),
            drain: self.drain.clone(),
            peer: self.peer.clone(),
            traffic: self.traffic.clone(),
            _active: self._active.clone(),
        }
    }

    pub(crate) fn http(&self) -> &Arc<HttpManager> {
        &self.chain.http
    }

    fn stats(&self) -> &HttpStats {
        &self.chain.shared.stats
    }

    /// Notes that the client broke the protocol of its connection.
    fn protocol_error(&self) {
        self.stats().downstream_cx_protocol_error.add();
        if let Some(traffic) = &self.traffic {
            traffic.broke_protocol();
        }
    }

    /// Notes the protocol of the connection.
    fn speaks(&self, version: Version) {
        if let Some(traffic) = &self.traffic {
            traffic.speaks(version);
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end.
async fn serve(mut stream: ClientStream, context: Context) {
    let first = match context.http().codec {
        Codec::Http1 => Ok((false, Bytes::new())),
        Codec::Http2 => Ok((true, Bytes::new())),
        Codec::Auto => detect(&mut stream, &context).await,
    };
    match first {
        Ok((true, read)) => {
            context.stats().downstream_cx_http2_total.add();
            context.speaks(Version::HTTP_2);
            http2::serve(stream, read, context).await;
        }
        Ok((false, read)) => {
            context.stats().downstream_cx_http1_total.add();
            http1::serve(stream, read, context).await;
        }
        Err(error) => {
            tracing::debug!(peer = %context.peer.remote, %error, "connection ended before a request");
        }
    }
}

/// Ends when the connection may take no more requests: it is old, or the gateway goes down.
///
/// A client that sends its next request while we close an idle connection would lose it. So there is
/// time for one more request on each connection, which is then told to be the last.
async fn closing(context: &Context) {
    const LAST_REQUEST: Duration = Duration::from_secs(1);
    let timeouts = &context.http().timeouts;
    let mut drain = context.drain.clone();
    let age = async {
        match timeouts.max_connection_duration {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = drain.signaled() => {
            tokio::time::sleep(LAST_REQUEST.min(timeouts.drain / 2)).await;
        }
        () = age => context.stats().downstream_cx_max_duration_reached.add(),
    }
}

/// Tells whether the connection begins with the preface of HTTP/2, and returns the bytes that were read to know it.
async fn detect(stream: &mut ClientStream, context: &Context) -> io::Result<(bool, Bytes)> {
    let timeouts = &context.http().timeouts;
    const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let mut deadline = Instant::now() + timeouts.connection_idle.unwrap_or(FAR);
    let mut closing = pin!(closing(context));
    let mut read = BytesMut::with_capacity(16 * 1024);
    loop {
        let n = tokio::select! {
            n = timeout_at(deadline, stream.read_buf(&mut read)) => match n {
                Ok(n) => n?,
                Err(_) => {
                    context.stats().downstream_cx_idle_timeout.add();
                    return Err(io::ErrorKind::TimedOut.into());
                }
            },
            () = &mut closing => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        // The preface is part of no request, but is to be as quick as a head.
        deadline = deadline.min(Instant::now() + timeouts.request_headers.unwrap_or(FAR));
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let known = read.len().min(PREFACE.len());
        if read.get(..known) != PREFACE.get(..known) {
            return Ok((false, read.freeze()));
        }
        if read.len() >= PREFACE.len() {
            return Ok((true, read.freeze()));
        }
    }
}
