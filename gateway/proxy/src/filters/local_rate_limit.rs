//! The filter `envoy.filters.http.local_ratelimit`.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderValue, Request, Response, request::Parts};
use tower::Service;

use super::{Chain, ResponseFuture, show_behind::show, switched::said};
use crate::{
    config::snapshot::{FilterKind, LocalRateLimit, OnRoute, flag},
    exchange::{Exchange, answer::is_answered, header_changes, record::Head},
    http::{body::Body, local_reply},
    limits::buckets::Chosen,
    route::is_drawn,
};

/// The filter; a route may have a limit of its own.
pub(super) struct RateLimitFilter {
    /// Its name, if routes speak of it.
    pub(super) name: Option<String>,
    pub(super) config: Arc<LocalRateLimit>,
    pub(super) buckets: Arc<Chosen>,
    pub(super) inner: Chain,
}

impl RateLimitFilter {
    fn config(&self, parts: &Parts) -> Arc<LocalRateLimit> {
        match said(parts, self.name.as_deref()) {
            Some(OnRoute::As(FilterKind::LocalRateLimit(own))) => own,
            _ => self.config.clone(),
        }
    }

    /// Tells whether the request finds no token that it needs.
    fn is_limited(&self, config: &Arc<LocalRateLimit>) -> bool {
        // Without a bucket every request passes.
        let bucket = self.buckets.of(config);
        bucket.is_some_and(|bucket| is_drawn(config.enabled) && !bucket.take(Instant::now()))
    }
}

impl Service<Request<Body>> for &RateLimitFilter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, body) = request.into_parts();
        let exchange = parts.extensions.get::<Arc<Exchange>>().cloned();
        let exchange = exchange.filter(|_| !is_answered(&parts.extensions));
        let Some(exchange) = exchange else {
            return self.inner.call(Request::from_parts(parts, body));
        };
        let config = self.config(&parts);
        if !self.is_limited(&config) {
            return self.inner.call(Request::from_parts(parts, body));
        }
        if !is_drawn(config.enforced) {
            let changes = config.request_headers.as_slice();
            header_changes::request(&mut parts, std::iter::once(changes), &exchange);
            if !changes.is_empty() {
                exchange.note_head(&parts);
            }
            return self.inner.call(Request::from_parts(parts, body));
        }
        let mut response = local_reply::reply(
            exchange.grpc,
            config.status,
            "local_rate_limited".into(),
            "local_rate_limited",
            flag::RATE_LIMITED,
        );
        if exchange.grpc && config.resource_exhausted {
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from_static("8"));
        }
        let changes = std::iter::once(config.response_headers.as_slice());
        let head = Head::of(&parts);
        header_changes::response(&mut response, changes, &exchange, Some(&head));
        show(&self.inner, parts, response)
    }
}
