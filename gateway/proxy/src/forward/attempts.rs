//! The attempts that a route allows to get one response.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Instant,
};

use extproc_client::host::{EarlierAttempt, Outcome, UpstreamInfo};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header, uri::Scheme};
use http_body::Body as _;

use super::policy::Policy;
use crate::{
    config::snapshot::{Forward, RouteMatch, SchemeHeader},
    exchange::{Exchange, chain::Chain},
    forward::replay::Kept,
    http::{authority::with_scheme, body::Body, headers::strip_nominated, portions::Portions},
    limits::breakers::{Place, Resource},
    route,
    telemetry::spans::Attempt,
    upstream::{
        Deadline, Failure, Host, Lending, Outbound, Progress, Relay, Sending, Upstream, Wanted,
        send,
    },
};

/// The number of an attempt, and in a response that of all.
pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// The attempts to get one response.
pub(super) struct Attempts<'a> {
    pub(super) exchange: &'a Arc<Exchange>,
    pub(super) matches: &'a RouteMatch,
    pub(super) forward: &'a Forward,
    pub(super) policy: &'a Policy<'a>,
    pub(super) upstream: &'a Upstream,
    /// Filters that each attempt goes through.
    pub(super) filters: Option<&'a Chain>,
    /// The body, if it may have to be sent again.
    pub(super) kept: Option<Kept>,
    /// The attempts made. To send the request again because a connection turned out to be closed is none.
    pub(super) made: u32,
    /// Facts about the endpoint that the last attempt goes to.
    pub(super) tried: UpstreamInfo,
    pub(super) deadline: Deadline,
    /// Response attributes will ask for the head that was sent.
    pub(super) keep_sent: bool,
    /// The head is kept for the log or for response headers.
    pub(super) noted: bool,
    /// A request that a stale connection swallowed was sent again.
    pub(super) renewed: bool,
    /// The place of the retry that is under way.
    pub(super) retrying: Option<Place>,
    /// The endpoints that were chosen, if the policy avoids them.
    pub(super) avoided: Vec<Arc<Host>>,
    /// Outcomes of those before the last one.
    pub(super) earlier: Vec<EarlierAttempt>,
    /// The request's hash, if the route asks for one.
    pub(super) hash: Option<u64>,
    /// The priorities of the attempts, if the policy avoids them.
    pub(super) priorities: Vec<u32>,
    /// Those of them that are left out.
    pub(super) passed: Vec<u32>,
    /// There was no place for one more retry.
    pub(super) overflown: bool,
}

impl<'a> Attempts<'a> {
    /// None made yet, of a request whose body is sent once.
    pub(super) fn new(
        exchange: &'a Arc<Exchange>,
        matches: &'a RouteMatch,
        forward: &'a Forward,
        policy: &'a Policy<'a>,
        upstream: &'a Upstream,
        filters: Option<&'a Chain>,
    ) -> Self {
        Self {
            exchange,
            matches,
            forward,
            policy,
            upstream,
            filters,
            kept: None,
            made: 0,
            tried: UpstreamInfo::default(),
            deadline: Deadline::new(policy.timeout),
            keep_sent: false,
            noted: false,
            renewed: false,
            retrying: None,
            avoided: Vec::new(),
            earlier: Vec::new(),
            hash: None,
            priorities: Vec::new(),
            passed: Vec::new(),
            overflown: false,
        }
    }

    pub(super) async fn run(&mut self, request: Box<Outbound>) -> Result<Response<Body>, Failure> {
        let mut outcome = self.repeat(request).await;
        if !self.earlier.is_empty() {
            let told = match &mut outcome {
                Ok(response) => Outcome::of_mut(response).upstream.as_mut(),
                Err(_) => Some(&mut self.tried),
            };
            if let Some(told) = told {
                told.earlier = std::mem::take(&mut self.earlier);
            }
        }
        outcome
    }

