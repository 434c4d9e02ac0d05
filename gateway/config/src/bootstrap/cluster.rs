//! `Cluster`, with its protocol, its load balancing and its endpoints.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use extproc_client::host::HeaderLimits;
use http::HeaderName;
use serde::Deserialize;

use super::{
    any::{Metadata, unsupported},
    breakers::CircuitBreakers,
    endpoint::ClusterLoadAssignment,
    filter::{self, HttpFilter, Owner},
    hashing::{ConsistentHashing, Maglev, RingHash},
    health::{self, CommonLbConfig, HealthCheck, OutlierDetection},
    listener::{DEFAULT_BUFFER_LIMIT, TransportSocket},
    protocol::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions},
    value::{ByName, Enum, Name, ProtoEnum, Time},
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{
        Cluster as Model, Discovery, DnsFamily, Filter, HostSource, LbPolicy,
        MetadataKey as MetadataKeyModel, OverrideHost as OverrideHostModel, Reach,
        TcpKeepalive as TcpKeepaliveModel, UpstreamProtocol, UpstreamTls,
    },
};

const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const ROUND_ROBIN: &str = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
const LEAST_REQUEST: &str =
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest";
const RANDOM: &str = "envoy.extensions.load_balancing_policies.random.v3.Random";
const RING_HASH: &str = "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash";
const MAGLEV: &str = "envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
const OVERRIDE_HOST: &str =
    "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost";
const POLICIES: &[&str] = &[
    ROUND_ROBIN,
    LEAST_REQUEST,
    RANDOM,
    RING_HASH,
    MAGLEV,
    OVERRIDE_HOST,
];

/// The header that names the endpoint where `http_header_name` does not say otherwise.
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Debug, Deserialize)]
pub(super) struct Cluster {
    pub(super) name: Located<String>,
    #[serde(default)]
    r#type: Enum<DiscoveryType>,
    connect_timeout: Option<Located<Time>>,
    per_connection_buffer_limit_bytes: Option<u32>,
    #[serde(default)]
    dns_lookup_family: Enum<DnsFamily>,
    #[serde(default)]
    lb_policy: Enum<Policy>,
    load_balancing_policy: Option<Located<LoadBalancingPolicy>>,
    load_assignment: Option<Located<ClusterLoadAssignment>>,
    original_dst_lb_config: Option<OriginalDstLbConfig>,
    ring_hash_lb_config: Option<RingHash>,
    maglev_lb_config: Option<Maglev>,
    max_requests_per_connection: Option<u32>,
    #[serde(default)]
    circuit_breakers: CircuitBreakers,
    #[serde(default)]
    typed_extension_protocol_options: ByName<Subtree>,
    common_http_protocol_options: Option<HttpProtocolOptions>,
    http_protocol_options: Option<Http1ProtocolOptions>,
    http2_protocol_options: Option<Http2ProtocolOptions>,
    upstream_http_protocol_options: Option<UpstreamHttpProtocolOptions>,
    #[serde(default)]
    protocol_selection: Enum<ProtocolSelection>,
    transport_socket: Option<TransportSocket>,
    upstream_connection_options: Option<UpstreamConnectionOptions>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    health_checks: Vec<Located<HealthCheck>>,
    outlier_detection: Option<OutlierDetection>,
    common_lb_config: Option<CommonLbConfig>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum DiscoveryType {
    #[default]
    Static,
    StrictDns,
    LogicalDns,
    OriginalDst,
}

impl ProtoEnum for DiscoveryType {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("STATIC", 0, Ok(Self::Static)),
        ("STRICT_DNS", 1, Ok(Self::StrictDns)),
        ("LOGICAL_DNS", 2, Ok(Self::LogicalDns)),
        ("EDS", 3, Err("discovery services (xDS) are not supported")),
        ("ORIGINAL_DST", 4, Ok(Self::OriginalDst)),
    ];
}

