//! Window that comes back for what `h2` does not see.

use bytes::{BufMut as _, BytesMut};

use super::{HEAD, kind::WINDOW_UPDATE};

/// The largest window (RFC 9113 §6.9.1).
const LARGEST_WINDOW: u32 = 0x7fff_ffff;

/// Length of a WINDOW_UPDATE frame.
pub(super) const UPDATE: usize = HEAD + 4;

/// Bytes of frames that give window back and are not written yet. A peer that does not take them has its empty frames counted by
/// `h2`, which gives their window back itself.
pub(super) const REFUNDS: usize = 64 * 1024;

/// Window that is given back for frames that `h2` does not see (RFC 9113 §6.1: padding counts).
#[derive(Debug, Default)]
pub(super) struct Refunds {
    pub(super) connection: u32,
    /// Streams in the order of their frames; one may be there several times.
    pub(super) streams: Vec<(u32, u32)>,
    /// WINDOW_UPDATE frames on their way, of which a part may be written.
    pub(super) out: BytesMut,
}

impl Refunds {
    pub(super) fn has_room(&self) -> bool {
        self.streams.len() * UPDATE + self.out.len() < REFUNDS
    }

    pub(super) fn add(&mut self, stream: u32, bytes: usize) {
        // It is padding and its length, at most 256 bytes.
        let bytes = u32::try_from(bytes).unwrap_or_default();
        self.connection = self.connection.saturating_add(bytes);
        match self.streams.last_mut() {
            Some((last, sum)) if *last == stream => *sum = sum.saturating_add(bytes),
            _ => self.streams.push((stream, bytes)),
        }
    }

    /// Makes frames of it.
    pub(super) fn fill(&mut self) {
        let all = [(0, std::mem::take(&mut self.connection))];
        for (stream, bytes) in all.into_iter().chain(self.streams.drain(..)) {
            self.out.put_slice(&[0, 0, 4, WINDOW_UPDATE, 0]);
            self.out.put_u32(stream);
            self.out.put_u32(bytes.min(LARGEST_WINDOW));
        }
    }
}
