//! A proxy for tests: drives a processor through an exchange and shows the HTTP message that comes out.
//!
//! [`FakeProxy`] follows the rules by which Envoy sends messages and judges replies, and is strict where Envoy is: a reply
//! out of place, a mutation with an illegal header, or a `content-length` that does not fit is an error. It needs no
//! socket and no gRPC. It is not a proxy: it moves whole messages, knows no connections, and has no failure policy, so
//! that a test sees every failure.
//!
//! ```
//! use extproc_sdk::{Body, BodyMode, BodyReply, BoxError, Call, Processor, testing::{FakeProxy, Message}};
//!
//! struct Shout;
//!
//! impl Processor for Shout {
//!     type State = ();
//!
//!     async fn request_body(&self, _: &mut Call<()>, body: &Body) -> Result<BodyReply, BoxError> {
//!         Ok(BodyReply::replace(body.data.to_ascii_uppercase()))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let proxy = FakeProxy::new(Shout).request_body(BodyMode::Buffered);
//! let mut exchange = proxy.exchange();
//! let request = Message::request("POST", "/anything").body("hello");
//! let forwarded = exchange.request(request).await?.forwarded()?;
//! assert_eq!(forwarded.text(), "HELLO");
//! exchange.finish().await?;
//! # Ok(())
//! # }
//! ```

mod convert;
mod exchange;
mod message;
mod mutate;

use std::time::Duration;

use serde_json::{Map, Value};
use tonic::metadata::MetadataMap;

pub use self::{exchange::FakeExchange, message::Message};
use crate::{
    engine::Run,
    processor::Processor,
    service::ProcessorService,
    types::{BodyMode, Modes, Side},
};

/// A proxy with one processor. Its settings are those of the proxy's filter, with the same defaults: headers are sent,
/// bodies and trailers are not.
#[derive(Clone, Debug)]
pub struct FakeProxy<P> {
    service: ProcessorService<P>,
    settings: Settings,
}

impl<P: Processor> FakeProxy<P> {
    /// A proxy in front of a processor with default settings.
    pub fn new(processor: P) -> Self {
        Self::with_service(ProcessorService::new(processor))
    }
}

impl<P: Run> FakeProxy<P> {
    /// A proxy in front of a service with settings of its own.
    pub fn with_service(service: ProcessorService<P>) -> Self {
        Self {
            service,
            settings: Settings::default(),
        }
    }

    /// Sets whether request headers are sent (`request_header_mode`).
    #[must_use]
    pub fn request_headers(mut self, send: bool) -> Self {
        self.settings.request.headers = send;
        self
    }

    /// Sets the mode of request bodies (`request_body_mode`).
    #[must_use]
    pub fn request_body(mut self, mode: BodyMode) -> Self {
        self.settings.request.body = mode;
        self
    }

    /// Sets whether request trailers are sent (`request_trailer_mode`). In the duplex body modes they always are.
    #[must_use]
    pub fn request_trailers(mut self, send: bool) -> Self {
        self.settings.request.trailers = send;
        self
    }

    /// Sets whether response headers are sent (`response_header_mode`).
    #[must_use]
    pub fn response_headers(mut self, send: bool) -> Self {
        self.settings.response.headers = send;
        self
    }

    /// Sets the mode of response bodies (`response_body_mode`).
    #[must_use]
    pub fn response_body(mut self, mode: BodyMode) -> Self {
        self.settings.response.body = mode;
        self
    }

    /// Sets whether response trailers are sent (`response_trailer_mode`). In the duplex body modes they always are.
    #[must_use]
    pub fn response_trailers(mut self, send: bool) -> Self {
        self.settings.response.trailers = send;
        self
    }

    /// Sends streamed bodies without waiting for the reply to the headers
    /// (`send_body_without_waiting_for_header_response`).
    #[must_use]
    pub fn body_without_waiting(mut self) -> Self {
        self.settings.body_without_waiting = true;
        self
    }

    /// Has bodies arrive complete while the reply to the headers is awaited. The proxy then sends them in one message
    /// and holds the headers back, whatever the body mode.
    #[must_use]
    pub fn bodies_arrive_early(mut self) -> Self {
        self.settings.early = true;
        self
    }

    /// Keeps the `content-length` of streamed messages (`allow_content_length_header`).
    #[must_use]
    pub fn keep_content_length(mut self) -> Self {
        self.settings.keep_length = true;
        self
    }

    /// Honours mode overrides (`allow_mode_override`).
    #[must_use]
    pub fn allow_mode_override(mut self) -> Self {
        self.settings.allow_mode_override = true;
        self
    }

    /// Changes those headers alone, by their lower-case names, for which this is true (`mutation_rules`); other changes are skipped.
    /// Default: all but `:authority`, `:method`, `:scheme`, `host` and `x-envoy-*`. `host` and pseudo-headers are never removed.
    #[must_use]
    pub fn mutation_rules(mut self, may_change: fn(&str) -> bool) -> Self {
        self.settings.may_change = Some(may_change);
        self
    }

