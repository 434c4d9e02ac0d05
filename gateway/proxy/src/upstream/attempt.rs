//! One request to an endpoint and its response, whatever the protocol.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use extproc_client::host::{ResponseFlags, UpstreamFailure};
use http::{HeaderMap, Method, Request, Response, StatusCode, request::Parts};
use http_body::Body as _;
use tokio::{
    task::AbortHandle,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    error::Failure,
    http1, http2,
    member::{Host, Lease, Lending, On},
    progress::Progress,
};
use crate::{
    http::{
        body::{Body, BoxError, Watch, Watched},
        headers::{response_fits, strip_hop_by_hop},
    },
    limits::breakers::Place,
    telemetry::{spans::Attempt, stats::ClusterStats},
};

/// Settings of one attempt beside the request.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// Receiver of interim responses; they are dropped if there is none.
    pub(crate) interim: Option<Relay>,
    /// The request asks for a tunnel.
    pub(crate) tunnel: bool,
    /// It does so by CONNECT.
    pub(crate) connect: bool,
    /// Time for which an upstream may take nothing of a tunnel's bytes.
    pub(crate) stall: Option<Duration>,
    /// It came over HTTP/2, where a WebSocket handshake has no key.
    pub(crate) keyless: bool,
    /// `per_try_timeout`: the longest wait for the response's head from the end of the request.
    pub(crate) try_limit: Option<Duration>,
    /// The longest that the request and its response may take; unset: as the cluster says.
    pub(crate) duration: Option<Duration>,
    /// The longest wait for the response's head from the beginning.
    pub(crate) head_limit: Option<Duration>,
    /// Its span.
    pub(crate) span: Option<Attempt>,
}

/// Takes the heads of interim responses.
#[derive(Clone)]
pub(crate) struct Relay(Arc<dyn Fn(StatusCode, HeaderMap) + Send + Sync>);

impl Relay {
    pub(crate) fn new(to: impl Fn(StatusCode, HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Arc::new(to))
    }

    /// Passes on a head as it came.
    pub(super) fn pass(&self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        strip_hop_by_hop(&mut headers, false);
        (self.0)(status, headers);
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relay")
    }
}

/// A request on its way to an endpoint. It is passed on in a box: through so many futures that each would have room
/// for a copy.
pub(crate) struct Outbound {
    pub(crate) parts: Parts,
    pub(crate) body: Body,
}

impl Outbound {
    /// A copy of the head alone.
    pub(crate) fn without_body(parts: &Parts) -> Box<Self> {
        Box::new(Self {
            parts: parts.clone(),
            body: Body::empty(),
        })
    }
}

impl From<Request<Body>> for Outbound {
    fn from(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        Self { parts, body }
    }
}

/// A response head with its body, before anybody looks after its end.
pub(super) struct Sent {
    pub(super) response: Response<Body>,
    pub(super) keep: Keep,
    /// The bodies are the two directions of a tunnel.
    pub(super) tunnel: bool,
}

/// Guards that have to live as long as the response, if its body does not hold them.
pub(super) enum Keep {
    Nothing,
    Http1(Box<(Arc<Host>, http1::Connection)>),
    /// Task that moves bytes into a tunnel.
    Tunnel(AbortHandle),
    Http2 {
        slot: http2::Slot,
        pipe: Option<AbortHandle>,
    },
}

/// A request that got no response.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) failure: Failure,
    /// Its body, if not a byte was written.
    pub(crate) returned: Option<Box<Body>>,
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            returned: None,
        }
    }
}

impl Unsent {
    /// The body with which the request may be sent once more, if the connection that took it had carried others and turned
    /// out to be closed: nothing was written, or nothing came back and the request may be repeated (RFC 9110 §9.2.2).
    /// It is the same attempt, not a retry.
    pub(crate) fn renew(&mut self, method: &Method, empty: bool) -> Option<Body> {
        let closed = matches!(self.failure, Failure::Terminated);
        match self.returned.take() {
            Some(body) => Some(*body),
            None => (closed && empty && is_idempotent(method)).then(Body::empty),
        }
    }
}

fn is_idempotent(method: &Method) -> bool {
    method.is_safe() || *method == Method::PUT || *method == Method::DELETE
}

/// Counts a request as long as it lives.
struct Active {
    host: Arc<Host>,
    _request: Place,
}

