//! Calls that wait for a stream, and their turns.

use std::{
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Waker},
};

use tokio::time::Sleep;

use super::{Set, State};
use crate::transport::pool::budget::Held;

pub(super) struct Waiter {
    waker: Waker,
    /// It does not take whatever comes first, so it neither holds up others nor takes their turn.
    picky: bool,
}

/// A call's place among those that wait.
#[derive(Debug, Default)]
pub(in crate::transport::pool) struct Place {
    pub(super) ticket: Option<u64>,
    /// The share of the budget for those that wait.
    pub(super) waiting: Option<Held>,
    /// The share of the stream that the call was promised.
    pub(super) stream: Option<Held>,
    /// The attempt whose failure is this call's failure.
    pub(super) attempt: u64,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// A connection that refused this call.
    pub(super) avoid: Option<u64>,
    /// The call's head is too large for a connection whose peer has not said yet what it takes.
    pub(super) is_large: bool,
}

impl Place {
    /// A new call's place; `avoid` is a connection that refused it.
    pub(in crate::transport::pool) fn avoiding(avoid: Option<u64>) -> Self {
        Self {
            avoid,
            ..Self::default()
        }
    }
}

impl Set {
    /// Gives up waiting. If this call had been chosen to be next, another takes its turn.
    pub(in crate::transport::pool) fn leave(&self, place: &mut Place) {
        if let Some(ticket) = place.ticket.take() {
            let mut state = self.lock();
            if state.waiters.remove(&ticket).is_none() {
                drop(state);
                self.wake(1);
            } else {
                self.count(&mut state);
            }
        }
        place.waiting = None;
        place.timer = None;
    }

    /// Wakes as many as there is room for.
    pub(in crate::transport::pool) fn wake_for_room(&self) {
        let room = self.room(&self.lock());
        if room > 0 {
            self.wake(room);
        }
    }

    pub(super) fn wait(&self, state: &mut State, cx: &Context<'_>, place: &Place) {
        if let Some(ticket) = place.ticket {
            let waiter = Waiter {
                waker: cx.waker().clone(),
                picky: place.avoid.is_some() || place.is_large,
            };
            state.waiters.insert(ticket, waiter);
            self.count(state);
        }
    }

    pub(super) fn leave_locked(&self, state: &mut State, place: &mut Place) {
        if let Some(ticket) = place.ticket.take() {
            state.waiters.remove(&ticket);
            self.count(state);
        }
        place.waiting = None;
        place.timer = None;
    }

    fn count(&self, state: &mut State) {
        self.waiting.store(state.waiters.len(), Ordering::SeqCst);
    }

    /// Wakes the `count` that have waited longest, and whoever may have to leave what there is to
    /// them.
    pub(super) fn wake(&self, count: usize) {
        let mut state = self.lock();
        let mut left = count;
        let woken: Vec<_> = state
            .waiters
            .extract_if(.., |_, waiter| {
                let next = left > 0 || waiter.picky;
                left = left.saturating_sub(usize::from(!waiter.picky));
                next
            })
            .collect();
        self.count(&mut state);
        drop(state);
        for (_, waiter) in woken {
            waiter.waker.wake();
        }
    }
}

impl State {
    /// Returns whether nobody has waited longer who would take what this call takes.
    pub(super) fn is_first(&self, place: &Place) -> bool {
        let first = self.waiters.iter().find(|(_, waiter)| !waiter.picky);
        match (first, place.ticket) {
            (None, _) => true,
            (Some((first, _)), Some(own)) => own <= *first,
            (Some(_), None) => false,
        }
    }
}
