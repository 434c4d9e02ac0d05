//! Model of what the gateway serves, whatever front end it came from.
//!
//! A [`Snapshot`] is immutable and checked: names are resolved, regular expressions compiled,
//! per-route filter configurations merged. It is swapped as a whole; an exchange keeps the one it
//! began with.

mod cluster;
mod compression;
mod filter;
mod flags;
mod hashing;
mod health;
mod inspect;
mod listener;
mod local_reply;
mod manager;
mod match_tree;
mod names;
mod operator;
mod path;
pub mod pem;
mod policy;
mod rate_limit;
mod retry;
mod route;
mod template;
mod tracing;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use extproc_client::{
    FilterConfig,
    config::{GrpcTarget, Service, StringMatcher, TargetAddress},
};

pub use self::{
    cluster::{
        CircuitBreakers, Cluster, Discovery, DnsFamily, Endpoint, EndpointAddress, EndpointCheck,
        HostSource, LbPolicy, MetadataKey, OriginalDst, OverrideHost, Priority, Reach, RetryBudget,
        Standing, SubjectAltName, TcpKeepalive, Thresholds, UpstreamProtocol, UpstreamTls,
    },
    compression::{Coding, Compressible, Compressor, Decoding, Decompressible, Decompressor, Etag},
    filter::{Filter, FilterKind, Matched, OnRoute, SetMetadata},
    flags::{RESPONSE_FLAGS, flag, response_flag},
    hashing::{HashBy, HashCookie, HashPolicy, HashTable, Hashing},
    health::{CheckKind, Health, HealthCheck, Outliers},
    inspect::Inspect,
    listener::{
        Certificate, ChainMatch, ClientValidation, DownstreamTls, FilterChain, HANDSHAKE_TIMEOUT,
        Listener, TransportProtocol,
    },
    local_reply::{LocalReplies, ReplyFormat, ReplyMapper},
    manager::{
        AccessLog, ClientCertDetails, Codec, Comparison, EscapedSlashes, Floods, ForwardClientCert,
        Http1Options, Http2Options, HttpManager, Interval, Keepalive, LogFilter, LogFormat,
        LogSink, NodeIdentity, Normalization, Operator, ProxyStatus, SchemeHeader, ServerHeader,
        Timeouts, Underscores,
    },
    match_tree::{
        AddressRange, MatchAction, MatchInput, MatchKind, MatchTest, MatchTree, Predicate, Then,
        ValueMatcher,
    },
    names::NamePattern,
    operator::FormatOperator,
    path::{EscapeCase, canonical_path},
    policy::{Cors, Fraction, Mirror, StripPort},
    rate_limit::{
        LocalRateLimit, OfHost, RateLimitAction, RateLimitDescriptor, RateLimitRule,
        RouteRateLimits, TokenBucket,
    },
    retry::{Retry, RetryOn},
    route::{
        AppendAction, Case, Choice, CookieMatch, Forward, GrpcTimeout, HeaderChange, HeaderMatch,
        InternalRedirect, MetadataMatch, Overridden, PathMatch, QueryMatch, Redirect,
        RedirectPredicate, Route, RouteAction, RouteMatch, RouteOverrides, RouteTable, ValueMatch,
        VirtualHost, WeightedCluster,
    },
    template::{HeaderTemplate, JsonTemplate, Piece, Substitution, Template, TemplateError},
    tracing::{
        CustomTag, RouteTracing, TraceExporter, TraceProtocol, TraceProvider, TraceSampler,
        TraceSampling, Tracing,
    },
};

/// Everything that is served.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Address of `/stats`, `/stats/prometheus` and `/ready`; no admin server if unset.
    pub admin: Option<SocketAddr>,
    /// `allow_paths`: the paths, with their queries, that the admin server answers; all if empty.
    pub admin_paths: Vec<StringMatcher>,
    /// `admin.inspect`: settings of the inspector; none runs if unset.
    pub inspect: Option<Inspect>,
    /// Listeners. No two may have the same address.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters by name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// Filters around each attempt to have a request answered by a cluster, by its name; those without are left out.
    pub cluster_filters: BTreeMap<String, Arc<[Filter]>>,
    /// Files that the configuration was made from beside the one that was named: certificates and the
    /// like. They are watched with it.
    pub files: Vec<PathBuf>,
    /// The source that it was made of, secrets left out, for whoever operates the gateway; null if that is no bootstrap.
    pub source: serde_json::Value,
    /// `overload_manager`; unset: limits from what the system gives the process.
    pub overload: Option<OverloadLimits>,
    /// Settings that the configuration has and this gateway does not honour, one line each with its place;
    /// to be logged once.
    pub warnings: Vec<String>,
    /// Fields without effect here that need none, with their places.
    pub ignored: Vec<String>,
}

