//! Envoy's names for what is tried again: `retry_on` and the headers `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.

/// A set of conditions for one more attempt, under Envoy's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

/// The conditions of `x-envoy-retry-on`, and after them those of `x-envoy-retry-grpc-on`. A policy takes both.
const CONDITIONS: [(&str, RetryOn); 16] = [
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("envoy-ratelimited", RetryOn::RATE_LIMITED),
    ("retriable-4xx", RetryOn::CONFLICT),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::STATUS_CODES),
    ("retriable-headers", RetryOn::HEADERS),
    ("http3-post-connect-failure", RetryOn::HTTP3_POST_CONNECT),
    ("cancelled", RetryOn::CANCELLED),
    ("deadline-exceeded", RetryOn::DEADLINE_EXCEEDED),
    ("internal", RetryOn::INTERNAL),
    ("resource-exhausted", RetryOn::RESOURCE_EXHAUSTED),
    ("unavailable", RetryOn::UNAVAILABLE),
];

impl RetryOn {
    /// `5xx`.
    pub const SERVER_ERROR: Self = Self(1);
    /// `gateway-error`.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// `reset`.
    pub const RESET: Self = Self(1 << 2);
    /// `reset-before-request`.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// `connect-failure`.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// `envoy-ratelimited`.
    pub const RATE_LIMITED: Self = Self(1 << 5);
    /// `retriable-4xx`.
    pub const CONFLICT: Self = Self(1 << 6);
    /// `refused-stream`.
    pub const REFUSED_STREAM: Self = Self(1 << 7);
    /// `retriable-status-codes`.
    pub const STATUS_CODES: Self = Self(1 << 8);
    /// `retriable-headers`.
    pub const HEADERS: Self = Self(1 << 9);
    /// `http3-post-connect-failure`, for which nothing is tried again: there is no HTTP/3 here.
    const HTTP3_POST_CONNECT: Self = Self(1 << 10);
    /// `cancelled`.
    pub const CANCELLED: Self = Self(1 << 11);
    /// `deadline-exceeded`.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 12);
    /// `internal`.
    pub const INTERNAL: Self = Self(1 << 13);
    /// `resource-exhausted`.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 14);
    /// `unavailable`.
    pub const UNAVAILABLE: Self = Self(1 << 15);
    /// Those of `x-envoy-retry-on`.
    pub const HTTP: Self = Self((1 << 11) - 1);
    /// Those of `x-envoy-retry-grpc-on`.
    pub const GRPC: Self = Self(0b1_1111 << 11);

    /// Reads a comma-separated list; returns the conditions, and the names that are none.
    pub fn parse(list: &str) -> (Self, Vec<&str>) {
        let mut on = Self::default();
        let mut unknown = Vec::new();
        for name in list
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            match CONDITIONS.iter().find(|(known, _)| *known == name) {
                Some((_, condition)) => on = on.or(*condition),
                None => unknown.push(name),
            }
        }
        (on, unknown)
    }

    /// Returns the condition for a value of `grpc-status`, if there is one.
    pub fn of_grpc_status(status: &[u8]) -> Self {
        match status {
            b"1" => Self::CANCELLED,
            b"4" => Self::DEADLINE_EXCEEDED,
            b"8" => Self::RESOURCE_EXHAUSTED,
            b"13" => Self::INTERNAL,
            b"14" => Self::UNAVAILABLE,
            _ => Self::default(),
        }
    }

    /// Tells whether no condition is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Tells whether one of `conditions` is in the set.
    pub fn any(self, conditions: Self) -> bool {
        self.0 & conditions.0 != 0
    }

    /// Returns the conditions that are in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the conditions that are in one of the sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_is_one_of_either_header() {
        let mut seen = RetryOn::default();
        for (name, on) in CONDITIONS {
            assert_eq!(RetryOn::parse(name), (on, Vec::new()), "{name}");
            assert!(!seen.any(on), "{name} has the bit of another");
            assert!(on.any(RetryOn::HTTP) != on.any(RetryOn::GRPC), "{name}");
            seen = seen.or(on);
        }
        assert_eq!(seen, RetryOn::HTTP.or(RetryOn::GRPC));
        assert_eq!(RetryOn::parse("no, 5xx,").1, ["no"]);
    }
}
