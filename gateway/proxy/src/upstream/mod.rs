//! Clusters as one worker uses them: endpoints, connection pools, requests.

mod attempt;
pub(crate) mod connect;
mod drive;
mod endpoints;
pub(crate) mod error;
mod hashing;
pub(crate) mod health;
mod http1;
mod http2;
mod levels;
mod member;
mod progress;
mod queue;
mod tls;
mod tunnel;

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, Request, Response};

use self::{attempt::send_once, endpoints::Endpoints};
pub(crate) use self::{
    attempt::{Deadline, Outbound, Relay, Sending, send},
    endpoints::Wanted,
    error::Failure,
    health::HealthByCluster,
    member::{Host, HostShared, Lending},
    progress::{Progress, ProgressWatch},
    queue::Queue,
    tunnel::is_websocket,
};
use crate::{
    config::snapshot::{Cluster, Snapshot, UpstreamTls},
    http::body::Body,
    limits::{overload::Overload, throttle::Throttle},
    telemetry::stats::Metrics,
};

/// All clusters of a snapshot.
#[derive(Debug)]
pub(crate) struct Upstreams {
    clusters: HashMap<String, Upstream>,
}

/// One cluster.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) shared: Arc<HostShared>,
    endpoints: Arc<Endpoints>,
}

impl Upstreams {
    /// Clusters that are the same in `before` are taken over; where only endpoints changed, those that stay
    /// keep their connections. Everything else finishes what it carries and closes.
    ///
    /// # Errors
    /// A cluster's TLS settings cannot be used; the text names the cluster.
    pub(crate) fn new(
        snapshot: &Snapshot,
        metrics: &Metrics,
        health: &HealthByCluster,
        overload: &Arc<Overload>,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let mut clusters = HashMap::new();
        for (name, cluster) in &snapshot.clusters {
            let known = before
                .and_then(|before| before.get(name))
                .filter(|known| known.cluster.connects_like(cluster));
            if let Some(known) = known
                && known.cluster == *cluster
            {
                clusters.insert(name.clone(), known.clone());
                continue;
            }
            let ready = |settings: &Option<UpstreamTls>| {
                let settings = settings.as_ref();
                settings
                    .map(|settings| tls::client(settings, cluster.protocol))
                    .transpose()
                    .map_err(|error| format!("cluster {name}: {error}"))
            };
            let (tls, sockets) = match known {
                Some(known) => (known.shared.tls.clone(), known.shared.sockets.clone()),
                None => (
                    ready(&cluster.tls)?,
                    cluster
                        .sockets
                        .iter()
                        .map(ready)
                        .collect::<Result<_, String>>()?,
                ),
            };
            let shared = Arc::new(HostShared {
                cluster: cluster.clone(),
                tls,
                sockets,
                stats: metrics.cluster(name),
                breakers: metrics.breakers(name),
                health: health.of(name),
                overload: overload.clone(),
                unavailable: Throttle::new(),
            });
            clusters.insert(
                name.clone(),
                Upstream {
                    cluster: cluster.clone(),
                    shared: shared.clone(),
                    endpoints: Arc::new(Endpoints::new(
                        shared,
                        known.map(|known| &*known.endpoints),
                    )),
                },
            );
        }
        Ok(Self { clusters })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Upstream> {
        self.clusters.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Upstream)> {
        let entries = self.clusters.iter();
        entries.map(|(name, upstream)| (name.as_str(), upstream))
    }
}

impl Upstream {
    /// Returns whether this is the other one, with the same connections.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoints, &other.endpoints)
    }

    /// The endpoints that are known now.
    pub(crate) fn hosts(&self) -> Arc<[Arc<Host>]> {
        self.endpoints.hosts()
    }

    /// The endpoint for a side stream with this metadata, if there is a choice now.
    pub(crate) fn choose_among_several(&self, headers: &HeaderMap) -> Option<Arc<Host>> {
        self.endpoints.choose_among_several(headers)
    }

    /// Sends a request, which only its caller limits, to one of the endpoints.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let host = self.choose(&Wanted::by(request.headers())).await?;
        let sent = send_once(&host, Lending::default(), request).await;
        match &sent {
            Ok(response) => host.outcome(Some(response.status())),
            Err(failure) => host.failed(failure),
        }
        sent
    }

    /// Returns whether endpoints of other priorities than these are fit.
    pub(crate) fn is_available_without(&self, passed: &[u32]) -> bool {
        self.endpoints.is_available_without(passed)
    }

    /// The endpoint for a request with these headers.
    pub(crate) async fn choose(&self, wanted: &Wanted<'_>) -> Result<Arc<Host>, Failure> {
        match self.endpoints.choose(wanted).await {
            Some(host) => Ok(host),
            None => {
                self.shared.stats.upstream_cx_none_healthy.add();
                if let Some(suppressed) = self.shared.unavailable.pass() {
                    tracing::warn!(cluster = %self.cluster.name, suppressed, "no healthy upstream");
                }
                Err(Failure::NoHost)
            }
        }
    }
}
