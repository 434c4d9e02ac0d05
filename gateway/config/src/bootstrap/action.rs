//! `RouteAction`: the forwarding of requests to clusters.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use super::{
    hashing::{self, HashPolicy},
    header::HeaderValueOption,
    internal_redirect::InternalRedirectPolicy,
    mirror::RequestMirrorPolicy,
    per_filter::PerFilterConfig,
    retry::RetryPolicy,
    rewrite::RegexMatchAndSubstitute,
    upgrade::{UpgradeConfig, upgrades},
    value::{Enum, FieldValue, Name, ProtoEnum, Time},
};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{Forward, GrpcTimeout, Priority},
};

/// Envoy's default for the time from the end of a request to the end of its response.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// `envoy.config.route.v3.RouteAction`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteAction {
    pub(super) cluster: Option<Located<String>>,
    cluster_header: Option<Name>,
    pub(super) weighted_clusters: Option<Located<WeightedCluster>>,
    prefix_rewrite: Option<String>,
    regex_rewrite: Option<RegexMatchAndSubstitute>,
    host_rewrite_literal: Option<FieldValue>,
    auto_host_rewrite: Option<bool>,
    host_rewrite_header: Option<Name>,
    host_rewrite_path_regex: Option<RegexMatchAndSubstitute>,
    append_x_forwarded_host: bool,
    request_mirror_policies: Vec<Located<RequestMirrorPolicy>>,
    cluster_not_found_response_code: Option<Enum<MissingCluster>>,
    timeout: Option<Time>,
    priority: Enum<Priority>,
    idle_timeout: Option<Time>,
    max_stream_duration: Option<MaxStreamDuration>,
    max_grpc_timeout: Option<Time>,
    grpc_timeout_offset: Option<Time>,
    hash_policy: Vec<Located<HashPolicy>>,
    retry_policy: Option<RetryPolicy>,
    internal_redirect_policy: Option<Located<InternalRedirectPolicy>>,
    upgrade_configs: Vec<Located<UpgradeConfig>>,
    pub(super) rate_limits: Vec<Subtree>,
    pub(super) include_vh_rate_limits: Option<bool>,
}

/// `envoy.config.route.v3.RouteAction.MaxStreamDuration`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MaxStreamDuration {
    max_stream_duration: Option<Time>,
    grpc_timeout_header_max: Option<Time>,
    grpc_timeout_header_offset: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct MissingCluster(StatusCode);

impl Default for MissingCluster {
    fn default() -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE)
    }
}

impl ProtoEnum for MissingCluster {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        (
            "SERVICE_UNAVAILABLE",
            0,
            Ok(Self(StatusCode::SERVICE_UNAVAILABLE)),
        ),
        ("NOT_FOUND", 1, Ok(Self(StatusCode::NOT_FOUND))),
        (
            "INTERNAL_SERVER_ERROR",
            2,
            Ok(Self(StatusCode::INTERNAL_SERVER_ERROR)),
        ),
    ];
}

/// `envoy.config.route.v3.WeightedCluster`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WeightedCluster {
    pub(super) clusters: Vec<Located<ClusterWeight>>,
}

/// `envoy.config.route.v3.WeightedCluster.ClusterWeight`.
#[derive(Debug, Deserialize)]
pub(super) struct ClusterWeight {
    pub(super) name: Located<String>,
    /// Unset: the cluster gets nothing, as in Envoy.
    #[serde(default)]
    pub(super) weight: u32,
    #[serde(default)]
    pub(super) request_headers_to_add: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    pub(super) request_headers_to_remove: Vec<Located<Name>>,
    #[serde(default)]
    pub(super) response_headers_to_add: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    pub(super) response_headers_to_remove: Vec<Located<Name>>,
    #[serde(default)]
    pub(super) typed_per_filter_config: PerFilterConfig,
    pub(super) host_rewrite_literal: Option<Located<String>>,
}

