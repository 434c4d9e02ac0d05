//! Reasons for which an upstream gave no response, and what the client is told.

use std::{borrow::Cow, io};

use extproc_client::{
    host::{ResponseFlags, UpstreamFailure},
    text::failures,
};
use http::{HeaderName, StatusCode};

use crate::{
    config::snapshot::{RetryOn, flag},
    http::{body::BoxError, length::LENGTH_MISMATCH},
};

/// Reason for which there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The route's cluster is not configured.
    #[error("unknown cluster")]
    UnknownCluster,
    /// The cluster has no endpoint.
    #[error("no healthy upstream")]
    NoHost,
    /// A circuit breaker of the cluster is open, or the process has no descriptor for another connection.
    #[error("overflow")]
    Overflow,
    /// An endpoint refused, or TLS failed.
    #[error("delayed connect error: {}", reason(.0))]
    Connect(#[source] io::Error),
    /// `connect_timeout` passed.
    #[error("connection timeout")]
    ConnectTimeout,
    /// The connection ended before the response began.
    #[error("connection termination")]
    Terminated,
    /// The peer reset the stream before the response began.
    #[error("{}", if *refused { "remote refused stream reset" } else { "remote reset" })]
    Reset {
        /// The peer says that it did not look at the request (RFC 9113 §8.7).
        refused: bool,
    },
    /// The bytes that came are not HTTP.
    #[error("protocol error")]
    Protocol,
    /// The route's timeout passed.
    #[error("upstream request timeout")]
    Timeout,
    /// `per_try_timeout` passed.
    #[error("upstream request timeout")]
    TryTimeout,
    /// The cluster's `max_stream_duration` passed.
    #[error("upstream max stream duration reached")]
    Duration,
    /// The request's own body failed, as its client left or a filter ended it.
    #[error("the request ended early")]
    Request,
    /// The trailers of the request are larger than a head may be.
    #[error("the request's trailers are too large")]
    Trailers,
    /// The route's regular expressions take too long for the request's path.
    #[error("the path takes too long to rewrite")]
    Rewrite,
    /// The route makes of the request's target something that is none, or too long for one.
    #[error("the rewritten target is invalid")]
    Target,
    /// The configuration gives a field of the request a value that no message can carry.
    #[error("invalid header value for: {0}")]
    HeaderValue(HeaderName),
    /// A filter has made a tunnel of a message, or the other way round.
    #[error("the method cannot be forwarded")]
    Method,
    /// The endpoint says that it takes no head so large.
    #[error("the request's head is larger than the upstream takes")]
    HeadTooLarge,
    /// A filter announced another length than the body has.
    #[error("the request does not have the length that was announced")]
    Length,
}

/// The system's words alone, as `Connection refused`.
fn reason(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection refused".into(),
        io::ErrorKind::ConnectionReset => "Connection reset by peer".into(),
        io::ErrorKind::HostUnreachable => "No route to host".into(),
        io::ErrorKind::NetworkUnreachable => "Network is unreachable".into(),
        io::ErrorKind::NotFound => "No such file or directory".into(),
        _ => error.to_string().into(),
    }
}

/// View of a failure for the client and for the log.
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) body: Cow<'static, str>,
    pub(crate) details: Cow<'static, str>,
    pub(crate) flags: u64,
}

