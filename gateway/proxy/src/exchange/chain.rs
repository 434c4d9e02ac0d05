//! A filter with all that lies behind it, as one service.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use tower::Service;

use super::answer::ResponseFuture;
use crate::http::body::Body;

/// A service that answers every request, with its type erased. A clone allocates nothing.
#[derive(Clone)]
pub(crate) struct Chain(Arc<dyn Erased>);

trait Erased: Send + Sync {
    fn call(&self, request: Request<Body>) -> ResponseFuture;
}

impl<S> Erased for S
where
    S: Send + Sync,
    for<'a> &'a S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future = ResponseFuture,
        >,
{
    fn call(&self, request: Request<Body>) -> ResponseFuture {
        let mut service = self;
        // All of them are always ready.
        Service::call(&mut service, request)
    }
}

impl Chain {
    /// Erases a service that is used by reference.
    pub(crate) fn new<S>(service: S) -> Self
    where
        S: Send + Sync + 'static,
        for<'a> &'a S: Service<
                Request<Body>,
                Response = Response<Body>,
                Error = Infallible,
                Future = ResponseFuture,
            >,
    {
        Self(Arc::new(service))
    }

    /// Answers a request.
    pub(crate) fn call(&self, request: Request<Body>) -> ResponseFuture {
        self.0.call(request)
    }
}
