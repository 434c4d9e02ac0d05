//! What a gateway serves right now, and how it becomes something else.
//!
//! [`Serving::replace`] has two halves. The first builds and binds everything that the new snapshot needs
//! beside what is there, and may fail; the second puts it in place and cannot. Each worker finds its part
//! in slots that its connections read when an exchange begins: no lock, no message, no thread that
//! has to come along.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    config::snapshot::{ChainMatch, DownstreamTls, FilterChain, Listener, Snapshot},
    control::{
        accept,
        admin::{self, Admin, Levels, served::Served},
        tracers::{Opener, Tracers},
        worker::{self, Connections, Worker},
    },
    downstream::{
        chains::{Chain, ChainRuntime, Chains, ListenerShared, Slot},
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
    /// Whether the gateway goes down, for the admin server to tell.
    going_down: watch::Sender<bool>,
    workers: Vec<Worker>,
    listeners: Vec<Bound>,
    sinks: Sinks,
    tracers: Tracers,
    admin: Option<AdminServer>,
    /// Configuration that the admin server shows.
    served: Arc<ArcSwapOption<Served>>,
    levels: Option<Levels>,
    /// What was taken out of service and still finishes.
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
    /// What new connections get, for each worker.
    served: Vec<Arc<ArcSwap<Chains>>>,
    chains: Vec<BoundChain>,
}

/// What a listener is known by from one snapshot to the next: its address, whether that stands for IPv4 as well, and its name
/// where the system chooses the port.
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

impl BoundChain {
    /// Whether its connections would be let in today as they were: their clients were asked what they would be asked
    /// by the chain of the same match in `next`, and by those of its `fresh` ones that would get some of them.
    fn stays(&self, next: &[NextChain], fresh: &[&NextChain]) -> bool {
        let asks_the_same = |chain: &NextChain| match (&self.tls, &chain.tls) {
            (Some(tls), Some(next)) => tls.settings.asks_the_same_as(&next.settings),
            (None, None) => true,
            _ => false,
        };
        let gives_way = |chain: &NextChain| match (&self.matches, &chain.matches) {
            (Some(own), Some(fresh)) => own.gives_way_to(fresh),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let same = next.iter().filter(|chain| chain.matches == self.matches);
        let others = fresh.iter().copied().filter(|chain| gives_way(chain));
        same.chain(others).all(asks_the_same)
    }
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

/// All that a new snapshot needs beside what is there.
struct Prepared {
    /// For each worker.
    pools: Vec<Connections>,
    listeners: Vec<Next>,
    /// An admin server, if its address is new.
    admin: Option<AdminServer>,
}

/// A listener of the new snapshot, ready to be put in place.
struct Next {
    key: Key,
    config: Arc<Listener>,
    /// Sockets where the listener is new, one for each worker.
    sockets: Option<(Vec<TcpListener>, SocketAddr)>,
    chains: Vec<NextChain>,
}

struct NextChain {
    matches: Option<ChainMatch>,
    tls: Option<Tls>,
    handshake_timeout: Duration,
    /// One for each worker.
    runtimes: Vec<Arc<ChainRuntime>>,
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

    /// Builds all that `snapshot` needs beside what is there.
    fn prepare(&mut self, snapshot: &Snapshot) -> io::Result<Prepared> {
        distinct(&snapshot.listeners)?;
        let buckets = Arc::new(self.buckets.of(snapshot));
        let pools = self
            .workers
            .iter()
            .map(|worker| {
                let before = worker.pools.as_ref();
                Connections::new(
                    snapshot,
                    &self.metrics,
                    &self.health,
                    &self.overload,
                    &buckets,
                    before,
                )
            })
            .collect::<io::Result<Vec<_>>>()?;
        self.tracers.warn(snapshot);
        let mut listeners: Vec<Next> = Vec::with_capacity(snapshot.listeners.len());
        for config in &snapshot.listeners {
            let next = self.prepare_listener(Key::of(config), config, &pools, &listeners)?;
            listeners.push(next);
        }
        let admin = self.prepare_admin(snapshot.admin)?;
        Ok(Prepared {
            pools,
            listeners,
            admin,
        })
    }

    /// Nothing here fails.
    fn put_in_place(&mut self, snapshot: &Snapshot, prepared: Prepared) {
        let Prepared {
            pools,
            listeners,
            admin,
        } = prepared;
        self.overload.set(snapshot.overload);
        for (name, cluster) in &snapshot.clusters {
            self.metrics.breakers(name).set(&cluster.circuit_breakers);
        }
        self.sinks.sweep();
        let upstreams = pools.first().map(|pools| pools.upstreams().clone());
        self.tracers.sweep(upstreams);
        for (worker, pools) in self.workers.iter_mut().zip(pools) {
            worker.pools = Some(pools);
        }
        let before = std::mem::take(&mut self.listeners);
        let (stay, leave): (Vec<_>, Vec<_>) = before
            .into_iter()
            .partition(|bound| listeners.iter().any(|next| next.key == bound.key));
        let mut stay = stay;
        for next in listeners {
            let known = stay.iter().position(|bound| bound.key == next.key);
            let known = known.map(|at| stay.swap_remove(at));
            let bound = self.install(known, next);
            self.listeners.push(bound);
        }
        for bound in leave {
            tracing::info!(listener = bound.name, address = %bound.local, "no longer listening");
            self.retire(bound.drainer, bound.drain_limit);
            for chain in bound.chains {
                self.retire(chain.drainer, bound.drain_limit);
            }
        }
        let clusters = self
            .workers
            .iter()
            .filter_map(|worker| worker.pools.as_ref());
        let clusters = clusters.map(|pools| pools.upstreams().clone()).collect();
        let served = Served::new(snapshot, self.addresses(), clusters);
        self.served.store(Some(Arc::new(served)));
        match admin {
            Some(admin) => self.admin = Some(admin),
            None if snapshot.admin.is_none() => self.admin = None,
            None => {}
        }
    }

    /// Builds a listener, and binds it if it is new.
    fn prepare_listener(
        &mut self,
        key: Key,
        config: &Arc<Listener>,
        pools: &[Connections],
        beside: &[Next],
    ) -> io::Result<Next> {
        let mut chains = Vec::new();
        for chain in &config.chains {
            chains.push(self.prepare_chain(config, chain, Some(&chain.matches), pools)?);
        }
        if let Some(chain) = &config.default_chain {
            chains.push(self.prepare_chain(config, chain, None, pools)?);
        }
        let known = self.listeners.iter().any(|bound| bound.key == key);
        let sockets = match known {
            true => None,
            false => Some(self.bind(config, beside)?),
        };
        Ok(Next {
            key,
            config: config.clone(),
            sockets,
            chains,
        })
    }

    fn prepare_chain(
        &mut self,
        listener: &Listener,
        chain: &FilterChain,
        matches: Option<&ChainMatch>,
        pools: &[Connections],
    ) -> io::Result<NextChain> {
        let http = &chain.http;
        let logs = http
            .access_log
            .iter()
            .map(|log| self.sinks.logger(log))
            .collect::<io::Result<_>>()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot open access log: {error}"))
            })?;
        let recorder = match &http.tracing {
            Some(tracing) => self.tracers.recorder(tracing)?,
            None => None,
        };
        let shared = Arc::new(ListenerShared {
            stats: self.metrics.http(&http.stat_prefix),
            logs,
            recorder,
        });
        let runtimes = pools
            .iter()
            .map(|pools| {
                let limit = listener.buffer_limit;
                pools.chain(http, limit, &shared, &self.metrics, &self.overload)
            })
            .collect();
        let tls = chain.tls.as_ref().map(|settings| self.tls(settings));
        let tls = tls
            .transpose()
            .map_err(|reason| io::Error::other(format!("listener {}: {reason}", listener.name)))?;
        Ok(NextChain {
            matches: matches.cloned(),
            tls,
            handshake_timeout: chain.handshake_timeout,
            runtimes,
        })
    }

