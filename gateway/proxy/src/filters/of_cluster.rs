//! A processor's filter among those of a cluster.
//!
//! Envoy shows none of them a reply that one of them makes: it goes to the filters of the listener as the upstream's. A response that
//! a processor streams is shown to all of them, also to those behind.

use std::future::pending;

use extproc_client::host::{Origin, Outcome};
use http::Request;

use super::{Chain, ResponseFuture, Serve, show_behind};
use crate::{exchange::host::Passage, http::body::Body};

/// A processor's filter with those `behind` it.
pub(super) struct OfCluster {
    pub(super) filter: Chain,
    pub(super) behind: Chain,
}

impl Serve for OfCluster {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let shortcut =
            Passage::of(&request).and_then(|passage| Some(passage.attempt.as_ref()?.1.clone()));
        let response = self.filter.call(request);
        let behind = self.behind.clone();
        Box::pin(async move {
            let mut response = response.await;
            let outcome = Outcome::of_mut(&mut response);
            if let Some(shortcut) = shortcut
                && outcome.local.is_some()
            {
                shortcut.answer(response);
                return pending().await;
            }
            let request = match std::mem::take(&mut outcome.origin) {
                Origin::Early { request, .. } => request,
                other => {
                    outcome.origin = other;
                    return response;
                }
            };
            let summary = outcome.processor;
            let mut response = show_behind::show(&behind, *request, response).await;
            // The log tells of the filter that answered.
            if summary.is_some() {
                Outcome::of_mut(&mut response).processor = summary;
            }
            response
        })
    }
}
