//! A filter's own answer on its way through the filters behind it.
//!
//! Envoy shows a response that a filter makes before the request went on to every filter, also to those that
//! lie behind it and never saw the request. They get the response alone. Where the request has come to the end of the
//! chain meanwhile, the answer takes the place of the upstream's, and comes back through all of them. Where the processor of a
//! filter still has the request's headers, the request goes on from there to fetch the answer, and that processor has both.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::host::{AnsweredEarly, AnsweredLate, ExchangeContext, ExchangeSummary};
use http::{Request, Response, request::Parts};
use tower::Service;

use crate::{
    exchange::{
        Exchange,
        answer::{Answer, Answering, Late, LateAnswers, is_answered, lock},
        header_changes::add_route_headers,
    },
    filters::{Chain, ResponseFuture},
    http::body::Body,
};

/// Lets the filters `behind` see the answer to a request that did not come to them.
pub(crate) fn show(behind: &Chain, mut parts: Parts, response: Response<Body>) -> ResponseFuture {
    if let Some(context) = parts.extensions.get_mut::<ExchangeContext>() {
        context.response_only = true;
    }
    // It is answered already.
    parts.extensions.remove::<LateAnswers>();
    parts.extensions.insert(Answer::new(response));
    behind.call(Request::from_parts(parts, Body::empty()))
}

/// Outcome of waiting for more of a request before it goes on; the reply, for [`show`], if a limit passes meanwhile.
pub(crate) async fn wait<T>(
    exchange: &Exchange,
    waiting: impl Future<Output = T>,
) -> Result<T, Response<Body>> {
    let outcome = exchange.or_reply(pin!(waiting)).await;
    outcome.map_err(|mut reply| {
        add_route_headers(&mut reply, exchange);
        reply
    })
}

/// The filters behind one that may answer late: they keep the request when it does.
pub(crate) struct Kept(pub(crate) Chain);

impl Service<Request<Body>> for &Kept {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let Some(answers) = request.extensions().get::<LateAnswers>() else {
            return self.0.call(request);
        };
        if let Some(response) = answers.0.iter().find_map(Late::take) {
            return show(&self.0, request.into_parts().0, response);
        }
        let exchange = request.extensions().get::<Arc<Exchange>>().cloned();
        if let Some(exchange) = &exchange
            && let Some(mut response) = exchange.take_reply()
        {
            add_route_headers(&mut response, exchange);
            return show(&self.0, request.into_parts().0, response);
        }
        let Some(late) = answers.0.last().cloned() else {
            return self.0.call(request);
        };
        *lock(&late.0.behind) = Some(self.0.call(request));
        Box::pin(async move {
            let Ok(mut response) = poll_fn(|cx| late.poll_behind(cx)).await;
            // Of the last filter, behind which nobody had to see it.
            let extensions = response.extensions();
            let early = extensions.get::<AnsweredEarly>().cloned();
            if let Some(exchange) = exchange
                && (early.is_some() || extensions.get::<AnsweredLate>().is_some())
            {
                if let Some(AnsweredEarly { request, .. }) = &early {
                    exchange.current_route(request);
                }
                add_route_headers(&mut response, &exchange);
            }
            Ok(response)
        })
    }
}

/// A filter whose own answers are shown to those `behind` it.
pub(crate) struct ShownBehind {
    pub(crate) filter: Chain,
    pub(crate) behind: Chain,
}

impl Service<Request<Body>> for &ShownBehind {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        if is_answered(request.extensions()) {
            return self.filter.call(request);
        }
        let (mut parts, body) = request.into_parts();
        let late = Answering(Late::default());
        let exchange = parts.extensions.get::<Arc<Exchange>>().cloned();
        let answers: &mut LateAnswers = parts.extensions.get_or_insert_default();
        answers.0.push(late.0.clone());
        let response = self.filter.call(Request::from_parts(parts, body));
        let behind = self.behind.clone();
        Box::pin(async move {
            let Ok(mut response) = response.await;
            let extensions = response.extensions_mut();
            let early = extensions.remove::<AnsweredEarly>();
            if early.is_none() && extensions.remove::<AnsweredLate>().is_none() {
                return Ok(response);
            }
            let summary = extensions.get::<ExchangeSummary>().copied();
            if let Some(exchange) = exchange {
                exchange.set_answered();
                // Filters behind see the reply with the headers of the route.
                if let Some(AnsweredEarly { request, .. }) = &early {
                    exchange.current_route(request);
                }
                add_route_headers(&mut response, &exchange);
            }
            let shown = match early {
                Some(AnsweredEarly { request, .. }) => show(&behind, *request, response),
                None => match late.0.give(Box::new(response)) {
                    Ok(shown) => shown,
                    Err(response) => return Ok(*response),
                },
            };
            let Ok(mut response) = shown.await;
            // The log tells of the filter that answered.
            if let Some(summary) = summary {
                response.extensions_mut().insert(summary);
            }
            Ok(response)
        })
    }
}
