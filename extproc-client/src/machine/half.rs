//! The life of one direction: headers, body, trailers. Used twice.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use http::{HeaderMap, request, response};

use super::{
    body,
    progress::{Came, Gone, Shown},
    timer::Timer,
};
use crate::{
    headers::Block,
    types::{limits::HeaderLimits, mode::DirectionMode, pieces::Pieces},
};

/// Chunks that the processor may have at a time: each takes memory beside its bytes.
const MOST_CHUNKS: usize = 256;

/// Reply that this direction waits for from the processor.
///
/// ```text
///            ┌────────── headers reply ──────────┐
///            ▼                                   │
/// Idle ──headers sent──▶ Headers ────────────────┘
///  │▲
///  ││ reply                                   reply to the last outstanding chunk
///  │└──────── BufferedBody ◀── whole body sent      ┌───────────┐
///  ├──────────▶ StreamedBody ◀── chunk sent ────────┤           ▼
///  │                                                └────────▶ Idle
///  ├──────────▶ PartialBody  ◀── first part sent ─── reply ──▶ Idle
///  └──────────▶ Trailers     ◀── trailers sent ───── reply ──▶ Idle
/// ```
///
/// In a full duplex direction `StreamedBody` lasts to the reply that carries the end of the stream, and
/// trailers are sent without leaving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callback {
    Idle,
    Headers,
    BufferedBody,
    StreamedBody,
    PartialBody,
    Trailers,
}

/// Place of the head of a direction.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) enum Head {
    /// Not here yet.
    Awaited,
    /// Here, and not sent on.
    Request(Box<request::Parts>),
    /// Here, and not sent on.
    Response(Box<response::Parts>),
    /// Sent on.
    Forwarded,
}

/// A chunk that the processor has and we keep until its reply.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Chunk {
    pub(super) data: Pieces,
    pub(super) end: bool,
}

/// Reading of a body: paused while the processor has more than it may have, or until it has answered what it has of a full
/// duplex body of which it asked for no more.
///
/// ```text
/// Open ──too many chunks──▶ Full ──half of them answered──▶ Open
///  └──drain asked for──▶ Draining ──drain complete──▶ Drained
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Open,
    /// Chunks are kept in modes that are not full duplex alone, and drains are of those that are.
    Full,
    /// The processor was told that nothing more comes.
    Draining,
    /// The rest passes by.
    Drained,
}

/// One direction.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Direction {
    pub(super) mode: DirectionMode,
    pub(super) callback: Callback,
    pub(super) head: Head,
    /// From the sender.
    pub(super) came: Came,
    /// To the processor.
    pub(super) shown: Shown,
    /// To the receiver.
    pub(super) gone: Gone,
    /// Body bytes received so far.
    pub(super) size: u64,
    /// Body bytes kept and not sent to the processor, or sent as a whole.
    pub(super) held: Pieces,
    /// Chunks with the processor, in order.
    pub(super) queue: VecDeque<Chunk>,
    pub(super) queued: usize,
    /// Trailers that were received and not sent on.
    pub(super) trailers: Option<HeaderMap>,
    pub(super) reading: Reading,
    /// The last message of this direction was answered. As in Envoy, nobody looks for the last one of a gathered body.
    pub(super) answered: bool,
    /// `mode_override` took a stand-alone form here.
    pub(super) standalone_override: bool,
    /// GRPC: bytes that are no whole message yet.
    pub(super) deframer: body::grpc::Deframer,
    pub(super) buffer_limit: usize,
    pub(super) header_limits: HeaderLimits,
    timer: Timer,
}

impl Direction {
    pub(super) fn new(
        mode: DirectionMode,
        buffer_limit: usize,
        header_limits: HeaderLimits,
    ) -> Self {
        Self {
            mode,
            callback: Callback::Idle,
            head: Head::Awaited,
            came: Came::Nothing,
            shown: Shown::Nothing,
            gone: Gone::Open,
            size: 0,
            held: Pieces::default(),
            queue: VecDeque::new(),
            queued: 0,
            trailers: None,
            reading: Reading::Open,
            answered: false,
            standalone_override: false,
            deframer: body::grpc::Deframer::default(),
            buffer_limit,
            header_limits,
            timer: Timer::default(),
        }
    }

