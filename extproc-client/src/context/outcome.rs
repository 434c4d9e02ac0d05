//! Origin of a response: facts that layers and hosts tell each other beside it.

use std::{any::Any, borrow::Cow, error::Error as StdError, fmt, sync::Arc};

use bytes::Bytes;
use http::{Extensions, Response, StatusCode, request, response};

use crate::context::{error::BoxError, facts::UpstreamInfo};

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
    /// Error behind the failure, if there is one.
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
        first(error)
    }
}

/// Error of a request's body that a filter nearer to the client refuses: the client is still there, and is answered with this.
#[derive(Debug)]
#[non_exhaustive]
pub struct RefusedRequest {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its response code details.
    pub details: Cow<'static, str>,
    /// Error behind it.
    pub source: BoxError,
}

impl RefusedRequest {
    /// Makes a refusal for this error.
    pub fn new(
        status: StatusCode,
        details: impl Into<Cow<'static, str>>,
        source: BoxError,
    ) -> Self {
        Self {
            status,
            details: details.into(),
            source,
        }
    }

    /// Returns the first one in a chain of errors.
    pub(crate) fn of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        first(error)
    }
}

impl fmt::Display for RefusedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.details)
    }
}

impl StdError for RefusedRequest {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// Finds an error of this type in a chain.
fn first<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
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
        let details = Outcome::of_head(&self.head).details.as_deref();
        details.unwrap_or_default()
    }
}

/// Response extension, written by hosts and layers: how the response came about.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// Maker of the response.
    pub origin: Origin,
    /// `%RESPONSE_CODE_DETAILS%`, why the response is what it is, such as `via_upstream`. Holds no white space. Without it, a
    /// response of an endpoint is `via_upstream`.
    pub details: Option<Cow<'static, str>>,
    /// `%RESPONSE_FLAGS%`.
    pub flags: ResponseFlags,
    /// The endpoint and the attempts. Without it, or without a [response](UpstreamInfo::responded) of the endpoint, the response
    /// was made locally.
    pub upstream: Option<UpstreamInfo>,
    /// The code of a local reply, for attributes: a reply to a gRPC request has another status, and filters may change that. A
    /// local reply takes the place of an upstream's response, and what is left of the request goes nowhere, so that filters do
    /// not show it to processors either.
    pub local: Option<StatusCode>,
    /// The part of the layer that the response passed last, until its head went on.
    pub processor: Option<ExchangeSummary>,
    /// The header changes of the route were made, by a host that makes them once.
    pub route_applied: bool,
    /// The client's connection ends after it.
    pub closes: bool,
    /// Anything else that the host wants to find with the response.
    pub own: Option<Arc<dyn Any + Send + Sync>>,
    /// The body is not as it came, and ends where it says so. HTTP/1 has no part in that.
    pub(crate) remade: bool,
}

/// Origin of a response.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Origin {
    /// The service around which the layers are: an endpoint's, or one in place of that.
    #[default]
    Service,
    /// A filter made it before the request went on. Envoy shows it to the filters that lie behind as well, which never saw the
    /// request; a host with a chain of them may call them for it, with
    /// [`ExchangeContext::response_only`](crate::host::ExchangeContext::response_only).
    Early {
        /// Head of the request, as the filter has left it.
        request: Box<request::Parts>,
    },
    /// A filter made it after the request had gone on, and before a response came back. Envoy shows it to the filters that lie
    /// behind as the response to the request that they have.
    Late,
    /// A filter made it while another response was already on its way back. As in Envoy, filters nearer to the client do not
    /// see it.
    Final,
    /// None can be given, since the upstream's was lost after it had begun and before its head went out. The host should cut
    /// the connection (HTTP/1) or reset the stream (HTTP/2), as Envoy does; one that does not sends the 502 that carries this.
    Lost,
}

impl Outcome {
    /// Returns the outcome of a response, an empty one if nobody has written it.
    pub fn of<B>(response: &Response<B>) -> &Self {
        Self::within(response.extensions())
    }

    /// As [`of`](Self::of), by the response's head.
    pub fn of_head(head: &response::Parts) -> &Self {
        Self::within(&head.extensions)
    }

    /// Returns the outcome of a response to be written.
    pub fn of_mut<B>(response: &mut Response<B>) -> &mut Self {
        response.extensions_mut().get_or_insert_default()
    }

    /// As [`of_mut`](Self::of_mut), by the response's head.
    pub fn of_head_mut(head: &mut response::Parts) -> &mut Self {
        head.extensions.get_or_insert_default()
    }

    fn within(extensions: &Extensions) -> &Self {
        static UNKNOWN: Outcome = Outcome {
            origin: Origin::Service,
            details: None,
            flags: ResponseFlags(0),
            upstream: None,
            local: None,
            processor: None,
            route_applied: false,
            closes: false,
            own: None,
            remade: false,
        };
        extensions.get().unwrap_or(&UNKNOWN)
    }

    /// Returns what the host left with the response, if it is of this type.
    pub fn own<T: Any>(&self) -> Option<&T> {
        self.own.as_deref()?.downcast_ref()
    }

    /// Tells whether the response is an endpoint's.
    pub fn is_upstream(&self) -> bool {
        self.upstream.as_ref().is_some_and(UpstreamInfo::responded)
    }

    /// Returns the response code details, also those of an endpoint's response that nobody has written.
    pub fn code_details(&self) -> Option<Cow<'static, str>> {
        let upstream = || self.is_upstream().then_some(Cow::Borrowed("via_upstream"));
        self.details.clone().or_else(upstream)
    }
}

/// `%RESPONSE_FLAGS%` as Envoy's bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseFlags(pub u64);

impl ResponseFlags {
    /// Makes the flags of Envoy's bits.
    pub fn new(bits: u64) -> Self {
        Self(bits)
    }
}

/// Count of what a processor did until the response's head went on.
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
