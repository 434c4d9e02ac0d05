//! From a response as the chain gave it to one that goes on the wire.

use std::{
    borrow::Cow,
    cell::RefCell,
    error::Error,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use extproc_client::host::{BufferAccount, Origin, Outcome, ResponseFlags, UpstreamFailure};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use http_body::Frame;

use super::{chains::ListenerShared, proxy_status, timers::Running};
use crate::{
    config::snapshot::ServerHeader,
    exchange::{Exchange, header_changes::add_route_headers, record::Reply},
    http::{
        body::{Body, BoxError, Watch, Watched},
        headers::{REQUEST_ID, append_to_list, strip_hop_fields, trim_values},
        length, local_reply,
        portions::Portions,
    },
    telemetry::{self, stats::Held},
    trace::Trace,
};

/// Ends the exchange when it is dropped: counts and logs.
pub(super) struct Finish {
    exchange: Arc<Exchange>,
    listener: Held<ListenerShared>,
    timers: Option<Running>,
    /// Bytes of the body that its announced length still asks for.
    left: Option<u64>,
    complete: bool,
}

impl Finish {
    pub(super) fn new(listener: &Arc<ListenerShared>, exchange: Arc<Exchange>) -> Self {
        let stats = &listener.stats;
        stats.downstream_rq_total.add();
        if exchange.version == Version::HTTP_2 {
            stats.downstream_rq_http2_total.add();
        } else {
            stats.downstream_rq_http1_total.add();
        }
        Self {
            listener: Held::new(listener, |listener| &listener.stats.downstream_rq_active),
            exchange,
            timers: None,
            left: None,
            complete: false,
        }
    }

    /// The exchange is over, and another request takes its place.
    pub(super) fn redirected(&mut self, response: &Response<Body>) {
        self.complete = true;
        self.listener.stats.status(response.status());
        if self.exchange.noted() {
            self.exchange.set_reply(Reply::of(response));
        }
    }

    /// Its limits end with the exchange.
    pub(super) fn ends_timers(mut self, timers: Running) -> Self {
        self.timers = Some(timers);
        self
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        if let Some(timers) = &self.timers {
            timers.end();
        }
        let exchange = &self.exchange;
        let ListenerShared { stats, logs, .. } = &*self.listener;
        let trace = exchange.trace.as_ref().and_then(Trace::id);
        let time = exchange.start.elapsed();
        stats.downstream_rq_time.record(time, trace);
        if exchange.is_cut() && !exchange.is_broken() {
            stats.downstream_rq_tx_reset.add();
        } else if !self.complete {
            exchange.leave();
            stats.downstream_rq_rx_reset.add();
        }
        telemetry::finish(exchange, logs, stats);
    }
}

impl Watch for Finish {
    fn data(&mut self, len: usize) {
        self.exchange
            .response_bytes
            .fetch_add(len as u64, Ordering::Relaxed);
        self.exchange.touch();
        // Who has all the bytes that were announced need not ask for the end.
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(len as u64);
            self.complete |= *left == 0;
        }
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.exchange.set_trailers(trailers);
    }

    fn end(&mut self, result: Result<(), &BoxError>) {
        self.complete |= result.is_ok();
        if let Err(error) = result
            && !self.complete
        {
            if let Some((details, flags)) = told(&**error) {
                self.exchange.cut(details, flags);
            }
            tracing::debug!(%error, "response cut short");
        }
    }
}

/// Reason in a body's error: response code details and flags.
fn told(error: &(dyn Error + 'static)) -> Option<(Cow<'static, str>, ResponseFlags)> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<UpstreamFailure>() {
            return Some((failure.details.clone(), failure.flags));
        }
        let filter = error.downcast_ref::<extproc_client::Error>();
        if let Some(details) = filter.and_then(extproc_client::Error::details) {
            return Some((details.to_owned().into(), ResponseFlags::new(0)));
        }
        next = error.source();
    }
    None
}

/// A response body that ends its exchange.
pub(super) type FinalBody = Watched<Portions, Option<Finish>>;

/// The empty body of a head that opens a tunnel, which is what ends the exchange.
pub(super) fn nothing() -> FinalBody {
    Watched::new(Portions::new(Body::empty(), None), None)
}

/// A response that is announced to be empty, which it has to be.
pub(super) async fn confirm_empty(
    mut response: Response<Body>,
    exchange: &Exchange,
    bodyless: bool,
) -> Response<Body> {
    let announced = length::settle(response.headers_mut());
    if bodyless || announced != Some(0) || length::is_empty(response.body()) {
        return response;
    }
    match length::turns_out_empty(response.body_mut()).await {
        Some(true) => *response.body_mut() = Body::empty(),
        Some(false) => return mismatch(exchange),
        None => {}
    }
    response
}

