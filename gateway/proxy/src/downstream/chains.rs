//! Listening sockets and what all connections of a listener share.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    config::snapshot::{ChainMatch, HttpManager, TransportProtocol},
    downstream::{
        self,
        drain::{Drain, Drainer},
        tls::Acceptor,
    },
    filters::Handler,
    limits::{
        overload::{Overload, Refused},
        throttle::Throttle,
    },
    telemetry::{access_log::Logger, stats::HttpStats},
};

/// What all workers share of a filter chain.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) logs: Vec<Arc<Logger>>,
}

/// A filter chain as one worker serves it, out of one snapshot.
pub(crate) struct ChainRuntime {
    pub(crate) http: Arc<HttpManager>,
    pub(crate) buffer_limit: usize,
    pub(crate) shared: Arc<ListenerShared>,
    pub(crate) filters: Arc<dyn Handler>,
    pub(crate) overload: Arc<Overload>,
}

impl fmt::Debug for ChainRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainRuntime").finish_non_exhaustive()
    }
}

impl ChainRuntime {
    /// Bytes of a body that are held for a client of this protocol version.
    pub(crate) fn buffer(&self, version: http::Version) -> usize {
        let of_stream = match version {
            http::Version::HTTP_2 => self.http.http2.stream_buffer,
            _ => None,
        };
        of_stream.unwrap_or(self.buffer_limit)
    }
}

/// What a filter chain does now. Its connections hold the slot, so that their next request is served by
/// what a newer snapshot put there.
pub(crate) type Slot = Arc<ArcSwap<ChainRuntime>>;

/// A filter chain to new connections.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// `None` is the default chain.
    pub(crate) matches: Option<ChainMatch>,
    pub(crate) tls: Option<Acceptor>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) slot: Slot,
    /// Gives every connection its part; no [`Drain`] itself, which would be waited for.
    pub(crate) drainer: Drainer,
}

/// What a filter chain is chosen by.
pub(crate) struct Hello<'a> {
    pub(crate) port: u16,
    pub(crate) transport: TransportProtocol,
    /// Lower case; empty if the client gave none.
    pub(crate) server_name: &'a str,
    pub(crate) protocols: &'a [&'a [u8]],
}

/// The filter chains of a listener, as one worker sees them.
#[derive(Debug)]
pub(crate) struct Chains {
    pub(crate) listener: String,
    /// In the order of the configuration, the default one last.
    pub(crate) chains: Vec<Chain>,
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

impl Chains {
    /// The one chain, if it takes every connection and needs no handshake.
    pub(crate) fn without_looking(&self) -> Option<&Chain> {
        match self.chains.as_slice() {
            [only] if only.tls.is_none() => {
                let all = ChainMatch::default();
                only.matches
                    .as_ref()
                    .is_none_or(|matches| *matches == all)
                    .then_some(only)
            }
            _ => None,
        }
    }

    /// The chain for a connection: the criteria are looked at one after the other, and each leaves the
    /// chains with the most specific value that fits, as `FilterChainMatch` says.
    pub(crate) fn choose(&self, hello: &Hello<'_>) -> Option<&Chain> {
        let candidates: Vec<(&Chain, &ChainMatch)> = self
            .chains
            .iter()
            .filter_map(|chain| Some((chain, chain.matches.as_ref()?)))
            .collect();
        let candidates = most_specific(candidates, |matches| match matches.destination_port {
            Some(wanted) => (wanted == hello.port).then_some(1),
            None => Some(0),
        });
        let candidates = most_specific(candidates, |matches| {
            best(&matches.server_names, |name| names(name, hello.server_name))
        });
        let candidates = most_specific(candidates, |matches| match matches.transport_protocol {
            Some(wanted) => (wanted == hello.transport).then_some(1),
            None => Some(0),
        });
        let candidates = most_specific(candidates, |matches| {
            best(&matches.application_protocols, |name| {
                hello.protocols.contains(&name.as_bytes()).then_some(1)
            })
        });
        match candidates.first() {
            Some((chain, _)) => Some(chain),
            None => self.chains.iter().find(|chain| chain.matches.is_none()),
        }
    }
}

/// Leaves what fits best; `rank` is `None` for what does not fit.
fn most_specific<'a>(
    candidates: Vec<(&'a Chain, &'a ChainMatch)>,
    rank: impl Fn(&ChainMatch) -> Option<usize>,
) -> Vec<(&'a Chain, &'a ChainMatch)> {
    let ranks = candidates.iter().map(|(_, matches)| rank(matches));
    let ranks: Vec<Option<usize>> = ranks.collect();
    let Some(best) = ranks.iter().copied().flatten().max() else {
        return Vec::new();
    };
    candidates
        .into_iter()
        .zip(ranks)
        .filter_map(|(candidate, rank)| (rank == Some(best)).then_some(candidate))
        .collect()
}

