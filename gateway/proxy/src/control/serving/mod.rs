//! The state of a gateway, and how it becomes another.
//!
//! [`Serving::replace`] has two halves. The first builds and binds everything that the new snapshot needs
//! beside what is there, and may fail; the second puts it in place and cannot. Each worker finds its part
//! in slots that its connections read when an exchange begins: no lock, no message, no thread that
//! has to come along.

mod install;
mod prepare;

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use self::prepare::distinct;
use crate::{
    config::snapshot::{ChainMatch, DownstreamTls, Listener, Snapshot},
    control::{
        admin::{Levels, served::Served},
        tracers::{Opener, Tracers},
        worker::{self, Worker},
    },
    downstream::{
        chains::{Chains, Slot},
        drain::Drainer,
        tls::Acceptor,
    },
    limits::{buckets::Buckets, overload::Overload},
    telemetry::{
        access_log::Sinks,
        stats::{Metrics, Watching},
    },
    trace::Tracer,
    upstream::{HealthByCluster, Upstreams},
};

/// The state of a gateway.
#[derive(Debug)]
pub(crate) struct Serving {
    metrics: Arc<Metrics>,
    health: HealthByCluster,
    buckets: Buckets,
    overload: Arc<Overload>,
    /// Becomes `true` when the gateway goes down; the admin server tells it.
    going_down: watch::Sender<bool>,
    workers: Vec<Worker>,
    listeners: Vec<Bound>,
    sinks: Sinks,
    tracers: Tracers,
    admin: Option<AdminServer>,
    /// Configuration that the admin server shows.
    served: Arc<ArcSwapOption<Served>>,
    levels: Option<Levels>,
    /// Names of the admin server.
    admin_hosts: Arc<[String]>,
    /// Listeners that were taken out of service and still finish.
    leaving: Vec<Drainer>,
    draining: bool,
}

/// A listener that accepts.
#[derive(Debug)]
struct Bound {
    key: Key,
    name: String,
    local: SocketAddr,
    drain_limit: Duration,
    /// Of the tasks that accept.
    drainer: Drainer,
    /// Services for new connections, for each worker.
    served: Vec<Arc<ArcSwap<Chains>>>,
    chains: Vec<BoundChain>,
}

/// Identity of a listener from one snapshot to the next: its address, whether that stands for IPv4 as well, and its name where
/// the system chooses the port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key(SocketAddr, bool, Option<String>);

impl Key {
    fn of(listener: &Listener) -> Self {
        let name = (listener.address.port() == 0).then(|| listener.name.clone());
        Self(listener.address, listener.ipv4_compat, name)
    }
}

/// A filter chain that has connections.
#[derive(Clone, Debug)]
struct BoundChain {
    /// `None` is the default chain.
    matches: Option<ChainMatch>,
    tls: Option<Tls>,
    handshake_timeout: Duration,
    drainer: Drainer,
    /// One for each worker.
    slots: Vec<Slot>,
}

/// TLS settings and what was made of them. Unchanged ones are kept, so that clients can resume their sessions.
#[derive(Clone, Debug)]
struct Tls {
    settings: Arc<DownstreamTls>,
    acceptor: Acceptor,
}

#[derive(Debug)]
struct AdminServer {
    wanted: SocketAddr,
    local: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked is gone too.
            let _ = thread.join();
        }
    }
}

impl Serving {
    /// Starts workers that serve nothing yet.
    ///
    /// # Errors
    /// No thread or no runtime can be had.
    pub(crate) fn start(
        count: usize,
        observer: Option<Watching>,
        opener: Option<Opener>,
        levels: Option<Levels>,
        admin_hosts: Vec<String>,
        stop: &watch::Sender<bool>,
    ) -> io::Result<Self> {
        let workers = (0..count)
            .map(|index| worker::start(index, stop.subscribe()))
            .collect::<io::Result<Vec<_>>>()?;
        let metrics = Arc::new(Metrics::new(observer));
        let overload = Arc::new(Overload::default());
        if let Some(worker) = workers.first() {
            let overload = overload.clone();
            worker.handle.spawn(async move { overload.watch().await });
        }
        Ok(Self {
            tracers: Tracers::new(
                opener,
                metrics.traces().clone(),
                workers.first().map(|worker| worker.handle.clone()),
            ),
            metrics,
            health: HealthByCluster::default(),
            buckets: Buckets::default(),
            overload,
            going_down: watch::Sender::new(false),
            workers,
            listeners: Vec::new(),
            sinks: Sinks::default(),
            admin: None,
            served: Arc::default(),
            levels,
            admin_hosts: admin_hosts.into(),
            leaving: Vec::new(),
            draining: false,
        })
    }

    /// Serves `snapshot` from now on.
    ///
    /// # Errors
    /// Something that it needs cannot be had, or the gateway is shutting down. Nothing has changed then.
    pub(crate) fn replace(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        if self.draining {
            return Err(io::Error::other("the gateway is shutting down"));
        }
        self.sinks.begin();
        self.tracers.begin();
        let prepared = self.prepare(snapshot);
        let replaced = match prepared {
            Ok(prepared) => {
                self.put_in_place(snapshot, prepared);
                Ok(())
            }
            Err(error) => {
                self.sinks.abandon();
                self.tracers.abandon();
                Err(error)
            }
        };
        self.metrics.sweep();
        self.health.sweep();
        replaced
    }

    /// Every listener's name and address.
    pub(crate) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let entry = |bound: &Bound| (bound.name.clone(), bound.local);
        self.listeners.iter().map(entry).collect()
    }

    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.local)
    }

    /// The recorders of traces.
    pub(crate) fn tracers(&self) -> Vec<Arc<dyn Tracer>> {
        self.tracers.all()
    }

    /// Tells those who ask that the gateway goes down.
    pub(crate) fn leave(&self) {
        self.going_down.send_replace(true);
    }

    /// Tells everything to finish; gives what to wait for, and for how long at most.
    pub(crate) fn drain(&mut self) -> (Vec<Drainer>, Duration) {
        self.draining = true;
        self.leave();
        let mut all = std::mem::take(&mut self.leaving);
        for bound in &self.listeners {
            all.push(bound.drainer.clone());
            all.extend(bound.chains.iter().map(|chain| chain.drainer.clone()));
        }
        for drainer in &all {
            drainer.signal();
        }
        let limits = self.listeners.iter().map(|bound| bound.drain_limit);
        (all, limits.max().unwrap_or_default())
    }

    /// The threads to wait for, when all have been told to stop: writers end when those who log have
    /// ended.
    pub(crate) fn into_threads(self) -> Vec<JoinHandle<()>> {
        let Self {
            workers,
            listeners,
            sinks,
            ..
        } = self;
        drop(listeners);
        let workers = workers.into_iter().map(|worker| worker.thread);
        workers.chain(sinks.into_writers()).collect()
    }
}

/// Looks at what a start would refuse, whatever the state of the system.
pub(crate) fn check(snapshot: &Snapshot) -> io::Result<()> {
    distinct(&snapshot.listeners)?;
    for listener in &snapshot.listeners {
        for tls in listener.all_chains().filter_map(|chain| chain.tls.as_ref()) {
            Acceptor::new(tls).map_err(|reason| {
                io::Error::other(format!("listener {}: {reason}", listener.name))
            })?;
        }
    }
    Upstreams::new(
        snapshot,
        &Metrics::default(),
        &HealthByCluster::default(),
        &Arc::default(),
        None,
    )
    .map(drop)
    .map_err(io::Error::other)
}
