//! One view of request heads, response heads and trailers: pseudo-headers and fields under one roof.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request, response,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{
    inline::{is_inline_request_header, is_inline_response_header, is_inline_trailer},
    rules::status_number,
};
use crate::wire::{
    encode::Fields,
    fields::{authority, scheme},
};

/// A header block that can be read and changed.
///
/// `:authority` is the URI's authority, or the `host` header where the URI has none; the two are
/// one field under either name, as in Envoy.
#[derive(Debug)]
pub(crate) enum Block<'a> {
    Request(&'a mut request::Parts),
    Response(&'a mut response::Parts),
    RequestTrailers(&'a mut HeaderMap),
    ResponseTrailers(&'a mut HeaderMap),
}

/// Refusal of a pseudo-header: its value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unusable;

impl Block<'_> {
    pub(crate) fn map(&self) -> &HeaderMap {
        match self {
            Self::Request(parts) => &parts.headers,
            Self::Response(parts) => &parts.headers,
            Self::RequestTrailers(map) | Self::ResponseTrailers(map) => map,
        }
    }

    pub(super) fn map_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Request(parts) => &mut parts.headers,
            Self::Response(parts) => &mut parts.headers,
            Self::RequestTrailers(map) | Self::ResponseTrailers(map) => map,
        }
    }

    /// Returns whether `host` names the authority here.
    pub(super) fn host_is_authority(&self) -> bool {
        matches!(self, Self::Request(_))
    }

    pub(super) fn is_inline(&self, name: &HeaderName) -> bool {
        match self {
            Self::Request(_) => is_inline_request_header(name.as_str()),
            Self::Response(_) => is_inline_response_header(name.as_str()),
            Self::RequestTrailers(_) | Self::ResponseTrailers(_) => {
                is_inline_trailer(name.as_str())
            }
        }
    }

    /// Returns whether the pseudo-header has a value.
    pub(super) fn has_pseudo(&self, name: &str) -> bool {
        match self {
            Self::Request(parts) => match name {
                ":method" => true,
                ":authority" => authority(parts).is_some(),
                ":path" => parts.uri.path_and_query().is_some(),
                ":scheme" => parts.method != Method::CONNECT,
                _ => false,
            },
            Self::Response(_) => name == ":status",
            Self::RequestTrailers(_) | Self::ResponseTrailers(_) => false,
        }
    }

    /// Sets a pseudo-header. One that this block does not have is dropped, as Envoy's HTTP/1 codec does.
    pub(super) fn set_pseudo(&mut self, name: &str, value: &[u8]) -> Result<(), Unusable> {
        match self {
            Self::Request(parts) => match name {
                ":method" => {
                    parts.method = Method::from_bytes(value).map_err(|_| Unusable)?;
                    Ok(())
                }
                ":path" => set_path(parts, value),
                ":authority" => set_authority(parts, value),
                ":scheme" => set_scheme(parts, value),
                _ => Ok(()),
            },
            Self::Response(parts) if name == ":status" => {
                let number = status_number(value).and_then(|number| number.try_into().ok());
                let status = number.and_then(|number| StatusCode::from_u16(number).ok());
                parts.status = status.ok_or(Unusable)?;
                Ok(())
            }
            Self::Response(_) | Self::RequestTrailers(_) | Self::ResponseTrailers(_) => Ok(()),
        }
    }

    /// Entries and bytes, pseudo-headers included.
    pub(super) fn size(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        let mut add = |name: &[u8], value: &[u8]| {
            count += 1;
            bytes += name.len() + value.len();
        };
        match self {
            Self::Request(parts) => request_fields(parts, &mut add),
            Self::Response(parts) => response_fields(parts, &mut add),
            Self::RequestTrailers(map) | Self::ResponseTrailers(map) => map_fields(map, &mut add),
        }
        (count, bytes)
    }
}

