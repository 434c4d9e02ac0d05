//! The receiving half of a stream.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

use crate::Traffic;

/// Most bytes of joined frames that are handed out as one piece.
const PIECE: usize = 64 * 1024;

/// The receiving half of a stream, whose small frames are joined while nobody takes them.
pub struct Receiver(Arc<Mutex<Inbox>>);

#[derive(Debug)]
pub(crate) struct Inbox {
    stream: RecvStream,
    /// Bytes taken from `h2` and not handed out.
    joined: BytesMut,
    /// Bytes handed out whose window is not given back.
    owed: usize,
}

impl Receiver {
    /// The receiving half of a stream of the connection that `traffic` belongs to.
    pub fn new(stream: RecvStream, traffic: &Traffic) -> Self {
        let inbox = Arc::new(Mutex::new(Inbox {
            stream,
            joined: BytesMut::new(),
            owed: 0,
        }));
        traffic.register(Arc::downgrade(&inbox));
        Self(inbox)
    }

    /// The next piece of data; as [`RecvStream::poll_data`].
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut inbox = self.lock();
        let data = if inbox.joined.is_empty() {
            match ready!(inbox.stream.poll_data(cx)) {
                Some(Ok(data)) => data,
                end => return Poll::Ready(end),
            }
        } else {
            let length = inbox.joined.len().min(PIECE);
            inbox.joined.split_to(length).freeze()
        };
        inbox.owed += data.len();
        Poll::Ready(Some(Ok(data)))
    }

    /// The trailers, after the data; as [`RecvStream::poll_trailers`].
    pub fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        let mut inbox = self.lock();
        Poll::Ready(ready!(inbox.stream.poll_trailers(cx)))
    }

    /// Gives so many bytes of window back. It fails only when the stream is over, which its polls report.
    pub fn release(&mut self, bytes: usize) {
        if bytes > 0 {
            let mut inbox = self.lock();
            inbox.owed = inbox.owed.saturating_sub(bytes);
            let _ = inbox.stream.flow_control().release_capacity(bytes);
        }
    }

    /// Whether everything has been handed out.
    pub fn is_end_stream(&self) -> bool {
        let inbox = self.lock();
        inbox.joined.is_empty() && inbox.stream.is_end_stream()
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl Inbox {
    /// Takes what `h2` has. It is not polled beyond that: whoever waits for more would not be woken.
    pub(crate) fn join(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        while self.stream.flow_control().used_capacity() > self.joined.len() + self.owed {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.joined.extend_from_slice(&data),
                _ => return,
            }
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // `h2` gives the window of what it still has back to the connection. Of these it hears nothing while the
        // sending half is open.
        let taken = self.joined.len() + self.owed;
        if taken > 0 {
            let _ = self.stream.flow_control().release_capacity(taken);
        }
    }
}
