//! Builds the filter chain of a listener.

pub(crate) mod cors;
pub(crate) mod show_behind;

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::{
    config::Effort,
    host::{AnsweredEarly, AnsweredLate, DirectReply, ResponseDetails},
};
use http::{Request, Response, request::Parts};
use http_body_util::BodyExt;
use tower::Service;

use crate::{
    config::snapshot::{Filter, FilterKind, HeaderChange, HeaderMatch, HttpManager, SetMetadata},
    exchange::{Exchange, Head, header_changes, metadata},
    filters::{
        cors::CorsFilter,
        show_behind::{Kept, ShownBehind},
    },
    http::body::{Body, BoxError},
    route::headers_match,
};

/// A response that always comes.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A filter with all that lies behind it.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers a request.
    fn call(&self, request: Request<Body>) -> HandlerFuture;
}

/// The chain of a connection manager around `inner`, the first filter outermost.
pub(crate) fn chain(
    http: &HttpManager,
    inner: Arc<dyn Handler>,
    ext_proc: impl Fn(&Filter, &Arc<extproc_client::FilterConfig>, Arc<dyn Handler>) -> Arc<dyn Handler>,
) -> Arc<dyn Handler> {
    // Whether a filter further on has to do with responses.
    let mut responses = false;
    http.filters
        .iter()
        .rev()
        .fold(inner, |inner, filter| match &filter.kind {
            FilterKind::ExtProc(config) => match std::mem::replace(&mut responses, true) {
                true => Arc::new(ShownBehind {
                    filter: ext_proc(filter, config, Arc::new(Kept(inner.clone()))),
                    behind: inner,
                }),
                false => ext_proc(filter, config, inner),
            },
            // These have no per-route form that could switch them on.
            _ if filter.disabled => inner,
            FilterKind::HeaderMutation { request, response } => {
                responses |= !response.is_empty();
                Arc::new(HeaderMutation {
                    request: request.clone().into(),
                    response: response.clone().into(),
                    inner,
                })
            }
            FilterKind::Cors => Arc::new(CorsFilter { inner }),
            FilterKind::HealthCheck(headers) => Arc::new(HealthCheck {
                headers: headers.clone(),
                inner,
            }),
            FilterKind::SetMetadata(entries) => Arc::new(MetadataFilter {
                entries: entries.clone(),
                inner,
            }),
        })
}

/// Whether a filter of the chain asks for an `ExchangeContext`.
pub(crate) fn has_ext_proc(http: &HttpManager) -> bool {
    http.filters
        .iter()
        .any(|filter| matches!(filter.kind, FilterKind::ExtProc(_)))
}

/// `header_mutation`.
struct HeaderMutation {
    request: Arc<[HeaderChange]>,
    response: Arc<[HeaderChange]>,
    inner: Arc<dyn Handler>,
}

impl Handler for HeaderMutation {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        let exchange = request.extensions().get::<Arc<Exchange>>().cloned();
        let is_answered = show_behind::is_answered(request.extensions());
        let (mut parts, body) = request.into_parts();
        if let Some(exchange) = &exchange
            && !is_answered
        {
            // Each sees what the one before it did.
            header_changes::request(&mut parts, self.request.chunks(1), exchange);
            if exchange.logged() && !self.request.is_empty() {
                exchange.set_head(Head::of(&parts));
            }
        }
        let future = self.inner.call(Request::from_parts(parts, body));
        let changes = self.response.clone();
        if changes.is_empty() {
            return future;
        }
        Box::pin(async move {
            let mut response = future.await;
            let passes = response.extensions().get::<DirectReply>().is_some();
            if let Some(exchange) = exchange.as_ref().filter(|_| !passes) {
                header_changes::response(&mut response, changes.chunks(1), exchange, None);
            }
            response
        })
    }
}

/// `health_check` that passes nothing through.
struct HealthCheck {
    headers: Arc<[HeaderMatch]>,
    inner: Arc<dyn Handler>,
}

impl HealthCheck {
    fn is_asked(&self, request: &Parts) -> bool {
        let mut effort = Effort::default();
        headers_match(&self.headers, request, &mut effort) && !effort.is_spent()
    }
}

impl Handler for HealthCheck {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        let (parts, body) = request.into_parts();
        if show_behind::is_answered(&parts.extensions) || !self.is_asked(&parts) {
            return self.inner.call(Request::from_parts(parts, body));
        }
        let mut response = Response::new(Body::empty());
        let details = ResponseDetails("health_check_ok".into());
        response.extensions_mut().insert(details);
        let inner = self.inner.clone();
        Box::pin(async move {
            // As in Envoy, the answer comes after the whole request, so that the connection can go on.
            let mut body = pin!(body);
            while let Some(Ok(_)) = body.frame().await {}
            show_behind::show(&inner, parts, response).await
        })
    }
}

/// `set_metadata`.
struct MetadataFilter {
    entries: Vec<SetMetadata>,
    inner: Arc<dyn Handler>,
}

impl Handler for MetadataFilter {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        if let Some(exchange) = request.extensions().get::<Arc<Exchange>>()
            && !show_behind::is_answered(request.extensions())
        {
            for entry in &self.entries {
                metadata::set(&exchange.metadata, entry);
            }
        }
        self.inner.call(request)
    }
}

/// A handler as the service that a tower layer wraps.
#[derive(Clone)]
pub(crate) struct Inner(pub(crate) Arc<dyn Handler>);

impl<B> Service<Request<B>> for Inner
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let response = self.0.call(request.map(|body| {
            if body.is_end_stream() {
                Body::empty()
            } else {
                Body::new(body)
            }
        }));
        Box::pin(async move {
            let mut response = response.await;
            // What was answered behind this filter went on from here.
            let extensions = response.extensions_mut();
            extensions.remove::<AnsweredEarly>();
            extensions.remove::<AnsweredLate>();
            Ok(response)
        })
    }
}

/// A tower service as a handler.
pub(crate) struct Outer<S>(pub(crate) S);

impl<S, B> Handler for Outer<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        // The services in use are always ready, so that a fresh clone may be called at once.
        let mut service = self.0.clone();
        Box::pin(async move {
            let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let response = match ready {
                Ok(()) => service.call(request).await,
                Err(never) => match never {},
            };
            match response {
                Ok(response) => response.map(|body| {
                    if body.is_end_stream() {
                        Body::empty()
                    } else {
                        Body::new(body)
                    }
                }),
                Err(never) => match never {},
            }
        })
    }
}
