//! The time limits and retries of one request: the route's, as changed by headers of the request.

use std::{num::NonZeroUsize, time::Duration};

use extproc_client::config::Effort;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{
    config::snapshot::{Forward, Retry, RetryOn},
    exchange::Exchange,
    http::headers::field_lines,
    route,
    upstream::Failure,
};

/// Headers that are for the router alone; they do not go on.
const OWN: [HeaderName; 11] = [
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-stream-duration-ms"),
];

/// Policy for one request.
#[derive(Debug)]
pub(super) struct Policy<'a> {
    /// From the end of the request to the end of the response.
    pub(super) timeout: Option<Duration>,
    pub(super) per_try_timeout: Option<Duration>,
    /// The longest that request and response may take upstream; unset: the cluster's.
    pub(super) duration: Option<Duration>,
    /// A `timeout` is told with 204.
    pub(super) quiet: bool,
    /// Additional attempts.
    pub(super) count: u32,
    on: RetryOn,
    route: Option<&'a Retry>,
    status_codes: Vec<u16>,
    header_names: Vec<HeaderName>,
}

impl<'a> Policy<'a> {
    /// Takes the headers that are for the router out of `parts`. Those of clients that are not trusted are gone by now.
    pub(super) fn take(
        forward: &'a Forward,
        exchange: &Exchange,
        parts: &mut http::request::Parts,
    ) -> Self {
        let route = forward.retry.as_ref();
        let mut policy = Self {
            timeout: forward.timeout,
            per_try_timeout: route.and_then(|retry| retry.per_try_timeout),
            duration: None,
            quiet: false,
            count: route.map_or(0, |retry| retry.count),
            on: route.map(|retry| retry.on).unwrap_or_default(),
            route,
            status_codes: Vec::new(),
            header_names: Vec::new(),
        };
        if exchange.grpc
            && let Some(limits) = &forward.grpc_timeout
        {
            policy.timeout = limits.limit(exchange.grpc_timeout);
        }
        let headers = &mut parts.headers;
        if headers
            .keys()
            .any(|name| name.as_str().starts_with("x-envoy-"))
        {
            policy.read(headers);
            for name in OWN {
                headers.remove(name);
            }
        }
        if policy
            .timeout
            .is_some_and(|limit| policy.per_try_timeout >= Some(limit))
        {
            policy.per_try_timeout = None;
        }
        if exchange.grpc
            && forward.grpc_timeout.is_some()
            && let Some(limit) = policy.per_try_timeout.or(policy.timeout)
        {
            parts.headers.insert("grpc-timeout", grpc_text(limit));
        }
        let repeated = route.is_none_or(|retry| {
            let matchers = &retry.request_headers;
            let mut effort = Effort::default();
            matchers.is_empty()
                || matchers
                    .iter()
                    .any(|one| route::request_matches(one, parts, &mut effort))
        });
        if !repeated || policy.on.is_empty() {
            policy.on = RetryOn::default();
            policy.count = 0;
        }
        policy
    }

    fn read(&mut self, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name| text(name)?.parse::<u64>().ok();
        // Zero is no limit.
        let limit = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        if let Some(ms) = number("x-envoy-upstream-rq-timeout-ms") {
            self.timeout = limit(ms);
        }
        if let Some(ms) = number("x-envoy-upstream-rq-per-try-timeout-ms") {
            self.per_try_timeout = limit(ms);
        }
        self.duration = number("x-envoy-upstream-stream-duration-ms").and_then(limit);
        self.quiet = text("x-envoy-upstream-rq-timeout-alt-response").is_some();
        // As in Envoy, what they name comes to what the route names, and unknown names are passed over.
        let asked = |name, of: RetryOn| {
            let on = text(name).map(|list| RetryOn::parse(list).0);
            on.unwrap_or_default().and(of)
        };
        let on = asked("x-envoy-retry-on", RetryOn::HTTP)
            .or(asked("x-envoy-retry-grpc-on", RetryOn::GRPC));
        if self.on.is_empty() && !on.is_empty() {
            self.count = self.count.max(1);
        }
        self.on = self.on.or(on);
        if let Some(count) = number("x-envoy-max-retries") {
            self.count = u32::try_from(count).unwrap_or(u32::MAX);
        }
        let list = |name| text(name).unwrap_or_default().split(',').map(str::trim);
        let codes = list("x-envoy-retriable-status-codes");
        self.status_codes
            .extend(codes.filter_map(|code| code.parse::<u16>().ok()));
        let names = list("x-envoy-retriable-header-names");
        self.header_names
            .extend(names.filter_map(|name| name.parse::<HeaderName>().ok()));
    }