impl Active {
    fn new(host: Arc<Host>, request: Place) -> Self {
        host.active.fetch_add(1, Ordering::Relaxed);
        host.shared.stats.upstream_rq_total.add();
        Self {
            host,
            _request: request,
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.host.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends a request on a leased connection and gives the response, whose body looks after the rest:
/// it ends the request if it ends first, and gives the connection back.
///
/// `deadline` begins to run when the request was sent, and covers the response's body too.
pub(crate) async fn send(
    host: &Arc<Host>,
    lease: Lease,
    request: Box<Outbound>,
    sending: &mut Sending,
    deadline: &mut Deadline,
) -> Result<Response<Body>, Unsent> {
    let span = sending.span.take();
    let sending = &*sending;
    let witness = lease.witness();
    let active = Active::new(host.clone(), lease.request);
    deadline.bound(sending.duration.or(host.shared.cluster.max_stream_duration));
    let mut attempt = Deadline::new(sending.try_limit);
    attempt.bound(sending.head_limit);
    let progress = Arc::new(Progress::default());
    let sent = {
        let send = async {
            match lease.on {
                On::Http1(lease) => lease.send(request, sending, &progress).await,
                On::Http2(lease) => lease.send(request, sending, &progress).await,
            }
        };
        let mut send = std::pin::pin!(send);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(sent) = send.as_mut().poll(cx) {
                return Poll::Ready(sent);
            }
            if let Poll::Ready(failure) = deadline.poll(cx, &progress) {
                return Poll::Ready(Err(failure.into()));
            }
            // Both limits are of this attempt alone.
            let over = attempt.poll(cx, &progress);
            over.map(|_| Err(Failure::TryTimeout.into()))
        })
        .await
    };
    let stats = &host.shared.stats;
    let limits = host.shared.cluster.response_headers;
    let sent = sent.and_then(|sent| match response_fits(&sent.response, limits) {
        true => Ok(sent),
        false => Err(Failure::Protocol.into()),
    });
    let sent = match sent {
        Ok(sent) => sent,
        Err(unsent) => {
            // What sends the request's body may be a task of its own.
            progress.cancel();
            count(stats, &unsent.failure);
            if let Some(span) = &span {
                span.failed(&unsent.failure.to_string());
            }
            if let (Failure::Timeout | Failure::TryTimeout, Some(witness)) =
                (&unsent.failure, &witness)
            {
                host.http2().distrust(witness);
            }
            return Err(unsent);
        }
    };
    stats.status(sent.response.status());
    if let Some(span) = &span {
        span.answered(&sent.response);
    }
    let watch = ResponseWatch {
        tunnel: sent.tunnel,
        // A tunnel is no response that could take too long.
        deadline: match sent.tunnel {
            true => Deadline {
                limit: None,
                ..deadline.of_response()
            },
            false => deadline.of_response(),
        },
        progress,
        keep: sent.keep,
        active,
        span,
    };
    Ok(sent
        .response
        .map(|body| Body::new(Watched::new(body, watch))))
}

/// Sends a request that only its caller limits.
pub(crate) async fn send_once(
    host: &Arc<Host>,
    asked: Lending,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let mut request = Box::new(Outbound::from(request));
    let mut fresh = asked.fresh;
    loop {
        let lease = host.lease(Lending { fresh, ..asked }).await?;
        let empty = request.body.is_end_stream();
        let again = (lease.reused() && !fresh).then(|| Outbound::without_body(&request.parts));
        let mut deadline = Deadline::default();
        let sent = send(host, lease, request, &mut Sending::default(), &mut deadline).await;
        let (mut unsent, mut again) = match (sent, again) {
            (Ok(response), _) => return Ok(response),
            (Err(unsent), None) => return Err(unsent.failure),
            (Err(unsent), Some(again)) => (unsent, again),
        };
        again.body = match unsent.renew(&again.parts.method, empty) {
            Some(body) => body,
            None => return Err(unsent.failure),
        };
        request = again;
        fresh = true;
    }
}

/// Takes note of what ended a request.
fn count(stats: &ClusterStats, failure: &Failure) {
    match failure {
        Failure::Timeout => stats.upstream_rq_timeout.add(),
        Failure::TryTimeout => stats.upstream_rq_per_try_timeout.add(),
        Failure::Duration => stats.upstream_rq_max_duration_reached.add(),
        Failure::Reset { refused: false } => stats.upstream_rq_rx_reset.add(),
        _ => {}
    }
}

/// The time that a response may take, counted from the end of the request, and the time that both may.
///
/// An upstream that takes nothing of a request for so long, and does not respond, is given up as well. Envoy has room for nearly all of any request, and
/// begins to count when it has read that; here it is not read before the upstream takes it.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    limit: Option<Duration>,
    /// When the limit passes, once the request has ended. It holds for all attempts together.
    end: Option<Instant>,
    /// Until the end, or until the next look at a request that has not ended.
    sleep: Option<Pin<Box<Sleep>>>,
    whole: Option<Pin<Box<Sleep>>>,
    /// The response has begun.
    responded: bool,
}

impl Deadline {
    /// `None` is no limit.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// The request has ended.
    pub(crate) fn begin(&mut self) {
        if self.end.is_none() {
            let end = |limit| Instant::now().checked_add(limit);
            self.end = self.limit.and_then(end);
        }
    }

