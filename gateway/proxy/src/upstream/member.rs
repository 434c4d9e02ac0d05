//! One endpoint of a cluster, with the connections that a worker has to it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use extproc_client::{host::Metadata, metadata::json_at, transport::Pool};
use http::StatusCode;
use tokio::time::Instant;

use super::{
    connect::{self, Address, Connected, Tls, To},
    error::Failure,
    health::{self, ClusterHealth, Health},
    http1::{self, Http1Pool},
    http2::{self, Http2Pool},
    levels::Fitness,
    queue::{Counted, Queue, Waiting},
};
use crate::{
    config::snapshot::{
        Cluster, Endpoint, EndpointCheck, Health as Settings, Priority, Standing, UpstreamProtocol,
    },
    limits::{
        breakers::{Breakers, Place, Resource},
        overload::{Descriptor, Overload},
        throttle::Throttle,
    },
    telemetry::stats::ClusterStats,
};

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: Address,
    pub(crate) hostname: String,
    pub(crate) weight: u32,
    /// Credit where the turns of hosts follow their weights.
    pub(super) credit: AtomicI64,
    /// Its own way to be spoken to, of those of its cluster.
    pub(super) socket: Option<usize>,
    pub(crate) metadata: Option<Arc<Metadata>>,
    pub(crate) priority: u32,
    pub(super) standing: Standing,
    /// Settings for its checks that differ from those for its use.
    pub(super) check: EndpointCheck,
    pub(crate) active: AtomicUsize,
    pub(crate) shared: Arc<HostShared>,
    /// Health of the endpoint, shared by all workers.
    pub(crate) health: Arc<Health>,
    /// This worker looks after its checks.
    watched: AtomicBool,
    http1: Http1Pool,
    http2: Http2Pool,
    /// Connections for side streams, if it is a processor.
    side_streams: OnceLock<Pool>,
    http1_queue: Arc<Queue>,
    http2_queue: Arc<Queue>,
    /// TLS has agreed on HTTP/1 last, where that finds out which protocol is spoken.
    agreed_http1: AtomicBool,
    /// Warnings that it cannot be connected to.
    unreachable: Throttle,
}

/// State that all endpoints of a cluster have in common.
#[derive(Debug)]
pub(crate) struct HostShared {
    pub(crate) cluster: Arc<Cluster>,
    pub(super) tls: Option<Tls>,
    /// Of endpoints that have another one.
    pub(super) sockets: Arc<[Option<Tls>]>,
    pub(crate) stats: Arc<ClusterStats>,
    pub(crate) breakers: Arc<Breakers>,
    /// Of its endpoints.
    pub(crate) health: Arc<ClusterHealth>,
    pub(crate) overload: Arc<Overload>,
    /// Warnings that there is no endpoint.
    pub(crate) unavailable: Throttle,
}

/// A connection's place: in its cluster, in the process, at its endpoint.
#[derive(Debug)]
#[expect(dead_code, reason = "held, and given back in this order when dropped")]
pub(crate) struct ConnectionPlace {
    place: Place,
    descriptor: Descriptor,
    counted: Counted,
}

impl ConnectionPlace {
    pub(super) fn counted(&self) -> Counted {
        self.counted.clone()
    }

    pub(super) fn count_among(&mut self, queue: &Arc<Queue>) {
        self.counted = queue.count();
    }
}

impl HostShared {
    /// The longest time that a connection stays without a request. Idle connections of one cluster must not keep others
    /// from connecting.
    pub(super) fn idle_limit(&self) -> Option<Duration> {
        const SHORT: Duration = Duration::from_secs(1);
        let configured = self.cluster.idle_timeout;
        match self.overload.is_short_of_descriptors() {
            true => Some(configured.map_or(SHORT, |limit| limit.min(SHORT))),
            false => configured,
        }
    }

