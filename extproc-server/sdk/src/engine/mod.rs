//! Runs a processor: one stream of messages goes in, the stream of answers comes out.

pub(crate) mod answers;
pub(crate) mod conversation;
pub(crate) mod exchange;
pub(crate) mod failure;
pub(crate) mod trace;

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures_core::Stream;
use tonic::{Status, metadata::MetadataMap};

pub use self::conversation::{Conversation, ConversationError, Event, StreamProcessor, Streaming};
use crate::{processor::Processor, reply::validate::Limits, stats::Stats};

/// Longest time of a handler by default: a minute.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Fate of an exchange whose handler fails: it returned an error, panicked, missed its deadline, or built a
/// reply that must not be sent. Failures are logged and counted either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// The gRPC stream ends with an error, and the proxy's own failure policy decides (`failure_mode_allow`).
    #[default]
    Status,
    /// The message is passed through unchanged, as is everything after it in this exchange.
    ///
    /// Pieces that a handler held back in a duplex body mode (cleared, to send them later) are lost.
    PassThrough,
}

/// Processors that a service can be made around: a [`Processor`], or a [`StreamProcessor`] in a [`Streaming`].
pub trait Run: sealed::Sealed + Send + Sync + Sized + 'static {
    /// The replies to the messages of one exchange. Ends when the proxy ends its side, or when there is nothing more to
    /// say.
    #[doc(hidden)]
    fn run(
        engine: Engine<Self>,
        initial_metadata: MetadataMap,
        inbound: impl Stream<Item = Result<ProcessingRequest, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static;
}

mod sealed {
    use super::{Processor, StreamProcessor, Streaming};

    pub trait Sealed {}
    impl<P: Processor> Sealed for P {}
    impl<P: StreamProcessor> Sealed for Streaming<P> {}
}

impl<P: Processor> Run for P {
    fn run(
        engine: Engine<Self>,
        initial_metadata: MetadataMap,
        inbound: impl Stream<Item = Result<ProcessingRequest, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static {
        exchange::run(engine, initial_metadata, inbound)
    }
}

impl<P: StreamProcessor> Run for Streaming<P> {
    fn run(
        engine: Engine<Self>,
        initial_metadata: MetadataMap,
        inbound: impl Stream<Item = Result<ProcessingRequest, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static {
        conversation::run(engine, initial_metadata, inbound)
    }
}

/// State that one service shares among its exchanges.
pub struct Engine<P> {
    pub(crate) processor: Arc<P>,
    pub(crate) settings: Settings,
    pub(crate) stats: Arc<Stats>,
}

impl<P> Clone for Engine<P> {
    fn clone(&self) -> Self {
        Self {
            processor: self.processor.clone(),
            settings: self.settings,
            stats: self.stats.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) on_failure: OnFailure,
    pub(crate) deadline: Option<Duration>,
    pub(crate) limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            on_failure: OnFailure::default(),
            deadline: Some(DEADLINE),
            limits: Limits::default(),
        }
    }
}
