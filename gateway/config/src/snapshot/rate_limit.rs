//! The filter `local_ratelimit`.

use std::time::Duration;

use http::StatusCode;

use super::{Fraction, HeaderChange};

/// `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Place among the routes, empty for a filter's own: the tokens that are left belong to it, from one snapshot to the next.
    pub place: String,
    /// Tokens, one for each request; without them every request passes.
    pub bucket: Option<TokenBucket>,
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
