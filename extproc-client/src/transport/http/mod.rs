//! The variant without gRPC: each message is posted as JSON to an HTTP service, whose answer is the
//! reply (`http_service` of the configuration).
//!
//! Header messages only: the configuration allows no body and no trailers. One request at a time
//! for an exchange, in order. An answer has to have status 200 and be the JSON of a
//! `ProcessingResponse` without unknown fields.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use extproc_client::transport::HttpTransport;
//! use http_body_util::Full;
//!
//! // Stands for an HTTP client.
//! let service = tower::service_fn(|_: http::Request<Full<Bytes>>| async {
//!     Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::from(r#"{"request_headers": {}}"#)))
//! });
//! let transport = HttpTransport::new(service);
//! # let _ = transport;
//! ```

mod json;
mod schema;

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::Full;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::{Call, Close, Message, Sidestream, Transport};
use crate::{config, wire::Reply};

/// Most messages that wait while one is answered.
const BACKLOG: usize = 8;

/// Posts messages through a clone of `S` per exchange.
///
/// The request's URI is the configured one, with scheme and authority; `host` is set beside it.
#[derive(Clone, Debug)]
pub struct HttpTransport<S> {
    service: S,
    max_answer: usize,
    /// Numbers exchanges, for `x-request-id`.
    exchanges: Arc<AtomicU64>,
}

impl<S> HttpTransport<S> {
    /// A transport through this client.
    pub fn new(service: S) -> Self {
        Self {
            service,
            max_answer: 32 * 1024 * 1024,
            exchanges: Arc::default(),
        }
    }

    /// The largest answer accepted, in bytes. Default 32 MiB, as in Envoy (`http.async_response_buffer_limit`).
    #[must_use]
    pub fn max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }
}

impl<S, B> Transport for HttpTransport<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Display,
    B: Body + Send + 'static,
    B::Error: fmt::Display,
{
    type Sidestream = HttpStream<S, B>;

    fn open(&self, call: Call<'_>) -> Result<Self::Sidestream, Close> {
        let config::Service::Http(service) = call.service else {
            return Err(Close::status(
                13,
                "grpc_service is configured, the transport speaks JSON over HTTP",
            ));
        };
        let exchange = self.exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(HttpStream {
            service: self.service.clone(),
            uri: service.uri.clone(),
            headers: headers(service, exchange),
            timeout: service.timeout,
            max_answer: self.max_answer,
            queue: VecDeque::new(),
            finished: false,
            idle: None,
            state: State::Idle,
        })
    }
}

impl Message {
    /// ProtoJSON with proto field names, for people to read: bytes of a body beyond `most` are left out. Not cheap.
    pub fn to_json(&self, most: usize) -> serde_json::Value {
        json::to_shown(&self.to_bytes(), &schema::REQUEST, most)
    }
}

impl Reply {
    /// ProtoJSON with proto field names of the fields that the filter reads, for people to read: bytes of a body beyond `most`
    /// are left out. Not cheap.
    pub fn to_json(&self, most: usize) -> serde_json::Value {
        json::to_shown(
            &prost::Message::encode_to_vec(self),
            &schema::RESPONSE,
            most,
        )
    }
}

