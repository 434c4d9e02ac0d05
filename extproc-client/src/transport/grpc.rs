//! A transport over any tonic-compatible service.
//!
//! For a processor in the same process (its generated server is such a service: no socket, no
//! connection), for tonic's `Channel`, and for whatever stands around one: interceptors, a mesh's
//! balancer. For plain TCP or Unix sockets [`Pool`](super::Pool) costs less than half.
//!
//! No task is spawned while a side stream is in use: the request body is pumped by whoever polls the service's future or its
//! response. So a processor in the same process gets its turns from the exchange; one that sees a response's body, from
//! whoever reads that body. One that is to work on meanwhile spawns a task, or stands behind a `Channel`.
//!
//! The call is made once the first message is there, since some servers answer only
//! then. A call that the service lost before it took anything of it is made once more. That is all: the `retry_policy` of
//! `grpc_service` is [`Pool`](super::Pool)'s, here it belongs into the service (`tower::retry`).
//!
//! ```
//! use std::convert::Infallible;
//! use extproc_client::transport::GrpcTransport;
//!
//! // Stands for `ExternalProcessorServer::new(..)`.
//! let service = tower::service_fn(|_: http::Request<tonic::body::Body>| async {
//!     Ok::<_, Infallible>(http::Response::new(tonic::body::Body::empty()))
//! });
//! let transport = GrpcTransport::new(service);
//! # let _ = transport;
//! ```

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use tonic::Code;
use tower_service::Service;

use super::{
    Call, Close, Message, Sidestream, Transport,
    frame::{Decoder, VIA_UPSTREAM, end, push},
    request::{Known, Outline},
};
use crate::wire::Reply;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Queued bytes up to which one more message is taken.
const BACKLOG: usize = 64 * 1024;

/// Longest time that a service may leave what it was given, before a stream is reset in any case.
const FLUSH: Duration = Duration::from_secs(1);

/// Makes calls through a clone of `S` each.
#[derive(Clone)]
pub struct GrpcTransport<S> {
    service: S,
    settings: Arc<Settings>,
}

struct Settings {
    known: Known,
    authority: Option<String>,
    max_message: usize,
}

impl<S> GrpcTransport<S> {
    /// A transport through this service.
    pub fn new(service: S) -> Self {
        Self::with(service, None, 64 * 1024 * 1024)
    }

    /// The `:authority` of calls to an address (`google_grpc`). Default: host and port of the
    /// target.
    #[must_use]
    pub fn authority(self, authority: impl Into<String>) -> Self {
        Self::with(
            self.service,
            Some(authority.into()),
            self.settings.max_message,
        )
    }

    /// The largest reply accepted, in bytes, where the service's configuration sets no limit; a
    /// larger one ends the call with status 8. Default 64 MiB.
    #[must_use]
    pub fn max_message(self, bytes: usize) -> Self {
        let authority = self.settings.authority.clone();
        Self::with(self.service, authority, bytes)
    }

    fn with(service: S, authority: Option<String>, max_message: usize) -> Self {
        Self {
            service,
            settings: Arc::new(Settings {
                known: Known::new(),
                authority,
                max_message,
            }),
        }
    }
}

impl<S> fmt::Debug for GrpcTransport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcTransport").finish_non_exhaustive()
    }
}

impl<S, B> Transport for GrpcTransport<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Sidestream = GrpcStream<S, B>;

    fn open(&self, call: Call<'_>) -> Result<Self::Sidestream, Close> {
        let settings = &self.settings;
        let outline = Outline::new(call, settings.authority.as_deref(), &settings.known)?;
        Ok(GrpcStream {
            limit: outline.limit.unwrap_or(settings.max_message),
            outline,
            service: self.service.clone(),
            outgoing: Outgoing::default(),
            state: State::Waiting(None),
            retried: false,
        })
    }
}

/// A side stream of a [`GrpcTransport`].
///
/// ```text
/// Waiting ── first message, service ready ──▶ Calling ── head ──▶ Open ── end ──▶ Ended
///    ▲                                           │
///    └────── lost with nothing taken, once ──────┘
/// ```
pub struct GrpcStream<S, B>
where
    S: Service<Request<tonic::body::Body>>,
{
    service: S,
    outline: Outline,
    limit: usize,
    outgoing: Outgoing,
    state: State<S::Future, B>,
    retried: bool,
}