    async fn repeat(&mut self, mut request: Box<Outbound>) -> Result<Response<Body>, Failure> {
        if request.body.is_end_stream() && !self.exchange.upgrade {
            self.deadline.begin();
        }
        self.made = 1;
        self.exchange.count_attempt();
        loop {
            if self.forward.count_for_upstream {
                let headers = &mut request.parts.headers;
                headers.insert(ATTEMPT_COUNT, HeaderValue::from(self.made));
            }
            let (outcome, again) = self.attempt(request).await;
            let retry = match &outcome {
                Ok(response) => self.wants_retry_of(response),
                Err(failure) => self.allows_more() && self.policy.meets(failure),
            };
            match again {
                Some(again) if retry || again.stale => {
                    if again.stale {
                        // The endpoint is chosen as if for the first time.
                        self.avoided.pop();
                        self.priorities.pop();
                    } else {
                        self.retrying = None;
                        self.retrying = self
                            .upstream
                            .shared
                            .place(self.forward.priority, Resource::Retry)
                            .ok();
                        if self.retrying.is_none() {
                            self.overflown = true;
                            return outcome;
                        }
                        self.upstream.shared.stats.upstream_rq_retry.add();
                        self.note(&outcome);
                        // What it holds, the next attempt may need.
                        drop(outcome);
                        let back_off = pin!(tokio::time::sleep(self.policy.back_off(self.made)));
                        self.within(back_off).await?;
                        self.made += 1;
                        self.exchange.count_attempt();
                    }
                    request = again.request;
                }
                _ => return outcome,
            }
        }
    }

    /// Keeps the outcome of an attempt that another one follows.
    fn note(&mut self, outcome: &Result<Response<Body>, Failure>) {
        /// More say nothing new.
        const KEPT: usize = 32;
        if self.earlier.len() == KEPT {
            return;
        }
        let (address, outcome) = match outcome {
            Ok(response) => {
                let info = Outcome::of(response).upstream.as_ref();
                let address = info.and_then(|info| info.address);
                (address, response.status().as_str().to_owned())
            }
            Err(failure) => (self.tried.address, failure.to_string()),
        };
        self.earlier
            .push(EarlierAttempt::ended_now(address, outcome));
    }

    /// The outcome of a wait before or between attempts, if the route has time for it.
    async fn within<T>(&mut self, wait: Pin<&mut impl Future<Output = T>>) -> Result<T, Failure> {
        self.within_request(None, wait).await
    }

