//! A body, or a part of one, in the pieces in which it came: joining them would copy every byte.

use std::collections::{VecDeque, vec_deque};

use bytes::{Bytes, BytesMut};

/// Bytes in pieces, none of them empty. One piece takes no allocation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    /// Empty only if there is nothing at all.
    first: Bytes,
    rest: VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if self.first.is_empty() {
            self.first = piece;
        } else {
            self.rest.push_back(piece);
        }
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
        if self.rest.is_empty() {
            return self.first;
        }
        let mut joined = BytesMut::with_capacity(self.len);
        for piece in self {
            joined.extend_from_slice(&piece);
        }
        joined.freeze()
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        Self {
            len: piece.len(),
            first: piece,
            rest: VecDeque::new(),
        }
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Bytes>, vec_deque::IntoIter<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        let first = (!self.first.is_empty()).then_some(self.first);
        first.into_iter().chain(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let list: Vec<_> = both.clone().into_iter().collect();
        assert_eq!(list, ["x", "a", "bc"]);
        assert_eq!(both.join(), "xabc");
    }
}
