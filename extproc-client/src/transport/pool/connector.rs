//! Sources of a pool's byte streams.
//!
//! A [`Connector`] is the seam for a host's own TCP, TLS and load balancing; [`TcpConnector`] and
//! [`UnixConnector`] serve without one.

use std::{any::Any, future::Future, io, net::SocketAddr, path::PathBuf, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// Opens byte streams to one set of endpoints.
///
/// Called once per connection, never twice at a time for one pool; each call may choose another
/// endpoint. The pool bounds its time. An error of kind `TimedOut` is reported as a connection
/// timeout; an error that wraps a [`Close`](super::Close) is reported as that.
pub trait Connector: Send + Sync + 'static {
    /// The byte stream.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Connects; with TLS, the handshake is done and `h2` agreed on.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// A value that is dropped when the connection is given no further calls; it lives on for those that it has.
    fn serving(_io: &Self::Io) -> Option<Box<dyn Any + Send + Sync>> {
        None
    }

    /// The address of the processor at the other end of a connection, if it has one.
    fn peer_addr(_io: &Self::Io) -> Option<SocketAddr> {
        None
    }

    /// The own address of a connection, if it has one.
    fn local_addr(_io: &Self::Io) -> Option<SocketAddr> {
        None
    }
}

/// Time without a byte before the system probes a connection, between probes, and probes without an answer before it
/// ends: an idle connection whose path is gone ends after two minutes.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

/// Connects over TCP, without delay for small packets (`TCP_NODELAY`) and with probes of idle connections (`SO_KEEPALIVE`).
#[derive(Clone, Debug)]
pub struct TcpConnector {
    address: String,
}

impl TcpConnector {
    /// Connects to `host:port`. The name is resolved for each connection; its addresses are tried
    /// in turn.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
        }
    }
}

impl Connector for TcpConnector {
    type Io = TcpStream;

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address.as_str()).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_INTERVAL)
            .with_retries(PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }

    fn peer_addr(io: &TcpStream) -> Option<SocketAddr> {
        io.peer_addr().ok()
    }

    fn local_addr(io: &TcpStream) -> Option<SocketAddr> {
        io.local_addr().ok()
    }
}

/// Connects to a Unix domain socket.
#[derive(Clone, Debug)]
pub struct UnixConnector {
    path: PathBuf,
}

impl UnixConnector {
    /// Connects to the socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Connector for UnixConnector {
    type Io = UnixStream;

    async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path).await
    }
}
