//! `RouteAction`, `RedirectAction` and `DirectResponseAction`: what a route does.

use std::{num::NonZeroUsize, time::Duration};

use extproc_client::config::RegexSubstitution;
use http::StatusCode;
use serde::Deserialize;

use super::{
    any::unsupported,
    data::DataSource,
    fraction::RuntimeFraction,
    header::HeaderValueOption,
    internal_redirect::InternalRedirectPolicy,
    matcher::HeaderMatcher,
    per_filter::PerFilterConfig,
    value::{Enum, FieldValue, Name, ProtoEnum, RegexText, Status, Time, Whatever, regex_reason},
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{
        Forward, Fraction, GrpcTimeout, HeaderMatch, Mirror, Priority, Redirect, Retry, RetryOn,
        RouteAction as Model,
    },
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
    retry_policy: Option<RetryPolicy>,
    internal_redirect_policy: Option<Located<InternalRedirectPolicy>>,
    upgrade_configs: Vec<Located<UpgradeConfig>>,
}

/// `envoy.config.route.v3.RouteAction.MaxStreamDuration`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MaxStreamDuration {
    max_stream_duration: Option<Time>,
    grpc_timeout_header_max: Option<Time>,
    grpc_timeout_header_offset: Option<Time>,
}

/// `envoy.config.route.v3.RouteAction.RequestMirrorPolicy`.
#[derive(Debug, Deserialize)]
pub(super) struct RequestMirrorPolicy {
    cluster: Located<String>,
    runtime_fraction: Option<RuntimeFraction>,
    #[serde(default)]
    disable_shadow_host_suffix_append: bool,
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
}

/// `envoy.type.matcher.v3.RegexMatchAndSubstitute`.
#[derive(Debug, Deserialize)]
struct RegexMatchAndSubstitute {
    pattern: RegexText,
    #[serde(default)]
    substitution: String,
}

/// `envoy.config.route.v3.RouteAction.UpgradeConfig`, and that of `HttpConnectionManager`, which has
/// `filters` in place of `connect_config`.
#[derive(Debug, Deserialize)]
pub(super) struct UpgradeConfig {
    upgrade_type: String,
    enabled: Option<bool>,
    #[serde(default)]
    connect_config: Option<Located<Whatever>>,
}

/// `envoy.config.route.v3.RetryPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RetryPolicy {
    retry_on: Option<Located<String>>,
    num_retries: Option<u32>,
    per_try_timeout: Option<Time>,
    retriable_status_codes: Vec<u16>,
    retriable_headers: Vec<Located<HeaderMatcher>>,
    retriable_request_headers: Vec<Located<HeaderMatcher>>,
    retry_host_predicate: Vec<Located<RetryHostPredicate>>,
    host_selection_retry_max_attempts: Option<u32>,
    retry_priority: Option<Located<RetryPriority>>,
    retry_back_off: Option<Located<RetryBackOff>>,
}

/// `envoy.config.route.v3.RetryPolicy.RetryHostPredicate`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RetryHostPredicate {
    typed_config: Option<Subtree>,
}

/// `envoy.config.route.v3.RetryPolicy.RetryPriority`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RetryPriority {
    typed_config: Option<Subtree>,
}

/// `envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PreviousPrioritiesConfig {
    update_frequency: usize,
}

impl Located<RetryPriority> {
    fn build(&self, reader: &Reader<'_>) -> Result<NonZeroUsize, Fault> {
        let Some(config) = &self.value.typed_config else {
            return Err(Fault::at(self.node, "missing field \"typed_config\""));
        };
        match reader.type_of(config.node)? {
            PREVIOUS_PRIORITIES => {
                let config: Located<PreviousPrioritiesConfig> = reader.read_typed(config.node)?;
                NonZeroUsize::new(config.value.update_frequency)
                    .ok_or_else(|| Fault::at(config.node, "update_frequency has to be 1 or more"))
            }
            other => Err(unsupported(config.node, other, &[PREVIOUS_PRIORITIES])),
        }
    }
}

/// `envoy.config.route.v3.RetryPolicy.RetryBackOff`.
#[derive(Debug, Deserialize)]
struct RetryBackOff {
    base_interval: Time,
    max_interval: Option<Time>,
}

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
const PREVIOUS_PRIORITIES: &str =
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
/// No endpoint is a canary here.
const OMIT_CANARY_HOSTS: &str =
    "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate";

