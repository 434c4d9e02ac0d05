//! HTTP/2 clients, on `h2`.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, ext::Protocol, server::SendResponse};
use h2_guard::{Account, FloodLimits, Frames, Traffic, response_size};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{
    ClientStream, Context, course::Course, egress, guard::Guarded, heads::TimedHeads, ingress,
    timers::Timers,
};
use crate::{
    config::snapshot::Http2Options,
    http::{
        body::{Body, BoxError},
        h1::{MessageFacts, Outgoing},
        h2::{
            backlog::{Backlog, Queued},
            body::{Http2Body, SEND_BUFFER, SendError, keepalive, send_body},
            cork::Corked,
        },
        headers::header_list_size,
        io::forward_io,
        lazy_timer::LazyTimer,
        length::{self, Exact, LastPiece},
    },
    limits::buffers::Budget,
};

/// Time between two looks whether a client that was to go long ago has no streams left.
const LOOK: Duration = Duration::from_secs(1);

/// Serves a connection; `read` was read from it already.
pub(super) async fn serve(stream: ClientStream, read: Bytes, context: Context) {
    let begun = begin(stream, read, &context).await;
    let Ok((stream, read)) = begun else {
        context.protocol_error();
        return;
    };
    if let Err(error) = run(stream, read, &context).await {
        if !error.is_io() {
            context.protocol_error();
        }
        tracing::debug!(peer = %context.peer.remote, %error, "client connection ended");
    }
}