    pub(super) fn has_head(&self) -> bool {
        !matches!(self.head, Head::Awaited)
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.head, Head::Request(_) | Head::Response(_))
    }

    /// Takes the request's head, which is not going to be sent on.
    pub(super) fn take_request(&mut self) -> Option<Box<request::Parts>> {
        match std::mem::replace(&mut self.head, Head::Forwarded) {
            Head::Request(head) => Some(head),
            other => {
                self.head = other;
                None
            }
        }
    }

    pub(super) fn is_forwarded(&self) -> bool {
        matches!(self.head, Head::Forwarded)
    }

    /// Tells whether data would be sent on as it comes, now and later.
    pub(super) fn is_pass_by(&self) -> bool {
        !self.mode.shows_body()
            && self.callback == Callback::Idle
            && self.held.is_empty()
            && self.queue.is_empty()
            && !self.gone.drops_rest()
    }

    /// Returns true if nothing is kept here that could go on, and the processor makes no bytes of its own.
    pub(super) fn adds_nothing(&self) -> bool {
        !self.mode.body.is_duplex() && self.held.is_empty() && self.queue.is_empty()
    }

    /// Tells whether the processor has nothing to say of this direction any more.
    pub(super) fn is_done(&self) -> bool {
        self.answered || self.mode.is_off()
    }

    /// Tells whether the processor has pieces of the body, which it may answer once it has answered the headers.
    pub(super) fn awaits_pieces(&self) -> bool {
        !self.queue.is_empty() || self.mode.body.is_duplex() && self.shown.has_body()
    }

    /// Tells whether the whole body was sent to the processor, and no trailers follow it.
    pub(super) fn is_sent_whole(&self) -> bool {
        self.shown == Shown::Whole && self.trailers.is_none()
    }

    /// Tells if the processor was given all of a full duplex body, and a new one has begun that nobody else can end. As in
    /// Envoy, one that has not begun is empty, and one whose trailers are here ends with them.
    pub(super) fn is_left_unfinished(&self) -> bool {
        let shown = self.came.is_ended() && self.shown.has_body();
        let given = shown && self.held.is_empty() && self.size > 0;
        let begun = self.is_forwarded() && !self.gone.is_ended() && self.trailers.is_none();
        self.mode.body.is_duplex() && given && begun
    }

    /// Tells whether one more frame may be received without going beyond the buffer limit. A streamed queue
    /// that was full has to fall to half of its limits first.
    pub(super) fn has_room(&self) -> bool {
        self.reading != Reading::Draining && !self.is_overfull()
    }

    /// Tells whether more is here than the buffer limit. BUFFERED bodies fail then.
    pub(super) fn is_overfull(&self) -> bool {
        match self.callback {
            Callback::PartialBody => self.queued > self.buffer_limit,
            _ if body::of(self.mode.body).fails_beyond_limit() => false,
            _ => self.held.len() > self.buffer_limit || self.reading == Reading::Full,
        }
    }

    /// Memory that what is kept here of the body takes at most, in bytes.
    pub(super) fn kept(&self) -> usize {
        let queued: usize = self.queue.iter().map(|chunk| chunk.data.cost()).sum();
        self.held.cost() + queued + self.deframer.len()
    }

    /// The head as a block that can be mutated, while it is here.
    pub(super) fn block(&mut self) -> Option<Block<'_>> {
        match &mut self.head {
            Head::Request(parts) => Some(Block::Request(parts)),
            Head::Response(parts) => Some(Block::Response(parts)),
            Head::Awaited | Head::Forwarded => None,
        }
    }

    /// Keeps a chunk that was sent to the processor.
    pub(super) fn enqueue(&mut self, mut data: Pieces, end: bool) {
        // One may stay as it came; many would keep much more alive than is counted.
        if !self.queue.is_empty() {
            data.compact();
        }
        self.queued += data.len();
        self.queue.push_back(Chunk { data, end });
        if self.queued > self.buffer_limit || self.queue.len() >= MOST_CHUNKS {
            self.reading = Reading::Full;
        }
    }

    /// BUFFERED_PARTIAL: keeps more of the body, all of which is one chunk but for the one that the processor has.
    pub(super) fn gather(&mut self, data: Pieces, end: bool) {
        let sent = usize::from(self.callback == Callback::PartialBody);
        let open = self.queue.len() > sent;
        match self.queue.back_mut().filter(|_| open) {
            Some(chunk) => {
                self.queued += data.len();
                data.into_iter().for_each(|piece| chunk.data.hold(piece));
                chunk.end |= end;
            }
            None => self.enqueue(data, end),
        }
    }

    /// The oldest chunk with the processor.
    pub(super) fn dequeue(&mut self) -> Option<Chunk> {
        let chunk = self.queue.pop_front()?;
        self.queued -= chunk.data.len();
        if self.queued <= self.buffer_limit / 2 && self.queue.len() <= MOST_CHUNKS / 2 {
            self.resume();
        }
        Some(chunk)
    }

    /// Drops what came of the body and the processor does not have as chunks.
    pub(super) fn drop_unsent(&mut self) {
        self.held = Pieces::default();
        self.deframer.take();
    }

    /// Drops the chunks that the processor has.
    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.resume();
    }

    fn resume(&mut self) {
        if self.reading == Reading::Full {
            self.reading = Reading::Open;
        }
    }

    /// All chunks of the queue as one.
    pub(super) fn join_queue(&mut self) -> Chunk {
        let mut data = Pieces::default();
        let mut end = false;
        while let Some(chunk) = self.dequeue() {
            end |= chunk.end;
            data.append(chunk.data);
        }
        Chunk { data, end }
    }

    /// Tells whether this direction would remove `content-length` from its head: the body may change its
    /// length on the way.
    pub(super) fn changes_length(&self) -> bool {
        body::of(self.mode.body).changes_length(self.mode.headers)
    }

    // === timer ===

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timer.deadline()
    }

    /// A message goes out. The timer runs unless the direction is full duplex.
    pub(super) fn start_call(&mut self, callback: Callback, now: Instant, timeout: Duration) {
        self.callback = callback;
        let runs = !self.mode.body.is_duplex();
        self.timer.start(now, runs.then_some(timeout));
    }

    /// A reply was accepted; `next` is what is waited for now. Gives the time that the call took.
    pub(super) fn finish_call(&mut self, next: Callback) -> Option<Instant> {
        self.callback = next;
        self.timer.finish()
    }

    /// Returns when the oldest message without an answer was sent.
    pub(super) fn call_began(&self) -> Option<Instant> {
        self.timer.began()
    }

    pub(super) fn stop_timer(&mut self) {
        self.timer.stop();
    }

    /// Restarts a running timer with another timeout, once per call.
    pub(super) fn override_timeout(&mut self, now: Instant, timeout: Duration) -> bool {
        self.timer.extend(now, timeout)
    }
}
