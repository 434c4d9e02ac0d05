//! HTTP/1.1 towards endpoints: a keep-alive pool and requests on hyper's client connections.
//!
//! Whoever waits for a response moves its connection on. Only a tunnel, or a request whose body is still on
//! its way when the response begins, gives the connection to a task: the request must not wait for somebody
//! who reads the response slowly.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1 as client},
};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::{
    connect::Connected,
    drive::Driver,
    error::Failure,
    exchange::{Keep, Outbound, Sending, Sent, Unsent},
    host::Host,
    progress::{Progress, ProgressWatch},
    tunnel,
};
use crate::{
    body::{Body, Watched},
    config::snapshot::Cluster,
    headers::{strip_hop_by_hop, tokens},
    http1::{Http1Io, MessageFacts, Outgoing, OutgoingQueue, WithTrailers},
    length::{self, Mismatch},
};

/// In a box: hyper's connection has room for 32 requests that wait, and copies each a few times.
pub(super) type RequestBody = Box<WithTrailers<Watched<Body, ProgressWatch>>>;

/// How often idle connections are looked at that nobody uses.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle connections, the one used last at the end.
#[derive(Debug, Default)]
pub(crate) struct Http1Pool(Mutex<Idlers>);

#[derive(Debug, Default)]
struct Idlers {
    idle: Vec<Idle>,
    /// A task looks after them.
    swept: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

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
    /// Whether the cluster allows another request on it.
    fn may_go_on(&self, cluster: &Cluster) -> bool {
        let old = cluster.max_connection_duration;
        let max = cluster.max_requests_per_connection;
        !self.last
            && max.is_none_or(|max| self.requests < max.get())
            && old.is_none_or(|old| self.born.elapsed() < old)
    }
}

impl Http1Pool {
    fn lock(&self) -> MutexGuard<'_, Idlers> {
        // Entries are pushed and removed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The idle connection that was used last.
    pub(super) fn idle(&self, host: &Arc<Host>) -> Option<Lease> {
        let limit = host.shared.cluster.idle_timeout;
        let mut idlers = self.lock();
        let mut at = idlers.idle.len();
        while let Some(entry) = at.checked_sub(1).and_then(|last| idlers.idle.get_mut(last)) {
            at -= 1;
            match entry.state(limit) {
                State::Ready => {
                    let mut connection = idlers.idle.remove(at).connection;
                    if !connection.may_go_on(&host.shared.cluster) {
                        continue;
                    }
                    connection.reused = true;
                    connection.requests = connection.requests.saturating_add(1);
                    return Some(Lease {
                        connection,
                        host: host.clone(),
                    });
                }
                State::Busy => {}
                State::Gone => idlers.idle.remove(at).connection.close(),
            }
        }
        None
    }

    /// Drops what is closed or idle for too long; `false` if nothing is left, which ends the task.
    fn sweep(&self, limit: Option<Duration>) -> bool {
        let mut idlers = self.lock();
        idlers.idle.retain_mut(|entry| {
            let gone = entry.state(limit) == State::Gone;
            if gone {
                entry.connection.close();
            }
            !gone
        });
        idlers.swept = !idlers.idle.is_empty();
        idlers.swept
    }
}

/// What an idle connection is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Its task has not come to the end of the last exchange.
    Busy,
    /// Closed, or idle for too long.
    Gone,
}

impl Idle {
    fn state(&mut self, limit: Option<Duration>) -> State {
        if limit.is_some_and(|limit| self.since.elapsed() >= limit) {
            return State::Gone;
        }
        self.connection.rest()
    }
}

/// Gives a connection back after a complete exchange. What became of it shows when it is looked at again.
pub(super) fn give_back(host: &Arc<Host>, connection: Connection) {
    if connection.sender.is_closed() || !connection.may_go_on(&host.shared.cluster) {
        return;
    }
    let mut idlers = host.http1().lock();
    idlers.idle.push(Idle {
        connection,
        since: Instant::now(),
    });
    if !std::mem::replace(&mut idlers.swept, true) {
        tokio::spawn(sweep(Arc::downgrade(host)));
    }
}

