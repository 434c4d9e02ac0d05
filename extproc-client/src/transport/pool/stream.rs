//! One call on a pool.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture};
use h2_guard::Receiver;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::{Sleep, sleep};

use super::{
    balance::Balance,
    budget::{Held, Share},
    failure,
    retry::{Failed, Retries},
    set::{Opened, Place, Set, Slot},
};
use crate::{
    transport::{
        Sidestream,
        frame::{self, Decoder, end},
        request::Outline,
    },
    types::{
        buffers::BufferAccount,
        stream::{Close, StreamFacts},
    },
    wire::{Reply, message::Message},
};

/// Bytes without a window up to which one more message is taken.
const BACKLOG: usize = 64 * 1024;

/// Bytes given to `h2` for which it may still have no send window.
///
/// No window is reserved for bytes that are not given: it would be taken from the window of the connection, which all its
/// streams share, and a stream that nobody polls, as its client reads nothing, would keep it for ever.
const AHEAD: usize = 64 * 1024;

/// Sent bytes kept for a retry until the response begins; a call that sent more is not repeated.
const REPLAY: usize = 64 * 1024;

/// Repetitions of a call that the peer says it never processed. One connection after another may go
/// away during a restart of processors.
const REPEATS: u8 = 3;

/// A side stream on a [`Pool`](super::Pool).
///
/// ```text
///            poll_recv: stream opened
/// Waiting ───────────────────────────▶ Open ──── reply, reply, … ───▶ Ended
///  ▲ ▲ │ no connection, no room         │
///  │ │ ├──────────────▶ Ended           │
///  │ └─┼── never processed ─────────────┤
///  │   └──▶ Pausing ◀── the retry policy names it
///  └───────────┘
/// ```
pub struct PoolStream {
    state: State,
    outline: Outline,
    outbox: Outbox,
    set: Arc<Set>,
    /// Choice of the pool for repetitions of the call, if not `set` again.
    balance: Option<Arc<dyn Balance>>,
    /// Times that the call was repeated because it had never been processed.
    repeated: u8,
    refused: bool,
    /// Repetitions that the configured policy still allows.
    retries: Option<Box<Retries>>,
    /// The budget's share of the retry that is under way.
    retrying: Option<Held>,
    facts: StreamFacts,
}

enum State {
    /// Until the next call of the retry policy.
    Pausing(Pin<Box<Sleep>>),
    Waiting(Place),
    Open(Box<Open>),
    Ended,
}

pub(super) struct Open {
    send: SendStream<Bytes>,
    receive: Receive,
    /// Count of the peer's signs of life on the connection when the last message was sent.
    heard: u64,
    /// It would be reset before its response.
    unanswered: bool,
    /// Dropped after the halves above: only then is the stream over for `h2`.
    slot: Slot,
}

/// Account of bytes of replies that nobody has asked for, since those before them were not taken.
struct Unread(Arc<dyn BufferAccount>);

impl h2_guard::Account for Unread {
    fn hold(&self, bytes: usize) {
        self.0.hold(bytes);
    }

    fn release(&self, bytes: usize) {
        self.0.release(bytes);
    }
}

enum Receive {
    /// With the end of the wait for it.
    Head(ResponseFuture, Option<Pin<Box<Sleep>>>),
    Body {
        stream: Receiver,
        decoder: Decoder,
    },
}

impl Open {
    /// An answer is overdue. If nothing at all was heard of the peer meanwhile, the connection may lead nowhere.
    fn distrust(&self) {
        if self.slot.traffic().heard() == self.heard {
            self.slot.retire();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.unanswered {
            self.slot.note_reset();
        }
    }
}

impl PoolStream {
    pub(super) fn new(
        set: Arc<Set>,
        place: Place,
        outline: Outline,
        retries: Option<Retries>,
        balance: Option<Arc<dyn Balance>>,
    ) -> Self {
        Self {
            state: State::Waiting(place),
            outline,
            outbox: Outbox::default(),
            set,
            balance,
            repeated: 0,
            refused: false,
            retries: retries.map(Box::new),
            retrying: None,
            facts: StreamFacts::default(),
        }
    }

