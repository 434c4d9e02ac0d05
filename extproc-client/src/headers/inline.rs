//! Headers of which Envoy keeps one comma-joined value.
//!
//! Appending to one of these joins with `,`; appending to any other adds a line.

use Of::{Framing, Message};

/// Party that an inline header speaks to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// The recipient of the message.
    Message,
    /// The next hop. Several lines are joined by nobody: readers may understand them differently.
    Framing,
}

/// Tells whether Envoy 1.40 keeps this request header as one value. `name` is lower case.
pub fn is_inline_request_header(name: &str) -> bool {
    name.starts_with("x-envoy-") || find(REQUEST, name).is_some()
}

/// Tells whether Envoy 1.40 keeps this response header as one value. `name` is lower case.
pub fn is_inline_response_header(name: &str) -> bool {
    name.starts_with("x-envoy-") || find(RESPONSE, name).is_some()
}

/// Tells whether several lines of this request header may be joined when they are read: Envoy 1.40 keeps one value, and the
/// header does not frame the message. `name` is lower case.
pub fn is_joined_request_header(name: &str) -> bool {
    find(REQUEST, name) == Some(Message)
}

/// Tells whether several lines of this response header may be joined when they are read. `name` is lower case.
pub fn is_joined_response_header(name: &str) -> bool {
    find(RESPONSE, name) == Some(Message)
}

/// Tells whether Envoy 1.40 keeps this trailer as one value.
pub(super) fn is_inline_trailer(name: &str) -> bool {
    matches!(name, "grpc-message" | "grpc-status")
}

fn find(table: &[(&str, Of)], name: &str) -> Option<Of> {
    let index = table.binary_search_by_key(&name, |(name, _)| *name).ok()?;
    table.get(index).map(|(_, of)| *of)
}

const REQUEST: &[(&str, Of)] = &[
    ("accept", Message),
    ("accept-encoding", Message),
    ("access-control-request-headers", Message),
    ("access-control-request-method", Message),
    ("access-control-request-private-network", Message),
    ("authentication", Message),
    ("authorization", Message),
    ("cache-control", Message),
    ("cdn-loop", Message),
    ("connection", Framing),
    ("content-encoding", Message),
    ("content-length", Framing),
    ("content-type", Message),
    ("expect", Framing),
    ("grpc-accept-encoding", Message),
    ("grpc-timeout", Message),
    ("if-match", Message),
    ("if-modified-since", Message),
    ("if-none-match", Message),
    ("if-range", Message),
    ("if-unmodified-since", Message),
    ("keep-alive", Framing),
    ("origin", Message),
    ("pragma", Message),
    ("proxy-connection", Framing),
    ("proxy-status", Message),
    ("referer", Message),
    ("te", Message),
    ("transfer-encoding", Framing),
    ("upgrade", Framing),
    ("user-agent", Message),
    ("via", Message),
    ("x-client-trace-id", Message),
    ("x-forwarded-client-cert", Message),
    ("x-forwarded-for", Message),
    ("x-forwarded-host", Message),
    ("x-forwarded-port", Message),
    ("x-forwarded-proto", Message),
    ("x-request-id", Message),
];

const RESPONSE: &[(&str, Of)] = &[
    ("access-control-allow-credentials", Message),
    ("access-control-allow-headers", Message),
    ("access-control-allow-methods", Message),
    ("access-control-allow-origin", Message),
    ("access-control-allow-private-network", Message),
    ("access-control-expose-headers", Message),
    ("access-control-max-age", Message),
    ("age", Message),
    ("cache-control", Message),
    ("connection", Framing),
    ("content-encoding", Message),
    ("content-length", Framing),
    ("content-type", Message),
    ("date", Message),
    ("etag", Message),
    ("expires", Message),
    ("grpc-message", Message),
    ("grpc-status", Message),
    ("keep-alive", Framing),
    ("last-modified", Message),
    ("location", Message),
    ("proxy-connection", Framing),
    ("proxy-status", Message),
    ("server", Message),
    ("transfer-encoding", Framing),
    ("upgrade", Framing),
    ("vary", Message),
    ("via", Message),
    ("x-request-id", Message),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        assert!(REQUEST.is_sorted_by_key(|(name, _)| *name));
        assert!(RESPONSE.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn framing_is_not_joined() {
        assert!(is_joined_request_header("accept"));
        assert!(!is_joined_request_header("content-length"));
        assert!(!is_joined_request_header("cookie"));
        assert!(is_inline_response_header("content-length"));
        assert!(!is_joined_response_header("transfer-encoding"));
    }
}
