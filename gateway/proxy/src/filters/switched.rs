//! A filter that routes switch off and on.

use extproc_client::host::ExchangeContext;
use http::{Request, request::Parts};

use super::{Chain, ResponseFuture, Serve};
use crate::{
    config::snapshot::OnRoute,
    exchange::{Exchange, host::is_answered},
    http::body::Body,
};

/// The filter, and what is behind it.
pub(super) struct Switched {
    pub(super) name: String,
    /// It does nothing unless the route says so.
    pub(super) disabled: bool,
    pub(super) filter: Chain,
    pub(super) inner: Chain,
}

/// The route's configuration of a filter, beside configurations of ext_proc. A filter that no route speaks of has no name here:
/// to ask for the route of each request would cost them a lock.
pub(super) fn said(parts: &Parts, filter: Option<&str>) -> Option<OnRoute> {
    let filter = filter?;
    let exchange = Exchange::of_head(parts)?;
    let context = ExchangeContext::of_head(parts);
    // The route of an attempt is settled.
    let of_cluster = context.is_some_and(|context| context.endpoint.is_some());
    let route = match of_cluster || is_answered(parts) {
        true => exchange.route(),
        false => exchange.current_route(parts),
    }?;
    let cluster = of_cluster.then(|| route.cluster_name());
    route.overrides().said(cluster, filter).cloned()
}

impl Serve for Switched {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (parts, body) = request.into_parts();
        let is_on = match said(&parts, Some(&self.name)) {
            Some(said) => !matches!(said, OnRoute::Off),
            None => !self.disabled,
        };
        let next = match is_on {
            true => &self.filter,
            false => &self.inner,
        };
        next.call(Request::from_parts(parts, body))
    }
}
