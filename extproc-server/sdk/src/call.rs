//! Facts about its exchange that a handler has beside the message it was called for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tonic::metadata::MetadataMap;

use crate::{
    types::Modes,
    view::{Attributes, Headers, Metadata, TraceParent},
};

/// One exchange, an HTTP request with its response, as its handlers see it.
#[derive(Debug)]
pub struct Call<S> {
    /// The processor's own state for this exchange; made with [`Default`] when the exchange begins.
    pub state: S,
    pub(crate) modes: Modes,
    pub(crate) observe_only: bool,
    pub(crate) attributes: Attributes,
    pub(crate) metadata: Metadata,
    pub(crate) initial_metadata: MetadataMap,
    pub(crate) request: Option<Headers>,
    pub(crate) response: Option<Headers>,
    pub(crate) more_time: MoreTime,
}

impl<S: Default> Call<S> {
    pub(crate) fn new(initial_metadata: MetadataMap) -> Self {
        Self {
            state: S::default(),
            modes: Modes::default(),
            observe_only: false,
            attributes: Attributes::default(),
            metadata: Metadata::default(),
            initial_metadata,
            request: None,
            response: None,
            more_time: MoreTime::default(),
        }
    }
}

impl<S> Call<S> {
    /// Returns the modes in which the proxy sends bodies in this exchange.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// True if the proxy only shows what happens and ignores replies (`observability_mode`).
    pub fn observe_only(&self) -> bool {
        self.observe_only
    }

    /// The attributes received so far.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The dynamic metadata as of the latest message.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata of the gRPC stream (`grpc_service.initial_metadata` in the proxy's configuration).
    pub fn initial_metadata(&self) -> &MetadataMap {
        &self.initial_metadata
    }

    /// The span of the proxy that this exchange is a part of, if the proxy traces it (`traceparent` of the metadata).
    pub fn trace_parent(&self) -> Option<TraceParent> {
        TraceParent::from_metadata(&self.initial_metadata)
    }

    /// The request headers as they were received, once their handler has returned.
    pub fn request(&self) -> Option<&Headers> {
        self.request.as_ref()
    }

    /// The response headers as they were received, once their handler has returned.
    pub fn response(&self) -> Option<&Headers> {
        self.response.as_ref()
    }

    /// Tells the proxy to wait this much longer for the reply to the present message, counted from now
    /// (`override_message_timeout`). Sent as soon as the handler waits for something.
    ///
    /// A proxy honours it once per message, if it is at least 1 ms and at most its `max_message_timeout`; otherwise
    /// nothing changes. It does not change the deadline of
    /// [`ProcessorService::deadline`](crate::ProcessorService::deadline).
    pub fn more_time(&self, time: Duration) {
        if self.observe_only {
            return;
        }
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.more_time.0.store(millis, Ordering::Relaxed);
    }
}

/// A request for more time, in milliseconds, on its way from a running handler to the reply stream; zero is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoreTime(Arc<AtomicU64>);

impl MoreTime {
    pub(crate) fn take(&self) -> Option<Duration> {
        match self.0.swap(0, Ordering::Relaxed) {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }
}
