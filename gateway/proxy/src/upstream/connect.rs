//! Opens connections to endpoints: TCP, Unix sockets, TLS on top of either.

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::{CertificateError, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    member::ConnectionPlace,
    queue::{Counted, Queue},
};
use crate::{
    config::snapshot::{Reach, TcpKeepalive},
    http::{h2::cork::MaybeTcp, io::delegate_io},
};

/// Address of an endpoint, its name resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Socket(SocketAddr),
    Pipe(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

/// TLS towards a cluster.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) connector: TlsConnector,
    /// `None` takes the endpoint's name.
    pub(crate) name: Option<ServerName<'static>>,
    /// The endpoint's name comes before `name`.
    pub(crate) endpoint_name: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// An open connection.
pub(crate) struct Connected {
    pub(crate) io: Stream,
    /// TLS negotiated HTTP/2.
    pub(crate) http2: bool,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To<'a> {
    pub(crate) address: &'a Address,
    /// Addresses that it may have.
    pub(crate) reach: Reach,
    /// Host name, for TLS.
    pub(crate) name: &'a str,
    pub(crate) keepalive: Option<TcpKeepalive>,
}

/// Opens a connection within `limit`, which keeps its place as long as it lives.
///
/// # Errors
/// The kind is `TimedOut` if the time was too short, `InvalidData` if TLS failed, `PermissionDenied` if the address is one
/// that may not be reached.
pub(crate) async fn connect(
    to: To<'_>,
    tls: Option<&Tls>,
    limit: Duration,
    place: ConnectionPlace,
) -> io::Result<Connected> {
    match timeout(limit, open(to, tls)).await {
        Ok(Ok((io, http2))) => {
            let io = Stream(io, place);
            Ok(Connected { io, http2 })
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "connection timeout",
        )),
    }
}

/// The connection, and whether TLS negotiated HTTP/2.
async fn open(to: To<'_>, tls: Option<&Tls>) -> io::Result<(MaybeTls, bool)> {
    let To {
        address,
        reach,
        name,
        keepalive,
    } = to;
    let plain = match address {
        Address::Socket(address) => {
            permit(reach.refuses(address.ip()))?;
            let stream = TcpStream::connect(address).await?;
            permit(reach.refuses_connection(stream.local_addr()?, *address))?;
            stream.set_nodelay(true)?;
            if let Some(keepalive) = keepalive {
                keep_alive(&stream, keepalive)?;
            }
            Plain::Tcp(stream)
        }
        Address::Pipe(path) => Plain::Unix(UnixStream::connect(path).await?),
    };
    let Some(tls) = tls else {
        return Ok((MaybeTls::Plain(plain), false));
    };
    let name = tls.server_name(address, name)?;
    let stream = tls
        .connector
        .connect(name, plain)
        .await
        .map_err(|error| in_words(&error))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((MaybeTls::Tls(Box::new(stream)), http2))
}

/// A failed handshake in words that name what has to be changed.
fn in_words(error: &io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let text = match inner {
        Some(rustls::Error::InvalidMessage(_)) => format!("the server does not speak TLS: {error}"),
        Some(rustls::Error::InvalidCertificate(refused)) => match refused {
            CertificateError::UnknownIssuer => {
                format!("the server's certificate is not signed by trusted_ca: {error}")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the server's certificate is for another name: {error}")
            }
            _ => format!("the server's certificate is refused: {error}"),
        },
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the server ends the TLS handshake with the alert {alert:?}: {error}")
        }
        Some(_) => error.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!(
                "the server closes the connection in the TLS handshake, as one that does not speak TLS may: {error}"
            )
        }
        None => format!("in the TLS handshake: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// Has the system probe an idle connection.
fn keep_alive(stream: &TcpStream, keepalive: TcpKeepalive) -> io::Result<()> {
    let mut options = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        options = options.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        options = options.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        options = options.with_retries(probes);
    }
    SockRef::from(stream).set_tcp_keepalive(&options)
}

