//! Listening sockets, and what comes on them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    downstream::{self, chains::Chains, drain::Drain},
    limits::{overload::Refused, throttle::Throttle},
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

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
