//! Discovery of a cluster's endpoints.

use http::HeaderName;
use serde::Deserialize;

use super::Cluster;
use crate::{
    bootstrap::value::{Name, ProtoEnum},
    document::{Fault, NodeId, Reader},
    snapshot::{Discovery, DnsFamily},
};

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
}

impl Cluster {
    pub(super) fn discovery(&self, reader: &Reader<'_>, node: NodeId) -> Result<Discovery, Fault> {
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
}
