//! `Cluster`, with its protocol, its load balancing and its endpoints.

mod balancing;
mod discovery;
mod upstream_protocol;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use extproc_client::host::HeaderLimits;
use serde::Deserialize;

use self::{
    balancing::{Chosen, LoadBalancingPolicy, Policy},
    discovery::{CustomClusterType, DiscoveryType, OriginalDstLbConfig},
    upstream_protocol::{ProtocolSelection, Spoken, UpstreamHttpProtocolOptions},
};
use super::{
    any::Metadata,
    breakers::CircuitBreakers,
    endpoint::ClusterLoadAssignment,
    filter::{self, Owner},
    hashing::{Maglev, RingHash},
    health::{self, CommonLbConfig, HealthCheck, OutlierDetection},
    listener::{DEFAULT_BUFFER_LIMIT, TransportSocket},
    protocol::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions},
    secrets::Secrets,
    sockets::{self, SocketMatch},
    value::{ByName, Enum, Time},
};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{
        Cluster as Model, DnsFamily, Filter, Reach, TcpKeepalive as TcpKeepaliveModel,
        UpstreamProtocol,
    },
};

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Debug, Deserialize)]
pub(super) struct Cluster {
    pub(super) name: Located<String>,
    r#type: Option<Enum<DiscoveryType>>,
    cluster_type: Option<Located<CustomClusterType>>,
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
    transport_socket: Option<Located<TransportSocket>>,
    #[serde(default)]
    transport_socket_matches: Vec<SocketMatch>,
    upstream_connection_options: Option<UpstreamConnectionOptions>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    health_checks: Vec<Located<HealthCheck>>,
    outlier_detection: Option<OutlierDetection>,
    common_lb_config: Option<CommonLbConfig>,
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

/// `envoy.config.core.v3.TypedExtensionConfig`.
#[derive(Debug, Deserialize)]
pub(super) struct TypedExtensionConfig {
    pub(super) typed_config: Subtree,
}

impl Located<Cluster> {
    /// The cluster and its filters.
    pub(super) fn build(
        self,
        reader: &Reader<'_>,
        secrets: &Secrets,
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
        let assignment = cluster.load_assignment.as_ref();
        let overprovisioning = match assignment {
            Some(assignment) => assignment.value.overprovisioning()?,
            None => None,
        };
        let (kind, dns) = cluster.kind(reader)?;
        let Chosen {
            policy: lb,
            by_locality,
        } = cluster.policy(kind, reader, node)?;
        let mut tls = match &cluster.transport_socket {
            Some(socket) => upstream.named(socket.upstream(reader, secrets)?, reader),
            None => None,
        };
        let mut sockets = cluster
            .transport_socket_matches
            .iter()
            .map(|socket| {
                let tls = socket.upstream(reader, secrets)?;
                Ok(upstream.named(tls, reader))
            })
            .collect::<Result<Vec<_>, Fault>>()?;
        if protocol == UpstreamProtocol::Auto
            && (tls.is_none() || sockets.iter().any(Option::is_none))
        {
            return Err(Fault::at(
                node,
                "auto_config needs TLS to all endpoints, in which the protocol is agreed on",
            ));
        }
        if kind == DiscoveryType::OriginalDst {
            // Its endpoints have no metadata, so that there is one socket for all of them.
            let matches = &cluster.transport_socket_matches;
            if let Some(chosen) = sockets::choose(matches, None, None) {
                tls = sockets.swap_remove(chosen);
            }
            sockets.clear();
        }
        let model = Model {
            reach: Reach::Anywhere,
            discovery: cluster.discovery(kind, by_locality, reader, node)?,
            dns,
            connect_timeout,
            response_timeout: None,
            protocol,
            http1: http1.build()?,
            http2: http2.build_upstream()?,
            response_headers: HeaderLimits {
                count: common.header_count(reader)?,
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
            lb,
            tcp_keepalive: match cluster.upstream_connection_options.as_ref() {
                Some(UpstreamConnectionOptions {
                    tcp_keepalive: Some(keepalive),
                }) => keepalive.build(),
                _ => Some(TcpKeepaliveModel::DEFAULT),
            },
            tls,
            sockets,
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
