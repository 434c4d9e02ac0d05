//! The innermost service: does what the route says, forwarding above all.

mod attempts;
mod filtered;
mod policy;
mod redirect;
pub(crate) mod replay;
pub(crate) mod shadow;

use std::{pin::pin, sync::Arc};

use extproc_client::host::{ExchangeContext, Held, Origin, Outcome, ResponseFlags, UpstreamInfo};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts,
};
use http_body::Body as _;

pub(crate) use self::filtered::{ClusterFilters, HandOver};
use self::{
    attempts::{ATTEMPT_COUNT, Attempts},
    policy::Policy,
    redirect::Candidate,
};
use crate::{
    config::snapshot::{Forward, Redirect, ReplyFormat, RouteAction, flag},
    exchange::{
        self, Exchange,
        answer::ResponseFuture,
        chain::Serve,
        header_changes,
        host::{self, Passage},
        record::{Head, Reply},
    },
    forward::replay::Kept,
    http::{
        body::Body,
        hash::Hashed,
        headers::{join_response_lines, strip_hop_fields},
        local_reply,
    },
    limits::throttle::Throttle,
    route::{self, Selected, Unwritable},
    telemetry::stats::HttpStats,
    upstream::{self, Failure, Outbound, Upstreams},
};

/// Says that nobody was asked, for lack of room.
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The end of the filter chain.
#[derive(Clone, Debug)]
pub(crate) struct RouterHandler(pub(crate) Arc<Means>);

/// Clusters, their filters, and counters of the connection manager.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) filters: Arc<ClusterFilters>,
}

impl Serve for RouterHandler {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let means = self.0.clone();
        let mut request = Box::new(Outbound::from(request));
        let passage = Passage::of_head_mut(&mut request.parts);
        let late = passage.map(|passage| std::mem::take(&mut passage.late));
        let late = late.filter(|late| !late.0.is_empty());
        let exchange = Exchange::of_head(&request.parts);
        let head = exchange.is_some_and(|exchange| exchange.outgoing.facts.bodyless);
        let logged = exchange.filter(|exchange| exchange.noted()).cloned();
        Box::pin(async move {
            let response = {
                let response = pin!(answer(&means, request));
                match late {
                    Some(late) => late.or(response).await,
                    None => response.await,
                }
            };
            // For clients that leave before the filters have seen it.
            if let Some(exchange) = logged
                && !matches!(Outcome::of(&response).origin, Origin::Final)
            {
                exchange.set_reply(Reply::of(&response));
            }
            let is_local = !Outcome::of(&response).is_upstream();
            // RFC 9110 §9.3.2: no answer to HEAD has content, our own ones included.
            match head && is_local {
                true => response.map(|_| Body::empty()),
                false => response,
            }
        })
    }
}