/// Sets `host` to the URI's authority where there is one, which counts in its place (RFC 9112, section 3.2.2; RFC 9113,
/// section 8.3.1). Later readers of `host` see the name that the processor is shown and may change.
pub(crate) fn settle_host(parts: &mut request::Parts) {
    let Some(authority) = parts.uri.authority() else {
        return;
    };
    if !parts.headers.contains_key(header::HOST) {
        return;
    }
    let text = authority.as_str();
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    // An authority has no bytes that a value may not have.
    if let Ok(host) = HeaderValue::from_str(host) {
        parts.headers.insert(header::HOST, host);
    }
}

fn request_fields(parts: &request::Parts, f: &mut impl FnMut(&[u8], &[u8])) {
    if let Some(authority) = authority(parts) {
        f(b":authority", authority);
    }
    let connect = parts.method == Method::CONNECT;
    if let Some(path) = parts.uri.path_and_query().filter(|_| !connect) {
        f(b":path", path.as_str().as_bytes());
    }
    f(b":method", parts.method.as_str().as_bytes());
    if !connect {
        f(b":scheme", scheme(parts).as_bytes());
    }
    for (name, value) in &parts.headers {
        if name != header::HOST {
            f(name.as_str().as_bytes(), value.as_bytes());
        }
    }
}

fn response_fields(parts: &response::Parts, f: &mut impl FnMut(&[u8], &[u8])) {
    f(b":status", parts.status.as_str().as_bytes());
    map_fields(&parts.headers, f);
}

fn map_fields(map: &HeaderMap, f: &mut impl FnMut(&[u8], &[u8])) {
    for (name, value) in map {
        f(name.as_str().as_bytes(), value.as_bytes());
    }
}

impl Fields for request::Parts {
    fn each(&self, mut f: impl FnMut(&[u8], &[u8])) {
        request_fields(self, &mut f);
    }
}

impl Fields for response::Parts {
    fn each(&self, mut f: impl FnMut(&[u8], &[u8])) {
        response_fields(self, &mut f);
    }
}

impl Fields for HeaderMap {
    fn each(&self, mut f: impl FnMut(&[u8], &[u8])) {
        map_fields(self, &mut f);
    }
}

fn set_path(parts: &mut request::Parts, value: &[u8]) -> Result<(), Unusable> {
    let path = match value {
        b"" => PathAndQuery::from_static("/"),
        [b'/', ..] | b"*" => PathAndQuery::try_from(value).map_err(|_| Unusable)?,
        _ => return Err(Unusable),
    };
    change_uri(parts, |uri| uri.path_and_query = Some(path))
}

fn set_authority(parts: &mut request::Parts, value: &[u8]) -> Result<(), Unusable> {
    if parts.uri.authority().is_none() {
        let value = HeaderValue::from_bytes(value).map_err(|_| Unusable)?;
        parts.headers.insert(header::HOST, value);
        return Ok(());
    }
    let authority = Authority::try_from(value).map_err(|_| Unusable)?;
    change_uri(parts, |uri| uri.authority = Some(authority))?;
    settle_host(parts);
    Ok(())
}

fn set_scheme(parts: &mut request::Parts, value: &[u8]) -> Result<(), Unusable> {
    let scheme = Scheme::try_from(value).map_err(|_| Unusable)?;
    if parts.uri.authority().is_none() {
        // In origin form there is no place for it.
        return match scheme.as_str() == self::scheme(parts) {
            true => Ok(()),
            false => Err(Unusable),
        };
    }
    change_uri(parts, |uri| uri.scheme = Some(scheme))
}

fn change_uri(
    parts: &mut request::Parts,
    change: impl FnOnce(&mut http::uri::Parts),
) -> Result<(), Unusable> {
    let mut uri = parts.uri.clone().into_parts();
    change(&mut uri);
    parts.uri = Uri::from_parts(uri).map_err(|_| Unusable)?;
    Ok(())
}