    fn opened(&mut self, opened: Opened) {
        self.facts = StreamFacts {
            endpoint: opened.slot.peer(),
            reused: Some(!opened.slot.is_first()),
            attempts: self.facts.attempts + 1,
        };
        let limit = self.set.settings.head_timeout;
        let mut open = Box::new(Open {
            send: opened.send,
            receive: Receive::Head(opened.response, limit.map(|limit| Box::pin(sleep(limit)))),
            heard: opened.slot.traffic().heard(),
            unanswered: true,
            slot: opened.slot,
        });
        self.outbox.restart();
        self.outbox.flush(&mut open.send, None);
        self.state = State::Open(open);
    }

    /// Gives up its place among those that wait, if it has one.
    fn leave(&mut self) {
        if let State::Waiting(place) = &mut self.state {
            self.set.leave(place);
        }
    }

    fn ended(&mut self, close: Close) -> Poll<Result<Reply, Close>> {
        self.leave();
        self.state = State::Ended;
        Poll::Ready(Err(close))
    }

    /// Tells whether the call is to be made again after `error` on that connection, on which it was the
    /// `first` one or not; then it waits for another stream.
    fn repeat(&mut self, error: &h2::Error, connection: u64, first: bool) -> bool {
        let refused = failure::is_refused(error);
        let refused_for_good =
            refused && (self.refused || first && !self.set.settings.retry_first_refusal);
        if !failure::is_unprocessed(error)
            || !self.outbox.replayable
            || self.repeated >= REPEATS
            || refused_for_good
        {
            return false;
        }
        self.repeated += 1;
        self.refused |= refused;
        let avoid = refused.then_some(connection);
        self.again(avoid);
        true
    }

    /// Waits for another stream, on another connection than `avoid` of this set.
    fn again(&mut self, avoid: Option<u64>) {
        let mut place = Place::avoiding(avoid);
        let balance = self.balance.as_ref();
        let chosen = balance.map(|balance| balance.choose(&self.outline.metadata).set);
        if let Some(set) = chosen.filter(|set| !Arc::ptr_eq(set, &self.set)) {
            self.set = set;
            place = Place::avoiding(None);
        }
        self.state = State::Waiting(place);
    }

    /// Tells whether the policy lets the call be made again; then it pauses until then.
    fn retry(&mut self, failed: Failed<'_>) -> bool {
        self.retrying = None;
        let pause = match &mut self.retries {
            Some(retries) if self.outbox.replayable => retries.next(failed),
            _ => None,
        };
        let Some(pause) = pause else { return false };
        self.retrying = Held::take(self.set.settings.budget.as_ref(), Share::Retry);
        if self.retrying.is_none() {
            return false;
        }
        self.leave();
        self.state = State::Pausing(Box::pin(sleep(pause)));
        true
    }

