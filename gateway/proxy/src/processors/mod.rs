//! Processors as clusters: the transport that the gateway gives to its ext_proc layers.

use std::{
    any::Any,
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;

use extproc_client::{
    config::{GrpcTarget, Service, TargetAddress},
    observer::StreamFacts,
    transport::{
        Balance, Balanced, Budget, Call, Close, Connector, HttpStream, HttpTransport, Message,
        Pool, PoolBuilder, PoolStream, Share, Sidestream, TcpConnector, Transport, UnixConnector,
    },
    wire::Reply,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::Full;
use tokio::net::{TcpStream, UnixStream};
use tower::Service as TowerService;

use crate::{
    config::snapshot::Priority,
    http::{
        body::Body,
        h2::{body::keepalive, cork::Corked},
        io::delegate_io,
    },
    limits::{
        breakers::Resource,
        overload::{Descriptor, Overload},
        throttle::Throttle,
    },
    telemetry::stats::ClusterStats,
    upstream::{
        Failure, Host, HostShared, Queue, Upstream, Upstreams, Wanted,
        connect::{Connected, Stream},
    },
};

/// One worker's connections to processors.
#[derive(Clone, Debug)]
pub(crate) struct ClusterTransport(Arc<Pools>);

/// Both ways to speak to a cluster's processors.
#[derive(Clone, Debug)]
struct Processor {
    upstream: Upstream,
    grpc: Balanced,
    http: HttpTransport<ClusterClient>,
}

#[derive(Debug)]
struct Pools {
    clusters: HashMap<String, Processor>,
    /// Processors that are named by address, made when first used.
    addresses: Arc<Mutex<HashMap<String, Pool>>>,
    overload: Arc<Overload>,
}

impl ClusterTransport {
    /// Pools of `before` are kept where the cluster is the same; those of other ones finish their streams.
    pub(crate) fn new(
        upstreams: &Upstreams,
        overload: &Arc<Overload>,
        before: Option<&Self>,
    ) -> Self {
        let clusters = upstreams
            .iter()
            .map(|(name, upstream)| {
                let known = before
                    .and_then(|before| before.0.clusters.get(name))
                    .filter(|known| known.upstream.is(upstream));
                let processor = known.cloned().unwrap_or_else(|| Processor::new(upstream));
                (name.to_owned(), processor)
            })
            .collect();
        Self(Arc::new(Pools {
            clusters,
            addresses: before.map_or_else(Arc::default, |before| before.0.addresses.clone()),
            overload: overload.clone(),
        }))
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<String, Pool>> {
        // Entries are only ever added.
        self.0
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, target: &str) -> Result<Pool, Close> {
        let mut known = self.addresses();
        if let Some(pool) = known.get(target) {
            return Ok(pool.clone());
        }
        let address = TargetAddress::parse(target).map_err(Close::unavailable)?;
        let connector = AddressConnector {
            ways: match address {
                TargetAddress::Unix(path) => vec![Way::Unix(UnixConnector::new(path))],
                TargetAddress::Names(names) => {
                    let names = names.into_iter().map(TcpConnector::new);
                    names.map(Way::Tcp).collect()
                }
                _ => Vec::new(),
            },
            target: target.to_owned(),
            unreachable: Throttle::new(),
            overload: self.0.overload.clone(),
        };
        let pool = as_envoy(Pool::builder(connector)).build();
        known.insert(target.to_owned(), pool.clone());
        Ok(pool)
    }
}

impl Processor {
    fn new(upstream: &Upstream) -> Self {
        Self {
            grpc: Balanced::new(GrpcPools {
                any: pool(&upstream.shared, Endpoint::Any(upstream.clone())),
                upstream: upstream.clone(),
            }),
            http: HttpTransport::new(ClusterClient(upstream.clone())),
            upstream: upstream.clone(),
        }
    }
}

/// The pools of a cluster: side streams are balanced one by one, as requests are.
#[derive(Debug)]
struct GrpcPools {
    upstream: Upstream,
    /// For a cluster with one endpoint, or whose names were not looked up yet.
    any: Pool,
}

impl Balance for GrpcPools {
    fn choose(&self, metadata: &HeaderMap) -> Pool {
        match self.upstream.choose_among_several(metadata) {
            Some(host) => host
                .side_streams(|| {
                    let one = Endpoint::One(Arc::downgrade(&host));
                    pool(&self.upstream.shared, one)
                })
                .clone(),
            None => self.any.clone(),
        }
    }
}

/// A pool of connections to `endpoint`, within the circuit breakers of the cluster.
fn pool(shared: &Arc<HostShared>, endpoint: Endpoint) -> Pool {
    let cluster = &shared.cluster;
    let connector = ClusterConnector {
        endpoint,
        queue: Arc::default(),
    };
    as_envoy(Pool::builder(connector))
        .max_pending(usize::MAX)
        .budget(Arc::new(SideStreams(shared.clone())))
        .connect_timeout(cluster.connect_timeout)
        .head_timeout(cluster.response_timeout)
        .idle_timeout(cluster.idle_timeout)
        .keepalive(cluster.http2.keepalive.map(keepalive))
        .max_streams(cluster.http2.max_concurrent_streams as usize)
        .build()
}

/// One connection to an endpoint while that suffices, and no more repetitions than Envoy makes.
fn as_envoy(builder: PoolBuilder) -> PoolBuilder {
    builder.connections(1).retry_first_refusal(false)
}

impl Transport for ClusterTransport {
    type Sidestream = ClusterStream;

    fn open(&self, call: Call<'_>) -> Result<ClusterStream, Close> {
        let clusters = &self.0.clusters;
        let unknown = || Close::unavailable("Cluster not available");
        match call.service {
            Service::Grpc(service) => match &service.target {
                GrpcTarget::Cluster { name, .. } => {
                    let processor = clusters.get(name).ok_or_else(unknown)?;
                    let stream = processor.grpc.open(call)?;
                    Ok(ClusterStream::Grpc(
                        stream,
                        Some(Counted::new(&processor.upstream.shared.stats)),
                    ))
                }
                GrpcTarget::Uri { target } => {
                    let stream = self.at(target)?.open(call)?;
                    Ok(ClusterStream::Grpc(stream, None))
                }
                _ => Err(unknown()),
            },
            Service::Http(service) => match clusters.get(&service.cluster) {
                Some(processor) => processor
                    .http
                    .open(call)
                    .map(|stream| ClusterStream::Http(Box::new(stream))),
                None => Err(Close::http_error("Cluster not available")),
            },
            _ => Err(unknown()),
        }
    }
}

/// A side stream of either kind.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the common one, and a box would cost each exchange an allocation"
)]
pub(crate) enum ClusterStream {
    Grpc(PoolStream, Option<Counted>),
    Http(Box<HttpStream<ClusterClient, Body>>),
}

impl Sidestream for ClusterStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Grpc(stream, _) => stream.poll_ready(cx),
            Self::Http(stream) => stream.poll_ready(cx),
        }
    }

    fn send_with_next(&mut self, message: Message) {
        match self {
            Self::Grpc(stream, _) => stream.send_with_next(message),
            Self::Http(stream) => stream.send_with_next(message),
        }
    }

    fn send(&mut self, message: Message) {
        match self {
            Self::Grpc(stream, _) => stream.send(message),
            Self::Http(stream) => stream.send(message),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        match self {
            Self::Grpc(stream, counted) => {
                let received = stream.poll_recv(cx);
                if let (Poll::Ready(Ok(_)), Some(counted)) = (&received, counted) {
                    counted.answered();
                }
                received
            }
            Self::Http(stream) => stream.poll_recv(cx),
        }
    }

    fn buffered(&self) -> usize {
        match self {
            Self::Grpc(stream, _) => stream.buffered(),
            Self::Http(stream) => stream.buffered(),
        }
    }

    fn facts(&self) -> StreamFacts {
        match self {
            Self::Grpc(stream, _) => stream.facts(),
            Self::Http(stream) => stream.facts(),
        }
    }

    fn finish(&mut self) {
        match self {
            Self::Grpc(stream, _) => stream.finish(),
            Self::Http(stream) => stream.finish(),
        }
    }

    fn timed_out(&mut self) {
        match self {
            Self::Grpc(stream, _) => stream.timed_out(),
            Self::Http(stream) => stream.timed_out(),
        }
    }

    fn close_flushed(self) {
        match self {
            Self::Grpc(stream, _counted) => stream.close_flushed(),
            Self::Http(stream) => stream.close_flushed(),
        }
    }
}

