//! One thread with its own runtime, sockets and connection pools. Workers share numbers and logs,
//! and nothing that a request has to wait for.

use std::{io, sync::Arc, thread};

use tokio::{net::TcpListener, runtime, sync::watch};

use crate::{
    access_log::Sinks,
    config::snapshot::{Listener, Snapshot},
    drain::Drain,
    ext_proc::{self, ClusterTransport},
    filters::{self, Handler},
    forward::RouterHandler,
    listener::{self, ListenerRuntime, ListenerShared},
    metrics::Metrics,
    upstream::Upstreams,
};

/// What all workers share of one snapshot.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listeners: Vec<Arc<ListenerShared>>,
}

impl Served {
    /// Gives the access logs' threads too; they end after this and all workers.
    ///
    /// # Errors
    /// An access log cannot be opened, or a cluster cannot be used as it is configured.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Self, Vec<thread::JoinHandle<()>>)> {
        let mut sinks = Sinks::default();
        let listeners = snapshot
            .listeners
            .iter()
            .map(|listener| {
                let logs = listener
                    .http
                    .access_log
                    .iter()
                    .map(|log| sinks.logger(log))
                    .collect::<io::Result<_>>()
                    .map_err(|error| {
                        io::Error::new(error.kind(), format!("cannot open access log: {error}"))
                    })?;
                Ok(Arc::new(ListenerShared {
                    stats: metrics.http(&listener.http.stat_prefix),
                    logs,
                }))
            })
            .collect::<io::Result<_>>()?;
        // Builds every cluster once, so that what cannot work is known before anything starts.
        Upstreams::new(&snapshot, &metrics).map_err(io::Error::other)?;
        let served = Self {
            snapshot,
            metrics,
            listeners,
        };
        Ok((served, sinks.into_writers()))
    }
}

/// Starts a worker with one socket for each listener. It ends when `stop` changes.
///
/// # Errors
/// No thread or no runtime can be had.
pub(crate) fn start(
    index: usize,
    served: Arc<Served>,
    sockets: Vec<std::net::TcpListener>,
    drain: Drain,
    mut stop: watch::Receiver<bool>,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            runtime.block_on(async move {
                if let Err(error) = serve(&served, sockets, drain) {
                    tracing::error!(%error, "worker cannot serve");
                    return;
                }
                // An error means that the gateway is gone.
                let _ = stop.wait_for(|stop| *stop).await;
            });
        })
}

fn serve(served: &Served, sockets: Vec<std::net::TcpListener>, drain: Drain) -> io::Result<()> {
    let snapshot = &served.snapshot;
    let upstreams = Arc::new(Upstreams::new(snapshot, &served.metrics).map_err(io::Error::other)?);
    let transport = ClusterTransport::new(snapshot, &upstreams);
    let router: Arc<dyn Handler> = Arc::new(RouterHandler {
        upstreams: upstreams.clone(),
    });
    let listeners = snapshot.listeners.iter().zip(&served.listeners);
    for ((config, shared), socket) in listeners.zip(sockets) {
        let runtime = ListenerRuntime {
            chain: chain(config, served, &transport, router.clone()),
            config: config.clone(),
            shared: shared.clone(),
            upstreams: upstreams.clone(),
        };
        let socket = TcpListener::from_std(socket)?;
        tokio::spawn(listener::accept(socket, Arc::new(runtime), drain.clone()));
    }
    Ok(())
}

fn chain(
    listener: &Listener,
    served: &Served,
    transport: &ClusterTransport,
    router: Arc<dyn Handler>,
) -> Arc<dyn Handler> {
    let http = &listener.http;
    filters::chain(http, router, |filter, config, inner| {
        ext_proc::handler(http, filter, config, transport, &served.metrics, inner)
    })
}
