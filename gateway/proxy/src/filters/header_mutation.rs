//! The filter `envoy.filters.http.header_mutation`.

use std::sync::Arc;

use http::{Response, request::Parts};

use super::passing::Changes;
use crate::{
    config::snapshot::HeaderChange,
    exchange::{Exchange, header_changes, host::is_answered, record::Head},
    http::body::Body,
};

/// `header_mutation`.
pub(super) struct HeaderMutation {
    pub(super) request: Vec<HeaderChange>,
    pub(super) response: Vec<HeaderChange>,
}

impl Changes for HeaderMutation {
    /// The head, for values that show of it.
    type Seen = Option<Head>;

    fn request(
        &self,
        parts: &mut Parts,
        _body: &mut Body,
        exchange: &Arc<Exchange>,
    ) -> Option<Self::Seen> {
        if !is_answered(parts) {
            // Each sees what the one before it did.
            header_changes::request(parts, self.request.chunks(1), exchange);
            if !self.request.is_empty() {
                exchange.note_head(parts);
            }
        }
        let shows_head = self.response.iter().any(header_changes::is_template);
        (!self.response.is_empty()).then(|| shows_head.then(|| Head::of(parts)))
    }

    fn response(&self, seen: Self::Seen, response: &mut Response<Body>, exchange: &Arc<Exchange>) {
        header_changes::response(response, self.response.chunks(1), exchange, seen.as_ref());
    }
}
