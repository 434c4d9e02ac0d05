//! Connections of proxies, as the server takes them in.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
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
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::types::BoxError;

/// Silence after which the system probes a proxy's connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes under way at a time. More connections wait in the queue of the system.
const MAX_HANDSHAKES: usize = 1024;

/// How long no connection is accepted after the system refused one, as it does when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// TLS of a server.
#[derive(Clone)]
pub struct TlsConfig {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authority: Option<Vec<u8>>,
}

impl TlsConfig {
    /// The server's certificate, with those between it and its authority, and the private key; both in PEM.
    pub fn new(certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            client_authority: None,
        }
    }

    /// Clients must have a certificate of this authority (PEM).
    #[must_use]
    pub fn client_authority(mut self, certificates: impl Into<Vec<u8>>) -> Self {
        self.client_authority = Some(certificates.into());
        self
    }

    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, BoxError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match &self.client_authority {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(authority)? {
                    roots.add(certificate)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key)?;
        let mut config = builder.with_single_cert(certificates(&self.certificate)?, key)?;
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").finish_non_exhaustive()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err("there is no certificate in it".into());
    }
    Ok(certificates)
}

/// A proxy's connection. Empty DATA frames are hidden of the server's HTTP/2, which would end a connection that has received a
/// hundred of them in its life.
pub(crate) struct Connection(Frames<Io>);

/// What is below HTTP/2.
enum Io {
    Plain(TcpStream),
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

/// Takes in connections. A handshake holds up no other, and an error of one connection, or of the system, does not end it.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
) -> impl Stream<Item = io::Result<Connection>> {
    async_stream::stream! {
        let mut handshakes = JoinSet::new();
        loop {
            let next = tokio::select! {
                accepted = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => Either::Left(accepted),
                Some(done) = handshakes.join_next() => Either::Right(done),
            };
            match (next, &tls) {
                (Either::Left(Ok((tcp, _))), None) => {
                    prepare(&tcp);
                    yield Ok(Connection::new(Io::Plain(tcp)));
                }
                (Either::Left(Ok((tcp, _))), Some(tls)) => {
                    prepare(&tcp);
                    handshakes.spawn(timeout(HANDSHAKE, tls.accept(tcp)));
                }
                (Either::Left(Err(error)), _) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
                (Either::Right(Ok(Ok(Ok(tls)))), _) => {
                    yield Ok(Connection::new(Io::Tls(Box::new(tls))));
                }
                (Either::Right(Ok(Ok(Err(error)))), _) => debug!(%error, "a TLS handshake failed"),
                (Either::Right(Ok(Err(_))), _) => debug!("a TLS handshake takes too long"),
                (Either::Right(Err(error)), _) => warn!(%error, "a TLS handshake was given up"),
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

/// Makes a type a stream: `$stream` has one in each case.
macro_rules! delegate {
    ($type:ty { $($stream:pat => $io:ident),+ }) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $($stream => Pin::new($io).poll_read(cx, buf),)+ }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($stream => Pin::new($io).poll_write(cx, buf),)+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($stream => Pin::new($io).poll_write_vectored(cx, bufs),)+ }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $($stream => $io.is_write_vectored(),)+ }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($stream => Pin::new($io).poll_flush(cx),)+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($stream => Pin::new($io).poll_shutdown(cx),)+ }
            }
        }
    };
}

delegate!(Connection { Self(io) => io });
delegate!(Io { Self::Plain(io) => io, Self::Tls(io) => io });