    /// Returns true if this failure is met with one more attempt.
    pub(super) fn meets(&self, failure: &Failure) -> bool {
        self.on.any(failure.retried_on())
    }

    /// Returns true if this response is met with one more attempt.
    pub(super) fn meets_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        if self.on.is_empty() {
            return false;
        }
        if headers.contains_key("x-envoy-ratelimited") {
            return self.on.any(RetryOn::RATE_LIMITED);
        }
        let mut holds = RetryOn::default();
        if status.is_server_error() {
            holds = holds.or(RetryOn::SERVER_ERROR);
        }
        match status.as_u16() {
            502..=504 => holds = holds.or(RetryOn::GATEWAY_ERROR),
            409 => holds = holds.or(RetryOn::CONFLICT),
            _ => {}
        }
        self.on.any(holds.or(grpc_condition(headers)))
            || self.on.any(RetryOn::STATUS_CODES) && self.names_status(status)
            || self.on.any(RetryOn::HEADERS) && self.names_header(headers)
    }

    fn names_status(&self, status: StatusCode) -> bool {
        let of_route = self.route.map(|retry| &retry.status_codes);
        let mut all = self
            .status_codes
            .iter()
            .chain(of_route.into_iter().flatten());
        all.any(|code| *code == status.as_u16())
    }

    fn names_header(&self, headers: &HeaderMap) -> bool {
        let mut matchers = self.route.iter().flat_map(|retry| &retry.headers);
        let mut effort = Effort::default();
        matchers.any(|one| route::field_matches(one, field_lines(headers, &one.name), &mut effort))
            || self
                .header_names
                .iter()
                .any(|name| headers.contains_key(name))
    }

    /// Number of times that another endpoint is chosen in place of one that was tried before.
    pub(super) fn other_host(&self) -> u32 {
        self.route.map_or(0, |retry| retry.other_host)
    }

    /// After how many attempts each their priorities are left out.
    pub(super) fn other_priority(&self) -> Option<NonZeroUsize> {
        self.route.and_then(|retry| retry.other_priority)
    }

    /// The wait before the next attempt: a random part of the base, which doubles with each attempt `made` but the first.
    pub(super) fn back_off(&self, made: u32) -> Duration {
        let default = Retry::default();
        let retry = self.route.unwrap_or(&default);
        let most = retry
            .base_interval
            .saturating_mul(1 << made.saturating_sub(1).min(16));
        most.min(retry.max_interval)
            .mul_f64(rand::random_range(0.0..=1.0))
    }
}

/// A limit as a `grpc-timeout`, whose number has at most 8 digits.
fn grpc_text(limit: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let ms = limit.as_millis();
    let units = [(1, 'm'), (1000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let fits = units.iter().find(|(unit, _)| ms / unit <= MOST);
    let (unit, letter) = fits.unwrap_or(&units[3]);
    let text = format!("{}{letter}", (ms / unit).min(MOST));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("99999999H"))
}

/// The condition for a gRPC status that came with the headers.
fn grpc_condition(headers: &HeaderMap) -> RetryOn {
    let status = headers.get("grpc-status").map(HeaderValue::as_bytes);
    RetryOn::of_grpc_status(status.unwrap_or_default())
}