async fn sweep(host: Weak<Host>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(host) = host.upgrade() else { return };
        let limit = host.shared.cluster.idle_timeout;
        if !host.http1().sweep(limit) {
            return;
        }
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
        let (request, bytes) = prepare(*request, sending, trailers, progress, &connection.queue);
        let mut asked = None;
        if bytes.is_some() {
            asked = request.headers().get(header::UPGRADE).cloned();
            connection.detach();
        }
        let mut response = match connection.exchange(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let back = error.take_message();
                return Err(Unsent {
                    failure: failure(error.error()),
                    returned: back
                        .and_then(|request| request.into_body().into_inner().into_inner()),
                });
            }
        };
        if let Some(body) = bytes {
            if switched(sending, response.status()) {
                if !sending.connect && !tunnel::names_one(response.headers(), asked.as_ref()) {
                    return Err(Failure::Protocol.into());
                }
                return tunnel::open(response, body, progress, sending.stall)
                    .await
                    .map_err(Into::into);
            }
            response.extensions_mut().clear();
            return Ok(Sent {
                response: response.map(|body| Body::http1(body, trailers)),
                keep: Keep::Nothing,
                tunnel: false,
            });
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Protocol.into());
        }
        // The sender would speak HTTP/1.0 from now on.
        connection.last |= response.version() == Version::HTTP_10;
        response.extensions_mut().clear();
        if !progress.is_done() {
            connection.detach();
        }
        if connection.driver.is_none() {
            return Ok(Sent {
                response: response.map(|body| Body::http1(body, trailers)),
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

fn switched(sending: &Sending, status: StatusCode) -> bool {
    if sending.connect {
        status.is_success()
    } else {
        status == StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Turns a request into what goes on the wire; for a tunnel the body stays back.
fn prepare(
    request: Outbound,
    sending: &Sending,
    trailers: bool,
    progress: &Arc<Progress>,
    queue: &OutgoingQueue,
) -> (Request<RequestBody>, Option<Body>) {
    let Outbound { mut parts, body } = request;
    let host = parts
        .uri
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    parts.uri = if parts.method == Method::CONNECT {
        parts.uri
    } else {
        origin_form(parts.uri)
    };
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    parts
        .headers
        .insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
    // RFC 9110 §10.1.4: a TE field is of one hop and has to be named so.
    if !sending.tunnel && tokens(&parts.headers, &header::TE).next().is_some() {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    let announced = length::announced(&parts.headers).filter(|_| !sending.tunnel);
    if sending.tunnel {
        if sending.keyless {
            tunnel::complete_handshake(&mut parts.headers);
        }
    } else {
        if announced == Some(0) && !length::is_empty(&body) {
            // hyper would not look whether it is true.
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        frame_body(&mut parts, &body);
    }
    let outgoing = Arc::new(Outgoing::new(MessageFacts {
        bodyless: parts.method == Method::HEAD,
        tunnel: sending.tunnel,
        continued_by_upstream: false,
    }));
    queue.push(outgoing.clone());
    let (body, tunnel) = if sending.tunnel {
        (Body::empty(), Some(body))
    } else {
        (body, None)
    };
    let body = Watched::new(body, ProgressWatch(progress.clone()));
    let body = WithTrailers::new(body, trailers.then_some(outgoing), announced);
    let mut request = Request::from_parts(parts, Box::new(body));
    if let Some(interim) = sending.interim.clone() {
        let continues = sending.continues;
        hyper::ext::on_informational(&mut request, move |head| {
            if head.status() == StatusCode::CONTINUE && !continues {
                return;
            }
            let mut headers = head.headers().clone();
            strip_hop_by_hop(&mut headers, false);
            interim.interim(head.status(), headers);
        });
    }
    (request, tunnel)
}

/// Says how the body is framed where no `content-length` does. hyper would drop a body of unknown length
/// from methods that rarely have one, and would leave other requests without a body unframed
/// (RFC 9112 §6.3; RFC 9110 §8.6).
fn frame_body(parts: &mut http::request::Parts, body: &Body) {
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return;
    }
    let rarely = matches!(
        parts.method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    );
    if !http_body::Body::is_end_stream(body) {
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(header::TRANSFER_ENCODING, chunked);
    } else if !rarely {
        parts.headers.insert(header::CONTENT_LENGTH, 0.into());
    }
}

fn origin_form(uri: Uri) -> Uri {
    match uri.into_parts().path_and_query {
        Some(path) => Uri::from(path),
        None => Uri::from_static("/"),
    }
}

/// What hyper's error means.
pub(super) fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::Protocol
    } else if Mismatch::is_behind(error) {
        Failure::Length
    } else if error.is_user() || error.is_body_write_aborted() {
        Failure::Request
    } else {
        Failure::Terminated
    }
}
