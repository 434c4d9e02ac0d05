//! Answers that do not come from the upstream, and where they meet the request.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use http::{Request, Response, request::Parts};
use tokio::sync::oneshot;

use crate::http::body::Body;

/// A response that always comes.
pub(crate) type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A value that one of those who share it takes.
pub(crate) struct Once<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Once<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(Some(value))))
    }

    /// The value, the first time.
    pub(crate) fn take(&self) -> Option<T> {
        lock(&self.0).take()
    }
}

/// A request that takes the place of the response which it was left with.
#[derive(Clone)]
pub(crate) struct Redirected {
    pub(crate) parts: Box<Parts>,
    pub(crate) trail: Trail,
    body: Option<Once<Whole>>,
}

/// A body all of which is held.
pub(crate) struct Whole {
    pub(crate) body: Body,
    /// Bytes that it takes, with what its pieces themselves take.
    pub(crate) cost: usize,
}

impl Redirected {
    pub(crate) fn new(parts: Parts, body: Option<Whole>, trail: Trail) -> Self {
        Self {
            parts: Box::new(parts),
            trail,
            body: body.map(Once::new),
        }
    }

    /// The body, once.
    pub(crate) fn take_body(&self) -> Option<Whole> {
        self.body.as_ref()?.take()
    }
}

/// The redirects that led to a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail {
    pub(crate) count: u32,
    /// From which route to which one, by name.
    pub(crate) steps: Vec<(String, String)>,
}

/// Response of a request that goes nowhere.
#[derive(Clone)]
pub(crate) struct Answer(Once<Response<Body>>);

impl Answer {
    pub(crate) fn new(response: Response<Body>) -> Self {
        Self(Once::new(response))
    }

    /// The response, for the end of the chain.
    pub(crate) fn take(&self) -> Option<Response<Body>> {
        self.0.take()
    }
}

/// A request that came to the end of the filters of a cluster, and where its response goes.
pub(crate) type Met = (Request<Body>, oneshot::Sender<Response<Body>>);

/// The attempt that waits at the end of the filters of a cluster.
pub(crate) type Meeting = Once<oneshot::Sender<Met>>;

/// The way of an answer that is shown to no filter.
#[derive(Clone)]
pub(crate) struct Shortcut(Once<oneshot::Sender<Response<Body>>>);

impl Shortcut {
    /// The way, and where it leads.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Response<Body>>) {
        let (sender, answer) = oneshot::channel();
        (Self(Once::new(sender)), answer)
    }

    /// Gives the answer. Whoever waits at the other end lets the filters go.
    pub(crate) fn answer(&self, response: Response<Body>) {
        if let Some(sender) = self.0.take() {
            drop(sender.send(response));
        }
    }
}

/// Places where answers that come late may come from, the filter nearest to the client first.
#[derive(Clone, Default)]
pub(crate) struct LateAnswers(pub(crate) Vec<Late>);

/// The filter's half. The kept future holds the request, which refers to this slot; dropping this half breaks that cycle.
pub(crate) struct Answering(pub(crate) Late);

impl Drop for Answering {
    fn drop(&mut self) {
        let behind = lock(&self.0.0.behind).take();
        drop(behind);
    }
}

/// State that a filter that may answer late shares with the end of its chain.
#[derive(Clone, Default)]
pub(crate) struct Late(pub(crate) Arc<Shared>);

#[derive(Default)]
pub(crate) struct Shared {
    end: Mutex<End>,
    /// The filters behind, while they have the request.
    pub(crate) behind: Mutex<Option<ResponseFuture>>,
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
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Late {
    /// Gives the answer to the end of the chain, if that has no other. What has the request then brings it back.
    pub(crate) fn give(
        &self,
        response: Box<Response<Body>>,
    ) -> Result<ResponseFuture, Box<Response<Body>>> {
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
    pub(crate) fn take(&self) -> Option<Response<Body>> {
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
        match std::mem::replace(&mut *end, End::Over) {
            End::Answered(response) => Poll::Ready(*response),
            End::Over => Poll::Pending,
            End::Ahead | End::Waiting(_) => {
                *end = End::Waiting(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(crate) fn poll_behind(&self, cx: &mut Context<'_>) -> Poll<Response<Body>> {
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
    /// The upstream's response, or that of a filter which answers before it. Pinned by the caller: an `async fn` would keep
    /// a future that it is given by value twice.
    pub(crate) async fn or(
        self,
        mut upstream: Pin<&mut impl Future<Output = Response<Body>>>,
    ) -> Response<Body> {
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