    /// The same of a wait in which the request may end, which `request` tells.
    pub(super) async fn within_request<T>(
        &mut self,
        request: Option<&Progress>,
        wait: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Failure> {
        let stats = &self.upstream.shared.stats;
        let outcome = self.deadline.within(request, wait).await;
        outcome.inspect_err(|_| stats.upstream_rq_timeout.add())
    }

    /// The request with its body, unless that is `empty`, if all of it is still here.
    pub(super) fn with_body(&self, again: Option<Again>, empty: bool) -> Option<Again> {
        let again = again?;
        if empty {
            return Some(again);
        }
        let body = self.kept.as_ref()?.replay()?;
        let Outbound { parts, .. } = *again.request;
        Some(Again::new(Box::new(Outbound { parts, body })))
    }

    /// Makes the target what the endpoint is to see.
    pub(super) fn rewrite(
        &self,
        parts: &mut http::request::Parts,
        host: &Host,
    ) -> Result<(), Failure> {
        route::rewrite(parts, self.matches, self.forward, Some(&host.hostname))
            .map_err(super::unwritable)?;
        if self.exchange.http.scheme_header == SchemeHeader::MatchUpstream {
            let scheme = match host.tls() {
                Some(_) => Scheme::HTTPS,
                None => Scheme::HTTP,
            };
            parts.uri = with_scheme(std::mem::take(&mut parts.uri), &scheme);
        }
        if self.noted {
            self.exchange.set_target(&parts.uri);
        }
        Ok(())
    }

    pub(super) fn allows_more(&self) -> bool {
        self.made <= self.policy.count
    }

    fn wants_retry_of(&self, response: &Response<Body>) -> bool {
        self.allows_more()
            && self
                .policy
                .meets_response(response.status(), response.headers())
    }

    /// Returns true if one more attempt would have followed, but for their number.
    pub(super) fn is_exhausted_by(&self, response: &Response<Body>) -> bool {
        let (status, headers) = (response.status(), response.headers());
        !self.allows_more() && self.policy.meets_response(status, headers)
    }

    /// Leaves the priorities of the attempts out, every so many attempts; once none is left, all count again.
    fn pass_priorities(&mut self) {
        let Some(every) = self.policy.other_priority() else {
            return;
        };
        if self.priorities.is_empty() || !self.priorities.len().is_multiple_of(every.get()) {
            return;
        }
        self.passed.clone_from(&self.priorities);
        if !self.upstream.is_available_without(&self.passed) {
            self.passed.clear();
            self.priorities.clear();
        }
    }

    /// The endpoint for the next attempt.
    async fn choose(&mut self, headers: &HeaderMap) -> Result<Arc<Host>, Failure> {
        self.pass_priorities();
        let (exchange, upstream) = (self.exchange, self.upstream);
        let passed = std::mem::take(&mut self.passed);
        let mut wanted = Wanted {
            headers,
            metadata: Some(&exchange.metadata),
            redirected_from: exchange.peer.redirected.then_some(exchange.peer.local),
            before: self.made.saturating_sub(1) as usize,
            passed: &passed,
            hash: self.hash,
            again: 0,
        };
        let mut host = self.within(pin!(upstream.choose(&wanted))).await??;
        if self.policy.other_priority().is_some() {
            self.priorities.push(host.priority);
        }
        let others = self.policy.other_host();
        if others > 0 {
            for _ in 0..others {
                if !self.avoided.iter().any(|tried| Arc::ptr_eq(tried, &host)) {
                    break;
                }
                wanted.again += 1;
                host = self.within(pin!(upstream.choose(&wanted))).await??;
            }
            self.avoided.push(host.clone());
        }
        self.passed = passed;
        Ok(host)
    }

    /// One attempt, and what is needed for another one if that is possible.
    async fn attempt(
        &mut self,
        request: Box<Outbound>,
    ) -> (Result<Response<Body>, Failure>, Option<Again>) {
        self.tried = UpstreamInfo::default();
        self.tried.attempts = self.made.into();
        self.tried.response_headers = Some(self.upstream.cluster.response_headers);
        if self.exchange.noted() {
            self.exchange.set_upstream(&self.tried);
        }
        let host = match self.choose(&request.parts.headers).await {
            Ok(host) => host,
            Err(failure) => return (Err(failure), None),
        };
        match self.filters {
            Some(filters) => Box::pin(self.through(filters, host, request)).await,
            None => self.send_to(&host, request, false).await,
        }
    }

    /// Sends a request to an endpoint. A head that went through filters is `rewritten`.
    pub(super) async fn send_to(
        &mut self,
        host: &Arc<Host>,
        mut request: Box<Outbound>,
        rewritten: bool,
    ) -> (Result<Response<Body>, Failure>, Option<Again>) {
        let Outbound { parts, body } = &mut *request;
        // RFC 9110 §9.3.6: a filter cannot make a tunnel of a message, or a message of a tunnel.
        if (parts.method == Method::CONNECT) != self.exchange.outgoing.facts.tunnel {
            return (Err(Failure::Method), None);
        }
        // A filter has made HEAD of it.
        let is_cut = parts.method == Method::HEAD && !self.exchange.outgoing.facts.bodyless;
        let cluster = &self.upstream.cluster.name;
        let span = Attempt::begin(self.exchange, cluster, self.made, parts);
        let begun = Instant::now();
        let tunnel = self.exchange.upgrade;
        let client_http2 = self.exchange.version == http::Version::HTTP_2;
        let asked = Lending {
            priority: self.forward.priority,
            client_http2,
            fresh: tunnel || self.renewed,
            limit: self.policy.timeout,
        };
        let lease = self.within(pin!(host.lease(asked))).await.flatten();
        let pool_ready = begun.elapsed();
        self.tried.address = host.socket();
        self.tried.host_metadata = host.metadata.clone();
        self.tried.pool_ready = Some(pool_ready);
        let lease = match lease {
            Ok(lease) => lease,
            Err(failure) => {
                // It was not asked if there was no room for the request in time.
                if !matches!(failure, Failure::Timeout) {
                    host.failed(&failure);
                }
                if let Some(span) = &span {
                    span.reached(&self.tried);
                    span.failed(&failure.to_string());
                }
                if self.keep_sent || self.noted {
                    let mut parts = parts.clone();
                    if !rewritten && let Err(failure) = self.rewrite(&mut parts, host) {
                        return (Err(failure), None);
                    }
                    self.tried.sent = Some(Arc::new(parts));
                }
                return (Err(failure), Some(Again::new(request)));
            }
        };
        let reused = lease.reused();
        self.tried.local_address = lease.local();
        self.tried.begun = Some(begun + pool_ready);
        if self.exchange.noted() {
            self.exchange.set_upstream(&self.tried);
        }
        let empty = body.is_end_stream() && !tunnel;
        let may_be_stale = reused && !self.renewed;
        let repeatable = match empty {
            true => may_be_stale || self.allows_more(),
            false => may_be_stale || self.kept.is_some(),
        };
        let mut again = repeatable.then(|| Again::new(Outbound::without_body(parts)));
        let mut sending = Sending {
            interim: self.interim(),
            tunnel,
            connect: parts.method == Method::CONNECT,
            stall: self.exchange.idle_limit(),
            keyless: client_http2,
            try_limit: self.policy.per_try_timeout,
            duration: self.policy.duration,
            head_limit: self.upstream.cluster.response_timeout,
            span,
        };
        if let Some(span) = &sending.span {
            span.reached(&self.tried);
        }
        if !rewritten && let Err(failure) = self.rewrite(parts, host) {
            if let Some(span) = &sending.span {
                span.failed(&failure.to_string());
            }
            return (Err(failure), None);
        }
        self.tried.sent = self.keep_sent.then(|| Arc::new(parts.clone()));
        if empty {
            *body = Body::empty();
        } else if !tunnel {
            *body = Portions::of(std::mem::take(body), self.exchange.clone());
        }
        match send(host, lease, request, &mut sending, &mut self.deadline).await {
            Ok(mut response) => {
                strip_nominated(&mut response);
                host.outcome(Some(response.status()));
                self.exchange.note_response();
                let mut info = std::mem::take(&mut self.tried);
                info.status = Some(response.status());
                Outcome::of_mut(&mut response).upstream = Some(info);
                if is_cut {
                    response.headers_mut().remove(header::CONTENT_LENGTH);
                }
                let again = self.with_body(again, empty);
                (Ok(response), again)
            }
            Err(mut unsent) => {
                if may_be_stale
                    && let Some(once_more) = &mut again
                    && let Some(body) = unsent.renew(&once_more.request.parts.method, empty)
                {
                    self.renewed = true;
                    once_more.request.body = body;
                    once_more.stale = true;
                    return (Err(unsent.failure), again);
                }
                host.failed(&unsent.failure);
                tracing::debug!(
                    cluster = %self.upstream.cluster.name,
                    address = %host.address,
                    failure = %unsent.failure,
                    "upstream request failed"
                );
                let again = self.with_body(again, empty);
                (Err(unsent.failure), again)
            }
        }
    }
}

impl Attempts<'_> {
    /// The way of interim responses: to clients that get the upstream's own `100 Continue`, as in Envoy.
    fn interim(&self) -> Option<Relay> {
        let exchange = self.exchange;
        let passes = exchange.outgoing.facts.continued_by_upstream
            && exchange.version != http::Version::HTTP_10;
        passes.then(|| {
            let exchange = exchange.clone();
            Relay::new(move |status, headers| exchange.interim(status, headers))
        })
    }
}

pub(super) struct Again {
    pub(super) request: Box<Outbound>,
    /// The connection had been closed by the peer: to send again is no retry.
    pub(super) stale: bool,
}

impl Again {
    pub(super) fn new(request: Box<Outbound>) -> Self {
        Self {
            request,
            stale: false,
        }
    }
}
