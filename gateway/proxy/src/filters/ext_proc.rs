//! The filter `envoy.filters.http.ext_proc`: the layer of `extproc-client` over the clusters.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::{
    ExtProcLayer, FilterConfig,
    host::{Origin, Outcome},
    observer::Observer,
};
use http::{Request, Response};
use tower::{Layer, Service};

use crate::{
    config::snapshot::Filter,
    exchange::{
        Exchange,
        answer::ResponseFuture,
        chain::{Chain, Serve},
        header_changes::add_route_headers,
        host::Passage,
    },
    http::body::{Body, BoxError},
    processors::ClusterTransport,
};

/// The ext_proc filter `filter` around `inner`.
pub(crate) fn filter(
    filter: &Filter,
    config: &Arc<FilterConfig>,
    transport: &ClusterTransport,
    observer: Arc<dyn Observer>,
    inner: Chain,
) -> Chain {
    let layer = ExtProcLayer::new(config.clone(), transport.clone())
        .named(filter.name.as_str())
        .disabled(filter.disabled)
        // The next filter sees what this one's processor said, as in Envoy; what leaves is framed anew.
        .guards_framing(false)
        .observer(observer);
    Chain::new(Outer(layer.layer(Inner(inner))))
}

/// The filters behind as the service that the layer wraps.
#[derive(Clone)]
struct Inner(Chain);

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
            if let origin @ (Origin::Early { .. } | Origin::Late) =
                &mut Outcome::of_mut(&mut response).origin
            {
                *origin = Origin::Service;
            }
            Ok(response)
        })
    }
}

/// The service that the layer makes, used by reference.
struct Outer<S>(S);

impl<S, B> Serve for Outer<S>
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
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        // The services in use are always ready, so that a fresh clone may be called at once.
        let mut service = self.0.clone();
        // Around an attempt, the response is none that the route has seen.
        let exchange = Passage::of(&request)
            .filter(|passage| passage.attempt.is_none())
            .map(|passage| passage.exchange.clone());
        Box::pin(async move {
            let Ok(()) = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let Ok(response) = service.call(request).await;
            let mut response = response.map(|body| {
                if body.is_end_stream() {
                    Body::empty()
                } else {
                    Body::new(body)
                }
            });
            if let Some(exchange) = exchange {
                finish_own(&mut response, &exchange);
            }
            response
        })
    }
}

/// Gives an answer of the filter itself all that the route adds, since other filters see it so.
fn finish_own(response: &mut Response<Body>, exchange: &Exchange) {
    match &Outcome::of(response).origin {
        Origin::Early { request, .. } => {
            exchange.current_route(request);
        }
        Origin::Late => {}
        _ => return,
    }
    add_route_headers(response, exchange);
    exchange.note_local(response);
}
