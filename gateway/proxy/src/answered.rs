//! A filter's own answer on its way through the filters behind it.
//!
//! Envoy shows a response that a filter makes before the request went on to every filter, also to those that
//! lie behind it and never saw the request. They get the response alone. Where the request has come to the end of the
//! chain meanwhile, the answer takes the place of the upstream's, and comes back through all of them. Where the processor of a
//! filter still has the request's headers, the request goes on from there to fetch the answer, and that processor has both.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use extproc_client::host::{AnsweredEarly, AnsweredLate, ExchangeContext, ExchangeSummary};
use http::{Extensions, Request, Response, request::Parts};

use crate::{
    body::Body,
    exchange::Exchange,
    filters::{Handler, HandlerFuture},
    forward::add_route_headers,
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
    // It is answered already.
    parts.extensions.remove::<LateAnswers>();
    parts.extensions.insert(Answer::new(response));
    behind.call(Request::from_parts(parts, Body::empty()))
}

/// Request extension: where answers that come late may come from, the filter nearest to the client first.
#[derive(Clone, Default)]
pub(crate) struct LateAnswers(Vec<Late>);

/// The filter's end of it. What has the request knows the way to where it is kept, so that it has to be let go.
struct Answering(Late);

impl Drop for Answering {
    fn drop(&mut self) {
        let behind = lock(&self.0.0.behind).take();
        drop(behind);
    }
}

/// What a filter that may answer late and the end of its chain share.
#[derive(Clone, Default)]
struct Late(Arc<Shared>);

#[derive(Default)]
struct Shared {
    end: Mutex<End>,
    /// The filters behind, while they have the request.
    behind: Mutex<Option<HandlerFuture>>,
}

/// The end of the chain.
///
/// ```text
///   ┌───────────────────answer─────────────────────▼
/// Ahead ──request arrives──▶ Waiting ──answer──▶ Answered ──taken──▶ Over
///                               └──────── the upstream's response ────▲
/// ```
#[derive(Default)]
enum End {
    #[default]
    Ahead,
    Waiting(Waker),
    Answered(Box<Response<Body>>),
    Over,
}

/// Only assignments run under the locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Late {
    /// Gives the answer to the end of the chain, if that has no other. What has the request then brings it back.
    fn give(&self, response: Box<Response<Body>>) -> Result<HandlerFuture, Box<Response<Body>>> {
        let Some(behind) = lock(&self.0.behind).take() else {
            return Err(response);
        };
        let mut end = lock(&self.0.end);
        match std::mem::replace(&mut *end, End::Over) {
            End::Ahead => *end = End::Answered(response),
            End::Waiting(waker) => {
                *end = End::Answered(response);
                waker.wake();
            }
            End::Answered(_) | End::Over => return Err(response),
        }
        Ok(behind)
    }

    /// Takes an answer that was given before the request came to the end.
    fn take(&self) -> Option<Response<Body>> {
        let mut end = lock(&self.0.end);
        match std::mem::take(&mut *end) {
            End::Answered(response) => {
                *end = End::Over;
                Some(*response)
            }
            other => {
                *end = other;
                None
            }
        }
    }

    fn poll_answer(&self, cx: &Context<'_>) -> Poll<Response<Body>> {
        let mut end = lock(&self.0.end);
        match std::mem::replace(&mut *end, End::Waiting(cx.waker().clone())) {
            End::Answered(response) => Poll::Ready(*response),
            End::Ahead | End::Waiting(_) | End::Over => Poll::Pending,
        }
    }

    fn poll_behind(&self, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        // Out of its place meanwhile: the end of the chain is in it.
        let Some(mut behind) = lock(&self.0.behind).take() else {
            return Poll::Pending;
        };
        let polled = behind.as_mut().poll(cx);
        if polled.is_pending() {
            *lock(&self.0.behind) = Some(behind);
        }
        polled
    }
}

impl LateAnswers {
    /// The upstream's response, or that of a filter which answers before it.
    pub(crate) async fn or(self, upstream: impl Future<Output = Response<Body>>) -> Response<Body> {
        let mut upstream = pin!(upstream);
        let response = poll_fn(|cx| {
            let answered = self.0.iter().find_map(|late| match late.poll_answer(cx) {
                Poll::Ready(response) => Some(response),
                Poll::Pending => None,
            });
            match answered {
                Some(response) => Poll::Ready(response),
                None => upstream.as_mut().poll(cx),
            }
        })
        .await;
        for late in &self.0 {
            *lock(&late.0.end) = End::Over;
        }
        response
    }
}

/// The filters behind one that may answer late: they keep the request when it does.
pub(crate) struct Kept(pub(crate) Arc<dyn Handler>);

impl Handler for Kept {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        let Some(answers) = request.extensions().get::<LateAnswers>() else {
            return self.0.call(request);
        };
        if let Some(response) = answers.0.iter().find_map(Late::take) {
            return show(&self.0, request.into_parts().0, response);
        }
        if let Some(exchange) = request.extensions().get::<Arc<Exchange>>()
            && let Some(mut response) = exchange.take_reply()
        {
            add_route_headers(&mut response, exchange);
            return show(&self.0, request.into_parts().0, response);
        }
        let Some(late) = answers.0.last().cloned() else {
            return self.0.call(request);
        };
        *lock(&late.0.behind) = Some(self.0.call(request));
        Box::pin(poll_fn(move |cx| late.poll_behind(cx)))
    }
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
        let (mut parts, body) = request.into_parts();
        let late = Answering(Late::default());
        let exchange = parts.extensions.get::<Arc<Exchange>>().cloned();
        let answers: &mut LateAnswers = parts.extensions.get_or_insert_default();
        answers.0.push(late.0.clone());
        let response = self.filter.call(Request::from_parts(parts, body));
        let behind = self.behind.clone();
        Box::pin(async move {
            let mut response = response.await;
            let extensions = response.extensions_mut();
            let early = extensions.remove::<AnsweredEarly>();
            if early.is_none() && extensions.remove::<AnsweredLate>().is_none() {
                return response;
            }
            let summary = extensions.get::<ExchangeSummary>().copied();
            if let Some(exchange) = exchange {
                exchange.set_answered();
                // Filters behind see the reply with the headers of the route.
                if let Some(AnsweredEarly { request }) = &early {
                    exchange.current_route(request);
                }
                add_route_headers(&mut response, &exchange);
            }
            let shown = match early {
                Some(AnsweredEarly { request }) => show(&behind, *request, response),
                None => match late.0.give(Box::new(response)) {
                    Ok(shown) => shown,
                    Err(response) => return *response,
                },
            };
            let mut response = shown.await;
            // The log tells of the filter that answered.
            if let Some(summary) = summary {
                response.extensions_mut().insert(summary);
            }
            response
        })
    }
}
