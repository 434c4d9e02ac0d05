//! The innermost service: does what the route says, forwarding above all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use extproc_client::host::{DirectReply, KeepSent, ResponseDetails, UpstreamInfo};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;

use crate::{
    answered::{Answer, LateAnswers},
    body::Body,
    config::snapshot::{Forward, Retry, RouteAction},
    exchange::{Exchange, Head},
    filters::{Handler, HandlerFuture},
    headers::{is_grpc, join_response_lines, strip_hop_by_hop},
    local, mirror, mutate,
    router::{self, Selected},
    upstream::{Deadline, Failure, Outbound, Sending, Upstream, Upstreams, error::flag, send},
};

/// Request extension: the request is answered with this and goes nowhere.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) details: &'static str,
    pub(crate) location: Option<HeaderValue>,
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Response extension: the route's response headers are in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouteHeadersDone;

/// Response extension: the client's connection ends after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closes;

/// The end of the filter chain.
#[derive(Clone, Debug)]
pub(crate) struct RouterHandler {
    pub(crate) upstreams: Arc<Upstreams>,
}

impl Handler for RouterHandler {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        let upstreams = self.upstreams.clone();
        let head = request.method() == Method::HEAD;
        let mut request = Box::new(Outbound::from(request));
        let late = request.parts.extensions.remove::<LateAnswers>();
        Box::pin(async move {
            let response = answer(&upstreams, request);
            let response = match late {
                Some(late) => late.or(response).await,
                None => response.await,
            };
            let is_local = response
                .extensions()
                .get::<UpstreamInfo>()
                .is_none_or(|info| info.address.is_none());
            // RFC 9110 §9.3.2: no answer to HEAD has content, our own ones included.
            match head && is_local {
                true => response.map(|_| Body::empty()),
                false => response,
            }
        })
    }
}

async fn answer(upstreams: &Upstreams, mut request: Box<Outbound>) -> Response<Body> {
    let parts = &mut request.parts;
    if let Some(response) = parts.extensions.remove::<Answer>().and_then(|a| a.take()) {
        return response;
    }
    if let Some(refusal) = parts.extensions.remove::<Refusal>() {
        let grpc = is_grpc(&parts.headers) && refusal.location.is_none();
        let mut response = local::reply(grpc, refusal.status, "".into(), refusal.details, 0);
        match refusal.location {
            Some(location) => {
                response.headers_mut().insert(header::LOCATION, location);
            }
            // What follows a request that was not understood may be no request.
            None if refusal.status.is_client_error() => {
                response.extensions_mut().insert(Closes);
            }
            None => {}
        }
        return response;
    }
    let Some(exchange) = parts.extensions.remove::<Arc<Exchange>>() else {
        // Only reached if a filter makes up requests, which none does.
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return local::reply(false, status, "".into(), "no_exchange", 0);
    };
    // A filter must not set what belongs to a hop either.
    strip_hop_by_hop(&mut parts.headers, exchange.upgrade);
    parts.headers.remove(header::HOST);
    if exchange.take_route_cleared() {
        exchange.set_route(router::select(&exchange.http, parts));
    }
    let route = exchange.route();
    let shown = route.as_ref().is_some_and(Selected::shows_request);
    let head = (exchange.logged() || shown).then(|| Head::of(parts));
    if let Some(head) = &head {
        exchange.set_head(head.clone());
    }
    let Some(route) = route else {
        exchange.listener.stats.no_route.add();
        let status = match router::is_misdirected(&exchange, parts) {
            true => StatusCode::MISDIRECTED_REQUEST,
            false => StatusCode::NOT_FOUND,
        };
        return local::reply(
            is_grpc(&parts.headers),
            status,
            "".into(),
            "route_not_found",
            flag::NO_ROUTE_FOUND,
        );
    };
    let mut response = match &route.route.action {
        RouteAction::Direct { status, body } => direct(*status, body.clone()),
        RouteAction::Redirect(redirect) => {
            let location = router::redirect_location(parts, &route.route.matches, redirect);
            redirected(redirect.status, &location)
        }
        RouteAction::Forward(forward) => {
            mutate::request(parts, route.request_headers(), &exchange);
            proxy(upstreams, &exchange, &route, forward, request).await
        }
    };
    mutate::response(
        &mut response,
        route.response_headers(),
        &exchange,
        head.as_ref(),
    );
    response.extensions_mut().insert(RouteHeadersDone);
    response
}

