//! A processor's filter among those of a cluster.
//!
//! Envoy shows none of them a reply that one of them makes: it goes to the filters of the listener as the upstream's. A response that
//! a processor streams is shown to all of them, also to those behind.

use std::{
    convert::Infallible,
    future::pending,
    task::{Context, Poll},
};

use extproc_client::host::{Origin, Outcome};
use http::{Request, Response};
use tower::Service;

use super::{Chain, ResponseFuture, show_behind};
use crate::{exchange::host::Passage, http::body::Body};

/// A processor's filter with those `behind` it.
pub(super) struct OfCluster {
    pub(super) filter: Chain,
    pub(super) behind: Chain,
}

impl Service<Request<Body>> for &OfCluster {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let shortcut =
            Passage::of(&request).and_then(|passage| Some(passage.attempt.as_ref()?.1.clone()));
        let response = self.filter.call(request);
        let behind = self.behind.clone();
        Box::pin(async move {
            let Ok(mut response) = response.await;
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
                    return Ok(response);
                }
            };
            let summary = outcome.processor;
            let Ok(mut response) = show_behind::show(&behind, *request, response).await;
            // The log tells of the filter that answered.
            if summary.is_some() {
                Outcome::of_mut(&mut response).processor = summary;
            }
            Ok(response)
        })
    }
}