/// `envoy.config.route.v3.RedirectAction`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RedirectAction {
    https_redirect: Option<bool>,
    scheme_redirect: Option<String>,
    host_redirect: Option<FieldValue>,
    port_redirect: Option<u16>,
    path_redirect: Option<FieldValue>,
    prefix_rewrite: Option<FieldValue>,
    regex_rewrite: Option<RegexMatchAndSubstitute>,
    response_code: Enum<RedirectCode>,
    strip_query: bool,
}

#[derive(Clone, Copy, Debug)]
struct RedirectCode(StatusCode);

impl Default for RedirectCode {
    fn default() -> Self {
        Self(StatusCode::MOVED_PERMANENTLY)
    }
}

impl ProtoEnum for RedirectCode {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        (
            "MOVED_PERMANENTLY",
            0,
            Ok(Self(StatusCode::MOVED_PERMANENTLY)),
        ),
        ("FOUND", 1, Ok(Self(StatusCode::FOUND))),
        ("SEE_OTHER", 2, Ok(Self(StatusCode::SEE_OTHER))),
        (
            "TEMPORARY_REDIRECT",
            3,
            Ok(Self(StatusCode::TEMPORARY_REDIRECT)),
        ),
        (
            "PERMANENT_REDIRECT",
            4,
            Ok(Self(StatusCode::PERMANENT_REDIRECT)),
        ),
    ];
}

/// `envoy.config.route.v3.DirectResponseAction`.
#[derive(Debug, Deserialize)]
pub(super) struct DirectResponseAction {
    status: Status,
    body: Option<Located<DataSource>>,
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

impl RegexMatchAndSubstitute {
    fn build(&self) -> Result<RegexSubstitution, Fault> {
        RegexSubstitution::new(&self.pattern.0, substitution(&self.substitution))
            .map_err(|error| Fault::new(regex_reason(&error)))
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

impl Located<RequestMirrorPolicy> {
    /// The mirror; `check` looks at the cluster's name.
    pub(super) fn build(
        &self,
        check: impl Fn(&str, NodeId) -> Result<(), Fault>,
    ) -> Result<Mirror, Fault> {
        let policy = &self.value;
        check(&policy.cluster.value, policy.cluster.node)?;
        let fraction = policy.runtime_fraction.as_ref();
        Ok(Mirror {
            cluster: policy.cluster.value.clone(),
            fraction: fraction.map_or(Fraction::ALL, RuntimeFraction::build),
            shadow_suffix: !policy.disable_shadow_host_suffix_append,
        })
    }
}

/// From `\1` to `${1}`; a dollar sign stands for itself.
fn substitution(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek().copied()) {
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                out.push_str("${");
                out.push(digit);
                out.push('}');
                chars.next();
            }
            ('\\', Some('\\')) => {
                out.push('\\');
                chars.next();
            }
            ('$', _) => out.push_str("$$"),
            _ => out.push(c),
        }
    }
    out
}

/// Upgrade types and whether they may pass. They are compared without regard to case; the name of
/// the method CONNECT keeps its own.
pub(super) fn upgrades(configs: &[Located<UpgradeConfig>]) -> Result<Vec<(String, bool)>, Fault> {
    let mut upgrades: Vec<(String, bool)> = Vec::with_capacity(configs.len());
    for config in configs {
        let UpgradeConfig {
            upgrade_type,
            enabled,
            connect_config,
        } = &config.value;
        if let Some(connect) = connect_config {
            // Our end of a CONNECT would be a bare TCP connection to the endpoint.
            return Err(Fault::at(
                connect.node,
                "ending CONNECT here is not supported, it can only be forwarded",
            ));
        }
        let name = match upgrade_type.eq_ignore_ascii_case("CONNECT") {
            true => "CONNECT".into(),
            false => upgrade_type.to_ascii_lowercase(),
        };
        if upgrades.iter().any(|(known, _)| *known == name) {
            return Err(Fault::at(
                config.node,
                format!("the upgrade {upgrade_type:?} is given twice"),
            ));
        }
        upgrades.push((name, enabled.unwrap_or(true)));
    }
    Ok(upgrades)
}

