//! The messages of an exchange, and where a reply to them applies.

use std::fmt;

/// A side of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The request, on its way to the upstream.
    Request,
    /// The response, on its way to the client.
    Response,
}

impl Side {
    pub(crate) fn headers(self) -> Phase {
        match self {
            Self::Request => Phase::RequestHeaders,
            Self::Response => Phase::ResponseHeaders,
        }
    }

    pub(crate) fn body(self) -> Phase {
        match self {
            Self::Request => Phase::RequestBody,
            Self::Response => Phase::ResponseBody,
        }
    }

    pub(crate) fn trailers(self) -> Phase {
        match self {
            Self::Request => Phase::RequestTrailers,
            Self::Response => Phase::ResponseTrailers,
        }
    }

    pub(crate) fn target(self) -> Target {
        match self {
            Self::Request => Target::Request,
            Self::Response => Target::Response,
        }
    }
}

/// The kinds of message that a proxy sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// `request_headers`
    RequestHeaders,
    /// `request_body`
    RequestBody,
    /// `request_trailers`
    RequestTrailers,
    /// `response_headers`
    ResponseHeaders,
    /// `response_body`
    ResponseBody,
    /// `response_trailers`
    ResponseTrailers,
}

impl Phase {
    /// Every phase, in the order of an exchange.
    pub const ALL: [Self; 6] = [
        Self::RequestHeaders,
        Self::RequestBody,
        Self::RequestTrailers,
        Self::ResponseHeaders,
        Self::ResponseBody,
        Self::ResponseTrailers,
    ];

    /// Returns its name, such as `request_headers`: that of the field of `ProcessingRequest`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
            Self::RequestBody => "request_body",
            Self::RequestTrailers => "request_trailers",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body",
            Self::ResponseTrailers => "response_trailers",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Place that a mutation applies to; decides which pseudo-headers may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The headers of a request: `:method`, `:path`, `:scheme` and `:authority` may be set.
    Request,
    /// The headers of a response: `:status` may be set.
    Response,
    /// Trailers of either: no pseudo-headers.
    Trailers,
    /// The headers of an immediate response: no pseudo-headers, the status has its own field.
    Immediate,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "a request",
            Self::Response => "a response",
            Self::Trailers => "trailers",
            Self::Immediate => "an immediate response",
        })
    }
}