/// A side stream in the statistics of its cluster, as a request.
#[derive(Debug)]
pub(crate) struct Counted {
    stats: Arc<ClusterStats>,
    answered: bool,
}

impl Counted {
    fn new(stats: &Arc<ClusterStats>) -> Self {
        stats.upstream_rq_total.add();
        Self {
            stats: stats.clone(),
            answered: false,
        }
    }

    /// A reply came, and so the response's head did.
    fn answered(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.stats.status(StatusCode::OK);
        }
    }
}

/// Requests to a cluster, as an HTTP client.
#[derive(Clone, Debug)]
pub(crate) struct ClusterClient(Upstream);

impl ClusterClient {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self(upstream)
    }
}

impl TowerService<Request<Full<Bytes>>> for ClusterClient {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let upstream = self.0.clone();
        Box::pin(async move {
            let mut request = request.map(Body::new);
            // An added header may say otherwise than the configured URI.
            let host = request.headers_mut().remove(header::HOST);
            if let Some(authority) = host.and_then(|host| Authority::try_from(host.as_bytes()).ok())
            {
                set_authority(request.uri_mut(), authority);
            }
            // The caller has a time limit of its own.
            upstream.send(request).await
        })
    }
}

fn set_authority(uri: &mut Uri, authority: Authority) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.authority = Some(authority);
    // The other parts came from a URI, so that these are one too.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Side streams as requests of their cluster, to its circuit breakers.