/// `envoy.config.overload.v3.OverloadManager`: what the process as a whole may hold.
#[derive(Clone, Copy, Debug)]
pub struct OverloadLimits {
    /// Client connections of all listeners; those beyond are closed at once. `None` is no limit.
    pub connections: Option<usize>,
    /// Resident bytes that are taken for all there is; `None` is no limit.
    pub memory: Option<u64>,
    /// The part of `memory` from which on requests are answered 503. Default 0.9; `None` is never.
    pub stop_requests: Option<f64>,
    /// The part of `memory` from which on connections are closed at once. Default 0.95; `None` is never.
    pub stop_connections: Option<f64>,
    /// The part of `memory` from which on the exchanges end that hold the most of it. Default 0.85; `None` is never.
    pub reset_streams: Option<f64>,
    /// Time between two looks at the memory. Default 100 ms (Envoy: 1 s).
    pub refresh: Duration,
}

impl Default for OverloadLimits {
    fn default() -> Self {
        Self {
            connections: None,
            memory: None,
            stop_requests: Some(0.9),
            stop_connections: Some(0.95),
            reset_streams: Some(0.85),
            refresh: Duration::from_millis(100),
        }
    }
}

impl Snapshot {
    /// Addresses `HOST:PORT` of all processors that filters name, whatever route they are for; Unix sockets left out.
    pub fn processors(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut take = |config: &Arc<FilterConfig>| {
            // A service of another kind speaks HTTP, and a replay gRPC.
            let Service::Grpc(service) = config.service() else {
                return;
            };
            match &service.target {
                GrpcTarget::Cluster { name, .. } => found.extend(self.endpoints(name)),
                GrpcTarget::Uri { target } => {
                    if let Ok(TargetAddress::Names(names)) = TargetAddress::parse(target) {
                        found.extend(names);
                    }
                }
                _ => {}
            }
        };
        let chains = self.listeners.iter().flat_map(|at| at.all_chains());
        for http in chains.map(|chain| &chain.http) {
            for filter in &http.filters {
                filter.kind.each_ext_proc(&mut take);
            }
            let overrides = http.routes.overrides();
            for (_, said) in overrides.flat_map(RouteOverrides::all) {
                match said {
                    OnRoute::Processor(Some(config)) => take(config),
                    OnRoute::As(kind) => kind.each_ext_proc(&mut take),
                    OnRoute::Processor(None) | OnRoute::Off | OnRoute::On => {}
                }
            }
        }
        for filter in self.cluster_filters.values().flat_map(|all| all.iter()) {
            filter.kind.each_ext_proc(&mut take);
        }
        found
    }

    fn endpoints(&self, cluster: &str) -> Vec<String> {
        let discovery = self.clusters.get(cluster).map(|cluster| &cluster.discovery);
        let endpoints = match discovery {
            Some(
                Discovery::Static(all) | Discovery::StrictDns(all) | Discovery::LogicalDns(all),
            ) => all.as_slice(),
            Some(Discovery::OriginalDst(_)) | None => &[],
        };
        let addresses = endpoints.iter().map(|endpoint| &endpoint.address);
        addresses
            .filter_map(|address| match address {
                EndpointAddress::Socket(address) => Some(address.to_string()),
                EndpointAddress::Name(name, port) => Some(format!("{name}:{port}")),
                EndpointAddress::Pipe(_) => None,
            })
            .collect()
    }

    /// Has requests traced where nothing is said of traces.
    #[cfg(feature = "bootstrap")]
    pub(crate) fn trace_where_nothing_is(&mut self, tracing: &Arc<Tracing>) {
        for listener in self.listeners.iter_mut().filter_map(Arc::get_mut) {
            let chains = listener
                .chains
                .iter_mut()
                .chain(listener.default_chain.as_mut());
            for http in chains.filter_map(|chain| Arc::get_mut(&mut chain.http)) {
                http.tracing.get_or_insert_with(|| tracing.clone());
            }
        }
    }
}
