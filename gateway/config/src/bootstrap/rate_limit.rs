//! `RateLimit` of routes, and the descriptors of the filter `local_ratelimit`.

use serde::Deserialize;

use super::{
    matcher::HeaderMatcher,
    small_filters::TokenBucket,
    value::{Enum, ProtoEnum, Whatever},
};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{OfHost, RateLimitAction, RateLimitDescriptor, RateLimitRule, RouteRateLimits},
};

/// The largest `stage`.
const LAST_STAGE: u32 = 10;

/// `envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor`.
#[derive(Debug, Deserialize)]
pub(super) struct LocalRateLimitDescriptor {
    entries: Vec<Located<DescriptorEntry>>,
    token_bucket: Located<TokenBucket>,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry`.
#[derive(Debug, Deserialize)]
struct DescriptorEntry {
    key: String,
    #[serde(default)]
    value: String,
}

/// `envoy.config.route.v3.RateLimit`.
#[derive(Debug, Deserialize)]
pub(super) struct RateLimit {
    stage: Option<Located<u32>>,
    actions: Vec<Located<RateLimitActionOf>>,
}

/// `envoy.config.route.v3.RateLimit.Action`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RateLimitActionOf {
    source_cluster: Option<Whatever>,
    destination_cluster: Option<Whatever>,
    request_headers: Option<RequestHeaders>,
    query_parameters: Option<QueryParameters>,
    remote_address: Option<Whatever>,
    masked_remote_address: Option<Located<MaskedRemoteAddress>>,
    generic_key: Option<GenericKey>,
    header_value_match: Option<HeaderValueMatch>,
    metadata: Option<Located<RateLimitMetaData>>,
}

#[derive(Debug, Deserialize)]
struct RequestHeaders {
    header_name: String,
    descriptor_key: String,
    #[serde(default)]
    skip_if_absent: bool,
}

#[derive(Debug, Deserialize)]
struct QueryParameters {
    query_parameter_name: String,
    descriptor_key: String,
    #[serde(default)]
    skip_if_absent: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MaskedRemoteAddress {
    v4_prefix_mask_len: Option<u8>,
    v6_prefix_mask_len: Option<u8>,
}

#[derive(Debug, Deserialize)]
struct GenericKey {
    descriptor_value: Located<String>,
    #[serde(default)]
    descriptor_key: String,
}

#[derive(Debug, Deserialize)]
struct HeaderValueMatch {
    #[serde(default)]
    descriptor_key: String,
    descriptor_value: Located<String>,
    expect_match: Option<bool>,
    headers: Vec<Located<HeaderMatcher>>,
}

#[derive(Debug, Deserialize)]
struct RateLimitMetaData {
    descriptor_key: String,
    metadata_key: RateLimitMetadataKey,
    #[serde(default)]
    default_value: String,
    #[serde(default)]
    source: Enum<Dynamic>,
    #[serde(default)]
    skip_if_absent: bool,
}

#[derive(Debug, Deserialize)]
struct RateLimitMetadataKey {
    key: String,
    path: Vec<RateLimitPath>,
}

#[derive(Debug, Deserialize)]
struct RateLimitPath {
    key: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Dynamic;

impl ProtoEnum for Dynamic {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("DYNAMIC", 0, Ok(Self)),
        ("ROUTE_ENTRY", 1, Err("not supported")),
    ];
}

impl ProtoEnum for OfHost {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("OVERRIDE", 0, Ok(Self::Override)),
        ("INCLUDE", 1, Ok(Self::Include)),
        ("IGNORE", 2, Ok(Self::Ignore)),
    ];
}

impl Located<LocalRateLimitDescriptor> {
    pub(super) fn build(&self) -> Result<RateLimitDescriptor, Fault> {
        let mut entries = Vec::with_capacity(self.value.entries.len());
        for Located { value, node } in &self.value.entries {
            if value.key.is_empty() {
                return Err(Fault::at(*node, "missing field \"key\""));
            }
            if value.value.is_empty() {
                return Err(Fault::at(
                    *node,
                    "an entry without a value stands for any value, which is not supported",
                ));
            }
            entries.push((value.key.clone(), value.value.clone()));
        }
        if entries.is_empty() {
            return Err(Fault::at(self.node, "entries may not be empty"));
        }
        Ok(RateLimitDescriptor {
            entries,
            bucket: self.value.token_bucket.build()?,
        })
    }
}

/// The rules of a route and of its virtual host. They are read only where a filter may ask for them: others are of no use here.
pub(super) fn of_route(
    reader: &Reader<'_>,
    own: &[Subtree],
    of_host: &[Subtree],
    include: bool,
) -> Result<RouteRateLimits, Fault> {
    let read = |list: &[Subtree]| -> Result<Vec<RateLimitRule>, Fault> {
        let rules = list.iter().map(|tree| {
            let rule: Located<RateLimit> = reader.read(tree.node)?;
            rule.build()
        });
        rules.collect()
    };
    Ok(RouteRateLimits {
        own: read(own)?,
        of_host: read(of_host)?,
        include,
    })
}

/// Reads `stage`.
pub(super) fn stage(given: Option<&Located<u32>>) -> Result<u32, Fault> {
    match given {
        Some(stage) if stage.value > LAST_STAGE => Err(Fault::at(
            stage.node,
            format!("may be at most {LAST_STAGE}"),
        )),
        stage => Ok(stage.map_or(0, |stage| stage.value)),
    }
}

impl Located<RateLimit> {
    pub(super) fn build(&self) -> Result<RateLimitRule, Fault> {
        let actions = self.value.actions.iter();
        let actions: Vec<RateLimitAction> = actions
            .map(Located::<RateLimitActionOf>::build)
            .collect::<Result<_, _>>()?;
        match actions.is_empty() {
            true => Err(Fault::at(self.node, "actions may not be empty")),
            false => Ok(RateLimitRule {
                stage: stage(self.value.stage.as_ref())?,
                actions,
            }),
        }
    }
}

impl Located<RateLimitActionOf> {
    fn build(&self) -> Result<RateLimitAction, Fault> {
        let action = &self.value;
        let mut found = Vec::new();
        found.extend(action.source_cluster.map(|_| RateLimitAction::Node));
        found.extend(action.destination_cluster.map(|_| RateLimitAction::Cluster));
        found.extend(action.remote_address.map(|_| RateLimitAction::Address));
        found.extend(
            action
                .request_headers
                .as_ref()
                .map(|own| RateLimitAction::Header {
                    name: own.header_name.to_ascii_lowercase(),
                    key: own.descriptor_key.clone(),
                    optional: own.skip_if_absent,
                }),
        );
        found.extend(
            action
                .query_parameters
                .as_ref()
                .map(|own| RateLimitAction::Query {
                    name: own.query_parameter_name.clone(),
                    key: own.descriptor_key.clone(),
                    optional: own.skip_if_absent,
                }),
        );
        if let Some(own) = &action.masked_remote_address {
            let MaskedRemoteAddress {
                v4_prefix_mask_len: v4,
                v6_prefix_mask_len: v6,
            } = own.value;
            let (v4, v6) = (v4.unwrap_or(32), v6.unwrap_or(128));
            if v4 > 32 || v6 > 128 {
                return Err(Fault::at(own.node, "a mask is too long for the address"));
            }
            found.push(RateLimitAction::Network(v4, v6));
        }
        if let Some(own) = &action.generic_key {
            found.push(RateLimitAction::Fixed(
                or(&own.descriptor_key, "generic_key"),
                fixed(&own.descriptor_value)?,
            ));
        }
        if let Some(own) = &action.header_value_match {
            let headers = own.headers.iter().map(Located::<HeaderMatcher>::build);
            found.push(RateLimitAction::Matching {
                headers: headers.collect::<Result<_, _>>()?,
                wanted: own.expect_match.unwrap_or(true),
                key: or(&own.descriptor_key, "header_match"),
                value: fixed(&own.descriptor_value)?,
            });
        }
        if let Some(Located { value: own, node }) = &action.metadata {
            let Enum(Dynamic) = own.source;
            let path: Vec<String> = own
                .metadata_key
                .path
                .iter()
                .map(|one| one.key.clone())
                .collect();
            if own.metadata_key.key.is_empty() || path.is_empty() {
                return Err(Fault::at(*node, "metadata_key needs a key and a path"));
            }
            found.push(RateLimitAction::Metadata {
                namespace: own.metadata_key.key.clone(),
                path,
                key: own.descriptor_key.clone(),
                default: own.default_value.clone(),
                optional: own.skip_if_absent,
            });
        }
        match (found.pop(), found.is_empty()) {
            (Some(action), true) => Ok(action),
            _ => Err(Fault::at(
                self.node,
                "one and only one action has to be set",
            )),
        }
    }
}

fn or(given: &str, default: &str) -> String {
    match given {
        "" => default.to_owned(),
        given => given.to_owned(),
    }
}

/// A value that is the same for all requests.
fn fixed(value: &Located<String>) -> Result<String, Fault> {
    match value.value.as_str() {
        "" => Err(Fault::at(value.node, "may not be empty")),
        text if text.contains('%') => {
            Err(Fault::at(value.node, "operators are not supported here"))
        }
        text => Ok(text.to_owned()),
    }
}
