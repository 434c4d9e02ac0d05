//! HTTP/1.1 towards endpoints: a keep-alive pool and requests on hyper's client connections.
//!
//! Whoever waits for a response moves its connection on. Only a tunnel, or a request whose body is still on
//! its way when the response begins, gives the connection to a task: the request must not wait for somebody
//! who reads the response slowly.

mod pool;
mod request;

use std::{
    borrow::Cow,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1 as client},
};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

pub(crate) use self::pool::Http1Pool;
pub(super) use self::pool::give_back;
use self::{
    pool::State,
    request::{prepare, switched},
};
use super::{
    attempt::{Keep, Outbound, Sending, Sent, Unsent},
    connect::Connected,
    drive::Driver,
    error::Failure,
    member::Host,
    progress::{Progress, ProgressWatch},
    tunnel,
};
use crate::{
    config::snapshot::Cluster,
    http::{
        body::{Body, TrailersTooLarge, Watched, is_behind},
        h1::{Http1Io, OutgoingQueue, WithTrailers},
        headers::upgrade_field,
        length::{self, Mismatch},
    },
};

/// In a box: hyper's connection has room for 32 requests that wait, and copies each a few times.
pub(super) type RequestBody = Box<WithTrailers<Watched<Body, ProgressWatch>>>;

/// A connection that carries one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: client::SendRequest<RequestBody>,
    /// `None` once a task moves it.
    driver: Option<Driver>,
    task: Option<AbortHandle>,
    queue: OutgoingQueue,
    local: Option<SocketAddr>,
    reused: bool,
    born: Instant,
    requests: u32,
    /// It takes no other request.
    last: bool,
}

/// A connection for one request.
pub(crate) struct Lease {
    connection: Connection,
    host: Arc<Host>,
}

impl Connection {
    /// Returns whether the cluster allows another request on it.
    fn may_go_on(&self, cluster: &Cluster) -> bool {
        let old = cluster.max_connection_duration;
        let max = cluster.max_requests_per_connection;
        !self.last
            && max.is_none_or(|max| self.requests < max.get())
            && old.is_none_or(|old| self.born.elapsed() < old)
    }
}

impl Connection {
    /// Lets the connection notice what happened while nobody used it.
    fn rest(&mut self) -> State {
        if let Some(driver) = &mut self.driver {
            driver.rest();
        }
        match (self.sender.is_closed(), self.sender.is_ready()) {
            (false, true) => State::Ready,
            (false, false) if self.driver.is_none() => State::Busy,
            _ => State::Gone,
        }
    }

    /// Gives the connection to a task.
    fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.task = driver.spawn();
        }
    }

    /// Closes it, whatever is on its way: its task may be waiting for an upstream that reads nothing.
    pub(super) fn close(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Begins HTTP/1 on a new connection.
pub(super) async fn open(host: &Arc<Host>, connected: Connected) -> Result<Lease, Failure> {
    let limits = host.shared.cluster.response_headers;
    let queue = OutgoingQueue::default();
    let local = connected.io.local_addr();
    let io = Http1Io::client(connected.io, limits.bytes, queue.clone());
    let mut builder = client::Builder::new();
    // Hyper's own limit is the same, and costs it less than one that was set.
    if limits.count != 100 {
        builder.max_headers(limits.count);
    }
    let (sender, connection) = builder
        .max_buf_size(limits.bytes.max(8 * 1024) + 16 * 1024)
        .max_header_size(limits.bytes)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| failure(&error))?;
    Ok(Lease {
        connection: Connection {
            sender,
            driver: Some(Driver::new(connection)),
            task: None,
            queue,
            local,
            reused: false,
            born: Instant::now(),
            requests: 1,
            last: false,
        },
        host: host.clone(),
    })
}

