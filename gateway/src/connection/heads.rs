//! The time that a client has for a header block over HTTP/2 (`request_headers_timeout`).
//!
//! `h2` knows of a stream when its header block is complete, and while one is not, no other frame may come (RFC 9113 §4.3).
//! A client that does not end it would hold the connection, and what was decoded of the block, without any limit of an
//! exchange. [`TimedHeads`] follows the frames below `h2` and ends such a connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{alarm::Alarm, listener::ListenerShared};

/// Place in the frames of a connection (RFC 9113 §4.1).
#[derive(Debug)]
struct Frames {
    /// Bytes to come before the next frame: of the preface, or of a payload.
    left: usize,
    /// The header of the next frame, as far as it is here.
    header: [u8; 9],
    known: usize,
    /// The frame that is under way completes a header block.
    ends: bool,
    /// A header block is not complete.
    open: bool,
    /// Header blocks that began.
    blocks: u64,
}

impl Frames {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;

    fn new() -> Self {
        Self {
            left: Self::PREFACE,
            header: [0; 9],
            known: 0,
            ends: false,
            open: false,
            blocks: 0,
        }
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        loop {
            let passed = self.left.min(bytes.len());
            bytes = bytes.get(passed..).unwrap_or_default();
            self.left -= passed;
            if self.left == 0 && self.ends {
                self.ends = false;
                self.open = false;
            }
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            bytes = rest;
            if let Some(byte) = self.header.get_mut(self.known) {
                *byte = *first;
            }
            self.known += 1;
            if self.known == self.header.len() {
                self.known = 0;
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind == Self::HEADERS {
            self.blocks += 1;
            self.open = true;
        }
        self.ends =
            matches!(kind, Self::HEADERS | Self::CONTINUATION) && flags & Self::END_HEADERS != 0;
    }
}

/// A client's socket under `h2`. Reads fail with [`io::ErrorKind::TimedOut`] once a header block takes too long.
#[derive(Debug)]
pub(super) struct TimedHeads<S> {
    io: S,
    frames: Frames,
    limit: Option<Duration>,
    /// The block that the alarm was set for.
    timed: u64,
    alarm: Alarm,
    listener: Arc<ListenerShared>,
}

impl<S> TimedHeads<S> {
    /// `limit` is for each header block, `None` for none.
    pub(super) fn new(io: S, limit: Option<Duration>, listener: Arc<ListenerShared>) -> Self {
        Self {
            io,
            frames: Frames::new(),
            limit,
            timed: 0,
            alarm: Alarm::default(),
            listener,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedHeads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some(limit) = this.limit else {
            return read;
        };
        this.frames
            .follow(buf.filled().get(before..).unwrap_or_default());
        if !this.frames.open {
            return read;
        }
        if this.timed != this.frames.blocks {
            this.timed = this.frames.blocks;
            this.alarm.set(Instant::now() + limit);
        }
        if this.alarm.poll(cx).is_ready() {
            this.listener.stats.downstream_rq_header_timeout.add();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedHeads<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn a_block_is_open_until_its_last_byte() {
        let mut bytes = vec![b'x'; Frames::PREFACE];
        bytes.extend(frame(4, 0, b"settings"));
        let begin = bytes.len() + 9;
        bytes.extend(frame(Frames::HEADERS, 1, b"half a block"));
        bytes.extend(frame(Frames::CONTINUATION, 0, b""));
        bytes.extend(frame(Frames::CONTINUATION, Frames::END_HEADERS, b"rest"));
        let end = bytes.len();
        bytes.extend(frame(0, Frames::END_HEADERS, b"data"));
        bytes.extend(frame(Frames::HEADERS, Frames::END_HEADERS, b""));
        for step in 1..bytes.len() {
            let mut frames = Frames::new();
            let mut at = 0;
            for piece in bytes.chunks(step) {
                frames.follow(piece);
                at += piece.len();
                assert_eq!(frames.open, (begin..end).contains(&at), "{at} of {step}");
            }
            assert_eq!(frames.blocks, 2);
        }
    }
}
