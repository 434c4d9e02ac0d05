//! How a response came about: what layers and hosts tell each other beside it.

use std::{borrow::Cow, error::Error as StdError, fmt};

use bytes::Bytes;
use http::{StatusCode, request, response};

use crate::context::error::BoxError;

/// Request extension, set by a layer: response attributes are configured, so the head that goes to
/// the upstream is to be kept for them in [`UpstreamInfo::sent`](super::facts::UpstreamInfo::sent).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KeepSent;

/// Error of an upstream's body, or a source of it: which answer fits as long as the head of the
/// response has not gone on. Without it that is 502.
#[derive(Debug)]
#[non_exhaustive]
pub struct UpstreamFailure {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its response code details.
    pub details: Cow<'static, str>,
    /// Its response flags.
    pub flags: ResponseFlags,
    /// What happened.
    pub source: Option<BoxError>,
}

impl UpstreamFailure {
    /// Makes a failure without a source.
    pub fn new(
        status: StatusCode,
        details: impl Into<Cow<'static, str>>,
        flags: ResponseFlags,
    ) -> Self {
        Self {
            status,
            details: details.into(),
            flags,
            source: None,
        }
    }

    /// Returns the first one in a chain of errors.
    pub(crate) fn of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref() {
                return Some(failure);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for UpstreamFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.details)
    }
}

impl StdError for UpstreamFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

/// A complete response in place of one that cannot be completed, for who has not sent the head of that.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn details(&self) -> &str {
        let details = self.head.extensions.get::<ResponseDetails>();
        details.map_or("", |details| &details.0)
    }
}

/// Response extension: `%RESPONSE_CODE_DETAILS%`, why the response is what it is, such as
/// `via_upstream`. Set by whoever makes a response; white space is already replaced by `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseDetails(pub Cow<'static, str>);

impl ResponseDetails {
    /// Makes the details of a text without white space.
    pub fn new(details: impl Into<Cow<'static, str>>) -> Self {
        Self(details.into())
    }
}

/// Response extension: `%RESPONSE_FLAGS%` as Envoy's bit set, 0 if absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseFlags(pub u64);

impl ResponseFlags {
    /// Makes the flags of Envoy's bits.
    pub fn new(bits: u64) -> Self {
        Self(bits)
    }
}

/// Response extension: no response can be given, since the upstream's was lost after it had begun and
/// before its head went out. The host should cut the connection (HTTP/1) or reset the stream
/// (HTTP/2), as Envoy does; one that does not sends the 502 that carries this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Aborted;

/// Response extension: a filter made this response while another one was already on its way back.
/// As in Envoy, filters nearer to the client do not see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectReply;

/// Response extension: a filter made this response before the request went on. Envoy shows it to the
/// filters that lie behind as well, which never saw the request; a host with a chain of them may call
/// them for it, with [`ExchangeContext::response_only`](crate::host::ExchangeContext::response_only).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AnsweredEarly {
    /// Head of the request, as the filter has left it.
    pub request: Box<request::Parts>,
}

/// Response extension: a filter made this response after the request had gone on, and before a response came back. Envoy
/// shows it to the filters that lie behind as the response to the request that they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnsweredLate;

/// Response extension: a local reply. It takes the place of an upstream's response, and what is left of the request goes
/// nowhere, so that filters do not show it to processors either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalReply {
    /// Its code, for attributes: a reply to a gRPC request has another status, and filters may change that.
    pub code: StatusCode,
}

impl LocalReply {
    /// Makes the mark of a local reply with this code.
    pub fn new(code: StatusCode) -> Self {
        Self { code }
    }
}

/// Response extension, set by the layer: what the processor did until the response's head went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeSummary {
    /// Messages sent to the processor.
    pub sent: u32,
    /// Replies accepted.
    pub received: u32,
    /// Replies that changed something.
    pub changed: u32,
    /// The processor, or the filter for it, answered in the upstream's place.
    pub answered: bool,
    /// The processor failed, and the exchange went on without it.
    pub failed_open: bool,
}

impl fmt::Display for ExchangeSummary {
    /// Such as `2/2 changed=1`: replies of messages, and what else is to be said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.received, self.sent)?;
        if self.changed > 0 {
            write!(f, " changed={}", self.changed)?;
        }
        if self.answered {
            f.write_str(" answered")?;
        }
        if self.failed_open {
            f.write_str(" failed-open")?;
        }
        Ok(())
    }
}
