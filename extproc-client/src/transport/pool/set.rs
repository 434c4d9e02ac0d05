//! The connections of a pool and the calls that wait for one.
//!
//! A call takes a stream on the connection with the fewest; if none has room it waits, first come
//! first served, and is woken by whatever makes room: a stream that ends, a new connection, a
//! raised limit. Whoever finds the connections crowded starts one attempt to make another; all who
//! wait share it. A call that one connection refused waits for another one, and one with a large head for
//! the SETTINGS of one; both let those pass who can use the first.

mod growth;
mod slot;
mod waiting;

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use h2_guard::request_size;
use tokio::time::{Instant, sleep};

use self::{growth::Attempt, waiting::Waiter};
pub(super) use self::{slot::Slot, waiting::Place};
use super::{
    Settings,
    budget::{Held, Share},
    connection::{Connection, Dial},
    failure::{self, NotOpened},
};
use crate::{transport::request::Outline, types::stream::Close};

/// A connection is retired before its stream ids end (2^30 for a client).
const MAX_STREAMS_EVER: u32 = (1 << 30) - 4096;

pub(super) struct Set {
    pub(super) settings: Settings,
    dialer: Box<dyn Dial>,
    state: Mutex<State>,
    /// Number of calls that wait, so that a stream that ends takes no lock if there is none.
    waiting: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    /// True if a connection is being made.
    dialing: bool,
    /// Attempts begun; the number of the one in progress.
    attempts: u64,
    /// The attempt that was begun under the lock and is to be spawned without it: a runtime that shuts down drops what it
    /// is given at once, and that takes the lock.
    begun: Option<u64>,
    /// The last attempt that failed.
    failure: Option<(u64, Close)>,
    no_growth_before: Option<Instant>,
    waiters: BTreeMap<u64, Waiter>,
    next_ticket: u64,
}

struct Member {
    connection: Arc<Connection>,
    sender: SendRequest<Bytes>,
    /// The connector's, see [`Connector::serving`](super::Connector::serving).
    _serving: Option<Box<dyn Any + Send + Sync>>,
}

/// A stream just opened.
pub(super) struct Opened {
    pub(super) slot: Slot,
    pub(super) response: ResponseFuture,
    pub(super) send: SendStream<Bytes>,
}