    /// Takes a resource of the cluster, counted as an overflow if there is none left.
    pub(crate) fn take(&self, priority: Priority, resource: Resource) -> bool {
        let taken = self.breakers.take(priority, resource);
        let stats = &self.stats;
        match (resource, taken) {
            (Resource::Pending, true) => stats.upstream_rq_pending_total.add(),
            (_, true) => {}
            (Resource::Connection, false) => stats.upstream_cx_overflow.add(),
            (Resource::Pending, false) => stats.upstream_rq_pending_overflow.add(),
            (Resource::Request, false) => stats.upstream_rq_active_overflow.add(),
            (Resource::Retry, false) => stats.upstream_rq_retry_overflow.add(),
        }
        taken
    }

    /// As [`take`](Self::take); what was taken is given back when dropped.
    pub(crate) fn place(&self, priority: Priority, resource: Resource) -> Result<Place, Failure> {
        match self.take(priority, resource) {
            true => Ok(Place::new(&self.breakers, priority, resource)),
            false => Err(Failure::Overflow),
        }
    }

    /// A place for one more connection to the endpoint of `queue`. One that has none gets it whatever the cluster's limit:
    /// what waits there could not be served otherwise.
    pub(crate) fn connection(
        &self,
        priority: Priority,
        queue: &Arc<Queue>,
    ) -> Option<ConnectionPlace> {
        let held = self.breakers.in_use(Resource::Connection);
        let Some(descriptor) = self.overload.descriptor(held) else {
            self.stats.upstream_cx_overflow.add();
            return None;
        };
        if !self.take(priority, Resource::Connection) {
            if queue.connections() > 0 {
                return None;
            }
            self.breakers.take_anyway(priority, Resource::Connection);
        }
        Some(ConnectionPlace {
            place: Place::new(&self.breakers, priority, Resource::Connection),
            descriptor,
            counted: queue.count(),
        })
    }
}

/// Wishes for a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lending {
    pub(crate) priority: Priority,
    /// The request came over HTTP/2.
    pub(crate) client_http2: bool,
    /// A connection that carried no request yet, where that is possible.
    pub(crate) fresh: bool,
    /// The longest wait for one where a limit allows no further one.
    pub(crate) limit: Option<Duration>,
}

/// A connection that can take a request now, and the request's place.
pub(crate) struct Lease {
    pub(super) on: On,
    pub(super) request: Place,
}

/// A connection that can take a request now.
pub(super) enum On {
    Http1(http1::Lease),
    Http2(http2::Lease),
}

impl Lease {
    /// Our address, with TCP.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match &self.on {
            On::Http1(lease) => lease.local(),
            On::Http2(lease) => lease.local(),
        }
    }

    /// Facts about the connection that can be told later, if others use it, too.
    pub(crate) fn witness(&self) -> Option<http2::Witness> {
        match &self.on {
            On::Http1(_) => None,
            On::Http2(lease) => Some(lease.witness()),
        }
    }

    /// Returns whether the connection carried requests before.
    pub(crate) fn reused(&self) -> bool {
        match &self.on {
            On::Http1(lease) => lease.reused(),
            On::Http2(lease) => lease.reused(),
        }
    }
}

impl Host {
    /// The text that places it where endpoints are chosen by a hash.
    pub(super) fn hash_key(&self, by_hostname: bool) -> String {
        let own = self.metadata.as_ref().and_then(|metadata| {
            let key = metadata.filter_metadata.get("envoy.lb")?;
            json_at(key, &["hash_key"])?.as_str().map(str::to_owned)
        });
        own.unwrap_or_else(|| match by_hostname && !self.hostname.is_empty() {
            true => self.hostname.clone(),
            false => self.address.to_string(),
        })
    }

