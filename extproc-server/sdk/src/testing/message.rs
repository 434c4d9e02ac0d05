//! HTTP messages for tests.

use bytes::Bytes;

/// An HTTP request or response: pseudo-headers, headers, body and trailers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// None is a message that ends with its headers, or goes on with its trailers.
    pub(super) body: Option<Vec<Bytes>>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
}

impl Message {
    /// A request to `http://example.test` without a body.
    pub fn request(method: &str, path: &str) -> Self {
        Self::default()
            .header(":authority", "example.test")
            .header(":path", path)
            .header(":method", method)
            .header(":scheme", "http")
    }

    /// A response without a body.
    pub fn response(status: u16) -> Self {
        Self::default().header(":status", status.to_string())
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        self.headers.push((name.to_ascii_lowercase(), value));
        self
    }

    /// Gives the message this body and its `content-length`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let length = body.len().to_string();
        self.body = Some(vec![body]);
        self.header("content-length", length)
    }

    /// Adds a piece to the body. No pieces, or empty ones, make a body of no bytes that is not announced.
    #[must_use]
    pub fn pieces<B: Into<Bytes>>(mut self, pieces: impl IntoIterator<Item = B>) -> Self {
        let body = self.body.get_or_insert_default();
        body.extend(
            pieces
                .into_iter()
                .map(Into::into)
                .filter(|piece: &Bytes| !piece.is_empty()),
        );
        self
    }

    /// Adds a trailer.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        self.trailers.push((name.to_ascii_lowercase(), value));
        self
    }

    /// The first value of a header, if it is there and is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Every value of a header that is text.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key == name)
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Every value of a header, text or not.
    pub fn get_all_bytes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let own = self.headers.iter().filter(move |(key, _)| key == name);
        own.map(|(_, value)| value.as_slice())
    }

    /// The first value of a trailer, if it is there and is text.
    pub fn get_trailer(&self, name: &str) -> Option<&str> {
        find(&self.trailers, name)
    }

    /// The status of a response; zero without one.
    pub fn status(&self) -> u16 {
        self.get(":status")
            .and_then(|status| status.parse().ok())
            .unwrap_or_default()
    }

    /// The whole body.
    pub fn bytes(&self) -> Bytes {
        self.body.iter().flatten().flatten().copied().collect()
    }

    /// The whole body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// True if the message has no body at all.
    pub fn ends_with_headers(&self) -> bool {
        self.body.is_none() && self.trailers.is_empty()
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| key != name);
    }
}

fn find<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    let (_, value) = fields.iter().find(|(key, _)| key == name)?;
    std::str::from_utf8(value).ok()
}
