//! The time that a client has for a header block over HTTP/2 (`request_headers_timeout`).
//!
//! `h2` knows of a stream when its header block is complete, and while one is not, no other frame may come (RFC 9113 §4.3).
//! A client that does not end it would hold the connection, and what was decoded of the block, without any limit of an
//! exchange. [`TimedHeads`] ends such a connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use h2_guard::Frames;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    downstream::chains::ListenerShared,
    http::{io::forward_io, lazy_timer::LazyTimer},
};

/// The frames of a client under `h2`. Reads fail with [`io::ErrorKind::TimedOut`] once a header block takes too long.
#[derive(Debug)]
pub(super) struct TimedHeads<S> {
    frames: Frames<S>,
    limit: Option<Duration>,
    /// The block that the alarm was set for.
    timed: u64,
    alarm: LazyTimer,
    listener: Arc<ListenerShared>,
}

impl<S> TimedHeads<S> {
    /// `limit` is for each header block, `None` for none.
    pub(super) fn new(
        frames: Frames<S>,
        limit: Option<Duration>,
        listener: Arc<ListenerShared>,
    ) -> Self {
        Self {
            frames,
            limit,
            timed: 0,
            alarm: LazyTimer::default(),
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
        let read = Pin::new(&mut this.frames).poll_read(cx, buf);
        let (Some(limit), Some(block)) = (this.limit, this.frames.open_block()) else {
            return read;
        };
        if this.timed != block {
            this.timed = block;
            this.alarm.set(Instant::now() + limit);
        }
        if this.alarm.poll(cx).is_ready() {
            this.listener.stats.downstream_rq_header_timeout.add();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedHeads<S> {
    forward_io!(frames: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}