impl RetryPolicy {
    /// The policy; `None` if it never applies.
    fn build(&self, reader: &Reader<'_>) -> Result<Option<Retry>, Fault> {
        let mut retry = Retry {
            count: self.num_retries.unwrap_or(1),
            per_try_timeout: self.per_try_timeout.and_then(Time::limit),
            status_codes: self.retriable_status_codes.clone(),
            headers: matches(&self.retriable_headers)?,
            request_headers: matches(&self.retriable_request_headers)?,
            ..Retry::default()
        };
        if let Some(list) = &self.retry_on {
            let (on, unknown) = RetryOn::parse(&list.value);
            if let Some(unknown) = unknown.first() {
                return Err(Fault::at(
                    list.node,
                    format!("{unknown:?} is no condition of Envoy's"),
                ));
            }
            retry.on = on;
        }
        for predicate in &self.retry_host_predicate {
            let Some(config) = &predicate.value.typed_config else {
                return Err(Fault::at(predicate.node, "missing field \"typed_config\""));
            };
            match reader.type_of(config.node)? {
                PREVIOUS_HOSTS => {
                    retry.other_host = self.host_selection_retry_max_attempts.unwrap_or(1);
                }
                OMIT_CANARY_HOSTS => {}
                other => {
                    let known = [PREVIOUS_HOSTS, OMIT_CANARY_HOSTS];
                    return Err(unsupported(config.node, other, &known));
                }
            }
        }
        if let Some(priority) = &self.retry_priority {
            retry.other_priority = Some(priority.build(reader)?);
        }
        if let Some(Located {
            node,
            value: back_off,
        }) = &self.retry_back_off
        {
            retry.base_interval = back_off.base_interval.0;
            retry.max_interval = match back_off.max_interval {
                Some(interval) => interval.0,
                None => retry.base_interval.saturating_mul(10),
            };
            if retry.base_interval.is_zero() || retry.max_interval < retry.base_interval {
                return Err(Fault::at(
                    *node,
                    "0 < base_interval <= max_interval has to hold",
                ));
            }
        }
        if retry.on.is_empty() {
            retry.count = 0;
        }
        // Its limit holds for the only attempt, too.
        let applies = !retry.on.is_empty() || retry.per_try_timeout.is_some();
        Ok(applies.then_some(retry))
    }
}

fn matches(matchers: &[Located<HeaderMatcher>]) -> Result<Vec<HeaderMatch>, Fault> {
    matchers
        .iter()
        .map(Located::<HeaderMatcher>::build)
        .collect()
}

/// Of the maximum and the offset for what `grpc-timeout` asks; zero is no maximum.
fn grpc_timeout(max: Option<Time>, offset: Option<Time>) -> Option<GrpcTimeout> {
    max.map(|max| GrpcTimeout {
        max: max.limit(),
        offset: offset.map(|offset| offset.0).unwrap_or_default(),
    })
}

impl Located<RedirectAction> {
    pub(super) fn build(&self) -> Result<Model, Fault> {
        let action = &self.value;
        let text = |value: &FieldValue| String::from_utf8_lossy(value.0.as_bytes()).into_owned();
        let https = action.https_redirect.unwrap_or_default();
        if https && action.scheme_redirect.is_some() {
            return Err(Fault::at(
                self.node,
                "only one of https_redirect and scheme_redirect may be set",
            ));
        }
        let paths = [
            action.path_redirect.is_some(),
            action.prefix_rewrite.is_some(),
            action.regex_rewrite.is_some(),
        ];
        if paths.iter().filter(|set| **set).count() > 1 {
            return Err(Fault::at(
                self.node,
                "only one of path_redirect, prefix_rewrite and regex_rewrite may be set",
            ));
        }
        Ok(Model::Redirect(Redirect {
            https,
            scheme: action.scheme_redirect.clone(),
            host: action.host_redirect.as_ref().map(text),
            port: action.port_redirect.filter(|port| *port != 0),
            path: action.path_redirect.as_ref().map(text),
            prefix_rewrite: action.prefix_rewrite.as_ref().map(text),
            regex_rewrite: action
                .regex_rewrite
                .as_ref()
                .map(RegexMatchAndSubstitute::build)
                .transpose()?,
            status: action.response_code.0.0,
            strip_query: action.strip_query,
            strip_port: false,
        }))
    }
}

impl DirectResponseAction {
    /// The action; a body longer than `limit` bytes is refused.
    pub(super) fn build(&self, limit: usize, reader: &Reader<'_>) -> Result<Model, Fault> {
        let body = match &self.body {
            None => Vec::new(),
            Some(source) => {
                let body = source.load(reader)?;
                if body.len() > limit {
                    return Err(Fault::at(
                        source.node,
                        format!(
                            "the body has {} bytes, more than max_direct_response_body_size_bytes ({limit})",
                            body.len()
                        ),
                    ));
                }
                body
            }
        };
        Ok(Model::Direct {
            status: self.status.0,
            body: body.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions() {
        assert_eq!(substitution(r"\1/$\2\\n"), r"${1}/$$${2}\n");
        assert_eq!(substitution("plain"), "plain");
    }
}
