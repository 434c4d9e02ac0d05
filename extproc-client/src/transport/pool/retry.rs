//! Which failures of a call are met with another call, and when.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use http::{HeaderMap, StatusCode};

use super::failure;
use crate::config::RetryPolicy;

/// How a call failed before its response was used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failed<'a> {
    /// There was no connection, or no room on one.
    Connect,
    /// REFUSED_STREAM.
    Refused,
    /// The stream or its connection ended.
    Reset,
    /// These headers came.
    Response(StatusCode, &'a HeaderMap),
}

impl Failed<'_> {
    pub(super) fn of(error: &h2::Error) -> Self {
        match failure::is_refused(error) {
            true => Self::Refused,
            false => Self::Reset,
        }
    }
}

/// What is left of a policy's retries.
#[derive(Debug)]
pub(super) struct Retries {
    policy: RetryPolicy,
    interval: Duration,
}

impl Retries {
    pub(super) fn new(policy: &RetryPolicy) -> Self {
        Self {
            policy: policy.clone(),
            interval: policy.base_interval,
        }
    }

    /// How long to wait for the next call, if there is to be one.
    pub(super) fn next(&mut self, failed: Failed<'_>) -> Option<Duration> {
        if self.policy.retries == 0 || !holds(&self.policy, failed) {
            return None;
        }
        self.policy.retries -= 1;
        let interval = self.interval;
        self.interval = interval.saturating_mul(2).min(self.policy.max_interval);
        Some(interval.mul_f64(part()))
    }
}

/// A random part of 1, so that calls that failed together are not repeated together.
fn part() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}

fn holds(policy: &RetryPolicy, failed: Failed<'_>) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| policy.names(name));
    match failed {
        Failed::Connect => any(&["connect-failure", "gateway-error", "5xx", "reset"]),
        Failed::Refused => any(&["refused-stream", "gateway-error", "5xx", "reset"]),
        Failed::Reset => any(&["gateway-error", "5xx", "reset"]),
        Failed::Response(status, headers) => {
            let by_status = match status.as_u16() {
                502..=504 => any(&["gateway-error", "5xx"]),
                500.. => any(&["5xx"]),
                409 => any(&["retriable-4xx"]),
                _ => false,
            };
            by_status || grpc_condition(headers).is_some_and(|name| policy.names(name))
        }
    }
}

/// The condition for a gRPC status that came with the headers, that is, without any message.
fn grpc_condition(headers: &HeaderMap) -> Option<&'static str> {
    Some(match headers.get("grpc-status")?.as_bytes() {
        b"1" => "cancelled",
        b"4" => "deadline-exceeded",
        b"8" => "resource-exhausted",
        b"13" => "internal",
        b"14" => "unavailable",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn retries(on: &str, count: u32) -> Retries {
        Retries::new(&RetryPolicy {
            on: on.split(',').map(str::to_owned).collect(),
            retries: count,
            ..RetryPolicy::default()
        })
    }

    #[test]
    fn only_what_is_named_is_met() {
        let mut status = HeaderMap::new();
        status.insert("grpc-status", HeaderValue::from_static("14"));
        let trailers_only = Failed::Response(StatusCode::OK, &status);
        let none = HeaderMap::new();
        for (on, failed, expected) in [
            ("unavailable", trailers_only, true),
            ("cancelled,unavailable", trailers_only, true),
            ("internal", trailers_only, false),
            ("unavailable", Failed::Connect, false),
            ("unavailable", Failed::Reset, false),
            ("connect-failure", Failed::Connect, true),
            ("connect-failure", Failed::Reset, false),
            ("reset", Failed::Reset, true),
            ("refused-stream", Failed::Refused, true),
            ("refused-stream", Failed::Reset, false),
            (
                "5xx",
                Failed::Response(StatusCode::INTERNAL_SERVER_ERROR, &none),
                true,
            ),
            (
                "gateway-error",
                Failed::Response(StatusCode::INTERNAL_SERVER_ERROR, &none),
                false,
            ),
            (
                "gateway-error",
                Failed::Response(StatusCode::SERVICE_UNAVAILABLE, &none),
                true,
            ),
            ("5xx", Failed::Response(StatusCode::OK, &none), false),
            ("", trailers_only, false),
        ] {
            let met = retries(on, 1).next(failed).is_some();
            assert_eq!(met, expected, "{on:?} {failed:?}");
        }
    }

    #[test]
    fn there_are_as_many_as_configured_and_pauses_grow() {
        let mut retries = retries("reset", 2);
        assert!(retries.next(Failed::Reset).unwrap() <= Duration::from_secs(1));
        assert_eq!(retries.interval, Duration::from_secs(2));
        assert!(retries.next(Failed::Reset).unwrap() <= Duration::from_secs(2));
        assert_eq!(retries.next(Failed::Reset), None);
    }
}