impl Set {
    pub(super) fn new(settings: Settings, dialer: Box<dyn Dial>) -> Self {
        Self {
            settings,
            dialer,
            state: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().members.len()
    }

    pub(super) fn streams(&self) -> usize {
        self.lock().members.iter().map(Member::live).sum()
    }

    /// The place of a new call. One for which the budget has neither a stream now nor a place to wait is refused before
    /// anything is sent.
    pub(super) fn admit(&self) -> Result<Place, Close> {
        let mut place = Place::default();
        let Some(budget) = &self.settings.budget else {
            return Ok(place);
        };
        let state = self.lock();
        let now = state.is_first(&place) && self.choose(&state, &place).is_some();
        drop(state);
        let (share, held) = match now {
            true => (Share::Stream, &mut place.stream),
            false => (Share::Waiting, &mut place.waiting),
        };
        *held = Held::take(Some(budget), share);
        match held {
            Some(_) => Ok(place),
            None => Err(failure::overflow()),
        }
    }

    /// Opens a stream, or waits for a chance.
    pub(super) fn poll_open(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        place: &mut Place,
        outline: &Outline,
    ) -> Poll<Result<Opened, NotOpened>> {
        let mut state = self.lock();
        let polled = self.poll_locked(&mut state, cx, place, outline);
        let begun = state.begun.take();
        drop(state);
        if let Some(number) = begun {
            // The attempt is there before its task is, which may never get a turn.
            let attempt = Attempt::new(self.clone(), number);
            tokio::spawn(attempt.run());
        }
        if polled.is_ready() {
            return polled;
        }
        let limit = self.settings.open_timeout;
        let timer = place.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if timer.as_mut().poll(cx).is_ready() {
            self.leave(place);
            let text = format!("no stream to the processor became free within {limit:?}");
            return Poll::Ready(Err(NotOpened::retriable(Close::unavailable(text))));
        }
        Poll::Pending
    }

    fn poll_locked(
        self: &Arc<Self>,
        state: &mut State,
        cx: &Context<'_>,
        place: &mut Place,
        outline: &Outline,
    ) -> Poll<Result<Opened, NotOpened>> {
        if state.is_first(place)
            && let Some(opened) = self.take(state, place, outline)?
        {
            self.leave_locked(state, place);
            return Poll::Ready(Ok(opened));
        }
        if place.ticket.is_some()
            && state.members.is_empty()
            && let Some((attempt, close)) = &state.failure
            && *attempt >= place.attempt
        {
            let close = close.clone();
            self.leave_locked(state, place);
            return Poll::Ready(Err(NotOpened::retriable(close)));
        }
        self.grow(state, place.avoid);
        if place.ticket.is_none() {
            let budget = self.settings.budget.as_ref();
            if place.waiting.is_none() {
                place.waiting = Held::take(budget, Share::Waiting);
            }
            if place.waiting.is_none() || state.waiters.len() >= self.settings.max_pending {
                return Poll::Ready(Err(NotOpened::for_good(failure::overflow())));
            }
            state.next_ticket += 1;
            place.ticket = Some(state.next_ticket);
            place.attempt = state.attempts;
        }
        self.wait(state, cx, place);
        // A stream may have ended between the first look and now, and seen nobody waiting.
        if state.is_first(place)
            && let Some(opened) = self.take(state, place, outline)?
        {
            self.leave_locked(state, place);
            return Poll::Ready(Ok(opened));
        }
        Poll::Pending
    }

    /// Takes a connection out: no new streams on it.
    pub(super) fn remove(&self, id: u64) {
        let mut state = self.lock();
        let found = state.members.iter().position(|m| m.connection.id == id);
        let removed = found.map(|index| state.members.swap_remove(index));
        drop(state);
        drop(removed);
        // Those who waited for it look for another, or begin to connect.
        self.wake(usize::MAX);
    }

    /// Takes a connection out if it has no streams.
    pub(super) fn remove_if_idle(&self, id: u64) -> bool {
        let mut state = self.lock();
        let found = state
            .members
            .iter()
            .position(|m| m.connection.id == id && m.live() == 0);
        let removed = found.map(|index| state.members.swap_remove(index));
        drop(state);
        removed.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of streams that `member` may have: none while its peer does not answer a ping.
    fn limit(&self, member: &Member) -> usize {
        if member.connection.traffic.is_doubted() {
            return 0;
        }
        member
            .sender
            .current_max_send_streams()
            .min(self.settings.max_streams)
    }

    fn room(&self, state: &State) -> usize {
        state
            .members
            .iter()
            .map(|member| self.limit(member).saturating_sub(member.live()))
            .fold(0, usize::saturating_add)
    }

    /// Opens a stream on the connection with the fewest, if one has room.
    fn take(
        self: &Arc<Self>,
        state: &mut State,
        place: &mut Place,
        outline: &Outline,
    ) -> Result<Option<Opened>, NotOpened> {
        loop {
            let Some(index) = self.choose(state, place) else {
                return Ok(None);
            };
            let Some(member) = state.members.get(index) else {
                return Ok(None);
            };
            if place.stream.is_none() {
                let budget = self.settings.budget.as_ref();
                let share = Held::take(budget, Share::Stream);
                let refused = || NotOpened::for_good(failure::overflow());
                place.stream = Some(share.ok_or_else(refused)?);
            }
            let request = outline.build(member.connection.forwarded_for.as_ref());
            let traffic = &member.connection.traffic;
            match traffic.takes(|| request_size(&request)) {
                Some(true) => {}
                Some(false) => return Err(NotOpened::for_good(failure::metadata_too_large())),
                None => {
                    place.is_large = true;
                    continue;
                }
            }
            // A handle of its own: the one that opens the last stream which the peer allows holds on to that stream, whose
            // reset would wait for the next call, and has to be asked by whoever waits for the stream to be opened.
            match member.sender.clone().send_request(request, false) {
                Ok((response, send)) => {
                    let connection = member.connection.clone();
                    connection.live.fetch_add(1, Ordering::SeqCst);
                    let before = connection.opened.fetch_add(1, Ordering::SeqCst);
                    if before >= MAX_STREAMS_EVER {
                        state.members.swap_remove(index);
                    }
                    self.grow(state, None);
                    return Ok(Some(Opened {
                        slot: Slot {
                            connection,
                            set: self.clone(),
                            first: before == 0,
                            share: place.stream.take(),
                        },
                        response,
                        send,
                    }));
                }
                // A connection that goes away, or has failed; nothing was sent.
                Err(error) if error.is_go_away() || error.is_io() => {
                    tracing::debug!(connection = member.connection.id, %error, "not used any more");
                    state.members.swap_remove(index);
                }
                Err(error) => {
                    let text = format!("the call cannot be sent: {error}");
                    return Err(NotOpened::retriable(Close::status(13, text)));
                }
            }
        }
    }

    /// The connection with room and the fewest streams. One to be avoided is taken only if there
    /// is none beside it and none is to be had now.
    fn choose(&self, state: &State, place: &Place) -> Option<usize> {
        let knows = |member: &Member| !place.is_large || member.connection.traffic.is_settled();
        let best = |avoid: Option<u64>| {
            state
                .members
                .iter()
                .enumerate()
                .filter(|(_, member)| Some(member.connection.id) != avoid)
                .filter(|(_, member)| member.live() < self.limit(member) && knows(member))
                .min_by_key(|(_, member)| member.live())
                .map(|(index, _)| index)
        };
        match place.avoid {
            avoid @ Some(_) if self.may_grow(state) => best(avoid),
            avoid @ Some(_) => best(avoid).or_else(|| best(None)),
            None => best(None),
        }
    }
}

impl Member {
    fn live(&self) -> usize {
        self.connection.live.load(Ordering::SeqCst)
    }
}
