//! Limits that hold for one exchange.

/// Limits that hold for one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest buffered request body, in bytes. Default 1 MiB
    /// (`per_connection_buffer_limit_bytes` of the listener).
    pub request_buffer: usize,
    /// Largest buffered response body, in bytes. Default 1 MiB.
    pub response_buffer: usize,
    /// Request headers and trailers after a mutation.
    pub request_headers: HeaderLimits,
    /// Response headers and trailers after a mutation.
    pub response_headers: HeaderLimits,
}

/// Limits of a header map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Most entries, pseudo-headers included.
    pub count: usize,
    /// Most bytes of all names and values.
    pub bytes: usize,
}

impl HeaderLimits {
    /// No limits.
    pub const NONE: Self = Self {
        count: usize::MAX,
        bytes: usize::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_buffer: 1024 * 1024,
            response_buffer: 1024 * 1024,
            request_headers: HeaderLimits {
                count: 100,
                bytes: 60 * 1024,
            },
            response_headers: HeaderLimits {
                count: 100,
                bytes: 80 * 1024,
            },
        }
    }
}