#[derive(Debug)]
struct SideStreams(Arc<HostShared>);

impl Budget for SideStreams {
    fn take(&self, share: Share) -> bool {
        self.0.take(Priority::Default, resource(share))
    }

    fn give_back(&self, share: Share) {
        self.0
            .breakers
            .give_back(Priority::Default, resource(share));
    }
}

fn resource(share: Share) -> Resource {
    match share {
        Share::Waiting => Resource::Pending,
        Share::Stream => Resource::Request,
        // Retries, and what may be added to them.
        _ => Resource::Retry,
    }
}

/// The error of a connector that may not connect.
fn overflow() -> io::Error {
    let told = Failure::Overflow.told(false);
    io::Error::other(Close::unavailable(told.body).with_details(told.details))
}

/// Connects to `host` within the limits of its cluster.
async fn connect(host: &Host, queue: &Arc<Queue>) -> io::Result<Connected> {
    let place = host.shared.connection(Priority::Default, queue);
    let connected = host.connect_grpc(place.ok_or_else(overflow)?).await;
    host.outcome(connected.is_ok().then_some(StatusCode::OK));
    connected
}

/// Connects to endpoints of a cluster.
#[derive(Debug)]
struct ClusterConnector {
    endpoint: Endpoint,
    /// The pool's connections.
    queue: Arc<Queue>,
}

#[derive(Debug)]
enum Endpoint {
    /// Another one each time.
    Any(Upstream),
    /// This one, as long as the cluster has it: it owns the pool.
    One(Weak<Host>),
}

impl Endpoint {
    async fn host(&self) -> Result<Arc<Host>, Close> {
        match self {
            Self::Any(upstream) => {
                let host = upstream.choose(&Wanted::by(&HeaderMap::new())).await;
                let none = Close::unavailable("no healthy upstream");
                host.map_err(|_| none.with_details("no_healthy_upstream"))
            }
            Self::One(host) => {
                let gone = || Close::unavailable("the endpoint is gone");
                host.upgrade().ok_or_else(gone)
            }
        }
    }
}

impl Connector for ClusterConnector {
    type Io = Corked<Stream>;

    async fn connect(&self) -> io::Result<Corked<Stream>> {
        let host = self.endpoint.host().await.map_err(io::Error::other)?;
        Ok(Corked::new(connect(&host, &self.queue).await?.io))
    }

    fn serving(io: &Corked<Stream>) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(io.get_ref().counted()))
    }

    fn peer_addr(io: &Corked<Stream>) -> Option<SocketAddr> {
        io.get_ref().peer_addr()
    }

    fn local_addr(io: &Corked<Stream>) -> Option<SocketAddr> {
        io.get_ref().local_addr()
    }
}

/// Connects to an address that is no cluster's, within the limits of the process.
#[derive(Debug)]
struct AddressConnector {
    /// All lead to the processor; the first one that can be had is taken.
    ways: Vec<Way>,
    target: String,
    unreachable: Throttle,
    overload: Arc<Overload>,
}

#[derive(Debug)]
enum Way {
    Tcp(TcpConnector),
    Unix(UnixConnector),
}

/// A connection and its descriptor.
#[derive(Debug)]
#[expect(dead_code, reason = "the descriptor is held, and not looked at")]
enum AddressStream {
    Tcp(TcpStream, Descriptor),
    Unix(UnixStream, Descriptor),
}

delegate_io!(AddressStream { Self::Tcp, Self::Unix });

impl Connector for AddressConnector {
    type Io = AddressStream;

    async fn connect(&self) -> io::Result<AddressStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for way in &self.ways {
            let descriptor = self.overload.descriptor(0).ok_or_else(overflow)?;
            let connected = match way {
                Way::Tcp(way) => way
                    .connect()
                    .await
                    .map(|io| AddressStream::Tcp(io, descriptor)),
                Way::Unix(way) => way
                    .connect()
                    .await
                    .map(|io| AddressStream::Unix(io, descriptor)),
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        if let Some(suppressed) = self.unreachable.pass() {
            tracing::warn!(target_uri = %self.target, error = %last, suppressed, "cannot connect to processor");
        }
        Err(last)
    }

    fn peer_addr(io: &AddressStream) -> Option<SocketAddr> {
        match io {
            AddressStream::Tcp(io, _) => io.peer_addr().ok(),
            AddressStream::Unix(..) => None,
        }
    }

    fn local_addr(io: &AddressStream) -> Option<SocketAddr> {
        match io {
            AddressStream::Tcp(io, _) => io.local_addr().ok(),
            AddressStream::Unix(..) => None,
        }
    }
}