async fn answer(means: &Means, mut request: Box<Outbound>) -> Response<Body> {
    let parts = &mut request.parts;
    let Some(Passage {
        exchange, answer, ..
    }) = Passage::take(parts)
    else {
        // Only reached if a filter makes up requests, which none does.
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return local_reply::reply(false, status, "".into(), "no_exchange", 0);
    };
    if let Some(mut response) = answer.and_then(|answer| answer.take()) {
        header_changes::add_route_headers(&mut response, &exchange);
        return response;
    }
    // A filter must not set what belongs to a hop either.
    strip_hop_fields(&mut parts.headers, exchange.upgrade);
    parts.headers.remove(header::HOST);
    let route = exchange.current_route(parts);
    let shown = route.as_ref().is_some_and(Selected::shows_request);
    let noted = exchange.noted() || shown;
    if noted {
        exchange.set_head(Head::of(parts));
    }
    let Some(route) = route else {
        means.stats.no_route.add();
        return no_route(&exchange, parts);
    };
    let mut declined = HeaderMap::new();
    let mut response = match &route.route.action {
        RouteAction::Forward(forward) => {
            let policy = Policy::take(forward, &exchange, parts);
            if route.request_headers().next().is_some() {
                header_changes::request(parts, route.request_headers(), &exchange);
                if noted {
                    exchange.set_head(Head::of(parts));
                }
            }
            let host = route.cluster().and_then(|own| own.host_rewrite.clone());
            if let Some(host) = host {
                route::set_authority(parts, host);
            }
            if let Some(name) = exchange.unsendable() {
                let failure = Failure::HeaderValue(name.clone());
                let mut response = failed(exchange.grpc, &failure, UpstreamInfo::default(), 0);
                keep_sent(parts, &mut response);
                header_changes::finish(&mut response, &exchange);
                return response;
            }
            let response = pin!(proxy(
                means,
                &exchange,
                &route,
                forward,
                &policy,
                request,
                &mut declined
            ));
            exchange
                .or_reply(response)
                .await
                .unwrap_or_else(|reply| reply)
        }
        RouteAction::Direct {
            status,
            body,
            format,
        } => {
            let mut response = written(&exchange, parts, *status, body, format.as_deref());
            if *status == StatusCode::CREATED || status.is_redirection() {
                // As in Envoy, it points to where the request went.
                let matches = &route.route.matches;
                let own = route::redirect_location(parts, matches, &Redirect::default());
                set_location(&mut response, &own.unwrap_or_default());
            }
            keep_sent(parts, &mut response);
            response
        }
        RouteAction::Redirect(redirect) => {
            match route::redirect_location(parts, &route.route.matches, redirect) {
                Ok(location) => {
                    let mut response = direct(&exchange, redirect.status, bytes::Bytes::new());
                    set_location(&mut response, &location);
                    keep_sent(parts, &mut response);
                    response
                }
                Err(reason) => {
                    let tried = UpstreamInfo::default();
                    failed(exchange.grpc, &unwritable(reason), tried, 0)
                }
            }
        }
    };
    let head = shown.then(|| exchange.head()).flatten();
    header_changes::response(
        &mut response,
        route.response_headers(),
        &exchange,
        head.as_ref(),
    );
    // As in Envoy, what a route does to a response's fields is done before these are there.
    let headers = response.headers_mut();
    for (name, value) in &declined {
        headers.append(name, value.clone());
    }
    header_changes::finish(&mut response, &exchange);
    response
}

/// The response to a request that no route is for.
fn no_route(exchange: &Exchange, parts: &Parts) -> Response<Body> {
    let status = match is_misdirected(exchange, parts) {
        true => StatusCode::MISDIRECTED_REQUEST,
        false => StatusCode::NOT_FOUND,
    };
    let flags = flag::NO_ROUTE_FOUND;
    let mut response =
        local_reply::reply(exchange.grpc, status, "".into(), "route_not_found", flags);
    keep_sent(parts, &mut response);
    header_changes::finish(&mut response, exchange);
    response
}

/// The response that stands in the route, its body in the form that is written there.
fn written(
    exchange: &Exchange,
    parts: &Parts,
    status: StatusCode,
    body: &bytes::Bytes,
    format: Option<&ReplyFormat>,
) -> Response<Body> {
    let Some(format) = format else {
        return direct(exchange, status, body.clone());
    };
    let head = Head::of(parts);
    let text = exchange::local_reply::of_route(format, body, exchange, &head);
    let mut response = direct(exchange, status, text.into());
    let headers = response.headers_mut();
    if headers.contains_key(header::CONTENT_TYPE) && !exchange.grpc {
        headers.insert(header::CONTENT_TYPE, format.content_type.clone());
    }
    response
}

/// Returns whether a request came on a connection that was opened for another name, and is for none that is served
/// there: the client may have more luck with a connection of its own (RFC 9110 §15.5.20).
fn is_misdirected(exchange: &Exchange, request: &Parts) -> bool {
    let asked = exchange.peer.tls.as_ref().map(|tls| &tls.server_name);
    let host = request.uri.host().unwrap_or_default();
    asked.is_some_and(|asked| !asked.is_empty() && !asked.eq_ignore_ascii_case(host))
        && route::virtual_host(&exchange.http, request).is_none()
}

