//! Further connections: the need for one, and the attempt to make it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize},
    },
    time::Duration,
};

use h2_guard::Resets;
use tokio::{sync::mpsc, time::Instant};

use super::{Member, Set, State};
use crate::{
    transport::pool::{
        connection::{self, Connection, Dialed},
        failure,
    },
    types::stream::Close,
};

/// Time after a failed connection in which none is added to those that serve.
const GROWTH_PAUSE: Duration = Duration::from_secs(1);

impl Set {
    /// Begins another connection if it is needed and allowed and none is being made.
    pub(super) fn grow(self: &Arc<Self>, state: &mut State, avoid: Option<u64>) {
        if state.dialing || !self.may_grow(state) {
            return;
        }
        let count = state.members.len();
        let crowded = state.members.iter().all(|member| {
            let (live, limit) = (member.live(), self.limit(member));
            live.saturating_mul(5) > limit.saturating_mul(4)
                || live >= limit
                || Some(member.connection.id) == avoid
        });
        let spread = count < self.spread() && state.members.iter().all(|m| m.live() > 1);
        if !(crowded || spread) {
            return;
        }
        state.dialing = true;
        state.attempts += 1;
        state.begun = Some(state.attempts);
    }

    /// Returns whether another connection is allowed: below the limit, and not right after a failure
    /// while others serve.
    pub(super) fn may_grow(&self, state: &State) -> bool {
        let paused = || state.no_growth_before.is_some_and(|at| Instant::now() < at);
        state.members.len() < self.settings.max_connections
            && (state.members.is_empty() || !paused())
    }

    fn spread(&self) -> usize {
        self.settings.connections.unwrap_or_else(|| {
            tokio::runtime::Handle::try_current()
                .map_or(1, |runtime| runtime.metrics().num_workers().min(4))
        })
    }
}

impl State {
    fn fail(&mut self, attempt: u64, close: Close) {
        self.failure = Some((attempt, close));
        self.no_growth_before = Some(Instant::now() + GROWTH_PAUSE);
    }
}

/// An attempt to connect. One that ends without a result, because its runtime ended or the connector panicked, has failed:
/// those who wait for it must not wait for ever.
pub(super) struct Attempt {
    set: Arc<Set>,
    number: u64,
    is_over: bool,
}

impl Attempt {
    pub(super) fn new(set: Arc<Set>, number: u64) -> Self {
        Self {
            set,
            number,
            is_over: false,
        }
    }

    /// Connects, and puts what comes of it into the set.
    pub(super) async fn run(mut self) {
        let set = self.set.clone();
        let result = set.dialer.dial(&set.settings).await;
        self.is_over = true;
        let mut state = set.lock();
        state.dialing = false;
        match result {
            Ok(Dialed {
                sender,
                local,
                peer,
                serving,
                traffic,
                served,
                ping,
            }) => {
                tracing::debug!(connection = self.number, "connected");
                let (leaving, leave) = mpsc::unbounded_channel();
                let connection = Arc::new(Connection {
                    id: self.number,
                    live: AtomicUsize::new(0),
                    opened: AtomicU32::new(0),
                    resets: Resets::default(),
                    traffic,
                    peer,
                    forwarded_for: set
                        .settings
                        .own_address
                        .clone()
                        .or_else(|| local.and_then(connection::forwarded_for)),
                    leaving,
                });
                state.failure = None;
                state.no_growth_before = None;
                state.members.push(Member {
                    connection: connection.clone(),
                    sender,
                    _serving: serving,
                });
                let room = set.room(&state);
                drop(state);
                tokio::spawn(connection::serve(
                    Arc::downgrade(&set),
                    connection,
                    served,
                    ping,
                    set.settings.clone(),
                    set.waiting.clone(),
                    leave,
                ));
                set.wake(room);
            }
            Err(error) => {
                tracing::debug!(%error, "cannot connect");
                state.fail(self.number, failure::of_connect(&error));
                drop(state);
                set.wake(usize::MAX);
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.set.lock();
        state.dialing = false;
        let close = failure::before_response("the attempt to connect was given up", None);
        state.fail(self.number, close);
        drop(state);
        self.set.wake(usize::MAX);
    }
}
