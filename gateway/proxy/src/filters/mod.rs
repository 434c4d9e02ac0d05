//! Builds the filter chain of a listener.

pub(crate) mod cors;
pub(crate) mod ext_proc;
mod header_mutation;
mod health_check;
mod set_metadata;
pub(crate) mod show_behind;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::host::{AnsweredEarly, AnsweredLate};
use http::{Request, Response};
use tower::Service;

use crate::{
    config::snapshot::{Filter, FilterKind},
    filters::{
        cors::CorsFilter,
        header_mutation::HeaderMutation,
        health_check::HealthCheck,
        set_metadata::MetadataFilter,
        show_behind::{Kept, ShownBehind},
    },
    http::body::{Body, BoxError},
};

pub(crate) use crate::exchange::answer::HandlerFuture;

/// A filter with all that lies behind it.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers a request.
    fn call(&self, request: Request<Body>) -> HandlerFuture;
}

/// The chain of these filters around `inner`, the first one outermost.
pub(crate) fn chain(
    filters: &[Filter],
    inner: Arc<dyn Handler>,
    ext_proc: impl Fn(&Filter, &Arc<extproc_client::FilterConfig>, Arc<dyn Handler>) -> Arc<dyn Handler>,
) -> Arc<dyn Handler> {
    // Whether a filter further on has to do with responses.
    let mut responses = false;
    filters
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
pub(crate) fn has_ext_proc(filters: &[Filter]) -> bool {
    filters
        .iter()
        .any(|filter| matches!(filter.kind, FilterKind::ExtProc(_)))
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
