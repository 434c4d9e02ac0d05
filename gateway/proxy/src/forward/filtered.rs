//! Attempts through the filters of a cluster.
//!
//! A chain of filters ends in a [`HandOver`], where it meets the attempt that it belongs to: that takes the request to the
//! endpoint and gives the response back to the chain. Both are polled side by side, since a processor may see the rest of a
//! body, or answer, while the upstream has the request. A reply that a filter makes comes by a [`Shortcut`], past the others.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::host::{Host as ExchangeHost, Origin, Outcome, RouteConfig, RouteFacts};
use http::{Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use tokio::sync::oneshot;

use super::attempts::{Again, Attempts};
use crate::{
    exchange::{
        Exchange,
        answer::{Once, ResponseFuture, Shortcut},
        chain::{Chain, Serve},
        host::{Passage, strip},
    },
    http::{
        body::{Body, Watched},
        headers::strip_hop_fields,
        local_reply,
    },
    upstream::{Failure, Host, Outbound, Progress, ProgressWatch},
};

/// The filters of clusters, by name.
#[derive(Default)]
pub(crate) struct ClusterFilters(HashMap<String, Chain>);

impl fmt::Debug for ClusterFilters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl ClusterFilters {
    pub(crate) fn new(filters: impl Iterator<Item = (String, Chain)>) -> Self {
        Self(filters.collect())
    }

    /// Those of a cluster, if it has any.
    pub(super) fn of(&self, cluster: &str) -> Option<&Chain> {
        match self.0.is_empty() {
            true => None,
            false => self.0.get(cluster),
        }
    }
}

/// The end of a cluster's filters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandOver;

impl Serve for HandOver {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, body) = request.into_parts();
        let passage = Passage::take(&mut parts);
        let request = Request::from_parts(parts, body);
        Box::pin(async move {
            let (answer, attempt) = passage.map_or((None, None), |p| (p.answer, p.attempt));
            if let Some(response) = answer.and_then(|answer| answer.take()) {
                return response;
            }
            let attempt = attempt.and_then(|(meeting, _)| meeting.take());
            let (respond, response) = oneshot::channel();
            let handed = attempt.and_then(|attempt| attempt.send((request, respond)).ok());
            match handed {
                // Who gave the attempt up drops this, too.
                Some(()) => match response.await {
                    Ok(response) => response,
                    Err(_) => pending().await,
                },
                // Only reached if a filter sends a request twice, which none does.
                None => {
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    local_reply::reply(false, status, "".into(), "no_attempt", 0)
                }
            }
        })
    }
}

/// The exchange as filters of a cluster see it: its route is settled.
#[derive(Debug)]
struct Settled(Arc<Exchange>);

impl ExchangeHost for Settled {
    fn exchange_id(&self) -> u64 {
        self.0.exchange_id()
    }

    fn route(&self, filter: &str, _head: &Parts) -> RouteConfig {
        self.0.config_of_cluster(filter)
    }

    fn route_facts(&self) -> Arc<RouteFacts> {
        self.0.route_facts()
    }

    fn own(&self) -> Option<&dyn Any> {
        self.0.own()
    }
}

/// Outcome of the filters of an attempt.
struct Filtered {
    chain: ResponseFuture,
    answer: Option<oneshot::Receiver<Response<Body>>>,
}

impl Filtered {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        if let Poll::Ready(response) = self.chain.as_mut().poll(cx) {
            return Poll::Ready(response);
        }
        match self.answer.as_mut().map(|answer| Pin::new(answer).poll(cx)) {
            Some(Poll::Ready(Ok(response))) => return Poll::Ready(response),
            // No filter is left that could make one.
            Some(Poll::Ready(Err(_))) => self.answer = None,
            Some(Poll::Pending) | None => {}
        }
        Poll::Pending
    }
}

/// Outcome of an attempt through filters.
enum Course {
    /// A filter answered.
    Answered(Response<Body>),
    /// The endpoint responded, or failed.
    Sent(Result<Response<Body>, Failure>),
}