fn direct(exchange: &Exchange, status: StatusCode, body: bytes::Bytes) -> Response<Body> {
    local_reply::reply_with(exchange.grpc, status, body, "direct_response", 0)
}

fn set_location(response: &mut Response<Body>, location: &str) {
    if let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
}

/// Tells whether response attributes may speak of the head of the request.
fn is_kept(parts: &Parts) -> bool {
    ExchangeContext::of_head(parts).is_some_and(|context| context.keep_sent)
}

/// The failure of a request whose target cannot be rewritten.
fn unwritable(reason: Unwritable) -> Failure {
    match reason {
        Unwritable::Effort => Failure::Rewrite,
        Unwritable::Target => Failure::Target,
    }
}

/// Keeps the head of a request that is answered here, as that of one which is sent, for response attributes.
fn keep_sent(parts: &Parts, response: &mut Response<Body>) {
    if is_kept(parts) {
        let mut sent = parts.clone();
        sent.extensions.clear();
        let info = Outcome::of_mut(response).upstream.get_or_insert_default();
        info.sent = Some(Arc::new(sent));
    }
}

/// The response to a request that the route forwards. `declined` gets the fields with which an upstream declined a WebSocket
/// handshake.
async fn proxy(
    means: &Means,
    exchange: &Arc<Exchange>,
    route: &Selected,
    forward: &Forward,
    policy: &Policy<'_>,
    mut request: Box<Outbound>,
    declined: &mut HeaderMap,
) -> Response<Body> {
    let upstreams = &means.upstreams;
    let Outbound { parts, body } = &mut *request;
    let name = route.cluster_name();
    let grpc = exchange.grpc;
    let Some(upstream) = upstreams.get(name) else {
        return no_cluster(exchange, route, forward);
    };
    // A tunnel is no message that could be copied.
    if !forward.mirrors.is_empty() && !exchange.upgrade {
        let mut copy = parts.clone();
        // The request itself fails of it where it is rewritten.
        if route::rewrite(&mut copy, &route.route.matches, forward, None).is_ok() {
            let original = std::mem::take(body);
            *body = shadow::start(
                means,
                exchange,
                route,
                forward,
                &copy,
                original,
                policy.timeout,
            );
        }
    }
    let websocket = exchange.upgrade && upstream::is_websocket(&parts.headers);
    let keep_sent = is_kept(parts);
    // They end here, and an attempt that may have to be repeated copies what is left.
    host::strip(parts);
    let candidate = Candidate::of(forward, parts, exchange);
    let again = policy.count > 0 || candidate.is_some();
    let kept = (again && !body.is_end_stream() && !exchange.upgrade).then(|| {
        let held = Held::new(Some(exchange.clone()));
        let limit = route.route.request_buffer.unwrap_or(exchange.buffer);
        Kept::new(std::mem::take(body), limit, held)
    });
    if let Some(first) = kept.as_ref().and_then(Kept::replay) {
        *body = first;
    }
    let mut cookies = Vec::new();
    let hash = Hashed {
        line: Some((&request.parts.method, &request.parts.uri)),
        headers: &request.parts.headers,
        addresses: Some((exchange.client, exchange.peer.local)),
    }
    .hash(&forward.hash_policy, &mut cookies);
    let filters = means.filters.of(name);
    let matches = &route.route.matches;
    let mut attempts = Attempts {
        keep_sent,
        hash,
        noted: exchange.noted() || route.shows_request(),
        kept,
        ..Attempts::new(exchange, matches, forward, policy, upstream, filters)
    };
    match attempts.run(request).await {
        Ok(mut response) => {
            if let Some(candidate) = candidate
                && candidate.is_met_by(response.status())
            {
                let stats = &upstream.shared.stats;
                let kept = attempts.kept.take();
                match candidate.follow(response, route, kept, exchange) {
                    Ok(followed) => {
                        stats.upstream_internal_redirect_succeeded_total.add();
                        return followed;
                    }
                    Err(shown) => {
                        stats.upstream_internal_redirect_failed_total.add();
                        response = *shown;
                    }
                }
            }
            // Fields of the hop stay for the filters to see, and go when the response does.
            let headers = response.headers_mut();
            for cookie in cookies {
                headers.append(header::SET_COOKIE, cookie);
            }
            headers.remove(KEEP_ALIVE);
            if forward.count_for_client {
                headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempts.made));
            }
            join_response_lines(headers);
            let flags = match attempts.overflown {
                true => flag::UPSTREAM_OVERFLOW,
                false if attempts.is_exhausted_by(&response) => flag::RETRY_LIMIT_EXCEEDED,
                false => 0,
            };
            if flags != 0 {
                Outcome::of_mut(&mut response).flags = ResponseFlags::new(flags);
            }
            let status = response.status();
            if websocket && (status.is_success() || status.is_redirection()) {
                (response, *declined) = not_switched(response);
            }
            response
        }
        Err(failure) => {
            let exhausted = attempts.made > policy.count && policy.meets(&failure);
            let flags = match attempts.overflown {
                true => flag::UPSTREAM_OVERFLOW,
                false if exhausted => flag::RETRY_LIMIT_EXCEEDED,
                false => 0,
            };
            let mut response = failed(grpc, &failure, attempts.tried, flags);
            if forward.count_for_client {
                let headers = response.headers_mut();
                headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempts.made));
            }
            if policy.quiet && !grpc && matches!(failure, Failure::Timeout) {
                *response.status_mut() = StatusCode::NO_CONTENT;
                *response.body_mut() = Body::empty();
                response.headers_mut().remove(header::CONTENT_TYPE);
                response.headers_mut().remove(header::CONTENT_LENGTH);
            }
            response
        }
    }
}