impl ProtoEnum for DnsFamily {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("AUTO", 0, Ok(Self::Auto)),
        ("V4_ONLY", 1, Ok(Self::V4Only)),
        ("V6_ONLY", 2, Ok(Self::V6Only)),
        ("V4_PREFERRED", 3, Ok(Self::V4Preferred)),
        ("ALL", 4, Ok(Self::All)),
    ];
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Policy {
    #[default]
    RoundRobin,
    LeastRequest,
    Random,
    RingHash,
    Maglev,
    ClusterProvided,
    Config,
}

impl ProtoEnum for Policy {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("ROUND_ROBIN", 0, Ok(Self::RoundRobin)),
        ("LEAST_REQUEST", 1, Ok(Self::LeastRequest)),
        ("RING_HASH", 2, Ok(Self::RingHash)),
        ("RANDOM", 3, Ok(Self::Random)),
        ("MAGLEV", 5, Ok(Self::Maglev)),
        ("CLUSTER_PROVIDED", 6, Ok(Self::ClusterProvided)),
        ("LOAD_BALANCING_POLICY_CONFIG", 7, Ok(Self::Config)),
    ];
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ProtocolSelection {
    #[default]
    Configured,
    Downstream,
}

impl ProtoEnum for ProtocolSelection {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("USE_CONFIGURED_PROTOCOL", 0, Ok(Self::Configured)),
        ("USE_DOWNSTREAM_PROTOCOL", 1, Ok(Self::Downstream)),
    ];
}

/// `envoy.config.cluster.v3.UpstreamConnectionOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamConnectionOptions {
    tcp_keepalive: Option<TcpKeepalive>,
}

/// `envoy.config.core.v3.TcpKeepalive`; times in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TcpKeepalive {
    keepalive_probes: Option<u32>,
    keepalive_time: Option<u32>,
    keepalive_interval: Option<u32>,
}

impl TcpKeepalive {
    /// `None` if a zero turns it off.
    fn build(&self) -> Option<TcpKeepaliveModel> {
        let given = [
            self.keepalive_probes,
            self.keepalive_time,
            self.keepalive_interval,
        ];
        let seconds = |given: Option<u32>| given.map(|given| Duration::from_secs(given.into()));
        (!given.contains(&Some(0))).then(|| TcpKeepaliveModel {
            probes: self.keepalive_probes,
            time: seconds(self.keepalive_time),
            interval: seconds(self.keepalive_interval),
        })
    }
}

/// `envoy.config.cluster.v3.Cluster.OriginalDstLbConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OriginalDstLbConfig {
    use_http_header: bool,
    http_header_name: Option<Name>,
}

/// `envoy.config.cluster.v3.LoadBalancingPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancingPolicy {
    policies: Vec<PolicyEntry>,
}

/// `envoy.config.cluster.v3.LoadBalancingPolicy.Policy`.
#[derive(Debug, Deserialize)]
struct PolicyEntry {
    typed_extension_config: TypedExtensionConfig,
}

/// `envoy.config.core.v3.TypedExtensionConfig`.
#[derive(Debug, Deserialize)]
pub(super) struct TypedExtensionConfig {
    pub(super) typed_config: Subtree,
}

