//! Going down in order: finish what is under way, take nothing new.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// Tells connections to finish. Every connection holds a [`Drain`]; the gateway is drained when all
/// are dropped.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    signal: watch::Receiver<bool>,
    _alive: Arc<()>,
}

/// The end that gives the signal.
#[derive(Debug)]
pub(crate) struct Drainer {
    signal: watch::Sender<bool>,
    alive: Arc<()>,
}

impl Drainer {
    pub(crate) fn new() -> Self {
        Self {
            signal: watch::Sender::new(false),
            alive: Arc::default(),
        }
    }

    pub(crate) fn drain(&self) -> Drain {
        Drain {
            signal: self.signal.subscribe(),
            _alive: self.alive.clone(),
        }
    }

    /// Gives the signal and waits until all connections are done, at most `limit`.
    pub(crate) async fn run(&self, limit: Duration) {
        const LOOK: Duration = Duration::from_millis(10);
        self.signal.send_replace(true);
        let deadline = tokio::time::Instant::now() + limit;
        while Arc::strong_count(&self.alive) > 1 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drain {
    /// Whether the signal was given.
    pub(crate) fn draining(&self) -> bool {
        *self.signal.borrow()
    }

    /// Ends when the signal is given.
    pub(crate) async fn signaled(&mut self) {
        // An error means that the gateway is gone, which is as good as the signal.
        let _ = self.signal.wait_for(|draining| *draining).await;
    }
}