impl Attempts<'_> {
    /// One attempt through `filters`, and what is needed for another one if that is possible.
    pub(super) async fn through(
        &mut self,
        filters: &Chain,
        host: Arc<Host>,
        request: Box<Outbound>,
    ) -> (Result<Response<Body>, Failure>, Option<Again>) {
        let Outbound { mut parts, body } = *request;
        let empty = body.is_end_stream() && !self.exchange.upgrade;
        let repeatable = self.allows_more() && (empty || self.kept.is_some());
        let again = repeatable.then(|| Again::new(Outbound::without_body(&parts)));
        if let Err(failure) = self.rewrite(&mut parts, &host) {
            return (Err(failure), None);
        }
        let (meeting, met) = oneshot::channel();
        let mut endpoint = self.tried.clone();
        endpoint.address = host.socket();
        endpoint.host_metadata = host.metadata.clone();
        let mut context = self.exchange.context();
        context.host = Some(Arc::new(Settled(self.exchange.clone())));
        context.endpoint = Some(Arc::new(endpoint));
        context.attach(&mut parts);
        let (shortcut, answer) = Shortcut::new();
        let mut passage = Passage::new(self.exchange.clone());
        passage.attempt = Some((Once::new(meeting), shortcut));
        passage.attach(&mut parts);
        // The route's time begins when the filters have the whole request.
        let received = Arc::<Progress>::default();
        let body = match empty {
            true => body,
            false => Body::new(Watched::new(body, ProgressWatch(received.clone()))),
        };
        let mut filtered = Filtered {
            chain: filters.call(Request::from_parts(parts, body)),
            answer: Some(answer),
        };
        let mut met = Some(met);
        let come = pin!(poll_fn(|cx| {
            if let Poll::Ready(response) = filtered.poll(cx) {
                return Poll::Ready(Err(response));
            }
            match met.as_mut().map(|met| Pin::new(met).poll(cx)) {
                Some(Poll::Ready(Ok(met))) => return Poll::Ready(Ok(met)),
                // The filters answer without the request having come to the end.
                Some(Poll::Ready(Err(_))) => met = None,
                Some(Poll::Pending) | None => {}
            }
            Poll::Pending
        }));
        let (request, respond) = match self.within_request(Some(&received), come).await {
            Ok(Ok(met)) => met,
            Ok(Err(response)) => return (Ok(answered(response)), None),
            Err(failure) => return (Err(failure), None),
        };
        let sent = {
            let mut sent = pin!(self.hand_on(&host, request));
            poll_fn(|cx| {
                if let Poll::Ready(response) = filtered.poll(cx) {
                    return Poll::Ready(Course::Answered(response));
                }
                sent.as_mut().poll(cx).map(Course::Sent)
            })
            .await
        };
        let response = match sent {
            Course::Answered(response) => return (Ok(answered(response)), None),
            Course::Sent(Err(failure)) => {
                let again = self.with_body(again, empty);
                return (Err(failure), again);
            }
            Course::Sent(Ok(response)) => {
                // The filters wait for it, unless they are about to answer.
                let tried = Outcome::of(&response).upstream.clone();
                drop(respond.send(response));
                let shown = pin!(poll_fn(|cx| filtered.poll(cx)));
                match self.within_request(Some(&received), shown).await {
                    Ok(response) => response,
                    Err(failure) => {
                        self.tried = tried.unwrap_or_default();
                        self.tried.status = None;
                        return (Err(failure), None);
                    }
                }
            }
        };
        if Outcome::of(&response).local.is_some() {
            return (Ok(answered(response)), None);
        }
        let again = self.with_body(again, empty);
        (Ok(response), again)
    }

    /// Sends what the filters made of a request, once more if a connection turned out to be closed.
    async fn hand_on(
        &mut self,
        host: &Arc<Host>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = Box::new(Outbound::from(request));
        let parts = &mut request.parts;
        if let Some(name) = self.exchange.unsendable() {
            return Err(Failure::HeaderValue(name.clone()));
        }
        strip(parts);
        strip_hop_fields(&mut parts.headers, self.exchange.upgrade);
        parts.headers.remove(header::HOST);
        loop {
            let (outcome, again) = self.send_to(host, request, true).await;
            match again {
                Some(again) if again.stale => request = again.request,
                _ => return outcome,
            }
        }
    }
}

/// The answer of a filter: as in Envoy it is final, and the filters of the listener see it as the upstream's.
fn answered(mut response: Response<Body>) -> Response<Body> {
    let outcome = Outcome::of_mut(&mut response);
    if !matches!(outcome.origin, Origin::Lost) {
        outcome.origin = Origin::Service;
    }
    outcome.details = Some(match outcome.local {
        Some(_) => "".into(),
        None => "via_upstream".into(),
    });
    response
}
