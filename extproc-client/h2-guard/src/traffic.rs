//! Counters of what a connection has received.

use std::sync::{
    Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::SetOnce;

use crate::receiver::Inbox;

/// Frames after which reading is interrupted until the next [`Traffic::turn`]. Between two turns, others on the same thread are served:
/// as many frames as a thread handles in a fraction of a millisecond.
const FRAMES_A_TURN: u32 = 256;

/// Small DATA frames after which those that nobody has taken are joined. `h2` keeps about 256 bytes for each.
const SMALL_FRAMES: u32 = 4096;

/// Bytes of DATA after which accounts are told what waits.
const BYTES: usize = 256 * 1024;

/// Bytes of CONTINUATION after which trailers that nobody has asked for are taken from `h2`, and refused where they are too large.
const CONTINUED: usize = 256 * 1024;

/// Such bytes after which reading is interrupted.
const MOST_CONTINUED: usize = 4 * CONTINUED;

/// Receivers in the list before those that are gone are looked for.
const FEW_RECEIVERS: usize = 32;

/// Bytes of a header list that are sent before the peer has said how many it takes: less than servers announce.
const UNASKED: u64 = 8 * 1024;

/// Counts of what a connection has received, shared by its [`Frames`](crate::Frames), its [`Receiver`](crate::Receiver)s and its
/// owner.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Reads that gave bytes.
    reads: AtomicU64,
    /// HEADERS and DATA frames.
    messages: AtomicU64,
    /// Frames since the last turn.
    frames: AtomicU32,
    /// DATA frames that take more memory than their bytes, since they were joined last.
    small: AtomicU32,
    /// Bytes of DATA since accounts were told last.
    bytes: AtomicUsize,
    /// Bytes of header blocks beyond their first frames, since trailers were looked at last.
    continued: AtomicUsize,
    doubted: AtomicBool,
    /// Bytes of a header list that the peer takes, plus one; 0 is not said.
    header_list: AtomicU64,
    /// The peer's first SETTINGS are read, or none will come.
    settled: SetOnce<()>,
    receivers: Mutex<Receivers>,
}

#[derive(Debug, Default)]
struct Receivers {
    known: Vec<Weak<Mutex<Inbox>>>,
    /// Length of the list at which those that are gone are taken out.
    full: usize,
}

/// Frames of one read.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) frames: u32,
    pub(crate) messages: u32,
    pub(crate) small: u32,
    /// Of DATA, padding included.
    pub(crate) bytes: usize,
    /// Of CONTINUATION.
    pub(crate) continued: usize,
}

impl Traffic {
    /// Number of reads that returned bytes. While it stays the same, nothing has come from the peer.
    pub fn heard(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Number of HEADERS and DATA frames that have been read.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Returns whether the peer is late with the answer to a ping. New streams are better opened on another connection.
    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Doubts the peer until something is heard of it.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// Tells whether the peer takes a header list of this size; one that gets a much larger one may end the connection, with the
    /// streams of others. `None` for a large list before the peer's first SETTINGS: what it takes is not known yet.
    ///
    /// The size is asked for only if there is something to compare it with.
    pub fn takes(&self, size: impl FnOnce() -> u64) -> Option<bool> {
        let settled = self.settled.initialized();
        let most = self.header_list.load(Ordering::Relaxed);
        if settled && most == 0 {
            return Some(true);
        }
        let size = size();
        match settled || size <= UNASKED {
            true => Some(most == 0 || size < most),
            false => None,
        }
    }

    /// The same, once it is known: at the latest when the connection is gone.
    pub async fn will_take(&self, size: impl Fn() -> u64) -> bool {
        loop {
            match self.takes(&size) {
                Some(takes) => return takes,
                None => self.settled.wait().await,
            };
        }
    }

    /// Tells whether the peer's first SETTINGS are read, or none will come.
    pub fn is_settled(&self) -> bool {
        self.settled.initialized()
    }

    pub(crate) fn announce_header_list(&self, bytes: u32) {
        self.header_list
            .store(u64::from(bytes) + 1, Ordering::Relaxed);
    }

    /// The peer's first SETTINGS are read, or none will come.
    pub(crate) fn settle(&self) {
        if !self.settled.initialized() {
            // Whoever else did it meanwhile meant the same.
            let _ = self.settled.set(());
        }
    }

    /// Allows more frames to be read. Small ones are joined if there were many, and what waits is counted if that may be much.
    /// Whoever polls the connection calls this after each poll that has nothing more for it.
    pub fn turn(&self) {
        if self.frames.load(Ordering::Relaxed) > 0 {
            self.frames.store(0, Ordering::Relaxed);
        }
        if self.small.load(Ordering::Relaxed) >= SMALL_FRAMES {
            self.small.store(0, Ordering::Relaxed);
            self.each(Inbox::join);
        }
        if self.bytes.load(Ordering::Relaxed) >= BYTES {
            self.bytes.store(0, Ordering::Relaxed);
            self.each(Inbox::tell);
        }
        if self.continued.load(Ordering::Relaxed) >= CONTINUED {
            self.continued.store(0, Ordering::Relaxed);
            self.each(Inbox::take_trailers);
        }
    }

    fn each(&self, look: impl Fn(&mut Inbox)) {
        for inbox in self.lock().known.iter().filter_map(Weak::upgrade) {
            look(&mut inbox.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Returns whether no more may be read before the next turn.
    pub(crate) fn is_full(&self) -> bool {
        self.frames.load(Ordering::Relaxed) >= FRAMES_A_TURN
            || self.continued.load(Ordering::Relaxed) >= MOST_CONTINUED
    }

    pub(crate) fn add(&self, tally: &Tally) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_doubted() {
            self.doubted.store(false, Ordering::Relaxed);
        }
        if tally.messages > 0 {
            self.messages
                .fetch_add(u64::from(tally.messages), Ordering::Relaxed);
        }
        if tally.frames > 0 {
            self.frames.fetch_add(tally.frames, Ordering::Relaxed);
        }
        if tally.small > 0 {
            self.small.fetch_add(tally.small, Ordering::Relaxed);
        }
        if tally.bytes > 0 {
            self.bytes.fetch_add(tally.bytes, Ordering::Relaxed);
        }
        if tally.continued > 0 {
            self.continued.fetch_add(tally.continued, Ordering::Relaxed);
        }
    }

    pub(crate) fn register(&self, inbox: Weak<Mutex<Inbox>>) {
        let mut receivers = self.lock();
        if receivers.known.len() >= receivers.full {
            receivers.known.retain(|known| known.strong_count() > 0);
            receivers.full = FEW_RECEIVERS.max(receivers.known.len() * 2);
        }
        receivers.known.push(inbox);
    }

    fn lock(&self) -> MutexGuard<'_, Receivers> {
        // The list is changed entry by entry.
        self.receivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
