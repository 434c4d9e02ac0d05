//! The filter `envoy.filters.http.set_metadata`.

use std::sync::Arc;

use http::Request;

use super::{Handler, HandlerFuture};
use crate::{
    config::snapshot::SetMetadata,
    exchange::{Exchange, answer::is_answered, metadata},
    http::body::Body,
};

/// `set_metadata`.
pub(super) struct MetadataFilter {
    pub(super) entries: Vec<SetMetadata>,
    pub(super) inner: Arc<dyn Handler>,
}

impl Handler for MetadataFilter {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        if let Some(exchange) = request.extensions().get::<Arc<Exchange>>()
            && !is_answered(request.extensions())
        {
            for entry in &self.entries {
                metadata::set(&exchange.metadata, entry);
            }
        }
        self.inner.call(request)
    }
}
