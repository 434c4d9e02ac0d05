//! Pseudo-headers of a request's head.

use http::{HeaderValue, header, request};

/// The authority of a request, from wherever it stands.
pub(crate) fn authority(parts: &request::Parts) -> Option<&[u8]> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => parts.headers.get(header::HOST).map(HeaderValue::as_bytes),
    }
}

/// The scheme of a request, `http` if it does not say.
pub(crate) fn scheme(parts: &request::Parts) -> &str {
    parts.uri.scheme_str().unwrap_or("http")
}
