//! Exchanges led by the processor: it reads when it likes and says what it likes, within the protocol.
//!
//! A [`Processor`](crate::Processor) is asked and answers; that is enough for most, in every body mode. A
//! [`StreamProcessor`] is one async function per exchange that reads like a handler. Take it where replies do not follow
//! messages one by one: in the full duplex body modes, and for responses that the processor streams itself.

mod shared;

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use async_stream::stream;
use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures_core::Stream;
use http::{HeaderMap, StatusCode};
use tonic::{Status, metadata::MetadataMap};
use tracing::{Instrument as _, Span, debug};

use self::shared::Shared;
use crate::{
    engine::{
        Engine,
        answers::{Part, Stage},
        failure::{Failure, guard},
        trace,
    },
    reply::{BodyReply, HeadersReply, Immediate, TrailersReply, validate::InvalidReply},
    types::{BoxError, Modes, Side},
    view::{Attributes, Body, Headers, Metadata, TraceParent, Trailers},
};

/// A processor of HTTP exchanges, one call of an async function for each.
///
/// ```
/// use extproc_sdk::{BoxError, Conversation, Event, StreamProcessor};
///
/// /// Sends the bytes of full duplex bodies on in upper case.
/// struct Shout;
///
/// impl StreamProcessor for Shout {
///     async fn process(&self, mut exchange: Conversation) -> Result<(), BoxError> {
///         while let Some(event) = exchange.next().await {
///             match event {
///                 Event::Body(side, body) if exchange.modes().of(side).is_duplex() => {
///                     exchange.send(side, body.data.to_ascii_uppercase()).await?;
///                     if body.end_of_stream {
///                         exchange.end(side).await?;
///                     }
///                 }
///                 other => exchange.pass(other).await?,
///             }
///         }
///         Ok(())
///     }
/// }
/// ```
///
/// When the function returns, what it has not answered is passed through, and so is the rest of the exchange. When it
/// fails or panics, [`OnFailure`](crate::OnFailure) decides. The deadline of the service does not apply.
///
/// A conversation that goes on in a task of its own is over when the function returns, and when the proxy ends the exchange:
/// [`next`](Conversation::next) gives nothing more, and what is said is refused with [`ConversationError::Over`].
pub trait StreamProcessor: Send + Sync + 'static {
    /// Takes part in one exchange. The function is dropped when the proxy ends the exchange.
    fn process(&self, exchange: Conversation) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// A [`StreamProcessor`] in a [`ProcessorService`](crate::ProcessorService); made by
/// [`ProcessorService::streaming`](crate::ProcessorService::streaming).
#[derive(Clone, Copy, Debug)]
pub struct Streaming<P>(pub(crate) P);

/// A message of the proxy.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The headers of the request or of the response.
    Headers(Side, Headers),
    /// A piece of a body.
    Body(Side, Body),
    /// The trailers of a message.
    Trailers(Side, Trailers),
}

/// One exchange, from the side of its [`StreamProcessor`].
///
/// Every event must be answered in its turn, headers before the body and the body before the trailers; only bodies in the
/// duplex modes are free: any number of pieces, of any size, at any time between the first piece received and the end.
/// Sending waits while the proxy does not take what was sent before.
pub struct Conversation {
    shared: Arc<Mutex<Shared>>,
    attributes: Attributes,
    metadata: Metadata,
    initial_metadata: MetadataMap,
}

impl Conversation {
    /// The next message of the proxy, or nothing if there will be no more.
    pub async fn next(&mut self) -> Option<Event> {
        let notes = poll_fn(|cx| self.lock().poll_event(cx)).await?;
        if let Some(metadata) = notes.metadata {
            self.metadata.replace(metadata);
        }
        self.attributes.extend(notes.attributes);
        Some(match notes.part {
            Part::Headers(side, headers) => Event::Headers(side, headers),
            Part::Body(side, body) => Event::Body(side, body),
            Part::Trailers(side, trailers) => Event::Trailers(side, trailers),
        })
    }

    /// Answers a message so that nothing changes.
    ///
    /// # Errors
    /// The message was answered already, or an earlier one was not.
    pub async fn pass(&mut self, event: Event) -> Result<(), ConversationError> {
        self.room().await?;
        let mut shared = self.lock();
        match event {
            Event::Headers(side, _) => shared.headers(side, HeadersReply::new()),
            Event::Body(side, body) => shared.pass_body(side, body),
            Event::Trailers(side, _) => shared.trailers(side, TrailersReply::new()),
        }
    }

