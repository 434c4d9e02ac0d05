//! Headers of which Envoy keeps one comma-joined value.
//!
//! Appending to one of these joins with `,`; appending to any other adds a line.

/// Whether Envoy 1.40 keeps this request header as one value. `name` is lower case.
pub fn is_inline_request_header(name: &str) -> bool {
    name.starts_with("x-envoy-") || REQUEST.binary_search(&name).is_ok()
}

/// Whether Envoy 1.40 keeps this response header as one value. `name` is lower case.
pub fn is_inline_response_header(name: &str) -> bool {
    name.starts_with("x-envoy-") || RESPONSE.binary_search(&name).is_ok()
}

/// Whether Envoy 1.40 keeps this trailer as one value.
pub(super) fn is_inline_trailer(name: &str) -> bool {
    matches!(name, "grpc-message" | "grpc-status")
}

const REQUEST: &[&str] = &[
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authentication",
    "authorization",
    "cache-control",
    "cdn-loop",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "origin",
    "pragma",
    "proxy-connection",
    "proxy-status",
    "referer",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

const RESPONSE: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-private-network",
    "access-control-expose-headers",
    "access-control-max-age",
    "age",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "etag",
    "expires",
    "grpc-message",
    "grpc-status",
    "keep-alive",
    "last-modified",
    "location",
    "proxy-connection",
    "proxy-status",
    "server",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "x-request-id",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted() {
        assert!(REQUEST.is_sorted());
        assert!(RESPONSE.is_sorted());
    }
}
