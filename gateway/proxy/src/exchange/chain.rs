//! A filter with all that lies behind it, as one service.

use std::sync::Arc;

use http::Request;

use super::answer::ResponseFuture;
use crate::http::body::Body;

/// A filter with what is behind it, or the end of a chain. It is always ready, and its response always comes.
pub(crate) trait Serve: Send + Sync {
    /// Answers a request.
    fn serve(&self, request: Request<Body>) -> ResponseFuture;
}

/// A service with its type erased. A clone allocates nothing.
#[derive(Clone)]
pub(crate) struct Chain(Arc<dyn Serve>);

impl Chain {
    pub(crate) fn new(service: impl Serve + 'static) -> Self {
        Self(Arc::new(service))
    }

    /// Answers a request.
    pub(crate) fn call(&self, request: Request<Body>) -> ResponseFuture {
        self.0.serve(request)
    }
}