    /// The outcome of a wait, or [`Failure::Timeout`] if the limit passes meanwhile. A request that has not ended has none;
    /// `request` tells when it does.
    pub(crate) async fn within<T>(
        &mut self,
        request: Option<&Progress>,
        mut wait: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Failure> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            if let Some(request) = request
                && self.end.is_none()
                && request.poll_done(cx).is_ready()
            {
                self.begin();
            }
            self.poll_end(cx).map(Err)
        })
        .await
    }

    /// An attempt begins, which may take so long as a whole.
    fn bound(&mut self, whole: Option<Duration>) {
        self.whole = whole.map(|whole| Box::pin(tokio::time::sleep(whole)));
    }

    /// Returns the part that is left for a response. Another attempt, if this response leads to one, has as much.
    fn of_response(&mut self) -> Self {
        Self {
            limit: self.limit,
            end: self.end,
            sleep: self.sleep.take(),
            whole: self.whole.take(),
            responded: true,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<Failure> {
        if let Some(whole) = &mut self.whole
            && whole.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Failure::Duration);
        }
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        if self.end.is_none() {
            if progress.poll_done(cx).is_pending() {
                return match self.responded {
                    true => Poll::Pending,
                    false => self.poll_stall(limit, cx, progress),
                };
            }
            self.begin();
        }
        self.poll_end(cx)
    }

    /// Ready when the upstream has taken nothing for as long as `limit`.
    fn poll_stall(
        &mut self,
        limit: Duration,
        cx: &mut Context<'_>,
        progress: &Progress,
    ) -> Poll<Failure> {
        loop {
            let since = progress.stalled_since();
            let look = since.unwrap_or_else(Instant::now).checked_add(limit);
            let Some(look) = look else {
                return Poll::Pending;
            };
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(sleep_until(look)));
            ready!(sleep.as_mut().poll(cx));
            if since.is_some() && look <= Instant::now() {
                return Poll::Ready(Failure::Timeout);
            }
            sleep.as_mut().reset(look);
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let Some(end) = self.end else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if sleep.deadline() != end {
            sleep.as_mut().reset(end);
        }
        sleep.as_mut().poll(cx).map(|()| Failure::Timeout)
    }
}

struct ResponseWatch {
    /// The directions of a tunnel end each for itself.
    tunnel: bool,
    progress: Arc<Progress>,
    keep: Keep,
    deadline: Deadline,
    active: Active,
    span: Option<Attempt>,
}

/// Returns whether the upstream reset the stream of a response that had begun.
fn is_reset(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error
        .downcast_ref::<UpstreamFailure>()
        .and_then(|failure| failure.source.as_ref()?.downcast_ref::<h2::Error>())
        .is_some_and(|error| {
            error.is_remote()
                && error.is_reset()
                && error.reason() != Some(h2::Reason::REFUSED_STREAM)
        })
}

impl Watch for ResponseWatch {
    fn before(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        match self.deadline.poll(cx, &self.progress) {
            Poll::Ready(failure) => {
                count(&self.active.host.shared.stats, &failure);
                let told = failure.told(false);
                Err(
                    UpstreamFailure::new(told.status, told.details, ResponseFlags::new(told.flags))
                        .into(),
                )
            }
            Poll::Pending => Ok(()),
        }
    }

    fn failed(&mut self, error: BoxError) -> BoxError {
        if is_reset(&*error) {
            let reset = Failure::Reset { refused: false };
            count(&self.active.host.shared.stats, &reset);
        }
        match error.downcast_ref::<UpstreamFailure>() {
            Some(_) => error,
            None => Failure::Protocol.after_start(Some(error)).into(),
        }
    }

    fn end(&mut self, result: Result<(), &BoxError>) {
        let keep = std::mem::replace(&mut self.keep, Keep::Nothing);
        let half = self.tunnel && result.is_ok();
        if let (Some(span), Err(error)) = (&self.span, result) {
            span.failed(&error.to_string());
        }
        let complete = result.is_ok() && self.progress.is_done();
        if let Some(time) = self.progress.since_done().filter(|_| complete) {
            let stats = &self.active.host.shared.stats;
            let trace = self.span.as_ref().map(Attempt::trace_id);
            stats.upstream_rq_time.record(time, trace);
        }
        if !complete && !half {
            self.progress.cancel();
        }
        match keep {
            Keep::Http1(kept) if complete => {
                let (host, connection) = *kept;
                http1::give_back(&host, connection);
            }
            Keep::Http2 { pipe, slot } => {
                if let (Some(pipe), false) = (pipe, complete || half) {
                    pipe.abort();
                }
                drop(slot);
            }
            // What is left may wait for an upstream that reads nothing.
            Keep::Http1(kept) => kept.1.close(),
            Keep::Tunnel(pipe) if !half => pipe.abort(),
            Keep::Tunnel(_) | Keep::Nothing => {}
        }
    }
}
