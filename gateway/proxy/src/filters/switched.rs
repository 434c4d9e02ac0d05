//! A filter that routes switch off and on.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::host::ExchangeContext;
use http::{Request, Response, request::Parts};
use tower::Service;

use super::{Chain, ResponseFuture};
use crate::{
    config::snapshot::OnRoute,
    exchange::{Exchange, answer::is_answered},
    http::body::Body,
    route::Selected,
};

/// The filter, and what is behind it.
pub(super) struct Switched {
    pub(super) name: String,
    /// It does nothing unless the route says so.
    pub(super) disabled: bool,
    pub(super) filter: Chain,
    pub(super) inner: Chain,
}

/// The route that holds for a request; of one that is answered, or is on its way to an endpoint, the one that was selected
/// last.
pub(super) fn route_of(parts: &Parts) -> Option<Selected> {
    let exchange = parts.extensions.get::<Arc<Exchange>>()?;
    let context = parts.extensions.get::<ExchangeContext>();
    let is_settled = context.is_some_and(|context| context.endpoint.is_some());
    match is_settled || is_answered(&parts.extensions) {
        true => exchange.route(),
        false => exchange.current_route(parts),
    }
}

impl Service<Request<Body>> for &Switched {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let (parts, body) = request.into_parts();
        let route = route_of(&parts);
        let said = route.and_then(|route| {
            let said = route.overrides().other(&self.name)?;
            Some(!matches!(said, OnRoute::Off))
        });
        let next = match said.unwrap_or(!self.disabled) {
            true => &self.filter,
            false => &self.inner,
        };
        next.call(Request::from_parts(parts, body))
    }
}
