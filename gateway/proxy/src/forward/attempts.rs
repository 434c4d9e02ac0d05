//! The attempts that a route allows to get one response.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use extproc_client::host::UpstreamInfo;
use http::{Method, Response, StatusCode, header};
use http_body::Body as _;

use crate::{
    body::Body,
    breakers::{Place, Resource},
    config::snapshot::{Forward, Retry},
    exchange::Exchange,
    replay::Kept,
    router::{self, Selected, TooMuchEffort},
    upstream::{Deadline, Failure, Lending, Outbound, Sending, Upstream, send},
};

/// The attempts to get one response.
pub(super) struct Attempts<'a> {
    pub(super) exchange: &'a Arc<Exchange>,
    pub(super) route: &'a Selected,
    pub(super) forward: &'a Forward,
    pub(super) upstream: &'a Upstream,
    /// The body, if it may have to be sent again.
    pub(super) kept: Option<Kept>,
    pub(super) made: u32,
    /// What is known of the endpoint that the last attempt goes to.
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
    /// There was no place for one more retry.
    pub(super) overflown: bool,
}

impl Attempts<'_> {
    pub(super) async fn run(
        &mut self,
        mut request: Box<Outbound>,
    ) -> Result<Response<Body>, Failure> {
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
                        tokio::time::sleep(backoff(self.made)).await;
                    }
                    request = again.request;
                }
                _ => return outcome,
            }
        }
    }

    /// The request with its body, if all of that is still here.
    fn with_body(&self, again: Again) -> Option<Again> {
        let body = self.kept.as_ref()?.replay()?;
        let Outbound { parts, .. } = *again.request;
        Some(Again::new(Box::new(Outbound { parts, body })))
    }

    /// Makes the target what the endpoint is to see.
    fn rewrite(&self, parts: &mut http::request::Parts, hostname: &str) -> Result<(), Failure> {
        let Selected { route, .. } = self.route;
        router::rewrite(parts, &route.matches, self.forward, Some(hostname))
            .map_err(|TooMuchEffort| Failure::Rewrite)?;
        if self.noted {
            self.exchange.set_target(&parts.uri);
        }
        Ok(())
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
        self.policy().is_some_and(|retry| is_named(retry, status))
    }

    /// Whether one more attempt would have followed, but for their number.
    pub(super) fn is_exhausted_by(&self, status: StatusCode) -> bool {
        let retry = self.forward.retry.as_ref();
        self.policy().is_none() && retry.is_some_and(|retry| is_named(retry, status))
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
        self.tried = UpstreamInfo {
            attempts: self.made.into(),
            response_headers: Some(self.upstream.cluster.response_headers),
            ..UpstreamInfo::default()
        };
        if self.exchange.logged() {
            self.exchange.set_upstream(&self.tried);
        }
        let host = match self.upstream.choose(&parts.headers).await {
            Ok(host) => host,
            Err(failure) => return (Err(failure), None),
        };
        let asked = Lending {
            priority: self.forward.priority,
            client_http2,
            fresh: tunnel || self.renewed,
            limit: self.forward.timeout,
        };
        let lease = host.lease(asked).await;
        let pool_ready = begun.elapsed();
        self.tried.address = host.socket();
        self.tried.host_metadata = host.metadata.clone();
        self.tried.pool_ready = Some(pool_ready);
        let lease = match lease {
            Ok(lease) => lease,
            Err(failure) => {
                if self.keep_sent || self.noted {
                    let mut parts = parts.clone();
                    if let Err(failure) = self.rewrite(&mut parts, &host.hostname) {
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
        if self.exchange.logged() {
            self.exchange.set_upstream(&self.tried);
        }
        let empty = body.is_end_stream() && !tunnel;
        let idempotent = reused && !self.renewed && is_idempotent(&parts.method);
        let repeatable = match empty {
            true => reused || self.policy().is_some(),
            false => reused || self.kept.is_some(),
        };
        let again = repeatable.then(|| Again::new(Outbound::without_body(parts)));
        let sending = Sending {
            interim: (self.exchange.version != http::Version::HTTP_10)
                .then(|| self.exchange.outgoing.clone()),
            continues: self.exchange.outgoing.facts.continued_by_upstream
                && parts.headers.contains_key(header::EXPECT),
            tunnel,
            connect: parts.method == Method::CONNECT,
            stall: self.exchange.idle_limit(),
            keyless: client_http2,
            try_limit: self
                .forward
                .retry
                .as_ref()
                .and_then(|retry| retry.per_try_timeout),
            head_limit: self.upstream.cluster.response_timeout,
        };
        if let Err(failure) = self.rewrite(parts, &host.hostname) {
            return (Err(failure), None);
        }
        self.tried.sent = self.keep_sent.then(|| Arc::new(parts.clone()));
        if empty {
            *body = Body::empty();
        }
        match send(&host, lease, request, &sending, &mut self.deadline).await {
            Ok(mut response) => {
                let info = std::mem::take(&mut self.tried);
                response.extensions_mut().insert(info);
                let again = match empty {
                    true => again,
                    false => again.and_then(|again| self.with_body(again)),
                };
                (Ok(response), again)
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
                    (Some(again), _) if empty => {
                        let stale = idempotent && matches!(unsent.failure, Failure::Terminated);
                        self.renewed |= stale;
                        Some(Again { stale, ..again })
                    }
                    (again, _) => again.and_then(|again| self.with_body(again)),
                };
                (Err(unsent.failure), again)
            }
        }
    }
}

/// Whether a response's status is one to retry on.
fn is_named(retry: &Retry, status: StatusCode) -> bool {
    retry.on.iter().any(|on| match on.as_str() {
        "5xx" => status.is_server_error(),
        "gateway-error" => matches!(status.as_u16(), 502..=504),
        "retriable-4xx" => status == StatusCode::CONFLICT,
        "retriable-status-codes" => retry.status_codes.contains(&status.as_u16()),
        _ => false,
    })
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
