//! Sizes of header lists, as SETTINGS_MAX_HEADER_LIST_SIZE counts them (RFC 9113 §6.5.2): 32 bytes for each field beside its name and
//! value.

use http::{HeaderMap, Method, Uri};

const FIELD: usize = 32;

/// Bytes of a request's header list.
#[must_use]
pub fn request_size(method: &Method, uri: &Uri, headers: &HeaderMap) -> u64 {
    const PSEUDO: usize = ":method:scheme:authority:path".len() + 4 * FIELD;
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |it| it.as_str().len());
    let scheme = uri.scheme_str().map_or(0, str::len);
    let pseudo = PSEUDO + method.as_str().len() + scheme + authority + path;
    pseudo as u64 + trailers_size(headers)
}

/// Bytes of a response's header list.
#[must_use]
pub fn response_size(headers: &HeaderMap) -> u64 {
    const PSEUDO: usize = ":status200".len() + FIELD;
    PSEUDO as u64 + trailers_size(headers)
}

/// Bytes of the header list of trailers.
#[must_use]
pub fn trailers_size(headers: &HeaderMap) -> u64 {
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    fields.sum::<usize>() as u64
}
