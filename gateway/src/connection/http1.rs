//! HTTP/1 clients, on hyper's server connections.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::{
    Context,
    egress::{self, FinalBody, Finish},
    idle::{self, Idle},
    ingress,
};
use crate::{
    body::{Body, BoxError},
    http1::{Http1Io, MessageFacts, Outgoing, OutgoingQueue, WithTrailers},
};

/// What a connection becomes after a successful upgrade.
struct Tunnel {
    to_chain: mpsc::Sender<Bytes>,
    from_chain: FinalBody,
}

type TunnelSlot = Arc<Mutex<Option<Tunnel>>>;

/// Serves a connection; `read` was read from it already.
pub(super) async fn serve(stream: TcpStream, read: Bytes, context: Context) {
    let queue = OutgoingQueue::default();
    let tunnel = TunnelSlot::default();
    let http = context.http().clone();
    let limits = http.request_headers;
    let io = Http1Io::server(stream, read, limits.bytes, queue.clone());
    let idle = http
        .timeouts
        .request_headers
        .or(http.timeouts.connection_idle);
    let service = {
        let (context, tunnel) = (context.clone(), tunnel.clone());
        service_fn(move |request| exchange(context.now(), &queue, tunnel.clone(), request))
    };
    let mut connection = server::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_headers(limits.count.saturating_add(1))
        .max_header_size(limits.bytes)
        .max_buf_size(limits.bytes.max(8 * 1024) + 64 * 1024)
        .serve_connection(TokioIo::new(io), service);

    let mut drain = context.drain.clone();
    let age = async {
        match http.timeouts.max_connection_duration {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = poll_fn(|cx| Pin::new(&mut connection).poll(cx)) => result,
        () = async { tokio::select! { () = drain.signaled() => {}, () = age => {} } } => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| Pin::new(&mut connection).poll(cx)).await
        }
    };
    if let Err(error) = &result {
        if error.is_parse() {
            context.stats().downstream_cx_protocol_error.add();
        }
        tracing::debug!(peer = %context.peer.remote, %error, "client connection ended");
    }
    let parts = connection.into_parts();
    let io = parts.io.into_inner();
    let upgraded = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    match upgraded {
        Some(tunnel) if result.is_ok() => run_tunnel(io, parts.read_buf, tunnel).await,
        _ => linger(io, http.timeouts.delayed_close).await,
    }
}

/// Answers one request.
fn exchange(
    context: Context,
    queue: &OutgoingQueue,
    slot: TunnelSlot,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<WithTrailers<FinalBody>>, Infallible>> + Send + use<> {
    let (parts, body) = request.into_parts();
    let head_request = parts.method == Method::HEAD;
    let connect = parts.method == Method::CONNECT;
    let outgoing = Arc::new(Outgoing::new(MessageFacts {
        bodyless: head_request,
        tunnel: connect,
    }));
    // Before the first await: hyper must not write a byte of the response before this.
    queue.push(outgoing.clone());
    let has_body = !body.is_end_stream();
    let version = parts.version;
    let trailers = context.http().http1.enable_trailers;
    let mut to_chain = None;
    let ingress = ingress::begin(
        &context,
        parts,
        outgoing.clone(),
        |_, upgrade| {
            if !upgrade {
                return Body::http1(body, trailers);
            }
            let (sender, receiver) = mpsc::channel(4);
            to_chain = Some(sender);
            Body::new(ChannelBody(receiver))
        },
        has_body,
    );
    let trailers = trailers && version == Version::HTTP_11;
    async move {
        let exchange = ingress.exchange;
        let end = Finish::new(exchange.clone());
        let mut idle = Idle::new(&exchange);
        let response = idle::call(&context, ingress.request, &exchange, &mut idle).await;
        let status = response.status();
        let bodyless = egress::is_bodyless(head_request, status);
        let end = end.watch_idle(idle);
        let mut response = egress::finish(response, &exchange, end, bodyless);
        let switched =
            status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success());
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
                WithTrailers::new(egress::nothing(), None, false),
            ));
        }
        if context.drain.draining() {
            let close = http::HeaderValue::from_static("close");
            response
                .headers_mut()
                .insert(http::header::CONNECTION, close);
        }
        let known_length = response
            .headers()
            .contains_key(http::header::CONTENT_LENGTH);
        Ok(
            response
                .map(|body| WithTrailers::new(body, trailers.then_some(outgoing), known_length)),
        )
    }
}

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

/// Moves bytes both ways until both directions have ended. A direction that ends is shut down
/// alone.
async fn run_tunnel(mut io: Http1Io<TcpStream>, early: Bytes, tunnel: Tunnel) {
    const READ: usize = 16 * 1024;
    let Tunnel {
        to_chain,
        mut from_chain,
    } = tunnel;
    io.open_tunnel();
    let (mut read, mut write) = tokio::io::split(io);
    let up = async move {
        if !early.is_empty() && to_chain.send(early).await.is_err() {
            return;
        }
        let mut buffer = BytesMut::with_capacity(READ);
        loop {
            buffer.reserve(READ);
            match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if to_chain.send(buffer.split().freeze()).await.is_err() {
                return;
            }
        }
    };
    let down = async move {
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut from_chain).poll_frame(cx)).await {
            if let Ok(mut data) = frame.into_data()
                && write.write_all_buf(&mut data).await.is_err()
            {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    // The response direction decides: without it, nobody reads what the client still sends.
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut up => down.await,
        () = &mut down => {}
    }
}

/// Closes so that the client can read the last response: our direction first, then after a while
/// the rest (RFC 9112 §9.6).
async fn linger(mut io: Http1Io<TcpStream>, limit: Duration) {
    if io.shutdown().await.is_err() {
        return;
    }
    let _ = timeout(limit, async {
        let mut scrap = vec![0; 16 * 1024];
        while matches!(io.read(&mut scrap).await, Ok(1..)) {}
    })
    .await;
}
