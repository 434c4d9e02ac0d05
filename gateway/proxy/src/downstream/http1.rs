//! HTTP/1 clients, on hyper's server connections.

use std::{
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use super::{
    ClientStream, Context,
    course::Course,
    egress::{self, FinalBody},
    guard::{Guarded, StallLimit},
    ingress,
    timers::{self, Expired, Running, Timers},
};
use crate::http::{
    body::{Body, BoxError},
    h1::{
        Behind, Http1Io, MessageFacts, Outgoing, OutgoingQueue, WithTrailers,
        waiting::{Phase, Waiting},
    },
    length::{self, LastPiece},
};

/// State of a connection after a successful upgrade.
struct Tunnel {
    to_chain: mpsc::Sender<Bytes>,
    from_chain: FinalBody,
}

type TunnelSlot = Arc<Mutex<Option<Tunnel>>>;

/// Serves a connection; `read` was read from it already.
pub(super) async fn serve(stream: ClientStream, read: Bytes, context: Context) {
    let queue = OutgoingQueue::default();
    let tunnel = TunnelSlot::default();
    let http = context.http().clone();
    let running = Running::default();
    let limits = http.request_headers;
    let stall = stream.stall_limit(http.timeouts.stream_idle);
    let guarded = Guarded::new(stream, stall.clone());
    let io = Http1Io::server(
        guarded,
        read,
        limits.bytes,
        Waiting::new(
            http.timeouts.connection_idle,
            http.timeouts.request_headers,
            http.timeouts.request,
        ),
        queue.clone(),
    );
    let service = {
        let shared = Shared {
            context: context.clone(),
            queue,
            tunnel: tunnel.clone(),
            running: running.clone(),
            stall,
            requests: AtomicU32::new(0),
        };
        service_fn(move |request| exchange(&shared, request))
    };
    let mut connection = server::Builder::new()
        // Waiting for requests is timed by `Http1Io`, which knows an idle connection from one in the
        // middle of a head.
        .header_read_timeout(None)
        .max_headers(limits.count.saturating_add(1))
        .max_header_size(limits.bytes)
        .max_buf_size(limits.bytes.max(8 * 1024) + 64 * 1024)
        .serve_connection(TokioIo::new(io), service);

    let mut closing = pin!(super::closing(&context));
    let mut closes = false;
    let result = poll_fn(|cx| {
        // Before, because a socket that takes nothing gives up at the same time; after, because the
        // connection may just have begun a response.
        if running.expire(cx) {
            return Poll::Ready(Ok(false));
        }
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(result.map(|()| true));
        }
        if running.expire(cx) {
            return Poll::Ready(Ok(false));
        }
        if !closes && closing.as_mut().poll(cx).is_ready() {
            closes = true;
            Pin::new(&mut connection).graceful_shutdown();
            // It has to notice.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    if let Err(error) = &result {
        if timed_out(error)
            && let Some(timers) = running.take()
        {
            // The socket took nothing for as long as an exchange may stand still.
            timers.cut(Expired::Idle);
        }
        if error.is_parse() {
            context.protocol_error();
        }
        tracing::debug!(peer = %context.peer.remote, %error, "client connection ended");
    }
    let parts = connection.into_parts();
    let io = parts.io.into_inner();
    match io.expired() {
        Some((Phase::Idle, _)) => context.stats().downstream_cx_idle_timeout.add(),
        Some((Phase::Head, false)) => context.stats().downstream_rq_header_timeout.add(),
        Some((Phase::Head, true)) => context.stats().downstream_rq_timeout.add(),
        None => {}
    }
    let upgraded = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    match upgraded {
        Some(tunnel) if matches!(result, Ok(true)) => {
            // In a box: few connections need the room for it.
            Box::pin(run_tunnel(io, parts.read_buf, tunnel, running.take())).await;
        }
        _ if !matches!(result, Ok(true))
            && let Some(socket) = io.unended() =>
        {
            // An HTTP/1.0 client takes the end of the connection for that of the body (RFC 9112 §8).
            socket.get_ref().resets();
        }
        _ => Box::pin(linger(io, http.timeouts.delayed_close)).await,
    }
}

/// Returns true if the socket gave up.
fn timed_out(error: &hyper::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// State that the exchanges of a connection share.
struct Shared {
    context: Context,
    queue: OutgoingQueue,
    tunnel: TunnelSlot,
    running: Running,
    stall: Arc<StallLimit>,
    requests: AtomicU32,
}

impl Shared {
    /// The number of a request that begins, counted from 1.
    fn number(&self) -> u32 {
        self.requests
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// Returns true if `max_requests_per_connection` allows no request behind this one.
    fn is_last(&self, number: u32) -> bool {
        let max = self.context.http().max_requests_per_connection;
        let last = max.is_some_and(|max| number >= max.get());
        if last {
            self.context
                .stats()
                .downstream_cx_max_requests_reached
                .add();
        }
        last
    }
}

/// Answers one request.
fn exchange(
    shared: &Shared,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<WithTrailers<FinalBody>>, Cut>> + Send + use<> {
    let Shared { context, queue, .. } = shared;
    let (context, slot) = (context.now(), shared.tunnel.clone());
    let (running, stall) = (shared.running.clone(), shared.stall.clone());
    let number = shared.number();
    let last = shared.is_last(number);
    let (parts, body) = request.into_parts();
    let head_request = parts.method == Method::HEAD;
    let connect = parts.method == Method::CONNECT;
    let outgoing = Arc::new(Outgoing::new(MessageFacts {
        bodyless: head_request,
        tunnel: connect,
        continued_by_upstream: context.http().proxy_100_continue,
    }));
    // Before the first await: hyper must not write a byte of the response before this.
    queue.push(outgoing.clone());
    let has_body = !body.is_end_stream();
    let version = parts.version;
    context.speaks(version);
    let tunnel = TunnelRequest::of(&parts, has_body, number, queue);
    let trailers = context.http().http1.enable_trailers;
    let limits = context.http().request_headers;
    let mut to_chain = None;
    let ingress = ingress::begin(
        &context,
        None,
        parts,
        outgoing.clone(),
        |_, _, upgrade| {
            if !upgrade {
                return Body::http1(body, trailers.then_some(limits));
            }
            let (sender, receiver) = mpsc::channel(4);
            to_chain = Some(sender);
            Body::new(ChannelBody(receiver))
        },
        has_body,
    );
    let trailers = trailers && version == Version::HTTP_11;
    async move {
        let timers = running.begin(&context.chain.shared, &ingress.exchange);
        let mut course = Course::new(&context, ingress.exchange, timers);
        let response = course.run(&context, None, ingress.request).await;
        let Course {
            exchange,
            end,
            timers,
        } = course;
        stall.set(exchange.idle_limit());
        if egress::is_cut(&response, &exchange) {
            return Err(Cut);
        }
        let status = response.status();
        let bodyless = egress::is_bodyless(head_request, status);
        let switched =
            status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success());
        let response = egress::confirm_empty(response, &exchange, bodyless || switched).await;
        running.set(timers);
        let end = end.ends_timers(running);
        let mut response = egress::finish(response, &exchange, end, bodyless);
        let abandoned = !switched && tunnel.is_some_and(TunnelRequest::decline);
        if let (true, Some(to_chain)) = (switched, to_chain) {
            let (mut parts, from_chain) = response.into_parts();
            // A tunnel has no length (RFC 9110 §8.6).
            parts.headers.remove(http::header::CONTENT_LENGTH);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tunnel {
                to_chain,
                from_chain,
            });
            return Ok(Response::from_parts(
                parts,
                WithTrailers::new(egress::nothing(), None, None, LastPiece::AwaitsEnd),
            ));
        }
        if context.drain.draining() || last || abandoned {
            let close = http::HeaderValue::from_static("close");
            response
                .headers_mut()
                .insert(http::header::CONNECTION, close);
        }
        let announced = length::announced(response.headers()).filter(|_| !bodyless);
        if announced == Some(0) && !length::is_empty(response.body()) {
            // hyper would not look whether it is true.
            response.headers_mut().remove(http::header::CONTENT_LENGTH);
        }
        let absent = length::announced(response.headers())
            .filter(|_| status == StatusCode::NOT_MODIFIED && !head_request);
        Ok(response.map(|body| {
            // hyper lets go of a body with its last byte, and filters are to see what follows.
            let last = LastPiece::AwaitsEnd;
            WithTrailers::new(body, trailers.then_some(outgoing), announced, last).absent(absent)
        }))
    }
}

/// A request for a tunnel, whose bytes wait for the answer.
struct TunnelRequest {
    number: u64,
    connect: bool,
    queue: OutgoingQueue,
}

impl TunnelRequest {
    /// `None` if the request asks for no tunnel: what is held behind it, because it looks as if, is the next request.
    fn of(
        parts: &http::request::Parts,
        has_body: bool,
        number: u32,
        queue: &OutgoingQueue,
    ) -> Option<Self> {
        let connect = parts.method == Method::CONNECT;
        if !connect && !parts.headers.contains_key(http::header::UPGRADE) {
            return None;
        }
        let number = number.into();
        if ingress::upgrade_kind(parts, has_body).is_none() {
            queue.decline(number, Behind::Request);
            return None;
        }
        Some(Self {
            number,
            connect,
            queue: queue.clone(),
        })
    }

    /// There is no tunnel. Whether the connection has to end: a client that began to use it took its bytes for no
    /// request, so that nobody else may.
    fn decline(self) -> bool {
        let ends = self.connect || self.queue.has_early(self.number);
        let behind = match ends {
            true => Behind::Nothing,
            false => Behind::Request,
        };
        self.queue.decline(self.number, behind);
        ends
    }
}

/// There is no response to give: the connection ends, which tells the client.
#[derive(Debug, thiserror::Error)]
#[error("the response was lost")]
struct Cut;

/// Bytes of a tunnel as a request body.
struct ChannelBody(mpsc::Receiver<Bytes>);

impl http_body::Body for ChannelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Moves bytes both ways until both directions have ended. A direction that ends is shut down alone, one that
/// breaks and `timers` end both.
async fn run_tunnel(
    mut io: Http1Io<Guarded<ClientStream>>,
    early: Bytes,
    tunnel: Tunnel,
    mut timers: Option<Timers>,
) {
    const READ: usize = 16 * 1024;
    let Tunnel {
        to_chain,
        mut from_chain,
    } = tunnel;
    io.open_tunnel();
    let (mut read, mut write) = tokio::io::split(io);
    let up = async move {
        if !early.is_empty() && to_chain.send(early).await.is_err() {
            return true;
        }
        let mut buffer = BytesMut::with_capacity(READ);
        loop {
            buffer.reserve(READ);
            match read.read_buf(&mut buffer).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
            // Who reads no more may still have something to say.
            if to_chain.send(buffer.split().freeze()).await.is_err() {
                return true;
            }
        }
    };
    let down = async move {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut from_chain).poll_frame(cx)).await {
            let Ok(frame) = frame else { return false };
            if let Ok(mut data) = frame.into_data()
                && write.write_all_buf(&mut data).await.is_err()
            {
                return false;
            }
        }
        write.shutdown().await.is_ok()
    };
    let (mut up, mut down) = (pin!(up), pin!(down));
    let both = async {
        tokio::select! {
            clean = &mut up => if clean {
                down.await;
            },
            clean = &mut down => if clean {
                up.await;
            }
        }
    };
    tokio::select! {
        () = both => {}
        expired = poll_fn(|cx| timers::poll(&mut timers, cx)) => {
            if let Some(timers) = timers {
                timers.cut(expired);
            }
        }
    }
}

/// Bytes that are read and dropped of what a client sends behind the last response.
const SCRAP: usize = 1024 * 1024;

/// Closes so that the client can read the last response: our direction first, then after a while
/// the rest (RFC 9112 §9.6).
async fn linger(mut io: Http1Io<Guarded<ClientStream>>, limit: Duration) {
    // TLS may have to write what the client does not take, first of all.
    let _ = timeout(limit, async {
        if io.shutdown().await.is_err() {
            return;
        }
        // Nothing looks at it: what follows a refused message would be read without end.
        io.open_tunnel();
        let mut scrap = vec![0; 16 * 1024];
        let mut left = SCRAP;
        while left > 0 {
            match io.read(&mut scrap).await {
                Ok(read @ 1..) => left = left.saturating_sub(read),
                _ => return,
            }
        }
        // What is not read holds the client up, and it has the rest of the time for the response.
        pending().await
    })
    .await;
}
