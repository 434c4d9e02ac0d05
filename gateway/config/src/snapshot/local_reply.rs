//! Form of responses that the gateway makes itself.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::{HeaderChange, LogFilter, LogFormat, Template};

/// `envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig`.
#[derive(Clone, Debug)]
pub struct LocalReplies {
    /// The first one whose filter takes a reply changes it.
    pub mappers: Vec<ReplyMapper>,
    /// Form of the body where the mapper has none.
    pub format: Option<Arc<ReplyFormat>>,
}

/// `ResponseMapper`.
#[derive(Clone, Debug)]
pub struct ReplyMapper {
    /// Replies that it is for.
    pub filter: LogFilter,
    /// Their new status.
    pub status: Option<StatusCode>,
    /// Their new body, before it is formatted.
    pub body: Option<Bytes>,
    /// The form of their body.
    pub format: Option<Arc<ReplyFormat>>,
    /// Changes of their headers.
    pub headers: Vec<HeaderChange>,
}

/// The form of a body.
#[derive(Clone, Debug)]
pub struct ReplyFormat {
    /// The body with `%LOCAL_REPLY_BODY%` for what it was.
    pub format: LogFormat,
    /// `omit_empty_values`: what has no value is left out, and not `-` or null.
    pub omit_empty: bool,
    /// Its content type.
    pub content_type: HeaderValue,
}

impl LocalReplies {
    /// All texts in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let own = self
            .mappers
            .iter()
            .filter_map(|mapper| mapper.format.as_ref());
        let formats = own.chain(&self.format);
        formats.flat_map(|format| format.format.templates())
    }

    /// All changes of headers in it.
    pub fn header_changes(&self) -> impl Iterator<Item = &HeaderChange> {
        self.mappers.iter().flat_map(|mapper| &mapper.headers)
    }
}
