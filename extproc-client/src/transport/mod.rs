//! How messages reach a processor: a [`Transport`] opens side streams, a [`Sidestream`] carries one
//! exchange.
//!
//! A transport knows nothing of HTTP exchanges: it moves encoded messages out and decoded replies in.
//! [`Pool`] is the fast one (HTTP/2 straight on `h2`), [`GrpcTransport`] wraps any tonic-compatible
//! service, in-process servers among them, and [`HttpTransport`] posts JSON.

mod frame;
pub mod grpc;
pub mod http;
pub mod pool;
mod request;

use std::task::{Context, Poll};

use ::http::HeaderMap;
use bytes::Bytes;

pub use self::grpc::{GrpcStream, GrpcTransport};
pub use self::http::{HttpStream, HttpTransport};
pub use self::pool::{
    Balance, Balanced, Budget, Connector, Interval, Keepalive, Pool, PoolBuilder, PoolStream,
    Share, TcpConnector, UnixConnector,
};
use crate::{config::Service, observer::StreamFacts, pieces::Pieces, wire::Reply};

/// Opens side streams.
///
/// Cloned for each exchange, so a transport is a handle.
pub trait Transport: Clone + Send + Sync + 'static {
    /// What carries one exchange.
    type Sidestream: Sidestream;

    /// Opens a side stream at once, or says that none can be had (no such cluster, no healthy
    /// host). Connecting happens later, in the side stream's polls.
    ///
    /// # Errors
    /// The exchange fails as if the stream had ended with this status.
    fn open(&self, call: Call<'_>) -> Result<Self::Sidestream, Close>;
}

/// What a transport is asked to open.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The service of the configuration that holds for this exchange.
    pub service: &'a Service,
    /// `initial_metadata`, substitutions made.
    pub metadata: HeaderMap,
}

/// One exchange's stream of messages.
///
/// Dropping it resets the stream.
pub trait Sidestream: Send + Unpin + 'static {
    /// Whether one more message may be sent. Pending is the back-pressure of a slow processor. An
    /// end of the stream is reported by [`poll_recv`](Self::poll_recv) alone; until then this may
    /// stay pending or let messages go nowhere.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Sends a message; only after `poll_ready` said ready.
    fn send(&mut self, message: Message);

    /// The next reply, or the end of the stream.
    ///
    /// Also drives connecting, so it has to be polled from the start. After the end it is not
    /// polled again.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>>;

    /// Half-closes: no more messages follow, replies are still read.
    fn finish(&mut self);

    /// Says that a reply did not come in time. A transport may doubt the connection then; the stream goes on until it is
    /// dropped. One around another has to pass this call on.
    fn timed_out(&mut self) {}

    /// Facts of the stream for observers, as far as they are known by now. One around another has to pass this call on.
    fn facts(&self) -> StreamFacts {
        StreamFacts::default()
    }

    /// Resets the stream as dropping it does, after what it was given has left: a reset takes back what is not on its
    /// way. Unless the transport knows better, it gets one turn of the runtime for that; one around another has to pass this
    /// call on.
    fn close_flushed(self)
    where
        Self: Sized,
    {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            tokio::task::yield_now().await;
            drop(self);
        });
    }
}

/// An encoded `ProcessingRequest`.
///
/// Bytes of a body are kept apart, so that they can be sent without a copy: the message is the head followed
/// by the body.
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) framed_head: Bytes,
    pub(crate) body: Pieces,
}

impl Message {
    /// The encoded message without gRPC framing, as one buffer.
    pub fn to_bytes(&self) -> Bytes {
        let head = self.framed_head.slice(crate::wire::GRPC_PREFIX..);
        let mut whole = Pieces::from(head);
        whole.append(self.body.clone());
        whole.join()
    }

    /// Bytes of its part of the HTTP body.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Its length in bytes, gRPC length prefix included.
    pub fn framed_len(&self) -> usize {
        self.framed_head.len() + self.body.len()
    }

    /// The message with its gRPC length prefix, as the parts that go out one after the other.
    pub fn framed(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.framed_head).chain(self.body)
    }
}

/// How a side stream ended, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub struct Close {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) details: String,
    pub(crate) http: bool,
}

impl Close {
    /// The stream ended with this gRPC status; 0 is a clean end.
    pub fn status(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
            http: false,
        }
    }

    /// Status 14: there is no connection to the processor.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::status(14, message)
    }

    /// The HTTP service gave no usable answer.
    pub fn http_error(message: impl Into<String>) -> Self {
        Self {
            http: true,
            ..Self::status(10, message)
        }
    }

    /// Adds what the transport knows beyond the status, such as `via_upstream`.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The gRPC status code.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The message beside the status; may be empty.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the transport knows beyond the status; may be empty.
    pub fn details(&self) -> &str {
        &self.details
    }

    /// Whether the processor ended the stream without an error.
    pub fn is_ok(&self) -> bool {
        self.code == 0
    }
}

#[cfg(test)]
mod tests;
