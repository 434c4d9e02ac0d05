//! Failures of a call that are met with another call, and the time of that call.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::failure;
use crate::{config::RetryPolicy, text::retry_on::RetryOn};

/// Failure of a call before its response was used.
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

/// Retries that a policy still allows for one call.
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

    /// Returns the time to wait before the next call; `None` if there is to be none.
    pub(super) fn next(&mut self, failed: Failed<'_>) -> Option<Duration> {
        if self.policy.retries == 0 || !self.policy.on.any(conditions(failed)) {
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

/// Conditions that a failure meets.
fn conditions(failed: Failed<'_>) -> RetryOn {
    const RESET: RetryOn = RetryOn::SERVER_ERROR
        .or(RetryOn::GATEWAY_ERROR)
        .or(RetryOn::RESET);
    match failed {
        Failed::Connect => RESET.or(RetryOn::CONNECT_FAILURE),
        Failed::Refused => RESET.or(RetryOn::REFUSED_STREAM),
        Failed::Reset => RESET,
        Failed::Response(status, headers) => {
            let by_status = match status.as_u16() {
                502..=504 => RetryOn::GATEWAY_ERROR.or(RetryOn::SERVER_ERROR),
                500.. => RetryOn::SERVER_ERROR,
                409 => RetryOn::CONFLICT,
                _ => RetryOn::default(),
            };
            by_status.or(grpc_condition(headers))
        }
    }
}

/// The condition for a gRPC status that came with the headers, that is, without any message.
fn grpc_condition(headers: &HeaderMap) -> RetryOn {
    let status = headers.get("grpc-status").map(HeaderValue::as_bytes);
    RetryOn::of_grpc_status(status.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(on: RetryOn, count: u32) -> Retries {
        Retries::new(&RetryPolicy {
            on,
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
            (RetryOn::UNAVAILABLE, trailers_only, true),
            (
                RetryOn::CANCELLED.or(RetryOn::UNAVAILABLE),
                trailers_only,
                true,
            ),
            (RetryOn::INTERNAL, trailers_only, false),
            (RetryOn::UNAVAILABLE, Failed::Connect, false),
            (RetryOn::UNAVAILABLE, Failed::Reset, false),
            (RetryOn::CONNECT_FAILURE, Failed::Connect, true),
            (RetryOn::CONNECT_FAILURE, Failed::Reset, false),
            (RetryOn::RESET, Failed::Reset, true),
            (RetryOn::REFUSED_STREAM, Failed::Refused, true),
            (RetryOn::REFUSED_STREAM, Failed::Reset, false),
            (
                RetryOn::SERVER_ERROR,
                Failed::Response(StatusCode::INTERNAL_SERVER_ERROR, &none),
                true,
            ),
            (
                RetryOn::GATEWAY_ERROR,
                Failed::Response(StatusCode::INTERNAL_SERVER_ERROR, &none),
                false,
            ),
            (
                RetryOn::GATEWAY_ERROR,
                Failed::Response(StatusCode::SERVICE_UNAVAILABLE, &none),
                true,
            ),
            (
                RetryOn::SERVER_ERROR,
                Failed::Response(StatusCode::OK, &none),
                false,
            ),
            (RetryOn::default(), trailers_only, false),
        ] {
            let met = retries(on, 1).next(failed).is_some();
            assert_eq!(met, expected, "{on:?} {failed:?}");
        }
    }

    #[test]
    fn there_are_as_many_as_configured_and_pauses_grow() {
        let mut retries = retries(RetryOn::RESET, 2);
        assert!(retries.next(Failed::Reset).unwrap() <= Duration::from_secs(1));
        assert_eq!(retries.interval, Duration::from_secs(2));
        assert!(retries.next(Failed::Reset).unwrap() <= Duration::from_secs(2));
        assert_eq!(retries.next(Failed::Reset), None);
    }
}
