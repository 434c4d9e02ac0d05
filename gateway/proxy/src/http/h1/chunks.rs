//! Joins small chunks that are there at once.
//!
//! hyper gives each chunk as a frame of its own, so that a body in chunks of one byte would be relayed byte by byte. Envoy
//! gives all data that came in one turn of the socket as one piece, and so does hyper if the chunks are rewritten as one
//! before it sees them.

use std::{io::Write as _, ops::Range};

use bytes::{Bytes, BytesMut};

/// Data of joined chunks is handed on at this size, and chunks of half of it are left alone.
const JOINED: usize = 64 * 1024;

/// Rewrites chunked bodies.
///
/// ```text
///          ┌──────────── several chunks in one read ───────────┐
///          │                                                   ▼
///   hyper sees what came                    hyper is between chunks, data is collected
///          ▲                                                   │
///          └── the last chunk, or nothing more to read while ──┘
///              the peer is between chunks, too
/// ```
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// hyper is between two chunks, wherever the peer is in its own.
    apart: bool,
    /// Data that hyper has not seen; only while it is apart.
    data: BytesMut,
    /// The peer was between two chunks at the end of what was read.
    between: bool,
}

/// The chunks of one read.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    /// In place of the bytes up to `done`.
    out: BytesMut,
    done: usize,
    /// Offset of the first of the chunks that may be joined.
    start: Option<usize>,
    /// The data of that chunk, until another one makes it worthwhile to copy it.
    first: Option<Range<usize>>,
}

impl Rewrite {
    /// `bytes`, rewritten, and how much longer they became.
    pub(super) fn apply(mut self, bytes: BytesMut) -> (BytesMut, isize) {
        if self.is_none() {
            return (bytes, 0);
        }
        let before = bytes.len();
        self.out
            .extend_from_slice(bytes.get(self.done..).unwrap_or_default());
        let longer = self.out.len().cast_signed() - before.cast_signed();
        (self.out, longer)
    }

    /// Returns true if all bytes stay as they are.
    pub(super) fn is_none(&self) -> bool {
        self.done == 0 && self.out.is_empty()
    }
}

impl Chunks {
    /// A read begins.
    pub(super) fn begin(&self) -> Rewrite {
        Rewrite {
            start: self.apart.then_some(0),
            ..Rewrite::default()
        }
    }

    /// A size line begins here.
    pub(super) fn at_start(&self, rewrite: &mut Rewrite, at: usize) {
        rewrite.start.get_or_insert(at);
    }

    /// Here is data of a chunk.
    pub(super) fn at_data(&mut self, rewrite: &mut Rewrite, bytes: &[u8], data: Range<usize>) {
        let Some(start) = rewrite.start else {
            return;
        };
        let slice = |range: Range<usize>| bytes.get(range).unwrap_or_default();
        if !self.apart {
            if data.len() >= JOINED / 2 {
                // Worth a piece of its own, and not worth a copy.
                rewrite.start = None;
                rewrite.first = None;
                return;
            }
            let Some(first) = rewrite.first.take() else {
                rewrite.first = Some(data);
                return;
            };
            self.apart = true;
            rewrite.out.extend_from_slice(slice(rewrite.done..start));
            self.data.extend_from_slice(slice(first));
        }
        if !self.data.is_empty() && self.data.len() + data.len() > JOINED {
            self.write(&mut rewrite.out);
        }
        self.data.extend_from_slice(slice(data.clone()));
        rewrite.done = data.end;
    }

    /// The line of the last chunk ends here.
    pub(super) fn at_last(&mut self, rewrite: &mut Rewrite, at: usize) {
        if self.apart {
            self.write(&mut rewrite.out);
            rewrite.out.extend_from_slice(b"0\r\n");
            rewrite.done = at;
            self.apart = false;
        }
        rewrite.start = None;
        rewrite.first = None;
    }

    /// The read ends here, with the peer between chunks or not.
    pub(super) fn end(&mut self, rewrite: &mut Rewrite, at: usize, between: bool) {
        if self.apart {
            rewrite.done = at;
        }
        self.between = between;
    }

    /// The body is cut here.
    pub(super) fn cut(&mut self, rewrite: &mut Rewrite, at: usize) {
        if self.apart {
            self.write(&mut rewrite.out);
            rewrite.done = at;
        }
    }

    /// Data that was collected, as a chunk. Nothing more is there to be read.
    #[inline]
    pub(super) fn flush(&mut self) -> Option<Bytes> {
        match self.data.is_empty() {
            true => None,
            false => Some(self.collected()),
        }
    }

    fn collected(&mut self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.data.len() + 16);
        self.write(&mut out);
        self.apart = !self.between;
        out.freeze()
    }

    fn write(&mut self, out: &mut BytesMut) {
        if self.data.is_empty() {
            return;
        }
        // Not to be kept while the connection is idle.
        let data = std::mem::take(&mut self.data);
        let mut line = [0; 20];
        let mut rest = line.as_mut_slice();
        // 16 digits at most.
        let _ = write!(rest, "{:x}\r\n", data.len());
        let left = rest.len();
        out.extend_from_slice(line.get(..line.len() - left).unwrap_or_default());
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
    }
}
