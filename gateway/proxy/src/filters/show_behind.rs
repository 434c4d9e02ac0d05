//! A filter's own answer on its way through the filters behind it.
//!
//! Envoy shows a response that a filter makes before the request went on to every filter, also to those that
//! lie behind it and never saw the request. They get the response alone. Where the request has come to the end of the
//! chain meanwhile, the answer takes the place of the upstream's, and comes back through all of them. Where the processor of a
//! filter still has the request's headers, the request goes on from there to fetch the answer, and that processor has both.

use std::future::{poll_fn, ready};

use extproc_client::host::{ExchangeContext, Origin, Outcome};
use http::{Request, Response, request::Parts};

use crate::{
    exchange::{
        answer::{Answer, Answering, Late, LateAnswers, lock},
        host::Passage,
    },
    filters::{Chain, ResponseFuture, Serve},
    http::body::Body,
};

/// Lets the filters `behind` see the answer to a request that did not come to them.
pub(crate) fn show(behind: &Chain, mut parts: Parts, response: Response<Body>) -> ResponseFuture {
    let Some(passage) = Passage::of_head_mut(&mut parts) else {
        // Only reached if a filter makes up requests, which none does.
        return Box::pin(ready(response));
    };
    passage.answer = Some(Answer::new(response));
    // It is answered already.
    passage.late = LateAnswers::default();
    if let Some(context) = ExchangeContext::of_head_mut(&mut parts) {
        context.response_only = true;
    }
    behind.call(Request::from_parts(parts, Body::empty()))
}

/// The filters behind one that may answer late: they keep the request when it does.
pub(crate) struct Kept(pub(crate) Chain);

impl Serve for Kept {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let Some(passage) = Passage::of(&request) else {
            return self.0.call(request);
        };
        let answers = &passage.late;
        let Some(nearest) = answers.0.last() else {
            return self.0.call(request);
        };
        if let Some(response) = answers.0.iter().find_map(Late::take) {
            return show(&self.0, request.into_parts().0, response);
        }
        if let Some(response) = passage.exchange.take_reply() {
            return show(&self.0, request.into_parts().0, response);
        }
        let late = nearest.clone();
        *lock(&late.0.behind) = Some(self.0.call(request));
        Box::pin(poll_fn(move |cx| late.poll_behind(cx)))
    }
}

/// A filter whose own answers are shown to those `behind` it.
pub(crate) struct ShownBehind {
    pub(crate) filter: Chain,
    pub(crate) behind: Chain,
}

impl Serve for ShownBehind {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, body) = request.into_parts();
        let open = Passage::of_head_mut(&mut parts).filter(|passage| passage.answer.is_none());
        let Some(passage) = open else {
            return self.filter.call(Request::from_parts(parts, body));
        };
        let late = Answering(Late::default());
        let exchange = passage.exchange.clone();
        passage.late.0.push(late.0.clone());
        let response = self.filter.call(Request::from_parts(parts, body));
        let behind = self.behind.clone();
        Box::pin(async move {
            let mut response = response.await;
            let outcome = Outcome::of_mut(&mut response);
            let early = match std::mem::take(&mut outcome.origin) {
                Origin::Early { request, .. } => Some(request),
                Origin::Late => None,
                other => {
                    outcome.origin = other;
                    return response;
                }
            };
            let summary = outcome.processor;
            exchange.set_answered();
            let shown = match early {
                Some(request) => show(&behind, *request, response),
                None => match late.0.give(Box::new(response)) {
                    Ok(shown) => shown,
                    Err(response) => return *response,
                },
            };
            let mut response = shown.await;
            // The log tells of the filter that answered.
            if summary.is_some() {
                Outcome::of_mut(&mut response).processor = summary;
            }
            response
        })
    }
}