enum State<F, B> {
    /// Nothing is called yet; the waker of a task that asked for a reply.
    Waiting(Option<Waker>),
    Calling(Pin<Box<F>>),
    Open {
        body: Pin<Box<B>>,
        decoder: Decoder,
        /// The headers, if they carry a status.
        head: Option<HeaderMap>,
    },
    Ended,
}

impl<S, B> GrpcStream<S, B>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Pending,
                State::Waiting(waker) => {
                    if self.outgoing.is_untouched() {
                        *waker = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    ready!(self.service.poll_ready(cx)).map_err(|e| lost(e.into(), false))?;
                    let body = tonic::body::Body::new(self.outgoing.body());
                    let request = self.outline.build(None).map(|()| body);
                    self.state = State::Calling(Box::pin(self.service.call(request)));
                }
                State::Calling(call) => match ready!(call.as_mut().poll(cx)) {
                    Ok(response) => {
                        self.outgoing.commit();
                        self.state = begin(response, self.limit)?;
                    }
                    Err(error) => {
                        let first = !std::mem::replace(&mut self.retried, true);
                        // The future may hold the body; it goes before the queue is looked at.
                        self.state = State::Waiting(None);
                        if !(first && self.outgoing.restart()) {
                            return Poll::Ready(Err(lost(error.into(), false)));
                        }
                    }
                },
                State::Open {
                    body,
                    decoder,
                    head,
                } => {
                    if let Some(reply) = decoder.next()? {
                        return Poll::Ready(Ok(reply));
                    }
                    match ready!(body.as_mut().poll_frame(cx)) {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => decoder.push(data),
                            Err(frame) => {
                                let trailers = frame.into_trailers().unwrap_or_default();
                                return Poll::Ready(Err(end(StatusCode::OK, &trailers)));
                            }
                        },
                        Some(Err(error)) => return Poll::Ready(Err(lost(error.into(), true))),
                        None => {
                            let trailers = head.take().unwrap_or_default();
                            return Poll::Ready(Err(end(StatusCode::OK, &trailers)));
                        }
                    }
                }
            }
        }
    }
}

impl<S, B> Sidestream for GrpcStream<S, B>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outgoing.poll_room(cx)
    }

    fn send(&mut self, message: Message) {
        self.outgoing.push(message);
        self.wake();
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        let result = ready!(self.poll(cx));
        if result.is_err() {
            self.state = State::Ended;
        }
        Poll::Ready(result)
    }

    fn buffered(&self) -> usize {
        match &self.state {
            State::Open { decoder, .. } => decoder.buffered(),
            _ => 0,
        }
    }

    fn finish(&mut self) {
        self.outgoing.finish(End::Clean);
        self.wake();
    }

    /// The service may do nothing unless it is polled: it is, until it has taken everything.
    fn close_flushed(mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let taken = poll_fn(move |cx| {
            while let Poll::Ready(reply) = self.poll_recv(cx) {
                if reply.is_err() {
                    return Poll::Ready(());
                }
            }
            self.outgoing.poll_taken(cx)
        });
        runtime.spawn(tokio::time::timeout(FLUSH, taken));
    }
}

/// The service is never pinned; future and body are boxed.
impl<S, B> Unpin for GrpcStream<S, B> where S: Service<Request<tonic::body::Body>> {}

impl<S, B> GrpcStream<S, B>
where
    S: Service<Request<tonic::body::Body>>,
{
    fn wake(&mut self) {
        if let State::Waiting(waker) = &mut self.state
            && let Some(waker) = waker.take()
        {
            waker.wake();
        }
    }
}

impl<S, B> Drop for GrpcStream<S, B>
where
    S: Service<Request<tonic::body::Body>>,
{
    fn drop(&mut self) {
        // A server that still holds the request body learns that no more comes.
        self.outgoing.finish(End::Aborted);
    }
}

impl<S, B> fmt::Debug for GrpcStream<S, B>
where
    S: Service<Request<tonic::body::Body>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcStream").finish_non_exhaustive()
    }
}

