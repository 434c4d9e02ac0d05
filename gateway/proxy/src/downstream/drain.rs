//! Going down in order: finish what is under way, take nothing new.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

/// Progress of a listener, or of one of its filter chains, on its way out.
///
/// ```text
/// Serving ──▶ Draining ──▶ Over
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Connections end with the exchanges that are under way.
    Draining,
    /// Time is up: connections end now.
    Over,
}

/// Tells connections to finish. Every connection holds a [`Drain`]; what is being drained is
/// done when all are dropped.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    phase: watch::Receiver<Phase>,
    _alive: Arc<()>,
}

/// The end that gives the signal. Clones are the same end.
#[derive(Clone, Debug)]
pub(crate) struct Drainer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    phase: watch::Sender<Phase>,
    alive: Arc<()>,
}

impl Drainer {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            phase: watch::Sender::new(Phase::Serving),
            alive: Arc::default(),
        }))
    }

    pub(crate) fn drain(&self) -> Drain {
        Drain {
            phase: self.0.phase.subscribe(),
            _alive: self.0.alive.clone(),
        }
    }

    /// Gives the signal.
    pub(crate) fn signal(&self) {
        self.advance(Phase::Draining);
    }

    /// Gives the signal, waits until all connections are done, at most `limit`, and then ends
    /// those that are left.
    pub(crate) async fn run(&self, limit: Duration) {
        self.signal();
        wait(std::slice::from_ref(self), limit).await;
        self.advance(Phase::Over);
    }

    fn advance(&self, to: Phase) {
        self.0.phase.send_if_modified(|phase| {
            let later = *phase < to;
            *phase = (*phase).max(to);
            later
        });
    }

    /// Returns true if nothing is left.
    pub(crate) fn is_done(&self) -> bool {
        Arc::strong_count(&self.0.alive) == 1
    }
}

/// Waits until all of them are done, at most `limit`.
pub(crate) async fn wait(drainers: &[Drainer], limit: Duration) {
    const LOOK: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + limit;
    while !drainers.iter().all(Drainer::is_done) && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

impl Drain {
    /// Returns true if the signal was given.
    pub(crate) fn draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Ends when the signal is given.
    pub(crate) async fn signaled(&mut self) {
        self.reach(Phase::Draining).await;
    }

    /// Ends when the time to finish is over.
    pub(crate) async fn over(&mut self) {
        self.reach(Phase::Over).await;
    }

    async fn reach(&mut self, wanted: Phase) {
        // An error means that the gateway is gone, which is as good as the signal.
        let _ = self.phase.wait_for(|phase| *phase >= wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_ended() {
        let drainer = Drainer::new();
        let mut drain = drainer.drain();
        assert!(!drain.draining());
        let connection = tokio::spawn(async move {
            drain.signaled().await;
            drain.over().await;
        });
        drainer.run(Duration::from_secs(5)).await;
        connection.await.unwrap();
        assert!(drainer.is_done());
    }
}