/// The response to a request for a cluster that is not configured.
fn no_cluster(exchange: &Exchange, route: &Selected, forward: &Forward) -> Response<Body> {
    static UNKNOWN: Throttle = Throttle::new();
    let name = route.cluster_name();
    // A route that forwards nowhere says no name, and a request may say none.
    if !name.is_empty()
        && let Some(suppressed) = UNKNOWN.pass()
    {
        tracing::warn!(cluster = %name, suppressed, "the route's cluster is not configured");
    }
    exchange.set_route(Some(route.unnamed()));
    let (grpc, failure) = (exchange.grpc, Failure::UnknownCluster);
    let mut response = failed(grpc, &failure, UpstreamInfo::default(), 0);
    if let (false, Some(status)) = (grpc, forward.missing_cluster) {
        *response.status_mut() = status;
    }
    response
}

/// Makes a local reply of the head with which an upstream declined a WebSocket handshake, as Envoy does: a handshake has no
/// use for a body. Errors pass with theirs. Gives the fields apart.
fn not_switched(response: Response<Body>) -> (Response<Body>, HeaderMap) {
    let mut response = response.map(|_| Body::empty());
    let code = response.status();
    let mut fields = std::mem::take(response.headers_mut());
    fields.remove(header::CONTENT_LENGTH);
    fields.remove(header::CONTENT_TYPE);
    let outcome = Outcome::of_mut(&mut response);
    outcome.local = Some(code);
    outcome.details = Some("websocket_handshake_unsuccessful".into());
    (response, fields)
}

fn failed(grpc: bool, failure: &Failure, mut tried: UpstreamInfo, flags: u64) -> Response<Body> {
    let told = failure.told(tried.attempts > 1);
    let mut response = local_reply::reply(
        grpc,
        told.status,
        told.body,
        told.details,
        told.flags | flags,
    );
    if matches!(failure, Failure::Overflow) {
        let headers = response.headers_mut();
        headers.insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    let transport_failure_reason = match failure {
        Failure::Connect(_) => failure.to_string(),
        _ => String::new(),
    };
    let outcome = Outcome::of_mut(&mut response);
    tried.transport_failure_reason = transport_failure_reason;
    tried.failed = true;
    outcome.upstream = Some(tried);
    if matches!(failure, Failure::Request | Failure::Trailers) {
        // The client is gone or broke its message: there is nothing left to process.
        outcome.origin = Origin::Final;
    }
    response
}
