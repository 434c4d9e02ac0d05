//! The filter `local_ratelimit`.

use std::time::Duration;

use http::StatusCode;

use super::{Fraction, HeaderChange, HeaderMatch};

/// `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Place among the routes, empty for a filter's own: the tokens that are left belong to it, from one snapshot to the next.
    pub place: String,
    /// Tokens, one for each request; without them every request passes.
    pub bucket: Option<TokenBucket>,
    /// `descriptors`: requests that take a token of another bucket as well.
    pub descriptors: Vec<RateLimitDescriptor>,
    /// `always_consume_default_token_bucket`: requests of a descriptor take a token of `bucket`, too.
    pub default_too: bool,
    /// `rate_limits`: what requests are described by, in place of what their routes say; unless empty.
    pub rules: Vec<RateLimitRule>,
    /// `stage`: the rules that count.
    pub stage: u32,
    /// `vh_rate_limits`: what becomes of a virtual host's rules where the route says nothing of that.
    pub of_host: OfHost,
    /// `filter_enabled`: requests that take a token.
    pub enabled: Fraction,
    /// `filter_enforced`: those of them that are answered where there is none.
    pub enforced: Fraction,
    /// Their answer.
    pub status: StatusCode,
    /// Requests of gRPC get the status 8, not 14.
    pub resource_exhausted: bool,
    /// On the answer.
    pub response_headers: Vec<HeaderChange>,
    /// On requests that pass without a token.
    pub request_headers: Vec<HeaderChange>,
}

/// `LocalRateLimitDescriptor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitDescriptor {
    /// Keys and values, all of them and in this order.
    pub entries: Vec<(String, String)>,
    /// Tokens of requests that are described so.
    pub bucket: TokenBucket,
}

/// `VhRateLimitsOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfHost {
    /// They count if the route has none.
    #[default]
    Override,
    /// They count.
    Include,
    /// They do not count.
    Ignore,
}

/// Rules that a route has for its requests.
#[derive(Clone, Debug, Default)]
pub struct RouteRateLimits {
    /// `rate_limits` of the route.
    pub own: Vec<RateLimitRule>,
    /// `rate_limits` of its virtual host.
    pub of_host: Vec<RateLimitRule>,
    /// `include_vh_rate_limits`.
    pub include: bool,
}

/// `envoy.config.route.v3.RateLimit`: makes one description of a request, or none if one of its entries cannot be made.
#[derive(Clone, Debug)]
pub struct RateLimitRule {
    /// `stage`.
    pub stage: u32,
    /// One entry each.
    pub actions: Vec<RateLimitAction>,
}

/// `RateLimit.Action`.
#[derive(Clone, Debug)]
pub enum RateLimitAction {
    /// `generic_key`: this entry.
    Fixed(String, String),
    /// `source_cluster`: the cluster that this node says it belongs to.
    Node,
    /// `destination_cluster`.
    Cluster,
    /// `remote_address`.
    Address,
    /// `masked_remote_address`: leading bits of IPv4 and of IPv6 addresses.
    Network(u8, u8),
    /// `request_headers`.
    Header {
        /// Lower case.
        name: String,
        /// The entry's key.
        key: String,
        /// `skip_if_absent`: without the header, the other entries are made all the same.
        optional: bool,
    },
    /// `query_parameters`.
    Query {
        /// The parameter.
        name: String,
        /// The entry's key.
        key: String,
        /// `skip_if_absent`.
        optional: bool,
    },
    /// `header_value_match`.
    Matching {
        /// All of these.
        headers: Vec<HeaderMatch>,
        /// They have to match, or not to.
        wanted: bool,
        /// The entry's key.
        key: String,
        /// The entry's value.
        value: String,
    },
    /// `metadata`, of the request.
    Metadata {
        /// The namespace.
        namespace: String,
        /// Names of fields, from the outermost one.
        path: Vec<String>,
        /// The entry's key.
        key: String,
        /// The value where there is none; empty: none.
        default: String,
        /// `skip_if_absent`.
        optional: bool,
    },
}

/// Tokens that come back at a steady rate. Those that are left belong to whoever serves the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenBucket {
    /// `max_tokens`, of which it has all in the beginning.
    pub max: u32,
    /// `tokens_per_fill`.
    pub per_fill: u32,
    /// `fill_interval`.
    pub interval: Duration,
}
