//! The gRPC face of a processor.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use envoy_types::pb::envoy::service::ext_proc::v3::{
    ProcessingRequest, ProcessingResponse,
    external_processor_server::{ExternalProcessor, ExternalProcessorServer, SERVICE_NAME},
};
use futures_core::Stream;
use tonic::{
    Request, Response, Status,
    codegen::{Body, BoxFuture, Service, StdError},
    server::NamedService,
};

use crate::{
    engine::{Engine, OnFailure, Run, Settings, StreamProcessor, Streaming},
    processor::Processor,
    reply::validate::Limits,
    stats::Stats,
};

/// The largest message that a service takes by default: 64 MiB. A proxy sends a buffered body in one message.
pub const RECEIVE_LIMIT: usize = 64 * 1024 * 1024;

/// The `ExternalProcessor` gRPC service around a [`Processor`].
///
/// It is a tower service like any that tonic generates, so it goes into a `tonic::transport::Server`, or straight into
/// a client in the same process. Each exchange is one call; its messages are received, handled and answered inside the
/// reply stream, without a task of its own. A proxy that does not read its replies therefore slows its exchange down,
/// and a call that is dropped takes its handler with it.
pub struct ProcessorService<P> {
    engine: Arc<Engine<P>>,
    receive_limit: usize,
}

impl<P: Processor> ProcessorService<P> {
    /// A service with the default settings.
    pub fn new(processor: P) -> Self {
        Self::around(processor)
    }
}

impl<P: StreamProcessor> ProcessorService<Streaming<P>> {
    /// A service with the default settings around a [`StreamProcessor`].
    pub fn streaming(processor: P) -> Self {
        Self::around(Streaming(processor))
    }
}

impl<P: Run> ProcessorService<P> {
    fn around(processor: P) -> Self {
        Self {
            engine: Arc::new(Engine {
                processor: Arc::new(processor),
                settings: Settings::default(),
                stats: Arc::default(),
            }),
            receive_limit: RECEIVE_LIMIT,
        }
    }

    /// Sets what happens when a handler fails. Default [`OnFailure::Status`].
    #[must_use]
    pub fn on_failure(self, on_failure: OnFailure) -> Self {
        self.with(|settings| settings.on_failure = on_failure)
    }

    /// Limits the time of one call of a handler; `None` is no limit. Default [`DEADLINE`](crate::engine::DEADLINE).
    ///
    /// Beside it the proxy has a limit of its own, 200 ms by default in Envoy; see [`Call::more_time`](crate::Call::more_time).
    #[must_use]
    pub fn deadline(self, deadline: impl Into<Option<Duration>>) -> Self {
        let deadline = deadline.into();
        self.with(|settings| settings.deadline = deadline)
    }

    /// Sets the limits of a header mutation. Raise them where the proxy's own limits are raised.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        self.with(|settings| settings.limits = limits)
    }

    /// The largest message that is received, in bytes. Default [`RECEIVE_LIMIT`]. A larger one ends the exchange with
    /// `OUT_OF_RANGE`.
    #[must_use]
    pub fn receive_limit(mut self, bytes: usize) -> Self {
        self.receive_limit = bytes;
        self
    }

    /// The counters of this service, shared with its clones.
    pub fn stats(&self) -> Arc<Stats> {
        self.engine.stats.clone()
    }

    pub(crate) fn engine(&self) -> Engine<P> {
        Engine::clone(&self.engine)
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut engine = self.engine();
        change(&mut engine.settings);
        Self {
            engine: Arc::new(engine),
            ..self
        }
    }
}

#[tonic::async_trait]
impl<P: Run> ExternalProcessor for Engine<P> {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<tonic::Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (initial_metadata, _, inbound) = request.into_parts();
        let replies = P::run(self.clone(), initial_metadata, inbound);
        Ok(Response::new(Box::pin(replies)))
    }
}

impl<P, B> Service<http::Request<B>> for ProcessorService<P>
where
    P: Run,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        ExternalProcessorServer::from_arc(self.engine.clone())
            .max_decoding_message_size(self.receive_limit)
            .call(request)
    }
}

impl<P> NamedService for ProcessorService<P> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<P> Clone for ProcessorService<P> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            receive_limit: self.receive_limit,
        }
    }
}

impl<P> fmt::Debug for ProcessorService<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorService")
            .field("settings", &self.engine.settings)
            .field("receive_limit", &self.receive_limit)
            .finish_non_exhaustive()
    }
}
