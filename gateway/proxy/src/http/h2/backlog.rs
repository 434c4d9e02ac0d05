//! Bytes that all streams of an HTTP/2 connection together have waiting for its socket; `h2` bounds them for each stream alone.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

/// Cost of a piece beside its bytes: `h2` keeps a frame of about this size for it.
const PIECE: usize = 128;

/// Bytes that were handed to a connection and not written.
///
/// Exact, because the pieces count themselves: as far as `h2` has taken their bytes to write them, and
/// when it drops them with their stream.
#[derive(Debug)]
pub(crate) struct Backlog {
    limit: usize,
    queued: AtomicUsize,
    room: Notify,
}

impl Backlog {
    /// `limit` bytes, and one piece of a body more.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(1),
            queued: AtomicUsize::new(0),
            room: Notify::new(),
        })
    }

    fn is_full(&self) -> bool {
        self.queued.load(Ordering::Relaxed) >= self.limit
    }

    /// Ends when there is room for one more piece.
    ///
    /// Whoever waits is woken when half of the limit is free: at the first free byte, all streams would be woken for
    /// each frame that is written.
    pub(crate) async fn room(&self) {
        loop {
            // Registered before the look, so that no notice is missed.
            let notified = self.room.notified();
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    fn add(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        let low = self.limit / 2;
        // What it was at this very moment: a look of its own could miss what another thread adds meanwhile.
        let before = self.queued.fetch_sub(bytes, Ordering::Relaxed);
        if before > low && before.saturating_sub(bytes) <= low {
            self.room.notify_waiters();
        }
    }
}

/// A piece of a body, as `h2` gets it.
pub(crate) struct Queued {
    bytes: Bytes,
    backlog: Option<Arc<Backlog>>,
}

impl Queued {
    /// Counts for `backlog` until it is written or dropped.
    pub(crate) fn new(bytes: Bytes, backlog: Option<&Arc<Backlog>>) -> Self {
        if let Some(backlog) = backlog {
            backlog.add(bytes.len() + PIECE);
        }
        Self {
            bytes,
            backlog: backlog.cloned(),
        }
    }

    /// No bytes, which count for nothing.
    pub(crate) fn empty() -> Self {
        Self::new(Bytes::new(), None)
    }
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queued").field(&self.bytes.len()).finish()
    }
}

impl Buf for Queued {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(backlog) = &self.backlog {
            backlog.remove(count);
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(backlog) = &self.backlog {
            backlog.remove(self.bytes.len() + PIECE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(backlog: &Arc<Backlog>, length: usize) -> Queued {
        Queued::new(vec![0; length].into(), Some(backlog))
    }

    #[tokio::test]
    async fn there_is_room_again_when_half_is_written() {
        let backlog = Backlog::new(1000);
        let mut first = piece(&backlog, 900);
        assert!(backlog.is_full());
        let waiting = tokio::spawn({
            let backlog = backlog.clone();
            async move { backlog.room().await }
        });
        tokio::task::yield_now().await;
        first.advance(100);
        tokio::task::yield_now().await;
        assert!(!backlog.is_full() && !waiting.is_finished());
        first.advance(500);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_dropped_counts_no_more() {
        let backlog = Backlog::new(100);
        let pieces: Vec<Queued> = (0..3).map(|_| piece(&backlog, 1000)).collect();
        assert!(backlog.is_full());
        drop(pieces);
        assert_eq!(backlog.queued.load(Ordering::Relaxed), 0);
        backlog.room().await;
    }

    #[test]
    fn small_pieces_cost_more_than_their_bytes() {
        let backlog = Backlog::new(PIECE * 10);
        let _pieces: Vec<Queued> = (0..10).map(|_| piece(&backlog, 1)).collect();
        assert!(backlog.is_full());
    }
}