    /// Looks at the response headers, which may be the end.
    fn begin(&mut self, response: Response<RecvStream>, limit: usize) -> Result<(), Close> {
        if self.retry(Failed::Response(response.status(), response.headers())) {
            return Ok(());
        }
        let (head, stream) = response.into_parts();
        if head.status != StatusCode::OK || stream.is_end_stream() {
            return Err(end(head.status, &head.headers));
        }
        self.outbox.forget();
        let account = self.outline.buffers.clone();
        let account =
            account.map(|buffers| Arc::new(Unread(buffers)) as Arc<dyn h2_guard::Account>);
        if let State::Open(open) = &mut self.state {
            open.receive = Receive::Body {
                // Trailers are read without waiting for anybody.
                stream: Receiver::new(stream, open.slot.traffic(), account, u64::MAX),
                decoder: Decoder::new(limit),
            };
        }
        Ok(())
    }
}

impl Sidestream for PoolStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.outbox.waiting() >= BACKLOG
            && let State::Open(open) = &mut self.state
        {
            self.outbox.flush(&mut open.send, Some(cx));
        }
        match self.outbox.waiting() < BACKLOG {
            true => Poll::Ready(()),
            // While the call waits for a stream, `poll_recv` is what wakes the task.
            false => Poll::Pending,
        }
    }

    fn send_with_next(&mut self, message: Message) {
        self.outbox.push(message);
    }

    fn send(&mut self, message: Message) {
        self.outbox.push(message);
        if let State::Open(open) = &mut self.state {
            open.heard = open.slot.traffic().heard();
            self.outbox.flush(&mut open.send, None);
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Pending,
                State::Pausing(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    self.again(None);
                }
                State::Waiting(place) => {
                    match ready!(self.set.poll_open(cx, place, &self.outline)) {
                        Ok(opened) => self.opened(opened),
                        Err(failed) => {
                            if !failed.retriable || !self.retry(Failed::Connect) {
                                return self.ended(failed.close);
                            }
                        }
                    }
                }
                State::Open(open) => {
                    self.outbox.flush(&mut open.send, Some(cx));
                    let limit = self.outline.limit.unwrap_or(self.set.settings.max_message);
                    match &mut open.receive {
                        Receive::Head(response, timer) => {
                            let Poll::Ready(head) = Pin::new(response).poll(cx) else {
                                let Some(timer) = timer else {
                                    return Poll::Pending;
                                };
                                ready!(timer.as_mut().poll(cx));
                                open.distrust();
                                return self.ended(failure::no_head());
                            };
                            open.unanswered = false;
                            let on = (open.slot.connection(), open.slot.is_first());
                            match head {
                                Ok(response) => {
                                    if let Err(close) = self.begin(response, limit) {
                                        return self.ended(close);
                                    }
                                }
                                Err(error) => {
                                    if !self.repeat(&error, on.0, on.1)
                                        && !self.retry(Failed::of(&error))
                                    {
                                        return self.ended(failure::of_stream(&error, false));
                                    }
                                }
                            }
                        }
                        body => match ready!(poll_reply(body, cx)) {
                            Ok(reply) => return Poll::Ready(Ok(reply)),
                            Err(close) => return self.ended(close),
                        },
                    }
                }
            }
        }
    }

    fn buffered(&self) -> usize {
        match &self.state {
            State::Open(open) => match &open.receive {
                Receive::Body { decoder, .. } => decoder.buffered(),
                Receive::Head(..) => 0,
            },
            _ => 0,
        }
    }

    fn facts(&self) -> StreamFacts {
        self.facts
    }

    fn finish(&mut self) {
        self.outbox.finish();
        if let State::Open(open) = &mut self.state {
            self.outbox.flush(&mut open.send, None);
        }
    }

    fn timed_out(&mut self) {
        if let State::Open(open) = &self.state {
            open.distrust();
        }
    }

    fn close_flushed(mut self) {
        self.leave();
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Ended) {
            // A connection that is over gives it back, to be dropped.
            let _ = open.slot.leaving().send(open);
        }
    }
}

impl Drop for PoolStream {
    fn drop(&mut self) {
        self.leave();
    }
}

impl std::fmt::Debug for PoolStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolStream")
            .field(
                "state",
                &match self.state {
                    State::Pausing(_) => "pausing",
                    State::Waiting(_) => "waiting",
                    State::Open(_) => "open",
                    State::Ended => "ended",
                },
            )
            .finish_non_exhaustive()
    }
}

fn poll_reply(receive: &mut Receive, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
    let Receive::Body { stream, decoder } = receive else {
        return Poll::Pending;
    };
    let lost = |error: &h2::Error| Poll::Ready(Err(failure::of_stream(error, true)));
    loop {
        if let Some(reply) = decoder.next()? {
            return Poll::Ready(Ok(reply));
        }
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => decoder.push(data),
            Some(Err(error)) => return lost(&error),
            None => match ready!(stream.poll_trailers(cx)) {
                Ok(trailers) => {
                    let trailers = trailers.unwrap_or_else(HeaderMap::new);
                    return Poll::Ready(Err(end(StatusCode::OK, &trailers)));
                }
                Err(error) => return lost(&error),
            },
        }
    }
}