impl Located<RouteAction> {
    /// The action, its clusters left to the caller; `inherited` is the virtual host's policy.
    pub(super) fn build(
        &self,
        inherited: Option<&RetryPolicy>,
        reader: &Reader<'_>,
    ) -> Result<Forward, Fault> {
        let action = &self.value;
        let targets = [
            action.cluster.is_some(),
            action.cluster_header.is_some(),
            action.weighted_clusters.is_some(),
        ];
        if targets.iter().filter(|set| **set).count() != 1 {
            return Err(Fault::at(
                self.node,
                "one and only one of cluster, cluster_header and weighted_clusters has to be set",
            ));
        }
        if action
            .prefix_rewrite
            .as_ref()
            .is_some_and(|path| !path.is_empty())
            && action.regex_rewrite.is_some()
        {
            return Err(Fault::at(
                self.node,
                "only one of prefix_rewrite and regex_rewrite may be set",
            ));
        }
        let auto_host_rewrite = action.auto_host_rewrite.unwrap_or_default();
        let hosts = [
            action.host_rewrite_literal.is_some(),
            auto_host_rewrite,
            action.host_rewrite_header.is_some(),
            action.host_rewrite_path_regex.is_some(),
        ];
        if hosts.iter().filter(|set| **set).count() > 1 {
            return Err(Fault::at(
                self.node,
                "only one of host_rewrite_literal, auto_host_rewrite, host_rewrite_header and \
                 host_rewrite_path_regex may be set",
            ));
        }
        Ok(Forward {
            clusters: Vec::new(),
            count_for_upstream: false,
            count_for_client: false,
            cluster_header: action.cluster_header.as_ref().map(|name| name.0.clone()),
            timeout: action.timeout.map_or(Some(DEFAULT_TIMEOUT), Time::limit),
            priority: action.priority.0,
            idle_timeout: action.idle_timeout.map(|time| time.0),
            max_stream_duration: action
                .max_stream_duration
                .as_ref()
                .and_then(|max| max.max_stream_duration)
                .map(|time| time.0),
            grpc_duration: action.max_stream_duration.as_ref().and_then(|max| {
                grpc_timeout(max.grpc_timeout_header_max, max.grpc_timeout_header_offset)
            }),
            grpc_timeout: match action.max_stream_duration {
                None => grpc_timeout(action.max_grpc_timeout, action.grpc_timeout_offset),
                Some(_) => None,
            },
            hash_policy: hashing::policies(&action.hash_policy)?,
            retry: match action.retry_policy.as_ref().or(inherited) {
                Some(policy) => policy.build(reader)?,
                None => None,
            },
            internal_redirect: action
                .internal_redirect_policy
                .as_ref()
                .map(|policy| policy.build(reader))
                .transpose()?,
            prefix_rewrite: action
                .prefix_rewrite
                .clone()
                .filter(|path| !path.is_empty()),
            regex_rewrite: action
                .regex_rewrite
                .as_ref()
                .map(RegexMatchAndSubstitute::build)
                .transpose()?,
            host_rewrite: action
                .host_rewrite_literal
                .as_ref()
                .map(|host| host.0.clone()),
            host_rewrite_header: action
                .host_rewrite_header
                .as_ref()
                .map(|name| name.0.clone()),
            host_rewrite_path_regex: action
                .host_rewrite_path_regex
                .as_ref()
                .map(RegexMatchAndSubstitute::build)
                .transpose()?,
            auto_host_rewrite,
            append_x_forwarded_host: action.append_x_forwarded_host,
            // The caller's, which knows the clusters and what holds above.
            mirrors: Vec::new(),
            missing_cluster: action.cluster_not_found_response_code.map(|code| code.0.0),
            upgrades: upgrades(&action.upgrade_configs)?,
        })
    }
}

impl RouteAction {
    /// The mirrors of this action, otherwise the inherited ones.
    pub(super) fn mirrors<'a>(
        &'a self,
        inherited: &'a [Located<RequestMirrorPolicy>],
    ) -> &'a [Located<RequestMirrorPolicy>] {
        match self.request_mirror_policies.as_slice() {
            [] => inherited,
            own => own,
        }
    }
}

/// Of the maximum and the offset for what `grpc-timeout` asks; zero is no maximum.
fn grpc_timeout(max: Option<Time>, offset: Option<Time>) -> Option<GrpcTimeout> {
    max.map(|max| GrpcTimeout {
        max: max.limit(),
        offset: offset.map(|offset| offset.0).unwrap_or_default(),
    })
}
