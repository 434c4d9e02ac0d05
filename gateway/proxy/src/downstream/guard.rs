//! Guard between a client's socket and its codec: a peer that stops reading does not hold a connection for ever.
//!
//! [`Guarded`] ends a connection that takes no bytes for the idle time of a stream, also when the
//! exchange is over and only its last bytes wait (Envoy's `stream_flush_timeout`, which is
//! `stream_idle_timeout` unless set). It watches writes alone: a TCP socket has nothing else to wait for. What TLS
//! keeps for itself shows only below it, so there is one guard on either side of it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};

use crate::http::io::forward_io;

/// Longest time for which a socket may take no bytes. Shared with the exchanges, whose routes may set another.
#[derive(Debug)]
pub(crate) struct StallLimit(AtomicU64);

impl StallLimit {
    /// `None` is no limit.
    pub(crate) fn new(limit: Option<Duration>) -> Arc<Self> {
        let stall = Self(AtomicU64::new(0));
        stall.set(limit);
        Arc::new(stall)
    }

    /// Holds from the next time on that the socket is full.
    pub(crate) fn set(&self, limit: Option<Duration>) {
        let millis = limit.map_or(u64::MAX, |limit| {
            u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
        });
        self.0.store(millis, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        let millis = self.0.load(Ordering::Relaxed);
        (millis != u64::MAX).then(|| Duration::from_millis(millis))
    }
}

/// A client's socket, watched.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    io: S,
    stall: Arc<StallLimit>,
    /// Runs while the socket takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
    blocked: bool,
}

impl<S> Guarded<S> {
    /// The socket itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.io
    }

    /// Writes fail with [`io::ErrorKind::TimedOut`] when the limit has passed.
    pub(crate) fn new(io: S, stall: Arc<StallLimit>) -> Self {
        Self {
            io,
            stall,
            timer: None,
            blocked: false,
        }
    }

    /// Time for which it may take nothing.
    pub(crate) fn stall(&self) -> &Arc<StallLimit> {
        &self.stall
    }

    /// Follows the outcome of a write.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            self.blocked = false;
            return Poll::Ready(result);
        }
        if !self.blocked {
            self.blocked = true;
            let Some(limit) = self.stall.get() else {
                self.timer = None;
                return Poll::Pending;
            };
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(Instant::now() + limit),
                timer => *timer = Some(Box::pin(tokio::time::sleep(limit))),
            }
        }
        match &mut self.timer {
            Some(timer) => {
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    forward_io!(io: poll_read);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.watch(cx, written)
    }

    forward_io!(io: is_write_vectored, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_given_up() {
        let (near, mut far) = tokio::io::duplex(10);
        let limit = StallLimit::new(Some(Duration::from_secs(5)));
        let mut near = Guarded::new(near, limit);
        near.write_all(&[0; 10]).await.unwrap();
        let begun = Instant::now();
        let error = near.write_all(&[0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 5);
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_reads_slowly_is_not() {
        let (near, mut far) = tokio::io::duplex(10);
        let limit = StallLimit::new(Some(Duration::from_secs(5)));
        let mut near = Guarded::new(near, limit);
        let reader = tokio::spawn(async move {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                far.read_exact(&mut [0; 10]).await.unwrap();
            }
        });
        near.write_all(&[0; 200]).await.unwrap();
        reader.await.unwrap();
    }
}
