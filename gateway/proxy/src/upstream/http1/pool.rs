//! Idle connections, kept for further requests.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{Connection, Lease};
use crate::upstream::member::Host;

/// Time between two looks at idle connections that nobody uses.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle connections, the one used last at the end.
#[derive(Debug, Default)]
pub(crate) struct Http1Pool(Mutex<Idlers>);

#[derive(Debug, Default)]
struct Idlers {
    idle: Vec<Idle>,
    /// A task looks after them.
    swept: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Http1Pool {
    fn lock(&self) -> MutexGuard<'_, Idlers> {
        // Entries are pushed and removed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The idle connection that was used last.
    pub(in crate::upstream) fn idle(&self, host: &Arc<Host>) -> Option<Lease> {
        let limit = host.shared.cluster.idle_timeout;
        let mut idlers = self.lock();
        let mut at = idlers.idle.len();
        while let Some(entry) = at.checked_sub(1).and_then(|last| idlers.idle.get_mut(last)) {
            at -= 1;
            match entry.state(limit) {
                State::Ready => {
                    let mut connection = idlers.idle.remove(at).connection;
                    if !connection.may_go_on(&host.shared.cluster) {
                        continue;
                    }
                    connection.reused = true;
                    connection.requests = connection.requests.saturating_add(1);
                    return Some(Lease {
                        connection,
                        host: host.clone(),
                    });
                }
                State::Busy => {}
                State::Gone => idlers.idle.remove(at).connection.close(),
            }
        }
        None
    }

    /// Closes the connection that was used longest ago and whose last exchange is over; `false` if there is none.
    pub(in crate::upstream) fn let_go(&self) -> bool {
        let mut idlers = self.lock();
        let mut all = idlers.idle.iter_mut();
        let at = all.position(|entry| entry.connection.rest() != State::Busy);
        let oldest = at.map(|at| idlers.idle.remove(at));
        drop(idlers);
        match oldest {
            Some(oldest) => {
                oldest.connection.close();
                true
            }
            None => false,
        }
    }

    /// Drops what is closed or idle for too long; `false` if nothing is left, which ends the task.
    fn sweep(&self, limit: Option<Duration>) -> bool {
        let mut idlers = self.lock();
        idlers.idle.retain_mut(|entry| {
            let gone = entry.state(limit) == State::Gone;
            if gone {
                entry.connection.close();
            }
            !gone
        });
        idlers.swept = !idlers.idle.is_empty();
        idlers.swept
    }
}

/// Use of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Its task has not come to the end of the last exchange.
    Busy,
    /// Closed, or idle for too long.
    Gone,
}

impl Idle {
    fn state(&mut self, limit: Option<Duration>) -> State {
        if limit.is_some_and(|limit| self.since.elapsed() >= limit) {
            return State::Gone;
        }
        self.connection.rest()
    }
}

/// Gives a connection back after a complete exchange. What became of it shows when it is looked at again.
pub(in crate::upstream) fn give_back(host: &Arc<Host>, connection: Connection) {
    if connection.sender.is_closed() || !connection.may_go_on(&host.shared.cluster) {
        return;
    }
    let mut idlers = host.http1().lock();
    idlers.idle.push(Idle {
        connection,
        since: Instant::now(),
    });
    if !std::mem::replace(&mut idlers.swept, true) {
        tokio::spawn(sweep(Arc::downgrade(host)));
    }
    drop(idlers);
    host.http1_queue().free();
}

async fn sweep(host: Weak<Host>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(host) = host.upgrade() else { return };
        if !host.http1().sweep(host.shared.idle_limit()) {
            return;
        }
    }
}