fn begin<F, B: Body>(response: Response<B>, limit: usize) -> Result<State<F, B>, Close> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK || body.is_end_stream() {
        return Err(end(head.status, &head.headers));
    }
    Ok(State::Open {
        body: Box::pin(body),
        decoder: Decoder::new(limit),
        head: head
            .headers
            .contains_key("grpc-status")
            .then_some(head.headers),
    })
}

/// The service or the response failed. What is no gRPC status is a lost connection: unavailable
/// before the response began, internal after.
fn lost(error: BoxError, started: bool) -> Close {
    let status = tonic::Status::from_error(error);
    let code = match (status.code(), started) {
        (Code::Unknown | Code::Cancelled, false) => 14,
        (Code::Unknown | Code::Cancelled, true) => 13,
        (code, _) => code.into(),
    };
    Close::status(code, status.message()).with_details(VIA_UPSTREAM)
}

/// Messages on their way from the side stream to the request body.
#[derive(Clone, Default)]
struct Outgoing {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    parts: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    /// The call cannot be made again: the body gave something away, or an answer is there.
    committed: bool,
    /// The task that polls the body.
    reader: Option<Waker>,
    /// The task that waits for room.
    writer: Option<Waker>,
    /// Bodies made; only the last one may take.
    bodies: u32,
    /// The service dropped the last body. Whether another will read depends on `committed`.
    dropped: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Aborted,
}

impl Outgoing {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_untouched(&self) -> bool {
        let queue = self.lock();
        queue.parts.is_empty() && queue.end.is_none()
    }

    fn push(&self, message: Message) {
        let mut queue = self.lock();
        if queue.end.is_some() || queue.is_closed() {
            return;
        }
        queue.bytes += message.framed_len();
        push(&mut queue.parts, 0, message);
        queue.wake_reader();
    }

    fn finish(&self, end: End) {
        let mut queue = self.lock();
        if queue.end.is_none() {
            queue.end = Some(end);
            queue.wake_reader();
        }
    }

    /// Tells whether the service has taken everything, or will take no more.
    fn poll_taken(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.lock();
        if queue.parts.is_empty() || queue.is_closed() {
            return Poll::Ready(());
        }
        queue.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.lock();
        if queue.bytes < BACKLOG || queue.is_closed() {
            return Poll::Ready(());
        }
        queue.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A body that takes from here; earlier ones take nothing any more.
    fn body(&self) -> OutgoingBody {
        let mut queue = self.lock();
        queue.bodies += 1;
        queue.dropped = false;
        OutgoingBody {
            outgoing: self.clone(),
            number: queue.bodies,
        }
    }

    /// Tells whether everything is still here, so that the call can be made again.
    fn restart(&self) -> bool {
        !self.lock().committed
    }

    /// The service answered: this call is the last one.
    fn commit(&self) {
        let mut queue = self.lock();
        queue.committed = true;
        if queue.is_closed() {
            queue.wake_writer();
        }
    }
}

impl Queue {
    /// Tells whether nobody will ever read what is queued.
    fn is_closed(&self) -> bool {
        self.dropped && self.committed
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

struct OutgoingBody {
    outgoing: Outgoing,
    number: u32,
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let mut queue = self.outgoing.lock();
        let aborted = || Poll::Ready(Some(Err(tonic::Status::cancelled("the exchange is over"))));
        if queue.bodies != self.number || queue.end == Some(End::Aborted) {
            return aborted();
        }
        if let Some(part) = queue.parts.pop_front() {
            queue.committed = true;
            queue.bytes -= part.len();
            if queue.bytes < BACKLOG {
                queue.wake_writer();
            }
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if queue.end.is_some() {
            return Poll::Ready(None);
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.outgoing.lock();
        queue.parts.is_empty() && queue.end == Some(End::Clean)
    }
}

impl Drop for OutgoingBody {
    fn drop(&mut self) {
        let mut queue = self.outgoing.lock();
        if queue.bodies == self.number {
            queue.dropped = true;
            if queue.committed {
                queue.wake_writer();
            }
        }
    }
}