    /// The host at `address`, as `endpoint` has it; without one, an address that a request named.
    pub(super) fn new(
        address: Address,
        hostname: &str,
        endpoint: Option<&Endpoint>,
        shared: Arc<HostShared>,
    ) -> Self {
        let check = endpoint.map_or_else(EndpointCheck::default, |endpoint| endpoint.check.clone());
        let health = match check.disabled {
            false => shared.health.of(&address, &shared.cluster.health),
            true => shared.health.of(
                &address,
                &Settings {
                    check: None,
                    ..shared.cluster.health.clone()
                },
            ),
        };
        Self {
            address,
            hostname: hostname.to_owned(),
            weight: endpoint.map_or(1, |endpoint| endpoint.weight.max(1)),
            credit: AtomicI64::new(0),
            socket: endpoint.and_then(|endpoint| endpoint.socket),
            metadata: endpoint.and_then(|endpoint| endpoint.metadata.clone()),
            priority: endpoint.map_or(0, |endpoint| endpoint.priority),
            standing: endpoint
                .map(|endpoint| endpoint.standing)
                .unwrap_or_default(),
            check,
            active: AtomicUsize::new(0),
            health,
            watched: AtomicBool::new(false),
            shared,
            http1: Http1Pool::default(),
            http2: Http2Pool::default(),
            side_streams: OnceLock::new(),
            http1_queue: Arc::default(),
            http2_queue: Arc::default(),
            agreed_http1: AtomicBool::new(false),
            unreachable: Throttle::new(),
        }
    }

    /// The host that answers checks of this one, if it is another one.
    pub(super) fn checked(&self) -> Option<Self> {
        let EndpointCheck { port, address, .. } = &self.check;
        let own = self.socket()?;
        let other = SocketAddr::new(address.unwrap_or(own.ip()), port.unwrap_or(own.port()));
        (other != own).then(|| Self {
            address: Address::Socket(other),
            hostname: self.hostname.clone(),
            weight: self.weight,
            credit: AtomicI64::new(0),
            socket: self.socket,
            metadata: self.metadata.clone(),
            priority: self.priority,
            standing: self.standing,
            check: self.check.clone(),
            active: AtomicUsize::new(0),
            health: self.health.clone(),
            watched: AtomicBool::new(true),
            shared: self.shared.clone(),
            http1: Http1Pool::default(),
            http2: Http2Pool::default(),
            side_streams: OnceLock::new(),
            http1_queue: Arc::default(),
            http2_queue: Arc::default(),
            agreed_http1: AtomicBool::new(false),
            unreachable: Throttle::new(),
        })
    }

    /// Its health as far as it is known.
    pub(super) fn fitness(&self) -> Fitness {
        match self.standing {
            Standing::Unhealthy => Fitness::Unfit,
            _ if !self.health.is_fit() => Fitness::Unfit,
            Standing::Degraded => Fitness::Degraded,
            Standing::Healthy if self.health.is_degraded() => Fitness::Degraded,
            Standing::Healthy => Fitness::Healthy,
        }
    }