    fn tls(&self, settings: &Arc<DownstreamTls>) -> Result<Tls, String> {
        let chains = self.listeners.iter().flat_map(|bound| &bound.chains);
        let mut known = chains.filter_map(|chain| chain.tls.as_ref());
        match known.find(|known| known.settings == *settings) {
            Some(known) => Ok(known.clone()),
            None => Ok(Tls {
                acceptor: Acceptor::new(settings)?,
                settings: settings.clone(),
            }),
        }
    }

    /// A socket for each worker, known to its runtime. `beside` has those that are bound for the same snapshot.
    fn bind(
        &self,
        listener: &Listener,
        beside: &[Next],
    ) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
        let address = listener.address;
        let port = address.port();
        let known = self.listeners.iter().map(|bound| bound.local.port());
        let new = beside.iter().map(|next| next.config.address.port());
        let ours = port != 0 && known.chain(new).any(|other| other == port);
        let sockets = accept::bind(address, listener.ipv4_compat, self.workers.len(), ours)?;
        let sockets = sockets
            .into_iter()
            .zip(&self.workers)
            .map(|(socket, worker)| {
                let _runtime = worker.handle.enter();
                TcpListener::from_std(socket)
            })
            .collect::<io::Result<Vec<_>>>()?;
        let local = match sockets.first() {
            Some(socket) => socket.local_addr()?,
            None => address,
        };
        Ok((sockets, local))
    }

    /// Puts a listener in place. It cannot fail.
    fn install(&mut self, known: Option<Bound>, next: Next) -> Bound {
        let drain_limit = drain_limit(&next.config);
        let (known_chains, known) = match known {
            Some(mut bound) => (std::mem::take(&mut bound.chains), Some(bound)),
            None => (Vec::new(), None),
        };
        let (mut known_chains, changed): (Vec<_>, Vec<_>) = {
            let fresh: Vec<_> = next
                .chains
                .iter()
                .filter(|chain| {
                    known_chains
                        .iter()
                        .all(|known| known.matches != chain.matches)
                })
                .collect();
            let stays: Vec<_> = known_chains
                .iter()
                .map(|known| known.stays(&next.chains, &fresh))
                .collect();
            let (stay, change): (Vec<_>, Vec<_>) = known_chains
                .into_iter()
                .zip(stays)
                .partition(|(_, stays)| *stays);
            let chains = |all: Vec<(BoundChain, bool)>| all.into_iter().map(|(chain, _)| chain);
            (chains(stay).collect(), chains(change).collect())
        };
        let mut chains: Vec<BoundChain> = Vec::with_capacity(next.chains.len());
        for chain in next.chains {
            let same = known_chains
                .iter()
                .position(|known| known.matches == chain.matches);
            chains.push(match same {
                Some(at) => {
                    let known = known_chains.swap_remove(at);
                    for (slot, runtime) in known.slots.iter().zip(chain.runtimes) {
                        slot.store(runtime);
                    }
                    BoundChain {
                        tls: chain.tls,
                        handshake_timeout: chain.handshake_timeout,
                        ..known
                    }
                }
                None => BoundChain {
                    matches: chain.matches,
                    tls: chain.tls,
                    handshake_timeout: chain.handshake_timeout,
                    drainer: Drainer::new(),
                    slots: chain
                        .runtimes
                        .into_iter()
                        .map(|runtime| Arc::new(ArcSwap::new(runtime)))
                        .collect(),
                },
            });
        }
        let of_worker = |index: usize| Arc::new(offered(&next.config.name, &chains, index));
        let bound = match (known, next.sockets) {
            (Some(bound), _) => {
                for (index, served) in bound.served.iter().enumerate() {
                    served.store(of_worker(index));
                }
                Bound {
                    name: next.config.name.clone(),
                    drain_limit,
                    ..bound
                }
            }
            (None, sockets) => {
                let (sockets, local) = sockets.unwrap_or_else(|| (Vec::new(), next.config.address));
                let drainer = Drainer::new();
                let served: Vec<_> = (0..sockets.len())
                    .map(|index| Arc::new(ArcSwap::new(of_worker(index))))
                    .collect();
                let workers = self.workers.iter().zip(sockets).zip(&served);
                for ((worker, socket), served) in workers {
                    let accept = accept::accept(socket, served.clone(), drainer.drain());
                    worker.handle.spawn(accept);
                }
                Bound {
                    key: next.key,
                    name: next.config.name.clone(),
                    local,
                    drain_limit,
                    drainer,
                    served,
                    chains: Vec::new(),
                }
            }
        };
        for gone in known_chains.into_iter().chain(changed) {
            self.retire(gone.drainer, drain_limit);
        }
        Bound { chains, ..bound }
    }

    /// Lets what `drainer` stands for finish, and ends what has not finished in time.
    fn retire(&mut self, drainer: Drainer, limit: Duration) {
        drainer.signal();
        self.leaving.retain(|drainer| !drainer.is_done());
        self.leaving.push(drainer.clone());
        if let Some(worker) = self.workers.first() {
            worker.handle.spawn(async move { drainer.run(limit).await });
        }
    }

    fn prepare_admin(&self, wanted: Option<SocketAddr>) -> io::Result<Option<AdminServer>> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        if self.admin.as_ref().is_some_and(|now| now.wanted == wanted) {
            return Ok(None);
        }
        let mut sockets = accept::bind(wanted, true, 1, false)?;
        let Some(socket) = sockets.pop() else {
            return Ok(None);
        };
        let local = socket.local_addr()?;
        let stop = watch::Sender::new(false);
        let state = Admin::new(
            self.metrics.clone(),
            self.overload.clone(),
            self.workers.len(),
            self.going_down.subscribe(),
            self.served.clone(),
            self.levels.clone(),
        );
        let thread = admin::start(socket, state, stop.subscribe())?;
        Ok(Some(AdminServer {
            wanted,
            local,
            stop,
            thread: Some(thread),
        }))
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

