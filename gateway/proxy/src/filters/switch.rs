//! A filter that routes switch off (`envoy.config.route.v3.FilterConfig`).

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::host::RouteConfig;
use http::{Request, Response, request::Parts};
use tower::Service;

use super::{Chain, ResponseFuture};
use crate::{exchange::Exchange, http::body::Body};

/// Leaves a filter of any kind out where the route says so.
pub(super) struct Switch {
    pub(super) name: String,
    /// Returns what the route says of the filter.
    pub(super) says: fn(&Exchange, &str, &Parts) -> RouteConfig,
    pub(super) filter: Chain,
    pub(super) behind: Chain,
}

impl Service<Request<Body>> for &Switch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let (parts, body) = request.into_parts();
        let exchange = parts.extensions.get::<Arc<Exchange>>();
        let said = exchange.map(|exchange| (self.says)(exchange, &self.name, &parts));
        let request = Request::from_parts(parts, body);
        match said {
            Some(RouteConfig::Disabled) => self.behind.call(request),
            _ => self.filter.call(request),
        }
    }
}