/// Reads up to the first frame, which has to be SETTINGS (RFC 9113 §3.4): `h2` would take any. Sends
/// GOAWAY otherwise.
async fn begin(
    mut stream: ClientStream,
    read: Bytes,
    context: &Context,
) -> io::Result<(ClientStream, Bytes)> {
    const PREFACE: usize = 24;
    const TYPE: usize = PREFACE + 3;
    const SETTINGS: u8 = 4;
    /// GOAWAY with PROTOCOL_ERROR, after the SETTINGS that have to come first.
    const REFUSAL: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    let mut read = BytesMut::from(read);
    let timeouts = &context.http().timeouts;
    let limit = timeouts.request_headers.or(timeouts.connection_idle);
    let first = async {
        while read.len() <= TYPE {
            if stream.read_buf(&mut read).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        if read.get(TYPE) != Some(&SETTINGS) {
            stream.write_all(REFUSAL).await?;
            stream.shutdown().await?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    };
    timeout(limit.unwrap_or(Duration::from_secs(3600)), first).await??;
    Ok((stream, read.freeze()))
}

async fn run(stream: ClientStream, read: Bytes, context: &Context) -> Result<(), h2::Error> {
    let http = context.http().clone();
    let header_list = header_list_size(http.request_headers);
    let mut builder = h2_guard::server();
    builder
        .initial_window_size(http.http2.initial_stream_window_size)
        .initial_connection_window_size(http.http2.initial_connection_window_size)
        .max_concurrent_streams(http.http2.max_concurrent_streams)
        .max_header_list_size(header_list)
        .max_send_buffer_size(SEND_BUFFER);
    if http.http2.allow_connect {
        builder.enable_connect_protocol();
    }
    let shared = Arc::new(Connection {
        context: context.clone(),
        backlog: Backlog::new(context.chain.buffer_limit),
        buffers: {
            let stream = context.chain.buffer(Version::HTTP_2);
            Arc::new(Budget::new(Http2Options::connection_buffer(stream)))
        },
        born: Instant::now(),
        ended: AtomicU64::new(0),
        traffic: Arc::default(),
        requests: Requests::default(),
    });
    let stall = stream.stall_limit(http.timeouts.stream_idle);
    let stream = Guarded::new(Corked::new(stream), stall);
    let limits = [http.timeouts.request_headers, http.timeouts.request];
    let stream = TimedHeads::new(
        Frames::of_client(Prefixed { read, stream }, shared.traffic.clone())
            .header_list(header_list)
            .floods(FloodLimits {
                priority: http.http2.floods.priority,
                window_updates: http.http2.floods.window_updates,
            }),
        limits.into_iter().flatten().min(),
        context.chain.shared.clone(),
    );
    let mut connection = builder.handshake::<_, Queued>(stream).await?;
    let ping = connection.ping_pong();
    let open = Arc::downgrade(&shared);
    let mut gone = pin!(async {
        match http.http2.keepalive.map(keepalive) {
            Some(keepalive) => {
                // Each exchange holds it, beside this task.
                let streams = || open.strong_count() > 1;
                keepalive.watch(ping, &shared.traffic, streams).await;
            }
            None => std::future::pending().await,
        }
    });
    let mut drain = context.drain.clone();
    let far = Duration::from_secs(365 * 24 * 3600);
    let old = shared.born + http.timeouts.max_connection_duration.unwrap_or(far);
    let idle_limit = http.timeouts.connection_idle.unwrap_or(far);
    // Once the client was asked to go: when to look whether it has. `h2` waits for its acknowledgement for ever.
    let mut closing: Option<Instant> = None;
    let end = || Some(Instant::now() + http.timeouts.drain);
    let mut requests = 0_u32;
    let mut last = shared.born;
    // It had its time to go: what it still asks for is refused.
    let mut late = false;
    loop {
        let idle = last + idle_limit;
        let accept = poll_fn(|cx| {
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() {
                shared.traffic.turn();
            }
            accepted
        });
        tokio::select! {
            accepted = accept => match accepted {
                Some(Ok((_, mut respond))) if late => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                }
                Some(Ok((request, mut respond))) => {
                    last = Instant::now();
                    requests += 1;
                    // Envoy begins each, and learns of the reset then.
                    if respond.poll_reset(&mut TaskContext::from_waker(Waker::noop())).is_ready() {
                        context.stats().downstream_rq_total.add();
                        context.stats().downstream_rq_rx_reset.add();
                        shared.requests.note_end(true);
                        continue;
                    }
                    if closing.is_none() && http.max_requests_per_connection.is_some_and(|max| requests >= max.get()) {
                        context.stats().downstream_cx_max_requests_reached.add();
                        closing = end();
                        connection.graceful_shutdown();
                    }
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let premature = exchange(&shared, request, respond).await;
                        shared.note_end();
                        shared.requests.note_end(premature);
                    });
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            () = shared.requests.abused() => {
                context.stats().downstream_rq_too_many_premature_resets.add();
                tracing::debug!(peer = %context.peer.remote, "too many requests are reset");
                return Ok(());
            }
            () = &mut gone => {
                tracing::debug!(peer = %context.peer.remote, "a client does not answer pings");
                return Ok(());
            }
            () = drain.signaled(), if closing.is_none() => {
                closing = end();
                connection.graceful_shutdown();
            }
            () = sleep_until(closing.unwrap_or(idle)), if closing.is_some() => {
                if !connection.has_streams() {
                    return Ok(());
                }
                late = true;
                closing = Some(Instant::now() + LOOK);
            }
            () = sleep_until(old.min(idle)), if closing.is_none() => {
                let now = Instant::now();
                last = match connection.has_streams() {
                    true => now,
                    // Only the end of the last stream began the time without one.
                    false => last.max(shared.last_end()),
                };
                if now >= old {
                    context.stats().downstream_cx_max_duration_reached.add();
                } else if now >= last + idle_limit {
                    context.stats().downstream_cx_idle_timeout.add();
                } else {
                    continue;
                }
                closing = end();
                connection.graceful_shutdown();
            }
        }
    }
}

/// State that the exchanges of a connection share.
struct Connection {
    context: Context,
    /// Bytes that wait for the socket.
    backlog: Arc<Backlog>,
    /// Bytes of bodies that they hold.
    buffers: Arc<Budget>,
    born: Instant,
    /// Milliseconds from there to the last end of an exchange.
    ended: AtomicU64,
    traffic: Arc<Traffic>,
    requests: Requests,
}

/// Requests of a connection that have ended, and those among them that were reset soon and before a response. As in Envoy,
/// a client that resets most of its requests loses its connection: each costs more here than there.
#[derive(Debug, Default)]
struct Requests {
    ended: AtomicU32,
    premature: AtomicU32,
    abused: Notify,
}

impl Requests {
    /// `overload.premature_reset_total_stream_count`: fewer requests count as so many.
    const FEW: u32 = 500;

    /// `overload.premature_reset_min_stream_lifetime_seconds`, of which Envoy compares whole seconds: a stream of more than one is
    /// none of those.
    const SOON: u64 = 1;

    fn note_end(&self, premature: bool) {
        let ended = self.ended.fetch_add(1, Ordering::Relaxed) + 1;
        if !premature {
            return;
        }
        let premature = self.premature.fetch_add(1, Ordering::Relaxed) + 1;
        if premature.saturating_mul(2) >= ended.max(Self::FEW) {
            self.abused.notify_one();
        }
    }

    /// Ends when half of them were.
    async fn abused(&self) {
        self.abused.notified().await;
    }
}

impl Connection {
    fn note_end(&self) {
        let since = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ended.store(since, Ordering::Relaxed);
    }

    fn last_end(&self) -> Instant {
        self.born + Duration::from_millis(self.ended.load(Ordering::Relaxed))
    }
}

/// Answers one request. `true` if it was reset soon, and before a response.
async fn exchange(
    connection: &Connection,
    request: Request<RecvStream>,
    mut respond: SendResponse<Queued>,
) -> bool {
    let begun = Instant::now();
    let context = &connection.context.now();
    let (parts, stream) = request.into_parts();
    let head_request = parts.method == Method::HEAD;
    let connect = parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_none();
    let outgoing = Arc::new(Outgoing::new(MessageFacts {
        bodyless: head_request,
        tunnel: connect,
        continued_by_upstream: context.http().proxy_100_continue,
    }));
    let has_body = !stream.is_end_stream();
    let wants_continue =
        has_body && !outgoing.facts.continued_by_upstream && expects_continue(&parts.headers);
    let ingress = ingress::begin(
        context,
        Some(&connection.buffers),
        parts,
        outgoing.clone(),
        |parts, exchange, upgrade| {
            // The bytes of a tunnel have no length.
            let none = HeaderMap::new();
            let headers = match upgrade {
                true => &none,
                false => &parts.headers,
            };
            let account: Arc<dyn Account> = exchange.clone();
            let traffic = &connection.traffic;
            let limits = context.http().request_headers;
            let body = Http2Body::new(stream, traffic, Some(account), headers, limits, Into::into);
            if upgrade {
                return Body::http2(body);
            }
            if !wants_continue {
                return Body::http2(body);
            }
            Body::new(ContinueBody {
                body,
                outgoing: Some(outgoing.clone()),
            })
        },
        has_body,
    );
    let listener = &context.chain.shared;
    let timers = Timers::new(listener, &ingress.exchange, LazyTimer::default());
    let mut course = Course::new(context, ingress.exchange, timers);
    let chain = course.run(context, Some(&connection.buffers), ingress.request);
    let responded = respond_to(chain, &mut respond, &outgoing).await;
    let Course {
        exchange,
        end,
        mut timers,
    } = course;
    let response = match responded {
        Ok(response) => response,
        Err(Left { reset }) => {
            if reset {
                exchange.note_reset();
            }
            return reset && begun.elapsed().as_secs() <= Requests::SOON;
        }
    };
    if egress::is_cut(&response, &exchange) {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return false;
    }
    let status = response.status();
    let bodyless = egress::is_bodyless(head_request, status);
    let response = egress::finish(response, &exchange, end, bodyless);
    let (mut parts, body) = response.into_parts();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // RFC 8441 §5: success of an extended CONNECT.
        parts.status = StatusCode::OK;
        parts.headers.remove(header::CONTENT_LENGTH);
    } else if connect && status.is_success() {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let announced = length::announced(&parts.headers).filter(|_| !bodyless);
    let ended = body.is_end_stream() && announced.is_none_or(|length| length == 0);
    // RFC 9110 §8.6; and clients take a message that goes on for one whose bytes are still to come.
    if status == StatusCode::NO_CONTENT || bodyless && !head_request && !ended {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    // A client's first SETTINGS come before its requests.
    let takes = connection.traffic.takes(|| response_size(&parts.headers));
    if takes == Some(false) {
        tracing::debug!("a response's head is larger than the client takes");
        respond.send_reset(Reason::INTERNAL_ERROR);
        return false;
    }
    let stream = match respond.send_response(Response::from_parts(parts, ()), ended) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "cannot send response");
            respond.send_reset(Reason::INTERNAL_ERROR);
            return false;
        }
    };
    if ended {
        return false;
    }
    let mut body = Body::new(Exact::new(body, announced, LastPiece::Passes));
    let mut sent = pin!(send_body(
        stream,
        &mut body,
        &connection.backlog,
        &connection.traffic,
        Reason::INTERNAL_ERROR,
    ));
    let sent = poll_fn(|cx| {
        if let Poll::Ready(sent) = sent.as_mut().poll(cx) {
            return Poll::Ready(Some(sent));
        }
        // A client that does not open its window is idle too.
        timers.poll(cx).map(|expired| {
            timers.cut(expired);
            None
        })
    })
    .await;
    match sent {
        Some(Ok(())) | None => {}
        Some(Err(SendError::Peer(error))) => {
            if error.reason().is_some() && !error.is_go_away() {
                exchange.note_reset();
            }
            tracing::debug!(%error, "client left");
        }
        Some(Err(SendError::Body(error))) => tracing::debug!(%error, "response cut short"),
    }
    false
}

