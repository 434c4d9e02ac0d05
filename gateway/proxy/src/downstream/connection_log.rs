//! Lines of connections in the logs of their listener (`Listener.access_log`).

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Instant, SystemTime},
};

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Context as Connection,
    chains::{Chain, ListenerShared},
    open::ClientStream,
};
use crate::{
    config::snapshot::flag,
    exchange::{
        facts::{Peer, TlsFacts},
        operators::Scope,
        record::Reply,
    },
    http::io::forward_io,
    telemetry::access_log::{Logger, log},
};

/// The line of a connection, which is written when this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionLog {
    logs: Arc<[Arc<Logger>]>,
    time: SystemTime,
    start: Instant,
    peer: Arc<Peer>,
    /// The filter chain that took the connection; `None` before.
    chain: Option<Arc<ListenerShared>>,
    /// No filter chain takes it.
    not_found: bool,
    traffic: Arc<Traffic>,
}

/// Facts that a connection leaves while it is served.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
    version: OnceLock<Version>,
    protocol_error: AtomicBool,
}

impl Traffic {
    /// Notes the protocol of the connection's first request.
    pub(super) fn speaks(&self, version: Version) {
        // The first one counts.
        let _ = self.version.set(version);
    }

    /// Notes that the client broke the protocol.
    pub(super) fn broke_protocol(&self) {
        self.protocol_error.store(true, Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl ConnectionLog {
    /// A connection that begins; `None` if its listener has no logs.
    pub(super) fn new(
        logs: &Arc<[Arc<Logger>]>,
        remote: SocketAddr,
        (local, redirected): (SocketAddr, bool),
    ) -> Option<Self> {
        (!logs.is_empty()).then(|| Self {
            logs: logs.clone(),
            time: SystemTime::now(),
            start: Instant::now(),
            peer: Arc::new(Peer {
                id: 0,
                remote,
                local,
                redirected,
                tls: None,
            }),
            chain: None,
            not_found: false,
            traffic: Arc::default(),
        })
    }

    /// Notes that no filter chain takes the connection.
    pub(super) fn not_found(&mut self) {
        self.not_found = true;
    }

    /// Notes the filter chain that completes the TLS handshake, and the server name that the client asks for.
    pub(super) fn shakes_hands(&mut self, chain: &Chain, server_name: &str) {
        self.chain = Some(chain.slot.load().shared.clone());
        let peer = &self.peer;
        self.peer = Arc::new(Peer {
            tls: Some(TlsFacts {
                server_name: server_name.to_owned(),
                ..TlsFacts::default()
            }),
            ..**peer
        });
    }

    /// Notes the filter chain that serves the connection, and counts what passes on `stream` from now on.
    pub(super) fn served(&mut self, stream: ClientStream, context: &Connection) -> ClientStream {
        self.chain = Some(context.chain.shared.clone());
        self.peer = context.peer.clone();
        ClientStream::Counted(Box::new(Counted {
            stream,
            traffic: self.traffic.clone(),
        }))
    }

    /// Facts of the connection that only its codec learns.
    pub(super) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }
}

impl Drop for ConnectionLog {
    fn drop(&mut self) {
        let traffic = &self.traffic;
        let chain = self.chain.as_ref();
        let mut reply = Reply::default();
        if self.not_found {
            reply.flags = flag::NO_ROUTE_FOUND;
            reply.details = Some("filter_chain_not_found".into());
        } else if traffic.protocol_error.load(Ordering::Relaxed) {
            reply.flags = flag::DOWNSTREAM_PROTOCOL_ERROR;
        }
        let scope = Scope {
            exchange: None,
            peer: &self.peer,
            client: self.peer.remote,
            version: traffic.version.get().copied(),
            time: self.time,
            start: self.start,
            filter_chain: Some(chain.map_or("", |chain| &chain.filter_chain)),
            received: traffic.read.load(Ordering::Relaxed),
            sent: traffic.written.load(Ordering::Relaxed),
            head: None,
            reply: &reply,
        };
        log(&self.logs, &scope, chain.map(|chain| &*chain.stats));
    }
}

/// A client's stream that counts what passes, within TLS.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: ClientStream,
    traffic: Arc<Traffic>,
}

impl Counted {
    pub(super) fn stream(&self) -> &ClientStream {
        &self.stream
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().len().saturating_sub(before);
        self.traffic.read.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.traffic.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.traffic.wrote(written);
        Poll::Ready(Ok(written))
    }

    forward_io!(stream: is_write_vectored, poll_flush, poll_shutdown);
}