    /// TLS towards it.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        let own = self
            .socket
            .and_then(|socket| self.shared.sockets.get(socket));
        own.unwrap_or(&self.shared.tls).as_ref()
    }

    /// The socket address, if it is one.
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Socket(address) => Some(address),
            Address::Pipe(_) => None,
        }
    }

    /// Requests and side streams that are on their way.
    pub(crate) fn load(&self) -> usize {
        let side_streams = self.side_streams.get().map_or(0, Pool::streams);
        self.active.load(Ordering::Relaxed) + side_streams
    }

    /// The pool for side streams, which `new` makes the first time.
    pub(crate) fn side_streams(&self, new: impl FnOnce() -> Pool) -> &Pool {
        self.side_streams.get_or_init(new)
    }

    /// A connection for one more request: an idle one, or a new one.
    pub(crate) async fn lease(self: &Arc<Self>, asked: Lending) -> Result<Lease, Failure> {
        let on = loop {
            let on = if self.speaks_http2(asked) {
                self.http2.lease(self, asked).await?
            } else if let Some(lease) = self.idle(asked) {
                Some(On::Http1(lease))
            } else {
                // In a box: it is rare, and most requests need not have room for it.
                Box::pin(self.open(asked)).await?
            };
            if let Some(on) = on {
                break on;
            }
            // Another connection has found out meanwhile that the other protocol is spoken.
        };
        let request = self.shared.place(asked.priority, Resource::Request);
        match (request, on) {
            (Ok(request), on) => Ok(Lease { on, request }),
            (Err(failure), On::Http1(lease)) => {
                lease.give_back();
                Err(failure)
            }
            (Err(failure), On::Http2(_)) => Err(failure),
        }
    }

    /// Tells whether a request is to go over HTTP/2. Where TLS finds out, HTTP/2 is what is taken for granted until it says otherwise:
    /// then those who come at the same time wait for one connection, and have another one each only if that is what they need.
    fn speaks_http2(&self, asked: Lending) -> bool {
        match self.shared.cluster.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Downstream => asked.client_http2,
            UpstreamProtocol::Auto => {
                !self.agreed_http1.load(Ordering::Relaxed) || self.http2.is_open()
            }
        }
    }

    /// Tells whether TLS finds out which protocol is spoken.
    fn finds_out(&self) -> bool {
        self.shared.cluster.protocol == UpstreamProtocol::Auto
    }

    /// Takes note of what a new connection speaks. Returns whether that is HTTP/1 although HTTP/2 was taken for granted.
    pub(super) fn agrees_on_http1(&self, connected: &Connected) -> bool {
        self.agreed_http1.store(!connected.http2, Ordering::Relaxed);
        self.finds_out() && !connected.http2
    }

    /// Tells whether TLS found out that HTTP/1 is spoken, and no connection with HTTP/2 is left.
    pub(super) fn turned_to_http1(&self) -> bool {
        self.finds_out() && self.agreed_http1.load(Ordering::Relaxed) && !self.http2.is_open()
    }

    /// An idle HTTP/1 connection, unless others wait for one.
    fn idle(self: &Arc<Self>, asked: Lending) -> Option<http1::Lease> {
        match asked.fresh || !self.http1_queue.is_empty() {
            true => None,
            false => self.http1.idle(self),
        }
    }

    /// A new connection, or an HTTP/1 connection that becomes idle while no further one is allowed. `None` if HTTP/2 is spoken by now.
    async fn open(self: &Arc<Self>, asked: Lending) -> Result<Option<On>, Failure> {
        let pending = self.shared.place(asked.priority, Resource::Pending)?;
        let queue = &self.http1_queue;
        let place = || self.shared.connection(asked.priority, queue);
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            if self.finds_out() && self.http2.is_open() {
                // So does the next one who waits.
                drop((pending, waiting));
                queue.free();
                return Ok(None);
            }
            if waiting.is_some()
                && !asked.fresh
                && let Some(lease) = self.http1.idle(self)
            {
                return Ok(Some(On::Http1(lease)));
            }
            let mut opening = place();
            // An idle connection that is of no use for this request makes room.
            let next = waiting.is_some() || queue.is_empty();
            if opening.is_none() && next && self.http1.let_go() {
                opening = place();
            }
            if let Some(opening) = opening {
                drop(waiting);
                let connected = self.connect(opening, queue).await?;
                self.agrees_on_http1(&connected);
                // A cluster that says what it speaks speaks that, whatever TLS agreed on.
                return match connected.http2 && self.finds_out() {
                    true => {
                        let counted = self.http2_queue.count();
                        let adopted = self.http2.adopt(self, connected, counted).await;
                        queue.free();
                        adopted.map(|lease| Some(On::Http2(lease)))
                    }
                    false => http1::open(self, connected)
                        .await
                        .map(|lease| Some(On::Http1(lease))),
                };
            }
            self.wait(queue, &mut waiting, asked.limit).await?;
        }
    }

    /// Waits until something became free.
    pub(super) async fn wait<'a>(
        &self,
        queue: &'a Queue,
        waiting: &mut Option<Waiting<'a>>,
        limit: Option<Duration>,
    ) -> Result<(), Failure> {
        // Nothing could become free.
        if queue.connections() == 0 {
            return Err(Failure::Overflow);
        }
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        waiting
            .get_or_insert_with(|| queue.join(until))
            .turn()
            .await
            .inspect_err(|failure| {
                if matches!(failure, Failure::Timeout) {
                    self.shared.stats.upstream_rq_timeout.add();
                }
            })
    }

    pub(super) fn http1(&self) -> &Http1Pool {
        &self.http1
    }

    pub(super) fn http2(&self) -> &Http2Pool {
        &self.http2
    }

    /// Requests that wait for an HTTP/1 connection.
    pub(super) fn http1_queue(&self) -> &Arc<Queue> {
        &self.http1_queue
    }

    /// Requests that wait for an HTTP/2 stream.
    pub(super) fn http2_queue(&self) -> &Arc<Queue> {
        &self.http2_queue
    }

    /// Has it checked, if its cluster asks for that.
    pub(super) fn watch(self: &Arc<Self>) {
        if let Some(check) = &self.shared.cluster.health.check
            && !self.check.disabled
            && !self.watched.swap(true, Ordering::Relaxed)
        {
            tokio::spawn(health::watch(Arc::downgrade(self), check.clone()));
        }
    }

    /// A request to it failed.
    pub(crate) fn failed(&self, failure: &Failure) {
        if failure.is_of_endpoint() {
            self.outcome(None);
        }
    }

    /// A request to it had this outcome: a status, or none.
    pub(crate) fn outcome(&self, status: Option<StatusCode>) {
        if let Some(settings) = &self.shared.cluster.health.outliers {
            self.health.outcome(status, settings, &self.shared.health);
        }
    }

    /// Opens a connection, and counts and logs it if that fails.
    pub(crate) async fn connect_raw(&self, place: ConnectionPlace) -> io::Result<Connected> {
        let stats = &self.shared.stats;
        let cluster = &self.shared.cluster;
        let to = To {
            address: &self.address,
            reach: cluster.reach,
            name: &self.hostname,
            keepalive: cluster.tcp_keepalive,
        };
        let tls = self.tls();
        let connected = connect::connect(to, tls, cluster.connect_timeout, place).await;
        match &connected {
            Ok(_) => stats.upstream_cx_total.add(),
            Err(error) => {
                stats.upstream_cx_connect_fail.add();
                if error.kind() == io::ErrorKind::TimedOut {
                    stats.upstream_cx_connect_timeout.add();
                }
                self.tell_unreachable(error);
            }
        }
        connected
    }

    /// The same for gRPC. A server with which TLS does not agree on HTTP/2, where it is what finds out, would take what is sent for HTTP/1
    /// and wait for the rest of it.
    ///
    /// # Errors
    /// The kind is `InvalidData` also if that is so.
    pub(crate) async fn connect_grpc(&self, place: ConnectionPlace) -> io::Result<Connected> {
        let connected = self.connect_raw(place).await?;
        if self.finds_out() && !connected.http2 {
            let error = io::Error::new(
                io::ErrorKind::InvalidData,
                "gRPC needs HTTP/2, on which the server does not agree by ALPN",
            );
            self.tell_unreachable(&error);
            return Err(error);
        }
        Ok(connected)
    }

    fn tell_unreachable(&self, error: &io::Error) {
        if let Some(suppressed) = self.unreachable.pass() {
            tracing::warn!(
                cluster = %self.shared.cluster.name,
                address = %self.address,
                %error,
                suppressed,
                "cannot connect to upstream"
            );
        }
    }

    /// Opens a connection for requests of `queue`, which all fail if that fails.
    pub(super) async fn connect(
        &self,
        place: ConnectionPlace,
        queue: &Queue,
    ) -> Result<Connected, Failure> {
        self.connect_raw(place).await.map_err(|error| {
            queue.fail(error.kind());
            Failure::connect(error)
        })
    }
}