/// Messages on their way out: first those already given to `h2`, kept in case the call has to be
/// made again, then those that are not.
struct Outbox {
    parts: VecDeque<Bytes>,
    /// Number of `parts` that are sent.
    sent: usize,
    sent_bytes: usize,
    unsent: usize,
    replayable: bool,
    /// Bytes given to `h2` that may wait for window there, so long as [`AHEAD`] is not reached.
    ahead: usize,
    end: End,
}

/// The half-close.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Asked,
    Sent,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            parts: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
            unsent: 0,
            replayable: true,
            ahead: 0,
            end: End::Open,
        }
    }
}

impl Outbox {
    fn push(&mut self, message: Message) {
        if self.end != End::Open {
            return;
        }
        self.unsent += message.framed_len();
        frame::push(&mut self.parts, self.sent, message);
    }

    fn finish(&mut self) {
        if self.end == End::Open {
            self.end = End::Asked;
        }
    }

    /// Everything is to be sent on a new stream.
    fn restart(&mut self) {
        self.unsent += std::mem::take(&mut self.sent_bytes);
        self.sent = 0;
        self.ahead = 0;
        if self.end == End::Sent {
            self.end = End::Asked;
        }
    }

    /// The response has begun: what is sent is not needed again.
    fn forget(&mut self) {
        self.replayable = false;
        self.parts.drain(..self.sent);
        self.sent = 0;
        self.sent_bytes = 0;
    }

    /// Bytes that have no window yet, as far as is known.
    fn waiting(&self) -> usize {
        self.unsent + self.ahead
    }

    /// Sends what may be sent. With `cx`, the task is woken when more may. A stream that cannot
    /// send any more takes everything to nowhere; its end shows in the receiving half.
    fn flush(&mut self, send: &mut SendStream<Bytes>, mut cx: Option<&mut Context<'_>>) {
        while self.end != End::Sent {
            if self.end == End::Asked && self.parts.len() == self.sent {
                // No bytes, and so no window.
                self.end = End::Sent;
                let _ = send.send_data(Bytes::new(), true);
                return;
            }
            if self.ahead >= AHEAD {
                // There is capacity for one more byte once all that was given has its window.
                send.reserve_capacity(1);
                match (send.capacity(), cx.as_deref_mut()) {
                    (0, None) => return,
                    (0, Some(cx)) => match send.poll_capacity(cx) {
                        Poll::Pending => return,
                        Poll::Ready(Some(Ok(_))) => continue,
                        Poll::Ready(None | Some(Err(_))) => return self.discard(),
                    },
                    _ => self.ahead = 0,
                }
            }
            let Some(part) = self.parts.get(self.sent) else {
                return;
            };
            let count = part.len().min(AHEAD - self.ahead);
            self.ahead += count;
            if !self.send_front(send, count) {
                return self.discard();
            }
        }
    }

    /// Sends `count` bytes of the first unsent part.
    fn send_front(&mut self, send: &mut SendStream<Bytes>, count: usize) -> bool {
        let Some(part) = self.parts.get_mut(self.sent) else {
            return false;
        };
        let data = part.split_to(count);
        let whole = part.is_empty();
        self.unsent -= count;
        if self.replayable && self.sent_bytes + count > REPLAY {
            self.forget();
        }
        match (whole, self.replayable) {
            (true, true) => {
                if let Some(part) = self.parts.get_mut(self.sent) {
                    *part = data.clone();
                }
            }
            (false, true) => self.parts.insert(self.sent, data.clone()),
            (true, false) => drop(self.parts.pop_front()),
            (false, false) => {}
        }
        if self.replayable {
            self.sent += 1;
            self.sent_bytes += count;
        }
        let last = self.end == End::Asked && self.parts.len() == self.sent;
        if last {
            self.end = End::Sent;
        }
        send.send_data(data, last).is_ok()
    }

    /// Drops what cannot be sent; a retry is only for streams that the peer has not processed,
    /// whose parts are all still here.
    fn discard(&mut self) {
        if !self.replayable {
            self.parts.clear();
            self.sent = 0;
            self.unsent = 0;
            self.ahead = 0;
        }
    }
}
