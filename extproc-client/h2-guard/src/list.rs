//! Sizes of header lists, as SETTINGS_MAX_HEADER_LIST_SIZE counts them (RFC 9113 §6.5.2): 32 bytes for each field beside its name and
//! value.

use h2::ext::Protocol;
use http::{HeaderMap, Request};

const FIELD: usize = 32;

/// Bytes of a request's header list.
#[must_use]
pub fn request_size<B>(request: &Request<B>) -> u64 {
    const PSEUDO: usize = ":method:scheme:authority:path".len() + 4 * FIELD;
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |it| it.as_str().len());
    let scheme = uri.scheme_str().map_or(0, str::len);
    // Of extended CONNECT (RFC 8441).
    let protocol = request.extensions().get::<Protocol>();
    let protocol = protocol.map_or(0, |it| ":protocol".len() + it.as_str().len() + FIELD);
    let method = request.method().as_str().len();
    let pseudo = PSEUDO + method + scheme + authority + path + protocol;
    pseudo as u64 + fields_size(request.headers())
}

/// Bytes of a response's header list.
#[must_use]
pub fn response_size(headers: &HeaderMap) -> u64 {
    const PSEUDO: usize = ":status200".len() + FIELD;
    PSEUDO as u64 + fields_size(headers)
}

/// Bytes of a list of fields alone, as trailers are one.
#[must_use]
pub fn fields_size(headers: &HeaderMap) -> u64 {
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    fields.sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_connect_has_a_protocol() {
        let mut request = Request::connect("https://a/chat").body(()).unwrap();
        let plain = request_size(&request);
        request.extensions_mut().insert(Protocol::from("websocket"));
        assert_eq!(request_size(&request), plain + 9 + 9 + 32);
    }
}
