//! A client connection of hyper that is moved on by whoever waits for its response, instead of by a
//! task of its own: a request then costs no hop between tasks.
//!
//! A connection and the futures that it feeds wake each other all the time. They share one waker, a
//! [`Relay`], which takes such a wake-up for "once more" as long as the connection is being polled,
//! and passes all others on to the task that polled last.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::connect::Stream;
use crate::{http::h1::Http1Io, upstream::http1::RequestBody};

type Inner = Connection<TokioIo<Http1Io<Stream>>, RequestBody>;

/// Moves a connection's bytes when polled. Dropping it closes the connection.
pub(super) struct Driver {
    /// Gone when it has ended: whoever still waits for something from it learns that from its drop.
    connection: Option<Box<Inner>>,
    relay: Arc<Relay>,
    waker: Waker,
}

impl Driver {
    pub(super) fn new(connection: Inner) -> Self {
        let relay = Arc::new(Relay {
            state: AtomicU8::new(RESTING),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            connection: Some(Box::new(connection)),
            waker: relay.clone().into(),
            relay,
        }
    }

    /// Moves the connection on until `next`, which waits for something from it, is ready.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut next: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        /// Hyper yields by waking itself; then other tasks have their turn.
        const TURNS: usize = 8;
        self.relay.begin(cx.waker());
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..TURNS {
            if let Poll::Ready(value) = next(&mut inner) {
                self.relay.stop();
                return Poll::Ready(value);
            }
            if let Some(connection) = &mut self.connection
                && poll_connection(connection, &mut inner).is_ready()
            {
                self.connection = None;
            }
            if let Poll::Ready(value) = next(&mut inner) {
                self.relay.stop();
                return Poll::Ready(value);
            }
            if !self.relay.again() {
                return Poll::Pending;
            }
        }
        self.relay.stop();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets an idle connection notice that it was closed. Nobody is woken by it from now on.
    pub(super) fn rest(&mut self) {
        let _ = self.poll(&mut Context::from_waker(Waker::noop()), |_| {
            Poll::<()>::Pending
        });
    }

    /// Moves the connection on in a task, with upgrades. The handle is for what nobody waits for any more.
    pub(super) fn spawn(self) -> Option<AbortHandle> {
        let connection = self.connection?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Some(task.abort_handle())
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

fn poll_connection(connection: &mut Inner, cx: &mut Context<'_>) -> Poll<()> {
    Pin::new(connection).poll(cx).map(|result| {
        if let Err(error) = result {
            tracing::debug!(%error, "upstream connection ended");
        }
    })
}

const RESTING: u8 = 0;
const POLLING: u8 = 1;
const AGAIN: u8 = 2;

/// ```text
/// RESTING ──begin──▶ POLLING ──wake──▶ AGAIN
///    ▲                 │  ▲              │
///    ├──again: no──────┘  └─again: yes───┤
///    └──stop─────────────────────────────┘
/// ```
struct Relay {
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl Relay {
    fn begin(&self, task: &Waker) {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.will_wake(task) {
            known.clone_from(task);
        }
        self.state.store(POLLING, Ordering::SeqCst);
    }

    /// Returns whether there was a wake-up since the last look; if not, polling is over.
    fn again(&self) -> bool {
        let rested =
            self.state
                .compare_exchange(POLLING, RESTING, Ordering::SeqCst, Ordering::SeqCst);
        if rested.is_err() {
            self.state.store(POLLING, Ordering::SeqCst);
        }
        rested.is_err()
    }

    fn stop(&self) {
        self.state.store(RESTING, Ordering::SeqCst);
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self
            .state
            .compare_exchange(POLLING, AGAIN, Ordering::SeqCst, Ordering::SeqCst);
        if noted == Err(RESTING) {
            let task = self
                .task
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_wake_ups_from_outside_reach_the_task() {
        let count = Arc::<Count>::default();
        let relay = Arc::new(Relay {
            state: AtomicU8::new(RESTING),
            task: Mutex::new(Waker::noop().clone()),
        });
        let waker: Waker = relay.clone().into();
        relay.begin(&count.clone().into());
        assert!(!relay.again());
        relay.begin(&count.clone().into());
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert!(relay.again());
        assert!(!relay.again());
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        waker.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
