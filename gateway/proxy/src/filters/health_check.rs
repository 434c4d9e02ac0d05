//! The filter `envoy.filters.http.health_check`, where it passes nothing through.

use std::{pin::pin, sync::Arc};

use extproc_client::{config::Effort, host::Outcome};
use http::{Request, Response, request::Parts};
use http_body_util::BodyExt;

use super::{Chain, ResponseFuture, Serve, show_behind::show};
use crate::{
    config::snapshot::HeaderMatch,
    exchange::{Exchange, host::is_answered},
    http::body::Body,
    route::headers_match,
};

/// `health_check` that passes nothing through.
pub(super) struct HealthCheck {
    pub(super) headers: Arc<[HeaderMatch]>,
    pub(super) inner: Chain,
}

impl HealthCheck {
    fn is_asked(&self, request: &Parts) -> bool {
        let mut effort = Effort::default();
        headers_match(&self.headers, request, &mut effort) && !effort.is_spent()
    }
}

impl Serve for HealthCheck {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (parts, body) = request.into_parts();
        if is_answered(&parts) || !self.is_asked(&parts) {
            return self.inner.call(Request::from_parts(parts, body));
        }
        let Some(exchange) = Exchange::of_head(&parts).cloned() else {
            return self.inner.call(Request::from_parts(parts, body));
        };
        let mut response = Response::new(Body::empty());
        Outcome::of_mut(&mut response).details = Some("health_check_ok".into());
        let inner = self.inner.clone();
        Box::pin(async move {
            // As in Envoy, the answer comes after the whole request, so that the connection can go on.
            let mut body = body;
            let drained = async { while let Some(Ok(_)) = body.frame().await {} };
            let response = match exchange.or_reply(pin!(drained)).await {
                Ok(()) => response,
                Err(reply) => reply,
            };
            show(&inner, parts, response).await
        })
    }
}
