//! The filters `buffer` and `local_ratelimit`.

use std::{sync::Arc, time::Duration};

use extproc_client::config::StatusNumber;
use http::StatusCode;
use serde::Deserialize;

use super::{
    filter::Making,
    fraction::RuntimeFraction,
    header::{Changes, HeaderValueOption},
    rate_limit::{LocalRateLimitDescriptor, RateLimit, stage},
    value::{Enum, ProtoEnum, Time},
};
use crate::{
    document::{Fault, Located, NodeId},
    snapshot::{
        FilterKind, Fraction, LocalRateLimit as RateLimitModel, OfHost, TokenBucket as BucketModel,
    },
};

pub(super) const BUFFER: &str = "envoy.extensions.filters.http.buffer.v3.Buffer";
pub(super) const BUFFER_PER_ROUTE: &str = "envoy.extensions.filters.http.buffer.v3.BufferPerRoute";
pub(super) const LOCAL_RATE_LIMIT: &str =
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// `envoy.extensions.filters.http.buffer.v3.Buffer`.
#[derive(Debug, Deserialize)]
#[serde(rename = "BufferFilter")]
struct Buffer {
    max_request_bytes: Located<u32>,
}

/// `envoy.extensions.filters.http.buffer.v3.BufferPerRoute`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BufferPerRoute {
    disabled: Option<bool>,
    buffer: Option<Buffer>,
}

/// `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.
#[derive(Debug, Deserialize)]
struct LocalRateLimit {
    stat_prefix: Located<String>,
    #[serde(default)]
    status: HttpStatus,
    token_bucket: Option<Located<TokenBucket>>,
    filter_enabled: Option<RuntimeFraction>,
    filter_enforced: Option<RuntimeFraction>,
    #[serde(default)]
    request_headers_to_add_when_not_enforced: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    response_headers_to_add: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    enable_x_ratelimit_headers: Enum<RateLimitHeaders>,
    #[serde(default)]
    rate_limited_as_resource_exhausted: bool,
    #[serde(default)]
    descriptors: Vec<Located<LocalRateLimitDescriptor>>,
    #[serde(default)]
    rate_limits: Vec<Located<RateLimit>>,
    stage: Option<Located<u32>>,
    #[serde(default)]
    vh_rate_limits: Enum<OfHost>,
    always_consume_default_token_bucket: Option<bool>,
}

/// `envoy.type.v3.HttpStatus`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HttpStatus {
    code: StatusNumber,
}

/// `envoy.type.v3.TokenBucket`.
#[derive(Debug, Deserialize)]
pub(super) struct TokenBucket {
    max_tokens: u32,
    tokens_per_fill: Option<u32>,
    fill_interval: Located<Time>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RateLimitHeaders;

impl ProtoEnum for RateLimitHeaders {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("OFF", 0, Ok(Self)),
        ("DRAFT_VERSION_03", 1, Err("not supported")),
    ];
}

/// The shortest `fill_interval` of Envoy.
const SHORTEST: Duration = Duration::from_millis(50);

impl Buffer {
    fn build(&self) -> Result<FilterKind, Fault> {
        match self.max_request_bytes.value {
            0 => Err(Fault::at(
                self.max_request_bytes.node,
                "has to be larger than 0",
            )),
            bytes => Ok(FilterKind::Buffer(bytes as usize)),
        }
    }
}

impl Making<'_, '_> {
    /// The filter `Buffer` at `node`.
    pub(super) fn buffer(&self, node: NodeId) -> Result<FilterKind, Fault> {
        self.reader.read_typed::<Buffer>(node)?.build()
    }

    /// Configuration by a route; `None` is that it is off.
    pub(super) fn buffer_per_route(&self, node: NodeId) -> Result<Option<FilterKind>, Fault> {
        let config: BufferPerRoute = self.reader.read_typed(node)?;
        match (config.disabled, config.buffer) {
            (Some(true), None) => Ok(None),
            (None, Some(buffer)) => buffer.build().map(Some),
            _ => Err(Fault::at(
                node,
                "one and only one of disabled, which has to be true, and buffer has to be set",
            )),
        }
    }

    /// The filter `LocalRateLimit` at `node`, which is also what routes have for it.
    pub(super) fn local_rate_limit(&self, node: NodeId) -> Result<FilterKind, Fault> {
        let config: LocalRateLimit = self.reader.read_typed(node)?;
        if config.stat_prefix.value.is_empty() {
            return Err(Fault::at(config.stat_prefix.node, "may not be empty"));
        }
        let Enum(RateLimitHeaders) = config.enable_x_ratelimit_headers;
        let share = |fraction: &Option<RuntimeFraction>| {
            let fraction = fraction.as_ref();
            fraction.map_or(Fraction::NONE, RuntimeFraction::build)
        };
        let added = |add| {
            let changes = Changes { add, remove: &[] };
            changes.build()
        };
        let status = StatusCode::from_u16(config.status.code.0).ok();
        Ok(FilterKind::LocalRateLimit(Arc::new(RateLimitModel {
            place: self.place.to_string(),
            bucket: config
                .token_bucket
                .as_ref()
                .map(Located::<TokenBucket>::build)
                .transpose()?,
            descriptors: config
                .descriptors
                .iter()
                .map(Located::<LocalRateLimitDescriptor>::build)
                .collect::<Result<_, _>>()?,
            default_too: config.always_consume_default_token_bucket.unwrap_or(true),
            rules: config
                .rate_limits
                .iter()
                .map(Located::<RateLimit>::build)
                .collect::<Result<_, _>>()?,
            stage: stage(config.stage.as_ref())?,
            of_host: config.vh_rate_limits.0,
            enabled: share(&config.filter_enabled),
            enforced: share(&config.filter_enforced),
            status: status
                .filter(|status| status.as_u16() >= 400)
                .unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            resource_exhausted: config.rate_limited_as_resource_exhausted,
            response_headers: added(&config.response_headers_to_add)?,
            request_headers: added(&config.request_headers_to_add_when_not_enforced)?,
        })))
    }
}

impl Located<TokenBucket> {
    pub(super) fn build(&self) -> Result<BucketModel, Fault> {
        let bucket = &self.value;
        let per_fill = bucket.tokens_per_fill.unwrap_or(1);
        if per_fill == 0 {
            return Err(Fault::at(
                self.node,
                "tokens_per_fill has to be larger than 0",
            ));
        }
        let interval = &bucket.fill_interval;
        if interval.value.0 < SHORTEST {
            return Err(Fault::at(interval.node, "has to be 50 ms or longer"));
        }
        Ok(BucketModel {
            max: bucket.max_tokens,
            per_fill,
            interval: interval.value.0,
        })
    }
}
