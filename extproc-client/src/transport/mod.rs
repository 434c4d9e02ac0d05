//! The way of messages to a processor: a [`Transport`] opens side streams, a [`Sidestream`] carries one
//! exchange.
//!
//! A transport knows nothing of HTTP exchanges: it moves encoded messages out and decoded replies in.
//! [`Pool`] is the fast one (HTTP/2 straight on `h2`), [`GrpcTransport`] wraps any tonic-compatible
//! service, in-process servers among them, and [`HttpTransport`] posts JSON.

#[cfg(any(feature = "pool", feature = "tonic"))]
mod frame;
#[cfg(feature = "tonic")]
pub mod grpc;
#[cfg(feature = "http-json")]
pub mod http;
#[cfg(feature = "pool")]
pub mod pool;
#[cfg(any(feature = "pool", feature = "tonic"))]
mod request;

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use ::http::HeaderMap;

#[cfg(feature = "tonic")]
pub use self::grpc::{GrpcStream, GrpcTransport};
#[cfg(feature = "http-json")]
pub use self::http::{HttpStream, HttpTransport};
#[cfg(feature = "pool")]
pub use self::pool::{
    Balance, Balanced, Budget, Connector, Interval, Keepalive, Pool, PoolBuilder, PoolStream,
    Share, TcpConnector, UnixConnector,
};
use crate::{
    config::Service,
    types::{buffers::BufferAccount, stream::StreamFacts},
    wire::Reply,
};
pub use crate::{types::stream::Close, wire::message::Message};

/// Opens side streams.
///
/// Cloned for each exchange, so a transport is a handle.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Side stream of one exchange.
    type Sidestream: Sidestream;

    /// Opens a side stream at once, or says that none can be had (no such cluster, no healthy
    /// host). Connecting happens later, in the side stream's polls.
    ///
    /// # Errors
    /// The exchange fails as if the stream had ended with this status.
    fn open(&self, call: Call<'_>) -> Result<Self::Sidestream, Close>;
}

/// Call that a transport is asked to open.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The service of the configuration that holds for this exchange.
    pub service: &'a Service,
    /// `initial_metadata`, substitutions made.
    pub metadata: HeaderMap,
    /// Account of the exchange. A transport that keeps bytes which nobody has asked for tells it, beside what is
    /// [buffered](Sidestream::buffered).
    pub buffers: Option<Arc<dyn BufferAccount>>,
}

/// One exchange's stream of messages.
///
/// Dropping it resets the stream.
pub trait Sidestream: Send + Unpin + 'static {
    /// Tells whether one more message may be sent. Pending is the back-pressure of a slow processor. An
    /// end of the stream is reported by [`poll_recv`](Self::poll_recv) alone; until then this may
    /// stay pending or let messages go nowhere.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Sends a message; only after `poll_ready` said ready.
    fn send(&mut self, message: Message);

    /// Sends a message that another one follows at once: it may be kept until then, to leave together with it. One around
    /// another has to pass this call on.
    fn send_with_next(&mut self, message: Message) {
        self.send(message);
    }

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

    /// Bytes of a reply that has begun to arrive and is not complete, all of which count as held by the exchange as soon as their number
    /// is known. One around another has to pass this call on.
    fn buffered(&self) -> usize {
        0
    }

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

#[cfg(all(test, feature = "pool", feature = "tonic"))]
mod tests;
