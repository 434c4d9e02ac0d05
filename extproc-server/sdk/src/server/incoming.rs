//! Connections of proxies, as the server takes them in.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_util::future::Either;
use h2_guard::Frames;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
#[cfg(feature = "tls")]
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Silence after which the system probes a proxy's connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// Time limit of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Number of handshakes under way at a time. More connections wait in the queue of the system.
const MAX_HANDSHAKES: usize = 1024;

/// Time without accepting connections after the system refused one, as it does when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// A proxy's connection. Empty DATA frames are hidden from the server's HTTP/2, which would end a connection that has received a
/// hundred of them in its life.
pub(super) struct Connection(Frames<Io>);

/// Transports below HTTP/2.
enum Io {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn new(io: Io) -> Self {
        Self(Frames::unturned(io))
    }
}

impl Io {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.get_ref().tcp().connect_info()
    }
}

/// Handshake that comes before HTTP/2.
#[derive(Clone)]
pub(super) enum Handshake {
    None,
    #[cfg(feature = "tls")]
    Tls(TlsAcceptor),
}

impl Handshake {
    async fn run(self, tcp: TcpStream) -> io::Result<Io> {
        match self {
            Self::None => Ok(Io::Plain(tcp)),
            #[cfg(feature = "tls")]
            Self::Tls(acceptor) => Ok(Io::Tls(Box::new(acceptor.accept(tcp).await?))),
        }
    }
}

/// Takes in connections. A handshake holds up no other, and an error of one connection, or of the system, does not end it.
pub(super) fn incoming(
    listener: TcpListener,
    handshake: Handshake,
) -> impl Stream<Item = io::Result<Connection>> {
    async_stream::stream! {
        let mut handshakes = JoinSet::new();
        loop {
            let next = tokio::select! {
                accepted = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => Either::Left(accepted),
                Some(done) = handshakes.join_next() => Either::Right(done),
            };
            match next {
                Either::Left(Ok((tcp, _))) => {
                    prepare(&tcp);
                    handshakes.spawn(timeout(HANDSHAKE, handshake.clone().run(tcp)));
                }
                Either::Left(Err(error)) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
                Either::Right(Ok(Ok(Ok(io)))) => yield Ok(Connection::new(io)),
                Either::Right(Ok(Ok(Err(error)))) => debug!(%error, "a TLS handshake failed"),
                Either::Right(Ok(Err(_))) => debug!("a TLS handshake takes too long"),
                Either::Right(Err(error)) => warn!(%error, "a TLS handshake was given up"),
            }
        }
    }
}

/// Sets the options of a new connection. One that is gone already says so when it is read.
fn prepare(tcp: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
    let set = tcp
        .set_nodelay(true)
        .and_then(|()| SockRef::from(tcp).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        debug!(%error, "cannot set the options of a connection");
    }
}

/// Implements the traits of a stream for a type that has one, `$io`, in each case.
macro_rules! delegate {
    ($type:ty { $($(#[$when:meta])* $stream:pat => $io:ident),+ }) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $($(#[$when])* $stream => Pin::new($io).poll_read(cx, buf),)+ }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($(#[$when])* $stream => Pin::new($io).poll_write(cx, buf),)+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($(#[$when])* $stream => Pin::new($io).poll_write_vectored(cx, bufs),)+ }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $($(#[$when])* $stream => $io.is_write_vectored(),)+ }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($(#[$when])* $stream => Pin::new($io).poll_flush(cx),)+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($(#[$when])* $stream => Pin::new($io).poll_shutdown(cx),)+ }
            }
        }
    };
}

delegate!(Connection { Self(io) => io });
delegate!(Io {
    Self::Plain(io) => io,
    #[cfg(feature = "tls")]
    Self::Tls(io) => io
});