impl Lease {
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.connection.local
    }

    pub(super) fn reused(&self) -> bool {
        self.connection.reused
    }

    /// Gives the connection back, unused.
    pub(super) fn give_back(self) {
        give_back(&self.host, self.connection);
    }

    /// Sends a request whose target is absolute.
    pub(super) async fn send(
        self,
        mut request: Box<Outbound>,
        sending: &Sending,
        progress: &Arc<Progress>,
    ) -> Result<Sent, Unsent> {
        let Self {
            mut connection,
            host,
        } = self;
        let trailers = host.shared.cluster.http1.enable_trailers;
        let Outbound { parts, body } = &mut *request;
        let announced = length::settle(&mut parts.headers);
        if !sending.tunnel && !length::fits(announced, body) {
            return Err(Failure::Length.into());
        }
        if !sending.tunnel && announced == Some(0) && !length::is_empty(body) {
            match length::turns_out_empty(body).await {
                Some(true) => *body = Body::empty(),
                Some(false) => return Err(Failure::Length.into()),
                None => {}
            }
        }
        let (request, bytes) = prepare(*request, sending, trailers, progress, &connection.queue)?;
        let mut asked = None;
        if bytes.is_some() {
            asked = upgrade_field(request.headers()).map(Cow::into_owned);
            connection.detach();
        }
        let mut response = match connection.exchange(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let back = error.take_message();
                return Err(Unsent {
                    failure: failure(error.error()),
                    returned: back
                        .and_then(|request| request.into_body().into_inner().into_inner())
                        .map(Box::new),
                });
            }
        };
        let limits = trailers.then_some(host.shared.cluster.response_headers);
        if let Some(body) = bytes {
            if switched(sending, response.status()) {
                if !sending.connect && !tunnel::is_asked_for(response.headers(), asked.as_deref()) {
                    return Err(Failure::Protocol.into());
                }
                return tunnel::open(response, body, progress, sending.stall)
                    .await
                    .map_err(Into::into);
            }
            response.extensions_mut().clear();
            return Ok(Sent {
                response: response.map(|body| Body::http1(body, limits)),
                keep: Keep::Nothing,
                tunnel: false,
            });
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Protocol.into());
        }
        if response.status() == StatusCode::NO_CONTENT {
            drop_framing(response.headers_mut())?;
        }
        // The sender would speak HTTP/1.0 from now on.
        connection.last |= response.version() == Version::HTTP_10;
        response.extensions_mut().clear();
        if !progress.is_done() {
            connection.detach();
        }
        if connection.driver.is_none() {
            return Ok(Sent {
                response: response.map(|body| Body::http1(body, limits)),
                keep: Keep::Http1(Box::new((host, connection))),
                tunnel: false,
            });
        }
        Ok(Sent {
            response: response.map(|body| {
                if http_body::Body::is_end_stream(&body) {
                    give_back(&host, connection);
                    return Body::empty();
                }
                Body::new(DrivenBody {
                    body,
                    connection: Some((connection, host)),
                    trailers,
                })
            }),
            keep: Keep::Nothing,
            tunnel: false,
        })
    }
}

impl Connection {
    /// Sends a request and waits for the response's head.
    async fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let response = self.sender.try_send_request(request);
        let Some(driver) = &mut self.driver else {
            return response.await;
        };
        let mut response = pin!(response);
        poll_fn(|cx| driver.poll(cx, |cx| response.as_mut().poll(cx))).await
    }
}

/// A response without content says nothing about its length (RFC 9110 §8.6, RFC 9112 §6.1). One that announces a body may
/// be meant otherwise; an empty one is not.
fn drop_framing(headers: &mut HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Failure::Protocol);
    }
    match headers.remove(header::CONTENT_LENGTH) {
        Some(length) if length != "0" => Err(Failure::Protocol),
        _ => Ok(()),
    }
}

/// A response body that moves its connection on while it is read, and gives it back at its end.
struct DrivenBody {
    body: Incoming,
    connection: Option<(Connection, Arc<Host>)>,
    trailers: bool,
}

impl http_body::Body for DrivenBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let mut body = Pin::new(&mut this.body);
        let driver = this
            .connection
            .as_mut()
            .and_then(|(c, _)| c.driver.as_mut());
        let frame = ready!(match driver {
            Some(driver) => driver.poll(cx, |cx| body.as_mut().poll_frame(cx)),
            None => body.poll_frame(cx),
        });
        let over = match &frame {
            Some(Ok(frame)) => frame.is_trailers() || this.body.is_end_stream(),
            Some(Err(_)) => {
                this.connection = None;
                false
            }
            None => true,
        };
        if over && let Some((connection, host)) = this.connection.take() {
            give_back(&host, connection);
        }
        Poll::Ready(
            frame.filter(|frame| {
                this.trailers || !matches!(frame, Ok(frame) if frame.is_trailers())
            }),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The meaning of hyper's error.
pub(super) fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::Protocol
    } else if is_behind::<Mismatch>(error) {
        Failure::Length
    } else if is_behind::<TrailersTooLarge>(error) {
        Failure::Trailers
    } else if error.is_user() || error.is_body_write_aborted() {
        Failure::Request
    } else {
        Failure::Terminated
    }
}
