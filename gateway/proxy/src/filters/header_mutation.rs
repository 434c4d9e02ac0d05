//! The filter `envoy.filters.http.header_mutation`.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::host::{Origin, Outcome};
use http::{Request, Response};
use tower::Service;

use super::{Chain, ResponseFuture};
use crate::{
    config::snapshot::HeaderChange,
    exchange::{Exchange, header_changes, host::is_answered, record::Head},
    http::body::Body,
};

/// `header_mutation`.
pub(super) struct HeaderMutation {
    pub(super) request: Arc<[HeaderChange]>,
    pub(super) response: Arc<[HeaderChange]>,
    pub(super) inner: Chain,
}

impl Service<Request<Body>> for &HeaderMutation {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, body) = request.into_parts();
        let exchange = Exchange::of_head(&parts).cloned();
        let is_answered = is_answered(&parts);
        if let Some(exchange) = &exchange
            && !is_answered
        {
            // Each sees what the one before it did.
            header_changes::request(&mut parts, self.request.chunks(1), exchange);
            if !self.request.is_empty() {
                exchange.note_head(&parts);
            }
        }
        let needs_head = self.response.iter().any(header_changes::is_template);
        let head = needs_head.then(|| Head::of(&parts));
        let future = self.inner.call(Request::from_parts(parts, body));
        let changes = self.response.clone();
        if changes.is_empty() {
            return future;
        }
        Box::pin(async move {
            let Ok(mut response) = future.await;
            let passes = matches!(Outcome::of(&response).origin, Origin::Final);
            if let Some(exchange) = exchange.as_ref().filter(|_| !passes) {
                let changes = changes.chunks(1);
                header_changes::response(&mut response, changes, exchange, head.as_ref());
            }
            Ok(response)
        })
    }
}
