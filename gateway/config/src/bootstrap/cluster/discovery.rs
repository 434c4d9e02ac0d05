//! Discovery of a cluster's endpoints.

use http::HeaderName;
use serde::Deserialize;

use super::Cluster;
use crate::{
    bootstrap::{
        any::unsupported,
        value::{Enum, Name, ProtoEnum},
    },
    document::{Fault, NodeId, Reader, Subtree},
    snapshot::{Discovery, DnsFamily, OriginalDst},
};

const DNS: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";

/// The header that names the endpoint where `http_header_name` does not say otherwise.
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DiscoveryType {
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

/// `envoy.config.cluster.v3.Cluster.OriginalDstLbConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OriginalDstLbConfig {
    use_http_header: bool,
    http_header_name: Option<Name>,
    upstream_port_override: Option<u16>,
}

/// `envoy.config.cluster.v3.Cluster.CustomClusterType`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CustomClusterType {
    typed_config: Option<Subtree>,
}

/// `envoy.extensions.clusters.dns.v3.DnsCluster`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DnsCluster {
    dns_lookup_family: Enum<DnsLookupFamily>,
    all_addresses_in_single_endpoint: bool,
}

/// `envoy.extensions.clusters.common.dns.v3.DnsLookupFamily`, whose numbers are not those of a `Cluster`.
#[derive(Clone, Copy, Debug, Default)]
struct DnsLookupFamily(DnsFamily);

impl ProtoEnum for DnsLookupFamily {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("UNSPECIFIED", 0, Ok(Self(DnsFamily::Auto))),
        ("AUTO", 1, Ok(Self(DnsFamily::Auto))),
        ("V4_ONLY", 2, Ok(Self(DnsFamily::V4Only))),
        ("V6_ONLY", 3, Ok(Self(DnsFamily::V6Only))),
        ("V4_PREFERRED", 4, Ok(Self(DnsFamily::V4Preferred))),
        ("ALL", 5, Ok(Self(DnsFamily::All))),
    ];
}

impl Cluster {
    /// The way endpoints are found, as `type` or `cluster_type` says, and the addresses that a name may have.
    pub(super) fn kind(&self, reader: &Reader<'_>) -> Result<(DiscoveryType, DnsFamily), Fault> {
        let Some(custom) = &self.cluster_type else {
            let kind = self
                .r#type
                .as_ref()
                .map_or(DiscoveryType::Static, |kind| kind.0);
            return Ok((kind, self.dns_lookup_family.0));
        };
        if self.r#type.is_some() {
            return Err(Fault::at(
                custom.node,
                "only one of type and cluster_type may be set",
            ));
        }
        let Some(config) = &custom.value.typed_config else {
            return Err(Fault::at(custom.node, "missing field \"typed_config\""));
        };
        match reader.type_of(config.node)? {
            DNS => {
                let dns: DnsCluster = reader.read_typed(config.node)?;
                let kind = match dns.all_addresses_in_single_endpoint {
                    true => DiscoveryType::LogicalDns,
                    false => DiscoveryType::StrictDns,
                };
                Ok((kind, dns.dns_lookup_family.0.0))
            }
            other => Err(unsupported(config.node, other, &[DNS])),
        }
    }

    pub(super) fn discovery(
        &self,
        kind: DiscoveryType,
        by_locality: bool,
        reader: &Reader<'_>,
        node: NodeId,
    ) -> Result<Discovery, Fault> {
        if kind == DiscoveryType::OriginalDst {
            if let Some(assignment) = &self.load_assignment {
                return Err(Fault::at(
                    assignment.node,
                    "may not be set for a cluster of type ORIGINAL_DST",
                ));
            }
            let default = OriginalDstLbConfig::default();
            let config = self.original_dst_lb_config.as_ref().unwrap_or(&default);
            let name = config.http_header_name.as_ref();
            return Ok(Discovery::OriginalDst(match config.use_http_header {
                true if config.upstream_port_override.is_some() => {
                    return Err(Fault::at(
                        node,
                        "upstream_port_override is not supported with use_http_header",
                    ));
                }
                true => OriginalDst::Header(
                    name.map_or(HeaderName::from_static(ORIGINAL_DST_HEADER), |name| {
                        name.0.clone()
                    }),
                ),
                false => OriginalDst::Socket(config.upstream_port_override),
            }));
        }
        let endpoints = match &self.load_assignment {
            Some(assignment) => assignment.value.build(
                reader,
                kind != DiscoveryType::Static,
                by_locality,
                &self.transport_socket_matches,
            )?,
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
}