fn mismatch(exchange: &Exchange) -> Response<Body> {
    local_reply::reply(
        exchange.grpc,
        StatusCode::INTERNAL_SERVER_ERROR,
        "".into(),
        length::LENGTH_MISMATCH,
        0,
    )
}

/// Does to a response what holds for all of them.
pub(super) fn finish(
    mut response: Response<Body>,
    exchange: &Arc<Exchange>,
    mut finish: Finish,
    bodyless: bool,
) -> Response<FinalBody> {
    let http = &exchange.http;
    add_route_headers(&mut response, exchange);
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let http2 = exchange.version == Version::HTTP_2;
    let announced = length::settle(response.headers_mut());
    if !bodyless && !upgraded && !length::fits(announced, response.body()) {
        response = mismatch(exchange);
    }
    if let Some(config) = &http.proxy_status {
        proxy_status::add(config, &mut response);
    }
    let status = response.status();
    let outcome = Outcome::of(&response);
    let own = !outcome.is_upstream();
    let closing = outcome.closes;
    let headers = response.headers_mut();
    strip_hop_fields(headers, upgraded && !http2);
    // It speaks of what a client takes, and means nothing in a response.
    headers.remove(header::TE);
    match http.server_header {
        ServerHeader::Overwrite => set_server(headers, &http.server_name),
        ServerHeader::AppendIfAbsent if !headers.contains_key(header::SERVER) => {
            set_server(headers, &http.server_name);
        }
        ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
    }
    if http.request_id_in_response
        && let Some(id) = exchange.request_header(REQUEST_ID)
    {
        headers.insert(REQUEST_ID, id);
    }
    if !http.via.is_empty() {
        append_to_list(headers, "via", ", ", &http.via);
    }
    if http2 {
        trim_values(headers);
        if !headers.contains_key(header::DATE) {
            headers.insert(header::DATE, date());
        }
    }
    // Nobody is going to read the rest of the request, a client that errs is sent away, and HTTP/1.0
    // has no persistence here.
    let closes = !exchange.request_done()
        || own && is_refusal(status)
        || closing
        || exchange.version == Version::HTTP_10;
    let connect = exchange.outgoing.facts.tunnel;
    let tunnel = upgraded || connect && !own && status.is_success();
    if closes && !http2 && !tunnel {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // Over HTTP/2 a message is complete when its stream ends.
    finish.left = length::announced(headers).filter(|_| !http2);
    finish.listener.stats.status(response.status());
    if exchange.noted() {
        let mut reply = Reply::of(&response);
        // Written by hyper over HTTP/1.
        reply.headers.entry(header::DATE).or_insert_with(date);
        exchange.set_reply(reply);
    }
    *response.version_mut() = if http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    response.map(|body| {
        let body = match bodyless {
            false => body,
            true if own || !http2 => Body::empty(),
            // Over HTTP/2 its stream may bring trailers, or end with a reset.
            true => Body::new(Contentless(body)),
        };
        let account: Arc<dyn BufferAccount> = exchange.clone();
        Watched::new(Portions::new(body, Some(account)), Some(finish))
    })
}

/// The body of a response that has none: its bytes go nowhere.
struct Contentless(Body);

impl http_body::Body for Contentless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
            if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                return Poll::Ready(frame);
            }
            if self.0.is_end_stream() {
                return Poll::Ready(None);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// Tells whether no response can be given: the upstream's was lost after it had begun, or the client left while it still sent
/// its request.
pub(super) fn is_cut(response: &Response<Body>, exchange: &Exchange) -> bool {
    let lost = matches!(Outcome::of(response).origin, Origin::Lost);
    let cut = lost || exchange.has_left();
    if cut && exchange.noted() && !exchange.is_broken() {
        exchange.set_reply(Reply::of(response));
    }
    cut
}

/// Returns whether a reply of our own says that the request itself was wrong, so that what follows it on the
/// connection is not to be trusted either.
fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    )
}

fn set_server(headers: &mut HeaderMap, name: &str) {
    if let Ok(name) = HeaderValue::from_str(name) {
        headers.insert(header::SERVER, name);
    }
}

/// Returns whether a response to this request has no body, whatever its head says (RFC 9112 §6.3).
pub(super) fn is_bodyless(head_request: bool, status: StatusCode) -> bool {
    head_request || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// The `date` field for now; made once a second.
fn date() -> HeaderValue {
    thread_local! {
        static NOW: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let now = SystemTime::now();
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    NOW.with_borrow_mut(|known| match known {
        Some((at, value)) if *at == second => value.clone(),
        _ => {
            let value = HeaderValue::try_from(httpdate::fmt_http_date(now))
                .unwrap_or(HeaderValue::from_static(""));
            *known = Some((second, value.clone()));
            value
        }
    })
}
