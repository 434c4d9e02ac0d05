//! What lies between a client's socket and its codec: a peer that stops reading does not hold
//! memory or a connection for ever.
//!
//! [`Guarded`] ends a connection that takes no bytes for the idle time of a stream, also when the
//! exchange is over and only its last bytes wait (Envoy's `stream_flush_timeout`, which is
//! `stream_idle_timeout` unless set). [`Backlog`] bounds what all streams of an HTTP/2 connection
//! have waiting for the socket together; `h2` bounds it for each stream alone.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, Sleep},
};

/// How long a socket may refuse to take bytes. Shared with the exchanges, whose routes may say
/// otherwise.
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

/// Bytes of response bodies that were handed to an HTTP/2 connection and not written.
///
/// An estimate from below: frame heads count as written bytes too. It is exact where it matters,
/// which is when nothing can be written.
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

    /// A piece was handed over.
    pub(crate) fn add(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    fn written(&self, bytes: usize) {
        let left = |queued: usize| queued.saturating_sub(bytes);
        let before = self
            .queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
                Some(left(queued))
            });
        // What it was at this very moment: a look of its own could miss what another thread adds meanwhile.
        if before.is_ok_and(|queued| queued >= self.limit && left(queued) < self.limit) {
            self.room.notify_waiters();
        }
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
    backlog: Option<Arc<Backlog>>,
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
            backlog: None,
        }
    }

    /// Tells `backlog` what was written.
    pub(crate) fn with_backlog(mut self, backlog: Arc<Backlog>) -> Self {
        self.backlog = Some(backlog);
        self
    }

    /// Follows the outcome of a write.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            self.blocked = false;
            if let (Some(backlog), Ok(bytes)) = (&self.backlog, &result) {
                backlog.written(*bytes);
            }
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
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
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

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if let Some(backlog) = &self.backlog {
            // Nothing waits: what was queued and never written was dropped with its stream.
            backlog.written(usize::MAX);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
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

    #[tokio::test]
    async fn a_full_backlog_waits_for_the_socket() {
        let (near, mut far) = tokio::io::duplex(64);
        let backlog = Backlog::new(100);
        let mut near = Guarded::new(near, StallLimit::new(None)).with_backlog(backlog.clone());
        backlog.add(100);
        assert!(backlog.is_full());
        let waiting = tokio::spawn({
            let backlog = backlog.clone();
            async move { backlog.room().await }
        });
        near.write_all(&[0; 64]).await.unwrap();
        waiting.await.unwrap();
        assert!(!backlog.is_full());
        // The rest of what was queued is never written.
        backlog.add(1000);
        far.read_exact(&mut [0; 64]).await.unwrap();
        near.flush().await.unwrap();
        assert!(!backlog.is_full());
    }
}
