//! Listening sockets and what all connections of a listener share.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use extproc_client::host::HeaderLimits;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::{
    access_log::Logger,
    config::snapshot::Listener,
    connection::{self, Context},
    drain::Drain,
    filters::Handler,
    metrics::HttpStats,
    router::Selected,
    upstream::Upstreams,
};

/// What all workers share of a listener.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) logs: Vec<Arc<Logger>>,
}

/// A listener as one worker serves it.
pub(crate) struct ListenerRuntime {
    pub(crate) config: Arc<Listener>,
    pub(crate) shared: Arc<ListenerShared>,
    pub(crate) chain: Arc<dyn Handler>,
    pub(crate) upstreams: Arc<Upstreams>,
}

impl ListenerRuntime {
    /// Header limits of responses on this route.
    pub(crate) fn cluster_limits(&self, route: &Selected) -> Option<HeaderLimits> {
        let upstream = self.upstreams.get(&route.cluster()?.name)?;
        Some(upstream.cluster.response_headers)
    }
}

/// Opens `count` sockets that listen on one address, one for each worker. The kernel spreads
/// connections over them (`SO_REUSEPORT`).
///
/// # Errors
/// The text names the address.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    // Without SO_REUSEPORT first: with it, two gateways could share a port by mistake.
    drop(socket(address, false).map_err(named)?);
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
    const BACKLOG: i32 = 4096;
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

/// Accepts connections until the signal to drain.
pub(crate) async fn accept(listener: TcpListener, runtime: Arc<ListenerRuntime>, mut drain: Drain) {
    /// Waiting time after an error such as "too many open files".
    const PAUSE: Duration = Duration::from_millis(50);
    let context = drain.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signaled() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let _ = stream.set_nodelay(true);
                let context = Context::new(runtime.clone(), context.clone(), remote, &stream);
                tokio::spawn(connection::serve(stream, context));
            }
            Err(error) => {
                tracing::warn!(listener = %runtime.config.name, %error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
