//! Views of what a proxy shows a processor: header blocks, body pieces and trailers.
//!
//! These are read-only views of the received message. They are not converted up front: [`Headers::get`] looks at the
//! entries as they came, and the [`HeaderMap`] is built the first time [`Headers::map`] is called, so that a processor
//! which only needs one header does not pay for all of them.
//!
//! Values are read from `raw_value` and, where that is empty, from `value` (`envoy.config.core.v3.HeaderValue`).

use std::sync::OnceLock;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;

/// The header block of a request or of a response, pseudo-headers included.
#[derive(Debug, Default)]
pub struct Headers {
    entries: Entries,
    end_of_stream: bool,
}

impl Headers {
    pub(crate) fn new(map: Option<core::HeaderMap>, end_of_stream: bool) -> Self {
        Self {
            entries: Entries::new(map),
            end_of_stream,
        }
    }

    /// True if the message ends here: there is neither a body nor trailers.
    pub fn end_of_stream(&self) -> bool {
        self.end_of_stream
    }

    /// The first value of a header, pseudo-headers (`:path`) included. Names are compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.get(name)
    }

    /// Like [`get`](Self::get), if the value is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every value of a header, in the order of the message.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.entries.get_all(name)
    }

    /// Every entry in the order of the message, pseudo-headers included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter()
    }

    /// The headers as an [`http::HeaderMap`], without pseudo-headers; built on the first call and kept.
    ///
    /// Entries that `http` cannot represent (an illegal name, a control byte in a value) are left out.
    pub fn map(&self) -> &HeaderMap {
        self.entries.map()
    }

    /// `:method` of a request.
    pub fn method(&self) -> Option<Method> {
        Method::from_bytes(self.get(":method")?).ok()
    }

    /// `:path` of a request: path and query.
    pub fn path(&self) -> Option<&str> {
        self.get_str(":path")
    }

    /// `:authority` of a request.
    pub fn authority(&self) -> Option<&str> {
        self.get_str(":authority")
    }

    /// `:scheme` of a request.
    pub fn scheme(&self) -> Option<&str> {
        self.get_str(":scheme")
    }

    /// `:status` of a response.
    pub fn status(&self) -> Option<StatusCode> {
        StatusCode::from_bytes(self.get(":status")?).ok()
    }
}

/// A piece of a body; which piece depends on the [`BodyMode`](crate::BodyMode).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The bytes. In [`BodyMode::Grpc`](crate::BodyMode::Grpc) one gRPC message without its five byte prefix.
    pub data: Bytes,
    /// True on the last piece, unless trailers follow: then no piece has it.
    pub end_of_stream: bool,
    /// [`BodyMode::Grpc`](crate::BodyMode::Grpc) only: the message is compressed
    /// (`HttpBody.grpc_message_compressed`).
    pub grpc_compressed: bool,
    /// [`BodyMode::Grpc`](crate::BodyMode::Grpc) only: the stream ended without another message, so the empty
    /// [`data`](Self::data) is not an empty message (`HttpBody.end_of_stream_without_message`).
    pub without_message: bool,
}

impl Body {
    /// The piece as JSON; sensible where it is the whole body.
    ///
    /// # Errors
    /// The bytes are not JSON, or not of this type.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.data)
    }
}

/// The trailers of a request or of a response.
#[derive(Debug, Default)]
pub struct Trailers {
    entries: Entries,
}

impl Trailers {
    pub(crate) fn new(map: Option<core::HeaderMap>) -> Self {
        Self {
            entries: Entries::new(map),
        }
    }

    /// The first value of a trailer.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.get(name)
    }

    /// Like [`get`](Self::get), if the value is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every entry in the order of the message.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter()
    }

    /// The trailers as an [`http::HeaderMap`]; see [`Headers::map`].
    pub fn map(&self) -> &HeaderMap {
        self.entries.map()
    }
}

/// The value of one entry: `raw_value`, or `value` where a peer wrote that.
pub(crate) fn value_of(entry: &core::HeaderValue) -> &[u8] {
    if entry.raw_value.is_empty() {
        entry.value.as_bytes()
    } else {
        &entry.raw_value
    }
}

#[derive(Debug, Default)]
struct Entries {
    entries: Vec<core::HeaderValue>,
    map: OnceLock<HeaderMap>,
}

impl Entries {
    fn new(map: Option<core::HeaderMap>) -> Self {
        Self {
            entries: map.map(|map| map.headers).unwrap_or_default(),
            map: OnceLock::new(),
        }
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries
            .iter()
            .find(|entry| entry.key.eq_ignore_ascii_case(name))
            .map(value_of)
    }

    fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.entries
            .iter()
            .filter(move |entry| entry.key.eq_ignore_ascii_case(name))
            .map(value_of)
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries
            .iter()
            .map(|entry| (entry.key.as_str(), value_of(entry)))
    }

    fn map(&self) -> &HeaderMap {
        self.map.get_or_init(|| {
            let mut map = HeaderMap::new();
            for (name, value) in self.iter() {
                let name = HeaderName::from_bytes(name.as_bytes());
                let value = HeaderValue::from_bytes(value);
                if let (Ok(name), Ok(value)) = (name, value)
                    && map.try_append(name, value).is_err()
                {
                    break;
                }
            }
            map
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&str, &str, &[u8])]) -> Headers {
        let headers = entries
            .iter()
            .map(|(key, value, raw_value)| core::HeaderValue {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
                raw_value: raw_value.to_vec(),
            })
            .collect();
        Headers::new(Some(core::HeaderMap { headers }), true)
    }

    #[test]
    fn both_value_fields_are_read_and_raw_value_wins() {
        let headers = headers(&[
            ("a", "plain", b""),
            ("b", "", b"raw"),
            ("c", "plain", b"raw"),
        ]);
        assert_eq!(headers.get("A"), Some(&b"plain"[..]));
        assert_eq!(headers.get_str("b"), Some("raw"));
        assert_eq!(headers.get_str("c"), Some("raw"));
        assert_eq!(headers.get("d"), None);
    }

    #[test]
    fn the_map_leaves_out_what_http_cannot_hold() {
        let headers = headers(&[
            (":path", "", b"/x"),
            ("a", "", b"1"),
            ("a", "", b"2"),
            ("bad name", "", b"1"),
            ("bad-value", "", b"\n"),
            ("latin1", "", b"\xe9"),
        ]);
        let names: Vec<_> = headers
            .map()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["a", "a", "latin1"]);
        assert_eq!(headers.path(), Some("/x"));
        assert_eq!(headers.get_all("a").count(), 2);
    }

    #[test]
    fn illegal_pseudo_headers_read_as_absent() {
        let headers = headers(&[(":method", "", b"G T"), (":status", "", b"2x")]);
        assert_eq!(headers.method(), None);
        assert_eq!(headers.status(), None);
    }
}
