//! From an accepted socket to a connection of a filter chain: which chain takes it, and its TLS
//! handshake.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    Context,
    connection_log::{ConnectionLog, Counted},
    guard::{Guarded, StallLimit},
    serve,
};
use crate::{
    config::snapshot::TransportProtocol,
    downstream::chains::{Chain, Chains, Hello},
    exchange::facts::TlsFacts,
    http::{h2::cork::MaybeTcp, io::delegate_io},
    limits::overload::Admitted,
};

/// First byte of a TLS handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// `listener_filters_timeout`: the longest wait for what a chain is chosen by.
const HELLO: Duration = Duration::from_secs(15);

/// A client's connection.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Guarded<TcpStream>>>),
    /// For the line of the connection in a log.
    Counted(Box<Counted>),
}

impl MaybeTcp for ClientStream {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) | Self::Counted(_) => None,
        }
    }
}

delegate_io!(ClientStream { Self::Plain, Self::Tls, Self::Counted });

impl ClientStream {
    /// The limit for what it writes from now on: below TLS too, which keeps bytes that were written, and waits for
    /// the socket when it is flushed or shut down.
    pub(super) fn stall_limit(&self, limit: Option<Duration>) -> Arc<StallLimit> {
        match self {
            Self::Plain(_) => StallLimit::new(limit),
            Self::Tls(stream) => {
                let stall = stream.get_ref().0.stall().clone();
                stall.set(limit);
                stall
            }
            Self::Counted(counted) => counted.stream().stall_limit(limit),
        }
    }

    /// Closing is a reset from now on, and throws away what was not read.
    pub(super) fn resets(&self) {
        let socket = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
            Self::Counted(counted) => return counted.stream().resets(),
        };
        if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "cannot reset a connection");
        }
    }
}

/// Serves an accepted connection to its end, or to that of the chain that takes it.
pub(crate) async fn open(
    stream: TcpStream,
    remote: SocketAddr,
    chains: Arc<Chains>,
    admitted: Admitted,
) {
    let remote = canonical(remote);
    let local = stream
        .local_addr()
        .map_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into(), canonical);
    let original = chains.original_dst.then(|| original(&stream, local));
    let original = original.flatten();
    let to = (original.unwrap_or(local), original.is_some());
    let mut log = ConnectionLog::new(&chains.logs, remote, to);
    let (stream, chain, tls) = match choose(stream, to.0.port(), &chains, &mut log).await {
        Ok(Some(chosen)) => chosen,
        Ok(None) => {
            tracing::debug!(peer = %remote, listener = %chains.listener, "no filter chain matches");
            if let Some(log) = &mut log {
                log.not_found();
            }
            return;
        }
        Err(error) => {
            tracing::debug!(peer = %remote, listener = %chains.listener, %error, "TLS handshake failed");
            return;
        }
    };
    drop(chains);
    let mut drain = chain.drainer.drain();
    let mut context = Context::new(chain, remote, to, tls, admitted);
    let stream = match &mut log {
        Some(log) => {
            context.traffic = Some(log.traffic().clone());
            log.served(stream, &context)
        }
        None => stream,
    };
    tokio::select! {
        () = serve(stream, context) => {}
        () = drain.over() => {}
    }
}

/// The address of an IPv4 peer as one of IPv4, also on a socket of IPv6 (`ipv4_compat`), as in Envoy.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Destination of a connection before the kernel redirected it to the address that it has come to; `None` if it was not. To
/// go there would be to come here again.
fn original(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let found = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    let original = found.ok()?.as_socket().map(canonical)?;
    (original != local).then_some(original)
}

type Chosen = (ClientStream, Chain, Option<TlsFacts>);

/// Looks at the first bytes as far as that is needed to choose a chain, and completes its handshake.
async fn choose(
    stream: TcpStream,
    port: u16,
    chains: &Chains,
    log: &mut Option<ConnectionLog>,
) -> io::Result<Option<Chosen>> {
    if let Some(chain) = chains.without_looking() {
        return Ok(Some((ClientStream::Plain(stream), chain.clone(), None)));
    }
    let deadline = Instant::now() + HELLO;
    let first = timeout_at(deadline, first_byte(&stream)).await??;
    // Where no chain asks for TLS, nothing has to come for a chain to be chosen.
    let plain = || chains.chains.iter().all(|chain| chain.tls.is_none());
    if first.is_none() && !plain() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first != Some(HANDSHAKE) {
        let hello = Hello {
            port,
            transport: TransportProtocol::RawBuffer,
            server_name: "",
            protocols: &[],
        };
        return Ok(chains
            .choose(&hello)
            .filter(|chain| chain.tls.is_none())
            .map(|chain| (ClientStream::Plain(stream), chain.clone(), None)));
    }
    // In a box: the handshake is large, and a connection that lives for long keeps the room that it was begun in.
    Box::pin(choose_by_hello(stream, port, chains, deadline, log)).await
}

/// Completes the handshake with the chain that the client hello asks for.
async fn choose_by_hello(
    stream: TcpStream,
    port: u16,
    chains: &Chains,
    deadline: Instant,
    log: &mut Option<ConnectionLog>,
) -> io::Result<Option<Chosen>> {
    // The handshake has a limit of its own.
    let stream = Guarded::new(stream, StallLimit::new(None));
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = timeout_at(deadline, acceptor).await??;
    let hello = start.client_hello();
    let protocols: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
    let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
    let chain = chains.choose(&Hello {
        port,
        transport: TransportProtocol::Tls,
        server_name: &name,
        protocols: &protocols,
    });
    let Some((chain, tls)) = chain.and_then(|chain| Some((chain.clone(), chain.tls.clone()?)))
    else {
        return Ok(None);
    };
    if let Some(log) = log {
        log.shakes_hands(&chain, &name);
    }
    let deadline = Instant::now() + chain.handshake_timeout;
    let (stream, facts) = timeout_at(deadline, tls.finish(start)).await??;
    Ok(Some((
        ClientStream::Tls(Box::new(stream)),
        chain,
        Some(facts),
    )))
}

/// Looks at the first byte, without taking it; `None` if the client closes before.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok((read > 0).then_some(first[0]))
}
