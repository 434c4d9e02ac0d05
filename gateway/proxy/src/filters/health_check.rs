//! The filter `envoy.filters.http.health_check`, where it passes nothing through.

use std::{pin::pin, sync::Arc};

use extproc_client::{config::Effort, host::ResponseDetails};
use http::{Request, Response, request::Parts};
use http_body_util::BodyExt;

use super::{Handler, HandlerFuture, show_behind};
use crate::{
    config::snapshot::HeaderMatch, exchange::answer::is_answered, http::body::Body,
    route::headers_match,
};

/// `health_check` that passes nothing through.
pub(super) struct HealthCheck {
    pub(super) headers: Arc<[HeaderMatch]>,
    pub(super) inner: Arc<dyn Handler>,
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
        if is_answered(&parts.extensions) || !self.is_asked(&parts) {
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
