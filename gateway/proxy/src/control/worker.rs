//! One thread with its own runtime, sockets and connection pools. Workers share numbers and logs,
//! and nothing that a request has to wait for.

use std::{io, sync::Arc, thread};

use extproc_client::FilterConfig;
use tokio::{runtime, sync::watch};

use crate::{
    config::snapshot::{Filter, FormatOperator, HttpManager, Snapshot},
    downstream::chains::{ChainRuntime, ListenerShared},
    exchange::chain::Chain,
    filters::{Building, ext_proc},
    forward::{ClusterFilters, HandOver, Means, RouterHandler},
    limits::{buckets::Chosen, overload::Overload},
    processors::ClusterTransport,
    telemetry::{
        calls::CallNotes,
        spans::SideSpans,
        stats::{Metrics, Owner},
    },
    upstream::{HealthByCluster, Upstreams},
};

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Runtime of its tasks.
    pub(crate) handle: runtime::Handle,
    pub(crate) thread: thread::JoinHandle<()>,
    /// Its connection pools, those of the snapshot that is served now.
    pub(crate) pools: Option<Connections>,
}

/// A worker's connections to the clusters of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    upstreams: Arc<Upstreams>,
    transport: ClusterTransport,
    filters: Arc<ClusterFilters>,
    buckets: Arc<Chosen>,
}

/// Bytes of a worker's stack, of which only what is used is taken. Expressions that are nested as deep as they may be need 4 MiB in a
/// debug build.
const STACK: usize = 16 * 1024 * 1024;

/// Starts a worker that serves nothing yet. It ends when `stop` changes.
///
/// # Errors
/// No thread or no runtime can be had.
pub(crate) fn start(index: usize, mut stop: watch::Receiver<bool>) -> io::Result<Worker> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let thread = thread::Builder::new()
        .name(format!("worker-{index}"))
        .stack_size(STACK)
        .spawn(move || {
            // An error means that the gateway is gone.
            let _ = runtime.block_on(stop.wait_for(|stop| *stop));
            // Not to wait for names that are being resolved.
            runtime.shutdown_background();
        })?;
    Ok(Worker {
        handle,
        thread,
        pools: None,
    })
}

impl Connections {
    /// Connections for the clusters of `snapshot`. What `before` has for clusters that did not change is kept.
    ///
    /// # Errors
    /// A cluster cannot be used as it is configured; the text names it.
    pub(crate) fn new(
        snapshot: &Snapshot,
        metrics: &Metrics,
        health: &HealthByCluster,
        overload: &Arc<Overload>,
        buckets: &Arc<Chosen>,
        before: Option<&Self>,
    ) -> io::Result<Self> {
        let known = before.map(|pools| &*pools.upstreams);
        let upstreams =
            Upstreams::new(snapshot, metrics, health, overload, known).map_err(io::Error::other)?;
        let upstreams = Arc::new(upstreams);
        let known = before.map(|pools| &pools.transport);
        let transport = ClusterTransport::new(&upstreams, overload, known);
        let chains = snapshot.listeners.iter().flat_map(|l| l.all_chains());
        let managers: Vec<_> = chains.map(|chain| &chain.http).collect();
        let traced = managers.iter().any(|http| http.tracing.is_some());
        let routes: Vec<_> = managers.iter().map(|http| &http.routes).collect();
        let filters = snapshot.cluster_filters.iter().map(|(name, filters)| {
            let building = Building {
                cluster: Some(name),
                routes: &routes,
                buckets,
                ext_proc: |filter: &Filter, config: &Arc<FilterConfig>, inner| {
                    let owner = Owner::Cluster(name.clone());
                    let observer = metrics.observer(owner, config.stat_prefix());
                    let observer = match traced {
                        true => Arc::new((observer, SideSpans)),
                        false => observer,
                    };
                    ext_proc::filter(filter, config, &transport, observer, inner)
                },
            };
            (name.clone(), building.chain(filters, Chain::new(HandOver)))
        });
        Ok(Self {
            filters: Arc::new(ClusterFilters::new(filters)),
            buckets: buckets.clone(),
            transport,
            upstreams,
        })
    }

    /// The clusters.
    pub(crate) fn upstreams(&self) -> &Arc<Upstreams> {
        &self.upstreams
    }

    /// A filter chain on these pools.
    pub(crate) fn chain(
        &self,
        http: &Arc<HttpManager>,
        buffer_limit: usize,
        shared: &Arc<ListenerShared>,
        metrics: &Metrics,
        overload: &Arc<Overload>,
    ) -> Arc<ChainRuntime> {
        let router = Chain::new(RouterHandler(Arc::new(Means {
            stats: shared.stats.clone(),
            upstreams: self.upstreams.clone(),
            filters: self.filters.clone(),
        })));
        let shows_calls =
            http.shows(|substitution| substitution.operator == FormatOperator::FilterState);
        let building = Building {
            cluster: None,
            routes: &[&http.routes],
            buckets: &self.buckets,
            ext_proc: |filter: &Filter, config: &Arc<FilterConfig>, inner| {
                let owner = Owner::Manager(http.stat_prefix.clone());
                let observer = metrics.observer(owner, config.stat_prefix());
                let observer = match &shared.recorder {
                    Some(_) => Arc::new((observer, SideSpans)),
                    None => observer,
                };
                let observer = match shows_calls {
                    true => Arc::new((observer, CallNotes)),
                    false => observer,
                };
                ext_proc::filter(filter, config, &self.transport, observer, inner)
            },
        };
        Arc::new(ChainRuntime {
            filters: building.chain(&http.filters, router),
            http: http.clone(),
            buffer_limit,
            shared: shared.clone(),
            overload: overload.clone(),
        })
    }
}
