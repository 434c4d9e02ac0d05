//! A body, or a part of one, in pieces: large ones as they came, since joining them would copy every byte; small ones
//! joined, since each would take more memory than its bytes.

use std::collections::{VecDeque, vec_deque};

use bytes::{Bytes, BytesMut};

/// Pieces that are shorter are copied: each takes a few words beside its bytes, and keeps alive what it was read with.
const SMALL: usize = 4 * 1024;

/// Bytes of a body that are held as they came. A piece may keep alive a read buffer of twice its size, so that of a long body the rest
/// is copied.
const AS_THEY_CAME: usize = 1024 * 1024;

/// Room for small pieces that are joined.
const JOINED: usize = 64 * 1024;

/// Bytes in pieces, none of them empty. One piece takes no allocation.
///
/// However it came, what is held takes little more memory than its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    /// Empty only if there is nothing at all.
    first: Bytes,
    rest: VecDeque<Bytes>,
    /// Small pieces behind the others, joined.
    last: BytesMut,
    len: usize,
    /// Bytes in pieces as they came.
    uncopied: usize,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if self.first.is_empty() {
            self.uncopied += piece.len();
            self.first = piece;
        } else if piece.len() < SMALL {
            if self.last.len() + piece.len() > JOINED {
                self.close_last();
            }
            self.last.extend_from_slice(&piece);
        } else {
            self.close_last();
            self.uncopied += piece.len();
            self.rest.push_back(piece);
        }
    }

    /// Adds a piece that is going to be held for long.
    pub(crate) fn hold(&mut self, piece: Bytes) {
        if piece.len() < SMALL || self.uncopied + piece.len() <= AS_THEY_CAME {
            return self.push(piece);
        }
        self.close_last();
        self.len += piece.len();
        self.rest.push_back(Bytes::copy_from_slice(&piece));
    }

    /// Memory that holding them takes at most, in bytes.
    pub(crate) fn cost(&self) -> usize {
        self.len + self.uncopied
    }

    pub(crate) fn append(&mut self, pieces: Self) {
        pieces.into_iter().for_each(|piece| self.push(piece));
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In one piece, which is a copy if there are several.
    pub(crate) fn join(self) -> Bytes {
        if self.rest.is_empty() && self.last.is_empty() {
            return self.first;
        }
        let mut joined = BytesMut::with_capacity(self.len);
        for piece in self {
            joined.extend_from_slice(&piece);
        }
        joined.freeze()
    }

    /// The same bytes once more, without a copy of them.
    pub(crate) fn share(&mut self) -> Self {
        self.close_last();
        self.clone()
    }

    /// Lets go of a large buffer of which only a small piece is left.
    pub(crate) fn compact(&mut self) {
        self.first = compacted(std::mem::take(&mut self.first));
    }

    fn close_last(&mut self) {
        if !self.last.is_empty() {
            self.rest.push_back(std::mem::take(&mut self.last).freeze());
        }
    }
}

/// A piece that keeps no buffer alive that is much larger: a small one is copied.
pub(crate) fn compacted(piece: Bytes) -> Bytes {
    match piece.len() < SMALL {
        true => Bytes::copy_from_slice(&piece),
        false => piece,
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        Self {
            len: piece.len(),
            uncopied: piece.len(),
            first: piece,
            ..Self::default()
        }
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Bytes>, vec_deque::IntoIter<Bytes>>;

    fn into_iter(mut self) -> Self::IntoIter {
        self.close_last();
        let first = (!self.first.is_empty()).then_some(self.first);
        first.into_iter().chain(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read buffer that is half full, and what is held of it.
    #[test]
    fn what_is_held_takes_little_more_than_its_bytes() {
        let mut pieces = Pieces::default();
        for _ in 0..100 {
            let mut read = BytesMut::with_capacity(128 * 1024);
            read.extend_from_slice(&[7; 64 * 1024]);
            pieces.hold(read.freeze());
        }
        assert_eq!(pieces.len(), 100 * 64 * 1024);
        assert_eq!(pieces.cost(), pieces.len() + AS_THEY_CAME);
        assert_eq!(pieces.join(), vec![7; 100 * 64 * 1024]);
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut pieces = Pieces::from(Bytes::new());
        assert!(pieces.is_empty() && pieces.clone().into_iter().next().is_none());
        for piece in ["a", "", "bc"] {
            pieces.push(Bytes::from_static(piece.as_bytes()));
        }
        let mut both = Pieces::from(Bytes::from_static(b"x"));
        both.append(pieces);
        assert_eq!(both.len(), 4);
        assert_eq!(both.share().join(), "xabc");
        assert_eq!(both.join(), "xabc");
    }

    #[test]
    fn a_small_piece_keeps_no_large_buffer() {
        let buffer = Bytes::from(vec![b'l'; 2 * SMALL]);
        for (len, copied) in [(1, true), (SMALL, false)] {
            let mut pieces = Pieces::from(buffer.slice(..len));
            pieces.compact();
            let piece = pieces.join();
            assert_eq!(piece, buffer.slice(..len));
            assert_eq!(piece.as_ptr() != buffer.as_ptr(), copied, "{len}");
        }
    }

    #[test]
    fn small_pieces_are_joined_and_large_ones_are_not_copied() {
        let large = Bytes::from(vec![b'l'; SMALL]);
        let mut pieces = Pieces::default();
        for _ in 0..3 * JOINED {
            pieces.push(Bytes::from_static(b"s"));
        }
        pieces.push(large.clone());
        pieces.push(Bytes::from_static(b"s"));
        assert_eq!(pieces.len(), 3 * JOINED + SMALL + 1);
        let list: Vec<_> = pieces.into_iter().collect();
        let lengths: Vec<_> = list.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [1, JOINED, JOINED, JOINED - 1, SMALL, 1]);
        assert_eq!(list[4].as_ptr(), large.as_ptr());
    }
}