    /// Metadata of the gRPC stream, such as `traceparent`.
    #[must_use]
    pub fn initial_metadata(mut self, metadata: MetadataMap) -> Self {
        self.settings.initial_metadata = metadata;
        self
    }

    /// Only shows what happens; whatever is replied is an error (`observability_mode`).
    #[must_use]
    pub fn observe_only(mut self) -> Self {
        self.settings.observe_only = true;
        self
    }

    /// Sets the most bytes of a body that are sent in [`BodyMode::BufferedPartial`]. Default 1 MiB.
    #[must_use]
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.buffer_limit = bytes;
        self
    }

    /// Sets the time after which the exchange fails without a reply. Default 5 s, since tests run on busy machines.
    #[must_use]
    pub fn message_timeout(mut self, time: Duration) -> Self {
        self.settings.timeout = time;
        self
    }

    /// Sends these attributes with the first message of each direction.
    #[must_use]
    pub fn attributes(mut self, attributes: Map<String, Value>) -> Self {
        self.settings.attributes = attributes;
        self
    }

    /// Sends this namespace of dynamic metadata with every message.
    #[must_use]
    pub fn metadata(mut self, namespace: impl Into<String>, value: Value) -> Self {
        self.settings.metadata.insert(namespace.into(), value);
        self
    }

    /// Begins an exchange.
    pub fn exchange(&self) -> FakeExchange {
        FakeExchange::new(&self.service, self.settings.clone())
    }
}

#[derive(Clone, Debug)]
struct Settings {
    request: SideSettings,
    response: SideSettings,
    body_without_waiting: bool,
    early: bool,
    keep_length: bool,
    allow_mode_override: bool,
    may_change: Option<fn(&str) -> bool>,
    observe_only: bool,
    buffer_limit: usize,
    timeout: Duration,
    attributes: Map<String, Value>,
    metadata: Map<String, Value>,
    initial_metadata: MetadataMap,
}

/// Parts of one direction that are sent.
#[derive(Clone, Copy, Debug)]
struct SideSettings {
    headers: bool,
    body: BodyMode,
    trailers: bool,
}

impl Settings {
    fn side(&self, side: Side) -> SideSettings {
        match side {
            Side::Request => self.request,
            Side::Response => self.response,
        }
    }

    fn modes(&self) -> Modes {
        Modes {
            request_body: self.request.body,
            response_body: self.response.body,
            body_without_waiting: self.body_without_waiting,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let side = SideSettings {
            headers: true,
            body: BodyMode::None,
            trailers: false,
        };
        Self {
            request: side,
            response: side,
            body_without_waiting: false,
            early: false,
            keep_length: false,
            allow_mode_override: false,
            may_change: None,
            observe_only: false,
            buffer_limit: 1024 * 1024,
            timeout: Duration::from_secs(5),
            attributes: Map::new(),
            metadata: Map::new(),
            initial_metadata: MetadataMap::new(),
        }
    }
}

/// Fate of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, to the upstream or to the client, like this.
    Forwarded(Message),
    /// The processor answered the client at once, with this response.
    Responded(Message),
}

impl Outcome {
    /// The message that goes on.
    ///
    /// # Errors
    /// The processor answered at once.
    pub fn forwarded(self) -> Result<Message, ProxyError> {
        match self {
            Self::Forwarded(message) => Ok(message),
            Self::Responded(message) => Err(ProxyError::Unexpected("immediate response", message)),
        }
    }

    /// The response that the processor gave at once.
    ///
    /// # Errors
    /// The message goes on.
    pub fn responded(self) -> Result<Message, ProxyError> {
        match self {
            Self::Responded(message) => Ok(message),
            Self::Forwarded(message) => {
                Err(ProxyError::Unexpected("message that goes on", message))
            }
        }
    }
}

/// Reason for which a proxy would have failed the exchange.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// A reply that has no place here.
    #[error("spurious reply: {0}")]
    Spurious(String),
    /// A mutation with an illegal name or value, or too large a one.
    #[error("rejected header mutation: {0}")]
    Mutation(String),
    /// The new body does not fit the `content-length` of the headers that are held back.
    #[error("content-length is {declared}, the new body has {actual} bytes")]
    ContentLength {
        /// Length that the headers declare, in bytes.
        declared: u64,
        /// Length of the body, in bytes.
        actual: u64,
    },
    /// The processor ended the stream with an error.
    #[error("the stream ended with {0}")]
    Stream(tonic::Status),
    /// No reply came.
    #[error("no reply to {0}")]
    Timeout(crate::Phase),
    /// The other [`Outcome`] than the test asked for.
    #[error("the outcome is a {0}: {1:?}")]
    Unexpected(&'static str, Message),
}
