//! Requests that wait for a connection of one endpoint, where a limit allows no further one.
//!
//! They are woken in the order in which they came, by what becomes free at their endpoint: a connection without a request,
//! a stream on one, or the place of one that closed. As in Envoy, an endpoint that has a connection is not told of what
//! becomes free elsewhere in its cluster; one that has none may always open one.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::error::Failure;

/// The connections of one endpoint and those who wait for one.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    connections: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
    failures: Mutex<Failures>,
}

/// Attempts to connect that failed.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    last: Option<io::ErrorKind>,
}

/// A place in the queue.
pub(super) struct Waiting<'a> {
    queue: &'a Queue,
    failures: u64,
    until: Option<Instant>,
}

/// Tells the queue that something became free, when dropped.
#[derive(Debug)]
pub(super) struct Wakes(Arc<Queue>);

/// A connection in the number of those of its endpoint, until the first of its clones is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Counted(Arc<Count>);

#[derive(Debug)]
struct Count {
    queue: Arc<Queue>,
    over: AtomicBool,
}

impl Queue {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        // Only assignments run under the lock.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Connections, those among them that are still connecting.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Tells the first who waits that something became free.
    pub(super) fn free(&self) {
        if !self.is_empty() {
            self.freed.notify_one();
        }
    }

    /// No connection could be made: who waits would only learn the same.
    pub(super) fn fail(&self, error: io::ErrorKind) {
        let mut failures = self.failures();
        failures.count = failures.count.wrapping_add(1);
        failures.last = Some(error);
        drop(failures);
        self.freed.notify_waiters();
    }

    /// The last place in the queue, until this time at the latest.
    pub(super) fn join(&self, until: Option<Instant>) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting {
            queue: self,
            failures: self.failures().count,
            until,
        }
    }

    /// Counts a connection until what this gives, or a clone of it, is dropped.
    pub(super) fn count(self: &Arc<Self>) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::new(Count {
            queue: self.clone(),
            over: AtomicBool::new(false),
        }))
    }

    /// Calls [`free`](Self::free) when dropped.
    pub(super) fn wakes(self: &Arc<Self>) -> Wakes {
        Wakes(self.clone())
    }
}

impl Waiting<'_> {
    /// Waits until something became free, which may be gone again.
    ///
    /// # Errors
    /// The time is over, or an attempt to connect to the endpoint failed meanwhile.
    pub(super) async fn turn(&mut self) -> Result<(), Failure> {
        self.failed()?;
        let freed = self.queue.freed.notified();
        match self.until {
            Some(until) => timeout_at(until, freed)
                .await
                .map_err(|_| Failure::Timeout)?,
            None => freed.await,
        }
        // Who leaves when it is its turn passes that on.
        self.failed().inspect_err(|_| self.queue.free())
    }

    fn failed(&self) -> Result<(), Failure> {
        let failures = self.queue.failures();
        match failures.last {
            Some(kind) if failures.count != self.failures => Err(Failure::connect(kind.into())),
            _ => Ok(()),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.free();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.0.over.swap(true, Ordering::Relaxed) {
            self.0.queue.connections.fetch_sub(1, Ordering::Relaxed);
            self.0.queue.free();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll, time::Duration};

    use super::*;

    async fn is_pending(future: impl Future + Unpin) -> bool {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn who_came_first_is_served_first() {
        let queue = Arc::<Queue>::default();
        let (mut first, mut second) = (queue.join(None), queue.join(None));
        let (mut first, mut second) = (Box::pin(first.turn()), Box::pin(second.turn()));
        assert!(is_pending(&mut first).await && is_pending(&mut second).await);
        drop(queue.wakes());
        assert!(is_pending(&mut second).await);
        // Who leaves when it is its turn passes that on.
        drop(first);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn who_leaves_with_a_failure_passes_its_turn_on() {
        let queue = Arc::<Queue>::default();
        let (mut first, mut second) = (queue.join(None), queue.join(None));
        let mut turn = Box::pin(first.turn());
        assert!(is_pending(&mut turn).await);
        queue.free();
        queue.fail(io::ErrorKind::ConnectionRefused);
        // It came after the failure.
        second.failures = queue.failures().count;
        let mut second = Box::pin(second.turn());
        assert!(is_pending(&mut second).await);
        assert!(matches!(turn.await, Err(Failure::Connect(_))));
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_failure_is_one_of_all_who_wait() {
        let queue = Arc::<Queue>::default();
        let (mut first, mut second) = (queue.join(None), queue.join(None));
        let turn = Box::pin(first.turn());
        queue.fail(io::ErrorKind::ConnectionRefused);
        assert!(matches!(turn.await, Err(Failure::Connect(_))));
        assert!(matches!(second.turn().await, Err(Failure::Connect(_))));
        // Not of those who come later.
        let mut third = queue.join(None);
        drop(queue.count());
        third.turn().await.unwrap();
        assert_eq!(queue.connections(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let queue = Queue::default();
        let until = Instant::now() + Duration::from_secs(1);
        assert!(matches!(
            queue.join(Some(until)).turn().await,
            Err(Failure::Timeout)
        ));
        assert!(queue.is_empty());
    }
}
