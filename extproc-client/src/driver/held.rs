//! Pieces of a body that are ready to be taken, and counted until then.

use std::collections::VecDeque;

use super::Piece;
use crate::types::buffers::Held;

/// Pieces of a body that are ready to be taken.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pieces: VecDeque<Piece>,
    bytes: usize,
    held: Held,
}

impl Ready {
    pub(super) fn new(pieces: VecDeque<Piece>, mut held: Held) -> Self {
        let bytes = pieces.iter().map(Piece::len).sum();
        held.set(bytes);
        Self {
            pieces,
            bytes,
            held,
        }
    }

    /// The next piece.
    pub(crate) fn pop(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        self.held.set(self.bytes);
        Some(piece)
    }

    /// Bytes of data that are left.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns true if there are no more pieces.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}