/// `envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost`.
#[derive(Debug, Deserialize)]
struct OverrideHost {
    override_host_sources: Located<Vec<Located<OverrideHostSource>>>,
    selected_host_key: Option<Located<MetadataKey>>,
    fallback_policy: Located<LoadBalancingPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OverrideHostSource {
    header: Option<Name>,
    metadata: Option<Located<MetadataKey>>,
}

/// `envoy.type.metadata.v3.MetadataKey`.
#[derive(Debug, Deserialize)]
struct MetadataKey {
    key: String,
    #[serde(default)]
    path: Vec<PathSegment>,
}

#[derive(Debug, Deserialize)]
struct PathSegment {
    key: String,
}

impl Located<MetadataKey> {
    fn build(&self) -> Result<MetadataKeyModel, Fault> {
        let MetadataKey { key, path } = &self.value;
        if key.is_empty() || path.is_empty() {
            return Err(Fault::at(self.node, "key and path may not be empty"));
        }
        Ok(MetadataKeyModel {
            namespace: key.clone(),
            path: path.iter().map(|segment| segment.key.clone()).collect(),
        })
    }
}

/// The policies `round_robin`, `least_request` and `random`, none of whose fields is known here.
#[derive(Debug, Deserialize)]
#[serde(rename = "PlainLbPolicy")]
struct PlainPolicy {}

/// `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "UpstreamProtocolOptions")]
struct UpstreamProtocolOptions {
    common_http_protocol_options: HttpProtocolOptions,
    upstream_http_protocol_options: Option<UpstreamHttpProtocolOptions>,
    explicit_http_config: Option<Located<ExplicitHttpConfig>>,
    use_downstream_protocol_config: Option<UseDownstreamHttpConfig>,
    http_filters: Option<Located<Vec<Located<HttpFilter>>>>,
}

/// `envoy.config.core.v3.UpstreamHttpProtocolOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamHttpProtocolOptions {
    auto_sni: Option<Located<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExplicitHttpConfig {
    http_protocol_options: Option<Http1ProtocolOptions>,
    http2_protocol_options: Option<Http2ProtocolOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UseDownstreamHttpConfig {
    http_protocol_options: Http1ProtocolOptions,
    http2_protocol_options: Http2ProtocolOptions,
}

/// What a cluster speaks, however it was said.
#[derive(Debug, Default)]
struct Spoken {
    protocol: UpstreamProtocol,
    common: HttpProtocolOptions,
    http1: Http1ProtocolOptions,
    http2: Http2ProtocolOptions,
    upstream: UpstreamHttpProtocolOptions,
    filters: Option<Located<Vec<Located<HttpFilter>>>>,
}

impl Located<Cluster> {
    /// The cluster and its filters.
    pub(super) fn build(
        self,
        reader: &Reader<'_>,
        graceful_close: Option<Duration>,
    ) -> Result<(Model, Vec<Filter>), Fault> {
        let node = self.node;
        let mut cluster = self.value;
        if cluster.name.value.is_empty() {
            return Err(Fault::at(cluster.name.node, "may not be empty"));
        }
        let connect_timeout = match &cluster.connect_timeout {
            None => Duration::from_secs(5),
            Some(time) if time.value.0.is_zero() => {
                return Err(Fault::at(time.node, "has to be longer than 0 s"));
            }
            Some(time) => time.value.0,
        };
        let Spoken {
            protocol,
            common,
            http1,
            http2,
            upstream,
            filters,
        } = cluster.spoken(reader, node)?;
        let filters = match filters.filter(|filters| !filters.value.is_empty()) {
            Some(filters) => filter::chain(reader, Owner::Cluster, &filters, graceful_close)?,
            None => Vec::new(),
        };
        if let Some(common) = &cluster.common_lb_config
            && let Some(weighted) = &common.locality_weighted_lb_config
        {
            reader.note(
                weighted.node,
                "localities have no weights here, all endpoints of a priority are one list",
            );
        }
        let assignment = cluster.load_assignment.as_ref();
        let overprovisioning = match assignment {
            Some(assignment) => assignment.value.overprovisioning()?,
            None => None,
        };
        let model = Model {
            reach: Reach::Anywhere,
            discovery: cluster.discovery(reader, node)?,
            dns: cluster.dns_lookup_family.0,
            connect_timeout,
            response_timeout: None,
            protocol,
            http1: http1.build()?,
            http2: http2.build_upstream()?,
            response_headers: HeaderLimits {
                count: common.header_count()?,
                bytes: common.response_header_bytes(protocol == UpstreamProtocol::Http2)?,
            },
            buffer_limit: cluster
                .per_connection_buffer_limit_bytes
                .unwrap_or(DEFAULT_BUFFER_LIMIT) as usize,
            idle_timeout: common
                .idle_timeout
                .map_or(Some(Duration::from_secs(3600)), Time::limit),
            max_requests_per_connection: common
                .max_requests_per_connection
                .or(cluster.max_requests_per_connection)
                .and_then(NonZeroU32::new),
            max_connection_duration: common.max_connection_duration.and_then(Time::limit),
            max_stream_duration: common.max_stream_duration.and_then(Time::limit),
            circuit_breakers: cluster.circuit_breakers.build()?,
            lb: cluster.policy(reader, node)?,
            tcp_keepalive: match cluster.upstream_connection_options.as_ref() {
                Some(UpstreamConnectionOptions {
                    tcp_keepalive: Some(keepalive),
                }) => keepalive.build(),
                _ => Some(TcpKeepaliveModel::DEFAULT),
            },
            tls: match &cluster.transport_socket {
                Some(socket) => upstream.named(socket.upstream(reader)?, reader),
                None => None,
            },
            metadata: Arc::new(cluster.metadata.build(reader)?),
            health: health::build(
                node,
                &cluster.health_checks,
                cluster.outlier_detection.as_ref(),
                cluster.common_lb_config.as_ref(),
                overprovisioning,
            )?,
            name: cluster.name.value,
        };
        Ok((model, filters))
    }
}

impl Cluster {
    fn discovery(&self, reader: &Reader<'_>, node: NodeId) -> Result<Discovery, Fault> {
        let kind = self.r#type.0;
        if kind == DiscoveryType::OriginalDst {
            if let Some(assignment) = &self.load_assignment {
                return Err(Fault::at(
                    assignment.node,
                    "may not be set for a cluster of type ORIGINAL_DST",
                ));
            }
            return match &self.original_dst_lb_config {
                Some(config) if config.use_http_header => {
                    Ok(Discovery::Header(config.http_header_name.as_ref().map_or(
                        HeaderName::from_static(ORIGINAL_DST_HEADER),
                        |name| name.0.clone(),
                    )))
                }
                _ => Err(Fault::at(
                    node,
                    "type ORIGINAL_DST needs original_dst_lb_config with use_http_header: true",
                )),
            };
        }
        let endpoints = match &self.load_assignment {
            Some(assignment) => assignment
                .value
                .build(reader, kind != DiscoveryType::Static)?,
            None => Vec::new(),
        };
        match kind {
            DiscoveryType::StrictDns => Ok(Discovery::StrictDns(endpoints)),
            DiscoveryType::LogicalDns if endpoints.len() == 1 => {
                Ok(Discovery::LogicalDns(endpoints))
            }
            DiscoveryType::LogicalDns => Err(Fault::at(
                node,
                "a cluster of type LOGICAL_DNS needs exactly one endpoint",
            )),
            DiscoveryType::Static | DiscoveryType::OriginalDst => Ok(Discovery::Static(endpoints)),
        }
    }

    /// The cluster's settings for hashing, whatever its policy.
    fn hashing(&self, node: NodeId) -> Result<Option<&ConsistentHashing>, Fault> {
        let common = self.common_lb_config.as_ref();
        let hashing = common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
        if hashing.is_some_and(|hashing| hashing.use_hostname_for_hashing)
            && self.r#type.0 != DiscoveryType::StrictDns
        {
            return Err(Fault::at(
                node,
                "use_hostname_for_hashing needs a cluster of type STRICT_DNS",
            ));
        }
        Ok(hashing)
    }

    fn policy(&self, reader: &Reader<'_>, node: NodeId) -> Result<LbPolicy, Fault> {
        let provided = self.lb_policy.0 == Policy::ClusterProvided;
        let original = self.r#type.0 == DiscoveryType::OriginalDst;
        if let Some(policy) = &self.load_balancing_policy {
            return policy.build(reader);
        }
        match self.lb_policy.0 {
            Policy::ClusterProvided if original => Ok(LbPolicy::RoundRobin),
            _ if provided != original => Err(Fault::at(
                node,
                "type ORIGINAL_DST and lb_policy CLUSTER_PROVIDED only go together",
            )),
            Policy::RoundRobin | Policy::ClusterProvided => Ok(LbPolicy::RoundRobin),
            Policy::LeastRequest => Ok(LbPolicy::LeastRequest),
            Policy::Random => Ok(LbPolicy::Random),
            Policy::RingHash => {
                let common = self.hashing(node)?;
                let hashing = match &self.ring_hash_lb_config {
                    Some(own) => own.build(node, common)?,
                    None => RingHash::default().build(node, common)?,
                };
                Ok(LbPolicy::Hash(hashing))
            }
            Policy::Maglev => {
                let common = self.hashing(node)?;
                let hashing = match &self.maglev_lb_config {
                    Some(own) => own.build(node, common)?,
                    None => Maglev::default().build(node, common)?,
                };
                Ok(LbPolicy::Hash(hashing))
            }
            Policy::Config => Err(Fault::at(node, "missing field \"load_balancing_policy\"")),
        }
    }

    fn spoken(&mut self, reader: &Reader<'_>, node: NodeId) -> Result<Spoken, Fault> {
        let mut options = None;
        for (name, tree) in &self.typed_extension_protocol_options {
            match reader.type_of(tree.node)? {
                PROTOCOL_OPTIONS if name == PROTOCOL_OPTIONS => options = Some(tree.node),
                PROTOCOL_OPTIONS => {
                    return Err(Fault::at(
                        tree.node,
                        format!("has to stand under the name {PROTOCOL_OPTIONS}"),
                    ));
                }
                other => return Err(unsupported(tree.node, other, &[PROTOCOL_OPTIONS])),
            }
        }
        if let Some(node) = options {
            return reader
                .read_typed::<Located<UpstreamProtocolOptions>>(node)?
                .spoken();
        }
        // The deprecated fields of the cluster itself.
        if self.http_protocol_options.is_some()
            && self.http2_protocol_options.is_some()
            && self.protocol_selection.0 == ProtocolSelection::Configured
        {
            return Err(Fault::at(
                node,
                "only one of http_protocol_options and http2_protocol_options may be set",
            ));
        }
        Ok(Spoken {
            protocol: match (self.protocol_selection.0, &self.http2_protocol_options) {
                (ProtocolSelection::Downstream, _) => UpstreamProtocol::Downstream,
                (_, Some(_)) => UpstreamProtocol::Http2,
                (_, None) => UpstreamProtocol::Http1,
            },
            common: self.common_http_protocol_options.take().unwrap_or_default(),
            http1: self.http_protocol_options.take().unwrap_or_default(),
            http2: self.http2_protocol_options.take().unwrap_or_default(),
            upstream: self
                .upstream_http_protocol_options
                .take()
                .unwrap_or_default(),
            filters: None,
        })
    }
}

impl UpstreamHttpProtocolOptions {
    /// TLS settings with `auto_sni`. Connections here are of an endpoint, not of a name that a client chooses, so that
    /// it is the endpoint's name that can be asked for.
    fn named(&self, tls: Option<UpstreamTls>, reader: &Reader<'_>) -> Option<UpstreamTls> {
        let mut tls = tls?;
        if let Some(auto) = self.auto_sni.as_ref().filter(|auto| auto.value) {
            reader.note(
                auto.node,
                "the server name is sni, or else the endpoint's host name, not that of the request",
            );
            tls.endpoint_name |= tls.sni.is_none();
        }
        Some(tls)
    }
}

impl Located<UpstreamProtocolOptions> {
    fn spoken(self) -> Result<Spoken, Fault> {
        let UpstreamProtocolOptions {
            common_http_protocol_options: common,
            upstream_http_protocol_options: upstream,
            explicit_http_config,
            use_downstream_protocol_config,
            http_filters,
        } = self.value;
        let upstream = upstream.unwrap_or_default();
        match (explicit_http_config, use_downstream_protocol_config) {
            (Some(explicit), None) => {
                let node = explicit.node;
                let ExplicitHttpConfig {
                    http_protocol_options,
                    http2_protocol_options,
                } = explicit.value;
                match (http_protocol_options, http2_protocol_options) {
                    (Some(http1), None) => Ok(Spoken {
                        protocol: UpstreamProtocol::Http1,
                        common,
                        http1,
                        upstream,
                        filters: http_filters,
                        ..Spoken::default()
                    }),
                    (None, Some(http2)) => Ok(Spoken {
                        protocol: UpstreamProtocol::Http2,
                        common,
                        http2,
                        upstream,
                        filters: http_filters,
                        ..Spoken::default()
                    }),
                    _ => Err(Fault::at(
                        node,
                        "one and only one of http_protocol_options and http2_protocol_options has \
                         to be set",
                    )),
                }
            }
            (None, Some(downstream)) => Ok(Spoken {
                protocol: UpstreamProtocol::Downstream,
                common,
                http1: downstream.http_protocol_options,
                http2: downstream.http2_protocol_options,
                upstream,
                filters: http_filters,
            }),
            _ => Err(Fault::at(
                self.node,
                "one and only one of explicit_http_config and use_downstream_protocol_config has \
                 to be set",
            )),
        }
    }
}

impl Located<LoadBalancingPolicy> {
    /// The first policy that is known here, as Envoy chooses.
    fn build(&self, reader: &Reader<'_>) -> Result<LbPolicy, Fault> {
        let mut unknown = None;
        for entry in &self.value.policies {
            let node = entry.typed_extension_config.typed_config.node;
            let policy = match reader.type_of(node)? {
                OVERRIDE_HOST => return reader.read_typed::<OverrideHost>(node)?.build(reader),
                ROUND_ROBIN => LbPolicy::RoundRobin,
                LEAST_REQUEST => LbPolicy::LeastRequest,
                RANDOM => LbPolicy::Random,
                RING_HASH => {
                    let policy: RingHash = reader.read_typed(node)?;
                    return Ok(LbPolicy::Hash(policy.build(node, None)?));
                }
                MAGLEV => {
                    let policy: Maglev = reader.read_typed(node)?;
                    return Ok(LbPolicy::Hash(policy.build(node, None)?));
                }
                other => {
                    unknown.get_or_insert_with(|| unsupported(node, other, POLICIES));
                    continue;
                }
            };
            let PlainPolicy {} = reader.read_typed(node)?;
            return Ok(policy);
        }
        Err(unknown.unwrap_or_else(|| Fault::at(self.node, "policies may not be empty")))
    }
}

impl OverrideHost {
    fn build(&self, reader: &Reader<'_>) -> Result<LbPolicy, Fault> {
        let sources = self.override_host_sources.value.iter().map(|source| {
            match (&source.value.header, &source.value.metadata) {
                (Some(name), None) => Ok(HostSource::Header(name.0.clone())),
                (None, Some(key)) => Ok(HostSource::Metadata(key.build()?)),
                _ => Err(Fault::at(
                    source.node,
                    "one and only one of header and metadata has to be set",
                )),
            }
        });
        let sources: Vec<HostSource> = sources.collect::<Result<_, _>>()?;
        if sources.is_empty() {
            return Err(Fault::at(
                self.override_host_sources.node,
                "may not be empty",
            ));
        }
        let fallback = self.fallback_policy.build(reader)?;
        if matches!(fallback, LbPolicy::OverrideHost(_)) {
            return Err(Fault::at(
                self.fallback_policy.node,
                "has to be another policy",
            ));
        }
        Ok(LbPolicy::OverrideHost(OverrideHostModel {
            sources,
            selected: match &self.selected_host_key {
                Some(key) => Some(key.build()?),
                None => None,
            },
            fallback: Box::new(fallback),
        }))
    }
}
