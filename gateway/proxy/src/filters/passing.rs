//! Filters that change messages which pass, and answer none themselves.

use std::sync::Arc;

use extproc_client::host::{Origin, Outcome};
use http::{Request, Response, request::Parts};

use super::{Chain, ResponseFuture, Serve};
use crate::{exchange::Exchange, http::body::Body};

/// Changes that a filter makes.
pub(super) trait Changes: Send + Sync + 'static {
    /// Facts of a request that its response is changed by.
    type Seen: Send;

    /// Changes a request, of one that is answered already nothing; `None` if its response stays as it is.
    fn request(
        &self,
        parts: &mut Parts,
        body: &mut Body,
        exchange: &Arc<Exchange>,
    ) -> Option<Self::Seen>;

    /// Changes a response.
    fn response(&self, seen: Self::Seen, response: &mut Response<Body>, exchange: &Arc<Exchange>);
}

/// The filter that makes these changes.
pub(super) struct Passing<C> {
    changes: Arc<C>,
    inner: Chain,
}

impl<C> Passing<C> {
    pub(super) fn new(changes: C, inner: Chain) -> Self {
        let changes = Arc::new(changes);
        Self { changes, inner }
    }
}

impl<C: Changes> Serve for Passing<C> {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, mut body) = request.into_parts();
        let Some(exchange) = Exchange::of_head(&parts).cloned() else {
            return self.inner.call(Request::from_parts(parts, body));
        };
        let seen = self.changes.request(&mut parts, &mut body, &exchange);
        let future = self.inner.call(Request::from_parts(parts, body));
        let Some(seen) = seen else {
            return future;
        };
        let changes = self.changes.clone();
        Box::pin(async move {
            let mut response = future.await;
            if !matches!(Outcome::of(&response).origin, Origin::Final) {
                changes.response(seen, &mut response, &exchange);
            }
            response
        })
    }
}
