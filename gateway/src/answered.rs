//! A filter's own answer on its way through the filters behind it.
//!
//! Envoy shows a response that a filter makes before the request went on to every filter, also to those that
//! lie behind it and never saw the request. They get the response alone.

use std::sync::{Arc, Mutex, PoisonError};

use extproc_client::host::{AnsweredEarly, ExchangeContext, ExchangeSummary};
use http::{Extensions, Request, Response, request::Parts};

use crate::{
    body::Body,
    filters::{Handler, HandlerFuture},
};

/// Request extension: the request goes nowhere, this is its response.
#[derive(Clone)]
pub(crate) struct Answer(Arc<Mutex<Option<Response<Body>>>>);

impl Answer {
    fn new(response: Response<Body>) -> Self {
        Self(Arc::new(Mutex::new(Some(response))))
    }

    /// The response, for the end of the chain.
    pub(crate) fn take(&self) -> Option<Response<Body>> {
        // Only assignments run under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether filters have nothing to do with the request, only with its response.
pub(crate) fn is_answered(request: &Extensions) -> bool {
    request.get::<Answer>().is_some()
}

/// Lets the filters `behind` see the answer to a request that did not come to them.
pub(crate) fn show(
    behind: &Arc<dyn Handler>,
    mut parts: Parts,
    response: Response<Body>,
) -> HandlerFuture {
    if let Some(context) = parts.extensions.get_mut::<ExchangeContext>() {
        context.response_only = true;
    }
    parts.extensions.insert(Answer::new(response));
    behind.call(Request::from_parts(parts, Body::empty()))
}

/// A filter whose own answers are shown to those `behind` it.
pub(crate) struct ShownBehind {
    pub(crate) filter: Arc<dyn Handler>,
    pub(crate) behind: Arc<dyn Handler>,
}

impl Handler for ShownBehind {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        if is_answered(request.extensions()) {
            return self.filter.call(request);
        }
        let (parts, body) = request.into_parts();
        let again = parts.clone();
        let response = self.filter.call(Request::from_parts(parts, body));
        let behind = self.behind.clone();
        Box::pin(async move {
            let mut response = response.await;
            if response
                .extensions_mut()
                .remove::<AnsweredEarly>()
                .is_none()
            {
                return response;
            }
            let summary = response.extensions().get::<ExchangeSummary>().copied();
            let mut response = show(&behind, again, response).await;
            // The log tells of the filter that answered.
            if let Some(summary) = summary {
                response.extensions_mut().insert(summary);
            }
            response
        })
    }
}