    /// Answers headers.
    ///
    /// # Errors
    /// No headers of this side wait for an answer, or the reply is refused.
    pub async fn headers(
        &mut self,
        side: Side,
        reply: HeadersReply,
    ) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().headers(side, reply)
    }

    /// Answers the oldest unanswered piece of a body, in the body modes with one reply each.
    ///
    /// # Errors
    /// No piece of this side waits for an answer, the headers before it do, the mode is a duplex one, or the reply is
    /// refused.
    pub async fn body(&mut self, side: Side, reply: BodyReply) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().body(side, reply)
    }

    /// Answers trailers.
    ///
    /// # Errors
    /// No trailers of this side wait for an answer, something before them does, or the reply is refused.
    pub async fn trailers(
        &mut self,
        side: Side,
        reply: TrailersReply,
    ) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().trailers(side, reply)
    }

    /// Sends bytes of a body in a duplex mode, in pieces as large as the protocol recommends. In
    /// [`BodyMode::Grpc`](crate::BodyMode::Grpc) they are one message.
    ///
    /// # Errors
    /// The mode is not a duplex one, no piece of this body has been received, its headers wait for an answer, or its end
    /// was sent.
    pub async fn send(
        &mut self,
        side: Side,
        data: impl Into<Bytes>,
    ) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().send(side, data.into())
    }

    /// Ends a body in a duplex mode. A body with trailers ends with the answer to the trailers instead.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn end(&mut self, side: Side) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().end(side)
    }

    /// Responds at once; the exchange ends with it.
    ///
    /// # Errors
    /// The response is refused.
    pub async fn respond(&mut self, response: Immediate) -> Result<(), ConversationError> {
        self.lock().respond(response)
    }

    /// Begins a response that is streamed: this head, then any number of [`response_data`](Self::response_data), then
    /// [`end_response`](Self::end_response). It is the answer to the request headers.
    ///
    /// Messages that the client still sends are received as before and need no answer.
    ///
    /// # Errors
    /// The request headers do not wait for an answer, the request body is neither unseen nor in full duplex (no proxy
    /// takes a streamed response then), or a header is refused.
    pub async fn begin_response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().begin_response(status, headers)
    }

    /// Sends bytes of a streamed response.
    ///
    /// # Errors
    /// No streamed response has begun.
    pub async fn response_data(&mut self, data: impl Into<Bytes>) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().response_data(data.into())
    }

    /// Ends a streamed response, and the exchange with it.
    ///
    /// # Errors
    /// No streamed response has begun, or a trailer is refused.
    pub async fn end_response(
        &mut self,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), ConversationError> {
        self.room().await?;
        self.lock().end_response(trailers)
    }

    /// Returns the modes in which the proxy sends bodies. Known with the first message.
    pub fn modes(&self) -> Modes {
        self.lock().modes()
    }

    /// True if the proxy only shows what happens and ignores replies.
    pub fn observe_only(&self) -> bool {
        self.lock().observe_only()
    }

    /// The attributes received so far.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The dynamic metadata as of the latest message.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata of the gRPC stream.
    pub fn initial_metadata(&self) -> &MetadataMap {
        &self.initial_metadata
    }

    /// The span of the proxy that this exchange is a part of, if the proxy traces it (`traceparent` of the metadata).
    pub fn trace_parent(&self) -> Option<TraceParent> {
        TraceParent::from_metadata(&self.initial_metadata)
    }

    /// Waits until the proxy has taken what was sent before.
    async fn room(&self) -> Result<(), ConversationError> {
        poll_fn(|cx| self.lock().poll_room(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation")
            .field("modes", &self.modes())
            .finish_non_exhaustive()
    }
}

/// Reason for which a reply is not possible now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// The reply must not be sent.
    #[error(transparent)]
    Invalid(#[from] InvalidReply),
    /// It is not the turn of this reply.
    #[error("out of turn: {0}")]
    OutOfTurn(&'static str),
    /// The body mode has no such reply.
    #[error("not in this body mode: {0}")]
    Mode(&'static str),
    /// The exchange has ended: by the proxy, by a response, by a reply that skips the rest, or since its function has returned.
    #[error("the exchange is over")]
    Over,
}

/// The replies of one exchange; see [`exchange::run`](super::exchange::run).
pub(crate) fn run<P: StreamProcessor>(
    engine: Engine<Streaming<P>>,
    initial_metadata: MetadataMap,
    inbound: impl Stream<Item = Result<ProcessingRequest, Status>> + Send + 'static,
) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static {
    stream! {
        let shared = Arc::new(Mutex::new(Shared::new(engine.settings, engine.stats)));
        // However this stream ends, dropped by the server too: a conversation that goes on elsewhere hears of it.
        let _leaving = Leaving(shared.clone());
        let span = trace::exchange(&initial_metadata);
        let conversation = Conversation {
            shared: shared.clone(),
            attributes: Attributes::default(),
            metadata: Metadata::default(),
            initial_metadata,
        };
        let processor = engine.processor;
        let handler = guard(None, async { processor.0.process(conversation).await });
        let mut handler = pin!(handler.instrument(span.clone()));
        let mut inbound = pin!(inbound);
        let mut running = true;
        while let Some(reply) =
            poll_fn(|cx| turn(&shared, handler.as_mut(), &mut running, inbound.as_mut(), &span, cx)).await
        {
            yield reply;
        }
    }
}

/// The reply stream's end.
struct Leaving(Arc<Mutex<Shared>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        lock(&self.0).leave();
    }
}

/// Ready with the next reply, or with nothing at the end. Reads only when the handler waits for a message, or has
/// returned.
fn turn(
    shared: &Mutex<Shared>,
    mut handler: Pin<&mut impl Future<Output = Result<(), Failure>>>,
    running: &mut bool,
    mut inbound: Pin<&mut impl Stream<Item = Result<ProcessingRequest, Status>>>,
    span: &Span,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<ProcessingResponse, Status>>> {
    loop {
        if let Some(reply) = lock(shared).take_reply() {
            return Poll::Ready(Some(reply));
        }
        if lock(shared).stage() == Stage::Over {
            return Poll::Ready(None);
        }
        if *running {
            if let Poll::Ready(result) = handler.as_mut().poll(cx) {
                *running = false;
                span.in_scope(|| lock(shared).finish(result));
                continue;
            }
            let mut shared = lock(shared);
            if shared.has_replies() || shared.stage() == Stage::Over {
                continue;
            }
            // From here on a handler that goes on elsewhere is heard, too.
            shared.park(cx);
            if !shared.wants_message() {
                return Poll::Pending;
            }
        }
        match inbound.as_mut().poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(message))) => {
                span.in_scope(|| lock(shared).receive(message, span));
            }
            Poll::Ready(end) => {
                if let Some(Err(status)) = end {
                    debug!(%status, "the proxy ended the exchange");
                }
                if !*running {
                    return Poll::Ready(None);
                }
                lock(shared).end_of_messages();
            }
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing that can panic runs under the lock but our own code.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