impl Failure {
    /// No connection could be made.
    pub(crate) fn connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::Connect(error),
        }
    }

    /// The local reply for this failure, in Envoy's words; `retried` if it is not that of the first attempt.
    pub(crate) fn told(&self, retried: bool) -> Told {
        const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        let told = |status, body: Cow<'static, str>, details: Cow<'static, str>, flags| Told {
            status,
            body,
            details,
            flags,
        };
        let reset = |status, reason: &str, cause: Option<&str>, flags| Told {
            status,
            body: failures::no_response(reason, retried).into(),
            details: failures::details_before_response(reason, cause).into(),
            flags,
        };
        match self {
            Self::UnknownCluster => told(
                UNAVAILABLE,
                "".into(),
                "cluster_not_found".into(),
                flag::NO_CLUSTER_FOUND,
            ),
            Self::NoHost => told(
                UNAVAILABLE,
                "no healthy upstream".into(),
                "no_healthy_upstream".into(),
                flag::NO_HEALTHY_UPSTREAM,
            ),
            Self::Overflow => reset(UNAVAILABLE, "overflow", None, flag::UPSTREAM_OVERFLOW),
            Self::Connect(_) => reset(
                UNAVAILABLE,
                "remote connection failure",
                Some(&self.to_string()),
                flag::UPSTREAM_CONNECTION_FAILURE,
            ),
            Self::ConnectTimeout => reset(
                UNAVAILABLE,
                "connection timeout",
                None,
                flag::UPSTREAM_CONNECTION_FAILURE,
            ),
            Self::Terminated => reset(
                UNAVAILABLE,
                "connection termination",
                None,
                flag::UPSTREAM_CONNECTION_TERMINATION,
            ),
            Self::Reset { .. } => reset(
                UNAVAILABLE,
                &self.to_string(),
                None,
                flag::UPSTREAM_REMOTE_RESET,
            ),
            Self::Protocol => reset(
                StatusCode::BAD_GATEWAY,
                "protocol error",
                None,
                flag::UPSTREAM_PROTOCOL_ERROR,
            ),
            Self::Timeout => told(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream request timeout".into(),
                "response_timeout".into(),
                flag::UPSTREAM_REQUEST_TIMEOUT,
            ),
            Self::TryTimeout => told(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream request timeout".into(),
                "upstream_per_try_timeout".into(),
                flag::UPSTREAM_REQUEST_TIMEOUT,
            ),
            Self::Duration => told(
                StatusCode::REQUEST_TIMEOUT,
                "upstream max stream duration reached".into(),
                "upstream_max_stream_duration_reached".into(),
                0,
            ),
            Self::Request => told(
                StatusCode::BAD_REQUEST,
                "".into(),
                "request_ended_early".into(),
                flag::DOWNSTREAM_TERMINATION,
            ),
            Self::Trailers => told(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "".into(),
                "http1.trailers_too_large".into(),
                0,
            ),
            Self::Rewrite => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "".into(),
                "path_rewrite_takes_too_long".into(),
                0,
            ),
            Self::Target => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "".into(),
                "rewritten_target_is_invalid".into(),
                0,
            ),
            Self::HeaderValue(name) => told(
                StatusCode::SERVICE_UNAVAILABLE,
                self.to_string().into(),
                format!(
                    "filter_removed_required_request_headers{{invalid_header_value_for:_{name}}}"
                )
                .into(),
                flag::DOWNSTREAM_PROTOCOL_ERROR,
            ),
            Self::Method => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "".into(),
                "method_not_forwardable".into(),
                0,
            ),
            Self::HeadTooLarge => told(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "".into(),
                "request_headers_larger_than_the_upstream_takes".into(),
                0,
            ),
            Self::Length => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "".into(),
                LENGTH_MISMATCH.into(),
                0,
            ),
        }
    }

    /// The same after the response began: what its body ends with.
    pub(crate) fn after_start(&self, source: Option<BoxError>) -> UpstreamFailure {
        let told = self.told(false);
        let details = failures::details_after_response(&self.to_string());
        let mut failure =
            UpstreamFailure::new(told.status, details, ResponseFlags::new(told.flags));
        failure.source = source;
        failure
    }

    /// Returns true if the endpoint is what failed.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::ConnectTimeout
                | Self::Terminated
                | Self::Reset { .. }
                | Self::Protocol
                | Self::Timeout
                | Self::TryTimeout
        )
    }

    /// The conditions under which it is met with one more attempt.
    pub(crate) fn retried_on(&self) -> RetryOn {
        const ANY: RetryOn = RetryOn::SERVER_ERROR.or(RetryOn::GATEWAY_ERROR);
        match self {
            Self::Connect(_) | Self::ConnectTimeout => ANY
                .or(RetryOn::CONNECT_FAILURE)
                .or(RetryOn::RESET)
                .or(RetryOn::RESET_BEFORE_REQUEST),
            Self::Reset { refused: true } => ANY.or(RetryOn::RESET).or(RetryOn::REFUSED_STREAM),
            Self::Terminated | Self::Reset { .. } | Self::Protocol => ANY.or(RetryOn::RESET),
            Self::TryTimeout | Self::Duration => ANY,
            // The route's time is that of all attempts.
            Self::Timeout
            | Self::UnknownCluster
            | Self::NoHost
            | Self::Overflow
            | Self::Request
            | Self::Trailers
            | Self::Rewrite
            | Self::Target
            | Self::HeaderValue(_)
            | Self::Method
            | Self::HeadTooLarge
            | Self::Length => RetryOn::default(),
        }
    }
}