/// The best rank of a list; 0 for an empty one, which fits everything.
fn best(list: &[String], rank: impl Fn(&str) -> Option<usize>) -> Option<usize> {
    match list.is_empty() {
        true => Some(0),
        false => list.iter().filter_map(|entry| rank(entry)).max(),
    }
}

/// How specific a server name of a chain is for the client's.
fn names(pattern: &str, asked: &str) -> Option<usize> {
    if asked.is_empty() {
        return None;
    }
    if pattern == asked {
        return Some(usize::MAX);
    }
    let suffix = pattern.strip_prefix('*')?;
    (suffix.starts_with('.') && asked.len() > suffix.len() && asked.ends_with(suffix))
        .then_some(suffix.len())
}

/// Opens `count` sockets that listen on one address, one for each worker. The kernel spreads
/// connections over them (`SO_REUSEPORT`). An IPv6 one takes IPv4 connections with `ipv4_compat` alone, as in Envoy. `ours` says that this gateway already has sockets on
/// this port, which may overlap.
///
/// # Errors
/// The text names the address.
pub(crate) fn bind(
    address: SocketAddr,
    ipv4_compat: bool,
    count: usize,
    ours: bool,
) -> io::Result<Vec<std::net::TcpListener>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    // Without SO_REUSEPORT first: with it, two gateways could share a port by mistake.
    if !ours {
        drop(socket(address, ipv4_compat, false).map_err(named)?);
    }
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let socket = socket(address, ipv4_compat, true).map_err(named)?;
        // Port 0 is resolved once.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn socket(
    address: SocketAddr,
    ipv4_compat: bool,
    shared: bool,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!ipv4_compat)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// Accepts connections until the signal to drain, each for the chains as they are then.
pub(crate) async fn accept(listener: TcpListener, chains: Arc<ArcSwap<Chains>>, mut drain: Drain) {
    /// Waiting time after an error such as "too many open files".
    const PAUSE: Duration = Duration::from_millis(50);
    let failures = Throttle::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signaled() => break,
        };
        match accepted {
            Ok((stream, remote)) => serve(stream, remote, &chains),
            Err(error) => {
                if let Some(suppressed) = failures.pass() {
                    let listener = &chains.load().listener;
                    tracing::warn!(%listener, %error, suppressed, "cannot accept");
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = drain.signaled() => break,
                }
            }
        }
    }
    // To the clients of connections in the queue, they are open: closing the socket would reset them.
    // The system is asked itself, since the runtime does not know yet of those that came just now.
    let Ok(listener) = listener.into_std() else {
        return;
    };
    for _ in 0..BACKLOG {
        let Ok((stream, remote)) = listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            serve(stream, remote, &chains);
        }
    }
}

fn serve(stream: TcpStream, remote: SocketAddr, chains: &ArcSwap<Chains>) {
    let chains = chains.load_full();
    let Some(first) = chains.chains.first() else {
        return;
    };
    // The whole process has one measure, whatever the chain.
    let runtime = first.slot.load_full();
    let admitted = match runtime.overload.admit() {
        Ok(admitted) => admitted,
        Err(Refused::Count) => return runtime.shared.stats.downstream_global_cx_overflow.add(),
        Err(Refused::Memory) => return runtime.shared.stats.downstream_cx_overload_reject.add(),
    };
    drop(runtime);
    let _ = stream.set_nodelay(true);
    tokio::spawn(downstream::open(stream, remote, chains, admitted));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names() {
        assert_eq!(names("a.example", "a.example"), Some(usize::MAX));
        assert!(names("*.example", "a.b.example") < names("*.b.example", "a.b.example"));
        for (pattern, asked) in [
            ("*.example", "example"),
            ("*.example", ".example"),
            ("a.example", "b.example"),
            ("*", "a.example"),
            ("a.example", ""),
        ] {
            assert_eq!(names(pattern, asked), None, "{pattern} {asked}");
        }
        assert_eq!(best(&[], |_| None), Some(0));
        let list = ["*.example".to_owned(), "a.example".to_owned()];
        assert_eq!(
            best(&list, |name| names(name, "a.example")),
            Some(usize::MAX)
        );
        assert_eq!(best(&list, |name| names(name, "b.test")), None);
    }
}