/// The headers that all requests of an exchange have.
fn headers(service: &config::HttpService, exchange: u64) -> HeaderMap {
    const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    let mut headers = HeaderMap::with_capacity(service.headers.len() + 4);
    let host = service
        .uri
        .authority()
        .map(|host| HeaderValue::from_str(host.as_str()));
    if let Some(Ok(host)) = host {
        headers.insert(header::HOST, host);
    }
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(REQUEST_ID, exchange.into());
    let timeout = u64::try_from(service.timeout.as_millis()).unwrap_or(u64::MAX);
    headers.insert(TIMEOUT, timeout.into());
    for (name, value) in &service.headers {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

/// A side stream of an [`HttpTransport`].
///
/// ```text
/// Idle ── a message ──▶ Ready ── sent ──▶ Calling ── head 200 ──▶ Reading ── reply ──▶ Idle
///                          │                 │                       │
///                          └─────────────────┴──── failure ──────────┴──▶ Ended
/// ```
pub struct HttpStream<S, B>
where
    S: Service<Request<Full<Bytes>>>,
{
    service: S,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    max_answer: usize,
    queue: VecDeque<Message>,
    finished: bool,
    /// The task that waits for a message to be sent.
    idle: Option<Waker>,
    state: State<S::Future, B>,
}

enum State<F, B> {
    Idle,
    /// A message waits for the service to be ready.
    Ready(Message, Pin<Box<Sleep>>),
    Calling(Pin<Box<F>>, Pin<Box<Sleep>>),
    Reading(Pin<Box<B>>, BytesMut, Pin<Box<Sleep>>),
    Ended,
}

impl<S, B> HttpStream<S, B>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: fmt::Display,
    B: Body,
    B::Error: fmt::Display,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        if let State::Ready(_, timer) | State::Calling(_, timer) | State::Reading(_, _, timer) =
            &mut self.state
            && timer.as_mut().poll(cx).is_ready()
        {
            let error = format!("no answer within {:?}", self.timeout);
            return Poll::Ready(Err(Close::http_error(error)));
        }
        loop {
            match &mut self.state {
                State::Ended => return Poll::Pending,
                State::Idle => {
                    let Some(message) = self.queue.pop_front() else {
                        if self.finished {
                            return Poll::Ready(Err(Close::status(0, "")));
                        }
                        self.idle = Some(cx.waker().clone());
                        return Poll::Pending;
                    };
                    let mut timer = Box::pin(sleep(self.timeout));
                    // Registers the task; a timeout of zero shows at the next poll.
                    if timer.as_mut().poll(cx).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                    self.state = State::Ready(message, timer);
                }
                State::Ready(..) => {
                    ready!(self.service.poll_ready(cx)).map_err(failed)?;
                    let State::Ready(message, timer) =
                        std::mem::replace(&mut self.state, State::Ended)
                    else {
                        return Poll::Pending;
                    };
                    let body = json::to_json(&message.to_bytes(), &schema::REQUEST)
                        .map_err(failed)?
                        .to_string();
                    let mut request = Request::post(self.uri.clone())
                        .body(Full::from(body))
                        .map_err(failed)?;
                    *request.headers_mut() = self.headers.clone();
                    self.state = State::Calling(Box::pin(self.service.call(request)), timer);
                }
                State::Calling(call, _) => {
                    let response = ready!(call.as_mut().poll(cx)).map_err(failed)?;
                    if response.status() != StatusCode::OK {
                        let error = format!("the answer has status {}", response.status().as_u16());
                        return Poll::Ready(Err(Close::http_error(error)));
                    }
                    let State::Calling(_, timer) = std::mem::replace(&mut self.state, State::Ended)
                    else {
                        return Poll::Pending;
                    };
                    let body = Box::pin(response.into_body());
                    self.state = State::Reading(body, BytesMut::new(), timer);
                }
                State::Reading(body, answer, _) => match ready!(body.as_mut().poll_frame(cx)) {
                    Some(frame) => {
                        if let Ok(mut data) = frame.map_err(failed)?.into_data() {
                            if answer.len() + data.remaining() > self.max_answer {
                                let error = format!("the answer is over {} bytes", self.max_answer);
                                return Poll::Ready(Err(Close::http_error(error)));
                            }
                            while data.has_remaining() {
                                let chunk = data.chunk();
                                let length = chunk.len();
                                answer.extend_from_slice(chunk);
                                data.advance(length);
                            }
                        }
                    }
                    None => {
                        let reply = decode(answer)?;
                        self.state = State::Idle;
                        return Poll::Ready(Ok(reply));
                    }
                },
            }
        }
    }
}

impl<S, B> Sidestream for HttpStream<S, B>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Display,
    B: Body + Send + 'static,
    B::Error: fmt::Display,
{
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // Room comes with replies, which the caller is polling for anyway.
        match self.queue.len() < BACKLOG {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn send(&mut self, message: Message) {
        if !self.finished {
            self.queue.push_back(message);
            self.idle.take().into_iter().for_each(Waker::wake);
        }
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
            State::Reading(_, answer, _) => answer.len(),
            _ => 0,
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        self.idle.take().into_iter().for_each(Waker::wake);
    }
}

/// The service is never pinned; future, body and timer are boxed.
impl<S, B> Unpin for HttpStream<S, B> where S: Service<Request<Full<Bytes>>> {}

impl<S, B> fmt::Debug for HttpStream<S, B>
where
    S: Service<Request<Full<Bytes>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpStream").finish_non_exhaustive()
    }
}

fn failed(error: impl fmt::Display) -> Close {
    Close::http_error(error.to_string())
}

fn decode(answer: &[u8]) -> Result<Reply, Close> {
    let answer: serde_json::Value = serde_json::from_slice(answer)
        .map_err(|e| failed(format!("the answer is no JSON: {e}")))?;
    let wire = json::from_json(&answer, &schema::RESPONSE)
        .map_err(|e| failed(format!("the answer is no ProcessingResponse: {e}")))?;
    Reply::decode(wire.into()).map_err(failed)
}

#[cfg(test)]
mod tests;
