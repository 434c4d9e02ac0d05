//! Streams that a client resets.

use std::sync::atomic::{AtomicU32, Ordering};

/// Streams reset before their response, and their part of all, that a connection may have. Servers end connections that
/// reset more: Envoy at 250 of the first 500, and half of all later.
const MOST: u32 = 200;
const PART: u32 = 3;

/// Streams of a connection that were reset before their response had begun.
#[derive(Debug, Default)]
pub struct Resets(AtomicU32);

impl Resets {
    /// Counts one.
    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether they are so many of the streams that were `opened` that the server may end the connection soon. It should
    /// get no more streams then, and end with those that it has.
    pub fn are_many(&self, opened: u32) -> bool {
        let resets = self.0.load(Ordering::Relaxed);
        resets >= MOST && resets.saturating_mul(PART) >= opened
    }
}