/// Refuses two listeners that are the same one.
fn distinct(listeners: &[Arc<Listener>]) -> io::Result<()> {
    for (index, listener) in listeners.iter().enumerate() {
        let same_key = |other: &Arc<Listener>| Key::of(other) == Key::of(listener);
        let before = listeners.iter().take(index);
        let mut taken = before.filter(|other| other.collides(listener) || same_key(other));
        if taken.next().is_some() {
            let address = listener.address;
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("cannot listen on {address}: two listeners have this address"),
            ));
        }
    }
    Ok(())
}

/// The longest `drain_timeout` of a listener's connection managers.
fn drain_limit(listener: &Listener) -> Duration {
    let limits = listener.all_chains().map(|chain| chain.http.timeouts.drain);
    limits.max().unwrap_or_default()
}

/// What a worker's new connections get.
fn offered(listener: &str, chains: &[BoundChain], worker: usize) -> Chains {
    Chains {
        listener: listener.to_owned(),
        chains: chains
            .iter()
            .filter_map(|chain| {
                Some(Chain {
                    matches: chain.matches.clone(),
                    tls: chain.tls.as_ref().map(|tls| tls.acceptor.clone()),
                    handshake_timeout: chain.handshake_timeout,
                    slot: chain.slots.get(worker)?.clone(),
                    drainer: chain.drainer.clone(),
                })
            })
            .collect(),
    }
}