fn direct(status: StatusCode, body: bytes::Bytes) -> Response<Body> {
    let length = body.len();
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    if length > 0 {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    let details = ResponseDetails("direct_response".into());
    response.extensions_mut().insert(details);
    response
}

fn redirected(status: StatusCode, location: &str) -> Response<Body> {
    let mut response = direct(status, bytes::Bytes::new());
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn proxy(
    upstreams: &Upstreams,
    exchange: &Arc<Exchange>,
    route: &Selected,
    forward: &Forward,
    mut request: Box<Outbound>,
) -> Response<Body> {
    let Outbound { parts, body } = &mut *request;
    let name = route.cluster_name(parts);
    let grpc = is_grpc(&parts.headers);
    let Some(upstream) = upstreams.get(name) else {
        tracing::warn!(cluster = %name, "the route's cluster is not configured");
        let mut response = failed(grpc, &Failure::UnknownCluster, 0, 0);
        if let (false, Some(status)) = (grpc, forward.missing_cluster) {
            *response.status_mut() = status;
        }
        return response;
    };
    // RFC 9110 §9.3.6: a filter cannot make a tunnel of a message, or a message of a tunnel.
    if (parts.method == Method::CONNECT) != exchange.outgoing.facts.tunnel {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return local::reply(grpc, status, "".into(), "method_not_forwardable", 0);
    }
    // A tunnel is no message that could be copied.
    if !forward.mirrors.is_empty() && !exchange.upgrade {
        let mut copy = parts.clone();
        router::rewrite(&mut copy, &route.route.matches, forward, None);
        let original = std::mem::take(body);
        *body = mirror::start(
            upstreams,
            &forward.mirrors,
            &copy,
            original,
            forward.timeout,
        );
    }
    let asks_head = parts.method == Method::HEAD;
    let keep_sent = parts.extensions.get::<KeepSent>().is_some();
    // They end here, and an attempt that may have to be repeated copies what is left.
    parts.extensions = http::Extensions::new();
    let mut attempts = Attempts {
        exchange,
        route,
        forward,
        upstream,
        keep_sent,
        made: 0,
        deadline: Deadline::new(forward.timeout),
        renewed: false,
    };
    match attempts.run(request).await {
        Ok(mut response) => {
            // Fields of the hop stay for the filters to see, and go when the response does.
            let headers = response.headers_mut();
            if asks_head && !exchange.outgoing.facts.bodyless {
                // A filter made HEAD of it, and nothing is going to come.
                headers.remove(header::CONTENT_LENGTH);
            }
            headers.remove(KEEP_ALIVE);
            join_response_lines(headers);
            response
                .extensions_mut()
                .insert(ResponseDetails("via_upstream".into()));
            response
        }
        Err(failure) => {
            let exhausted = attempts.made > 1 && forward.retry.is_some();
            let flags = if exhausted {
                flag::RETRY_LIMIT_EXCEEDED
            } else {
                0
            };
            failed(grpc, &failure, attempts.made, flags)
        }
    }
}

fn failed(grpc: bool, failure: &Failure, made: u32, flags: u64) -> Response<Body> {
    let told = failure.told();
    let mut response = local::reply(
        grpc,
        told.status,
        told.body,
        told.details,
        told.flags | flags,
    );
    let transport_failure_reason = match failure {
        Failure::Connect(_) => failure.to_string(),
        _ => String::new(),
    };
    let extensions = response.extensions_mut();
    extensions.insert(UpstreamInfo {
        attempts: made.into(),
        transport_failure_reason,
        ..UpstreamInfo::default()
    });
    if matches!(failure, Failure::Request) {
        // The client is gone or broke its message: there is nothing left to process.
        extensions.insert(DirectReply);
    }
    response
}

/// The attempts to get one response.
struct Attempts<'a> {
    exchange: &'a Arc<Exchange>,
    route: &'a Selected,
    forward: &'a Forward,
    upstream: &'a Upstream,
    made: u32,
    deadline: Deadline,
    /// Response attributes will ask for the head that was sent.
    keep_sent: bool,
    /// A request that a stale connection swallowed was sent again.
    renewed: bool,
}

impl Attempts<'_> {
    async fn run(&mut self, mut request: Box<Outbound>) -> Result<Response<Body>, Failure> {
        loop {
            self.made += 1;
            let (outcome, again) = self.attempt(request).await;
            let retry = match &outcome {
                Ok(response) => self.wants_retry_of(response.status()),
                Err(failure) => self.wants_retry_after(failure),
            };
            match again {
                Some(again) if retry || again.stale => {
                    if !again.stale {
                        self.upstream.shared.stats.upstream_rq_retry.add();
                        tokio::time::sleep(backoff(self.made)).await;
                    }
                    request = again.request;
                }
                _ => return outcome,
            }
        }
    }

    fn policy(&self) -> Option<&Retry> {
        self.forward
            .retry
            .as_ref()
            .filter(|retry| self.made <= retry.count)
    }

    fn wants_retry_after(&self, failure: &Failure) -> bool {
        self.policy()
            .is_some_and(|retry| failure.retriable(&retry.on))
    }

    fn wants_retry_of(&self, status: StatusCode) -> bool {
        let Some(retry) = self.policy() else {
            return false;
        };
        retry.on.iter().any(|on| match on.as_str() {
            "5xx" => status.is_server_error(),
            "gateway-error" => matches!(status.as_u16(), 502..=504),
            "retriable-4xx" => status == StatusCode::CONFLICT,
            "retriable-status-codes" => retry.status_codes.contains(&status.as_u16()),
            _ => false,
        })
    }

    /// One attempt, and what is needed for another one if that is possible.
    async fn attempt(
        &mut self,
        mut request: Box<Outbound>,
    ) -> (Result<Response<Body>, Failure>, Option<Again>) {
        let Outbound { parts, body } = &mut *request;
        let begun = Instant::now();
        let tunnel = self.exchange.upgrade;
        let client_http2 = self.exchange.version == http::Version::HTTP_2;
        let host = match self.upstream.choose(&parts.headers).await {
            Ok(host) => host,
            Err(failure) => return (Err(failure), None),
        };
        let lease = match host.lease(client_http2, tunnel || self.renewed).await {
            Ok(lease) => lease,
            Err(failure) => return (Err(failure), Some(Again::new(request))),
        };
        let pool_ready = begun.elapsed();
        let reused = lease.reused();
        let local = lease.local();
        let empty = body.is_end_stream() && !tunnel;
        let idempotent = reused && !self.renewed && is_idempotent(&parts.method);
        let repeatable = match empty {
            true => idempotent || self.policy().is_some(),
            false => reused,
        };
        let again = repeatable.then(|| Again::new(Outbound::without_body(parts)));
        let sending = Sending {
            interim: (self.exchange.version != http::Version::HTTP_10)
                .then(|| self.exchange.outgoing.clone()),
            tunnel,
            connect: parts.method == Method::CONNECT,
            keyless: client_http2,
        };
        router::rewrite(
            parts,
            &self.route.route.matches,
            self.forward,
            Some(&host.hostname),
        );
        let sent_head = self.keep_sent.then(|| Arc::new(parts.clone()));
        if empty {
            *body = Body::empty();
        }
        let sent = send(&host, lease, request, &sending, &mut self.deadline);
        let retry = self.forward.retry.as_ref();
        let limits = [
            retry.and_then(|retry| retry.per_try_timeout),
            self.upstream.cluster.response_timeout,
        ];
        let sent = match limits.into_iter().flatten().min() {
            Some(limit) => Box::pin(tokio::time::timeout(limit, sent))
                .await
                .unwrap_or_else(|_| Err(Failure::Timeout.into())),
            None => sent.await,
        };
        match sent {
            Ok(mut response) => {
                response.extensions_mut().insert(UpstreamInfo {
                    address: host.socket(),
                    local_address: local,
                    attempts: self.made.into(),
                    pool_ready: Some(pool_ready),
                    begun: Some(begun + pool_ready),
                    transport_failure_reason: String::new(),
                    host_metadata: host.metadata.clone(),
                    sent: sent_head,
                });
                (Ok(response), again.filter(|_| empty))
            }
            Err(unsent) => {
                tracing::debug!(
                    cluster = %self.upstream.cluster.name,
                    address = %host.address,
                    failure = %unsent.failure,
                    "upstream request failed"
                );
                let again = match (again, unsent.returned) {
                    (Some(again), Some(body)) if reused && !self.renewed => {
                        self.renewed = true;
                        Some(Again {
                            request: Box::new(Outbound {
                                body,
                                ..*again.request
                            }),
                            stale: true,
                        })
                    }
                    (Some(again), None) if empty => {
                        let stale = idempotent && matches!(unsent.failure, Failure::Terminated);
                        self.renewed |= stale;
                        Some(Again { stale, ..again })
                    }
                    _ => None,
                };
                (Err(unsent.failure), again)
            }
        }
    }
}

struct Again {
    request: Box<Outbound>,
    /// The connection had been closed by the peer: to send again is no retry.
    stale: bool,
}

impl Again {
    fn new(request: Box<Outbound>) -> Self {
        Self {
            request,
            stale: false,
        }
    }
}

fn is_idempotent(method: &Method) -> bool {
    method.is_safe() || *method == Method::PUT || *method == Method::DELETE
}

/// 25 ms doubled with each attempt, at most 250 ms, a random part of it.
fn backoff(made: u32) -> Duration {
    let most = 25u64.saturating_mul(1 << made.min(4)).min(250);
    Duration::from_millis(rand::random_range(0..=most))
}