/// The client did not wait for the response.
struct Left {
    /// It reset the stream; otherwise the connection ended.
    reset: bool,
}

/// Runs the chain, sending interim responses meanwhile.
async fn respond_to(
    chain: impl Future<Output = Response<Body>>,
    respond: &mut SendResponse<Queued>,
    outgoing: &Outgoing,
) -> Result<Response<Body>, Left> {
    let mut response = pin!(chain);
    poll_fn(|cx| {
        let done = response.as_mut().poll(cx);
        while let Poll::Ready((status, headers)) = outgoing.poll_interim(cx) {
            send_interim(respond, status, headers);
        }
        if let Poll::Ready(response) = done {
            return Poll::Ready(Ok(response));
        }
        respond.poll_reset(cx).map(|left| {
            let reset = left.is_ok();
            Err(Left { reset })
        })
    })
    .await
}

fn send_interim(respond: &mut SendResponse<Queued>, status: StatusCode, headers: HeaderMap) {
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    if let Err(error) = respond.send_informational(head) {
        tracing::debug!(%error, "cannot send interim response");
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Sends `100 Continue` when somebody wants the body (RFC 9110 §10.1.1).
struct ContinueBody {
    body: Http2Body,
    outgoing: Option<Arc<Outgoing>>,
}

impl http_body::Body for ContinueBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Some(outgoing) = this.outgoing.take()
            && frame.is_pending()
        {
            outgoing.interim(StatusCode::CONTINUE, HeaderMap::new());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection of which something was read already.
struct Prefixed {
    read: Bytes,
    stream: Guarded<Corked<ClientStream>>,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.has_remaining() {
            let n = this.read.len().min(buf.remaining());
            buf.put_slice(&this.read.split_to(n));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    forward_io!(stream: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends `ended` requests, of which `premature` are reset early, and tells whether the connection ends then.
    fn abused(ended: u32, premature: u32) -> bool {
        let requests = Requests::default();
        for number in 0..ended {
            requests.note_end(number < premature);
        }
        let mut abused = pin!(requests.abused());
        let cx = &mut TaskContext::from_waker(Waker::noop());
        abused.as_mut().poll(cx).is_ready()
    }

    /// As in Envoy, which counts the first 500 as if they were there.
    #[test]
    fn half_of_the_requests_may_be_reset_early() {
        for (ended, premature, expected) in [
            (249, 249, false),
            (250, 250, true),
            (400, 249, false),
            (400, 250, true),
        ] {
            assert_eq!(abused(ended, premature), expected, "{premature} of {ended}");
        }
    }
}
