//! Sizes of heads and messages.

use http::{HeaderMap, StatusCode, Version, header::CONTENT_LENGTH};

use super::Scope;
use crate::{exchange::record::Head, http::headers::head_field};

/// Bytes of names and values.
pub(super) fn fields_bytes(headers: &HeaderMap) -> u64 {
    let fields = headers.iter();
    fields
        .map(|(name, value)| (name.as_str().len() + value.len()) as u64)
        .sum()
}

pub(super) fn request_bytes(head: &Head) -> u64 {
    let pseudo = [":authority", ":method", ":path", ":scheme"]
        .iter()
        .filter_map(|name| {
            let value = head_field(&head.method, &head.uri, &head.headers, name)?;
            Some((name.len() + value.len()) as u64)
        });
    pseudo.sum::<u64>() + fields_bytes(&head.headers)
}

/// Bytes of the response's fields, and of the whole response, as HTTP/1 writes them but for the framing of chunks.
pub(super) fn sent_bytes(scope: &Scope<'_>) -> (u64, u64) {
    let reply = scope.reply;
    let Some(status) = reply.status else {
        return (0, 0);
    };
    let body = scope.sent;
    let lines = |headers: &HeaderMap| fields_bytes(headers) + 4 * headers.len() as u64;
    let framing = match reply.headers.contains_key(CONTENT_LENGTH) {
        _ if scope.version == Some(Version::HTTP_2) || has_no_length(scope, status) => 0,
        true => 0,
        false if body == 0 => "content-length: 0\r\n".len() as u64,
        false => "transfer-encoding: chunked\r\n".len() as u64,
    };
    let trailers = reply.trailers.as_ref().map_or(0, lines);
    let fields = lines(&reply.headers) + framing + trailers;
    let reason = status.canonical_reason().unwrap_or_default();
    let status_line = "HTTP/1.1 200 \r\n".len() + reason.len();
    (
        fields,
        fields + status_line as u64 + "\r\n".len() as u64 + body,
    )
}

/// Tells whether a response has no body for what it is, so that none is framed.
fn has_no_length(scope: &Scope<'_>, status: StatusCode) -> bool {
    scope
        .exchange
        .is_some_and(|exchange| exchange.outgoing.facts.bodyless)
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}
