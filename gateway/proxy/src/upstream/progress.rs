//! Progress of a request's body, seen from the response.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::http::body::{BoxError, Watch};

/// Shared by the request body that an upstream connection reads and by the exchange's response.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the whole body was handed to the connection.
    done: Option<Instant>,
    /// When the connection got the piece that it has; unset if it asks for the next.
    given: Option<Instant>,
    cancelled: bool,
    reader: Option<Waker>,
    waiter: Option<Waker>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Only assignments run under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the whole body was handed to the connection.
    pub(crate) fn is_done(&self) -> bool {
        self.lock().done.is_some()
    }

    /// Time since the whole body was handed to the connection.
    pub(crate) fn since_done(&self) -> Option<Duration> {
        self.lock().done.map(|done| done.elapsed())
    }

    /// Ready when the whole body was handed to the connection.
    pub(crate) fn poll_done(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.done.is_some() {
            return Poll::Ready(());
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Since when the connection has a piece and has not asked for more: the upstream does not take it.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        self.lock().given
    }

    /// The response is over: what is left of the body is not wanted.
    pub(crate) fn cancel(&self) {
        let reader = {
            let mut state = self.lock();
            state.cancelled = true;
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// Follows a request body for its [`Progress`].
pub(crate) struct ProgressWatch(pub(crate) Arc<Progress>);

impl Watch for ProgressWatch {
    fn before(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        let mut state = self.0.lock();
        if state.cancelled {
            return Err("the response ended before the request".into());
        }
        state.given = None;
        match &mut state.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
        }
        Ok(())
    }

    fn data(&mut self, _len: usize) {
        self.0.lock().given = Some(Instant::now());
    }

    fn end(&mut self, result: Result<(), &BoxError>) {
        if result.is_err() {
            return;
        }
        let waiter = {
            let mut state = self.0.lock();
            state.done = Some(Instant::now());
            state.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}