fn permit(refused: Option<&str>) -> io::Result<()> {
    match refused {
        None => Ok(()),
        Some(kind) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("not permitted: {kind}"),
        )),
    }
}

impl Tls {
    /// The name to ask for and to verify, of an endpoint with this host name.
    fn server_name(&self, address: &Address, hostname: &str) -> io::Result<ServerName<'static>> {
        let own = match &self.name {
            Some(name) if hostname.is_empty() || !self.endpoint_name => return Ok(name.clone()),
            _ => hostname,
        };
        let name = match (own, address) {
            ("", Address::Socket(address)) => return Ok(ServerName::from(address.ip())),
            // A socket of this machine has no name of its own.
            ("", Address::Pipe(_)) => "localhost",
            (name, _) => name,
        };
        ServerName::try_from(name.to_owned()).map_err(|_| {
            let text = format!("{name:?} is no server name");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }
}

/// A TCP or Unix connection.
#[derive(Debug)]
pub(crate) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// With TLS on top, or without.
#[derive(Debug)]
enum MaybeTls {
    Plain(Plain),
    Tls(Box<TlsStream<Plain>>),
}

/// A connection to an endpoint, and its place among those that may be open.
#[derive(Debug)]
pub(crate) struct Stream(MaybeTls, ConnectionPlace);

impl MaybeTcp for Stream {
    fn tcp(&self) -> Option<&TcpStream> {
        match &self.0 {
            MaybeTls::Plain(Plain::Tcp(stream)) => Some(stream),
            _ => None,
        }
    }
}

impl Stream {
    /// Its part in the number of its endpoint's connections.
    pub(crate) fn counted(&self) -> Counted {
        self.1.counted()
    }

    /// Counts it among the connections of another queue from now on.
    pub(super) fn count_among(&mut self, queue: &Arc<Queue>) {
        self.1.count_among(queue);
    }

    /// Our address, with TCP.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    /// Address of the other end, with TCP.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.tcp()?.peer_addr().ok()
    }

    fn tcp(&self) -> Option<&TcpStream> {
        let plain = match &self.0 {
            MaybeTls::Plain(plain) => plain,
            MaybeTls::Tls(stream) => stream.get_ref().0,
        };
        match plain {
            Plain::Tcp(stream) => Some(stream),
            Plain::Unix(_) => None,
        }
    }
}

delegate_io!(Plain { Self::Tcp, Self::Unix });
delegate_io!(MaybeTls { Self::Plain, Self::Tls });
delegate_io!(Stream { Self });

/// A client configuration's connector.
pub(crate) fn connector(config: rustls::ClientConfig) -> TlsConnector {
    TlsConnector::from(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_name_a_server_is_asked_for() {
        let tcp = Address::Socket("127.0.0.1:1".parse().unwrap());
        let unix = Address::Pipe("/socket".into());
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
        let mut tls = Tls {
            connector: connector(config),
            name: None,
            endpoint_name: false,
        };
        for (configured, endpoint_name, address, hostname, expected) in [
            (None, false, &tcp, "", Some("127.0.0.1")),
            (None, false, &tcp, "host", Some("host")),
            (None, false, &unix, "", Some("localhost")),
            (None, true, &tcp, "*.host", None),
            (Some("sni"), false, &tcp, "host", Some("sni")),
            (Some("sni"), true, &tcp, "host", Some("host")),
            (Some("sni"), true, &tcp, "", Some("sni")),
        ] {
            tls.name = configured.map(|name| ServerName::try_from(name).unwrap());
            tls.endpoint_name = endpoint_name;
            let name = tls.server_name(address, hostname).ok();
            let expected = expected.map(|name| ServerName::try_from(name).unwrap());
            assert_eq!(name, expected, "{configured:?} {address} {hostname:?}");
        }
    }
}
