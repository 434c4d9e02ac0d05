//! Listening sockets and what all connections of a listener share.

use std::{fmt, future::poll_fn, io, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use arc_swap::ArcSwap;
use extproc_client::host::HeaderLimits;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    access_log::Logger,
    config::snapshot::HttpManager,
    connection::{self, Context},
    drain::{Drain, Drainer},
    filters::Handler,
    metrics::HttpStats,
    overload::{Overload, Refused},
    router::Selected,
    upstream::Upstreams,
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
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) overload: Arc<Overload>,
}

impl fmt::Debug for ChainRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainRuntime").finish_non_exhaustive()
    }
}

impl ChainRuntime {
    /// Header limits of responses on this route.
    pub(crate) fn cluster_limits(&self, route: &Selected) -> Option<HeaderLimits> {
        let upstream = self.upstreams.get(&route.cluster()?.name)?;
        Some(upstream.cluster.response_headers)
    }
}

/// What a filter chain does now. Its connections hold the slot, so that their next request is served by
/// what a newer snapshot put there.
pub(crate) type Slot = Arc<ArcSwap<ChainRuntime>>;

/// A filter chain to new connections.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) slot: Slot,
    /// Gives every connection its part; no [`Drain`] itself, which would be waited for.
    pub(crate) drainer: Drainer,
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

/// Opens `count` sockets that listen on one address, one for each worker. The kernel spreads
/// connections over them (`SO_REUSEPORT`). `ours` says that this gateway already has sockets on
/// this port, which may overlap.
///
/// # Errors
/// The text names the address.
pub(crate) fn bind(
    address: SocketAddr,
    count: usize,
    ours: bool,
) -> io::Result<Vec<std::net::TcpListener>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    // Without SO_REUSEPORT first: with it, two gateways could share a port by mistake.
    if !ours {
        drop(socket(address, false).map_err(named)?);
    }
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let socket = socket(address, true).map_err(named)?;
        // Port 0 is resolved once.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
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
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signaled() => break,
        };
        match accepted {
            Ok((stream, remote)) => serve(stream, remote, &chains),
            Err(error) => {
                let listener = &chains.load().listener;
                tracing::warn!(%listener, %error, "cannot accept");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = drain.signaled() => break,
                }
            }
        }
    }
    // To the clients of connections in the queue, they are open: closing the socket would reset them.
    tokio::task::unconstrained(async {
        for _ in 0..BACKLOG {
            let next = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
            let Poll::Ready(Ok((stream, remote))) = next else {
                return;
            };
            serve(stream, remote, &chains);
        }
    })
    .await;
}

fn serve(stream: TcpStream, remote: SocketAddr, chains: &ArcSwap<Chains>) {
    let Some(chain) = chains.load().chains.first().cloned() else {
        return;
    };
    let runtime = chain.slot.load();
    let admitted = match runtime.overload.admit() {
        Ok(admitted) => admitted,
        Err(Refused::Count) => return runtime.shared.stats.downstream_global_cx_overflow.add(),
        Err(Refused::Memory) => return runtime.shared.stats.downstream_cx_overload_reject.add(),
    };
    drop(runtime);
    let _ = stream.set_nodelay(true);
    let mut drain = chain.drainer.drain();
    let context = Context::new(chain, remote, &stream, admitted);
    tokio::spawn(async move {
        tokio::select! {
            () = connection::serve(stream, context) => {}
            () = drain.over() => {}
        }
    });
}
