//! The adapter between a socket and hyper's HTTP/1 connections, in both roles.
//!
//! hyper can neither write an interim response other than 100 nor trailers that no `Trailer` header
//! announced. This adapter inserts both into what hyper writes. Bytes that need no insertion go
//! to the socket as they come, in one vectored write.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    framing::{Framer, Role, Stop},
    head::Head,
    inbound::Inbound,
    outgoing::{OutgoingQueue, write_interim},
    waiting::{Phase, Waiting},
};
use crate::http::io::forward_io;

/// Response for a client whose head takes too long (RFC 9110 §15.5.9), if nothing else is under way.
fn timed_out(text: &str) -> String {
    format!(
        "HTTP/1.1 408 Request Timeout\r\n\
        content-length: {}\r\n\
        content-type: text/plain\r\n\
        date: {}\r\n\
        connection: close\r\n\
        \r\n\
        {text}",
        text.len(),
        httpdate::fmt_http_date(SystemTime::now()),
    )
}

/// Bytes that hyper writes when the body is wanted of a client that waits with it.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A socket under a hyper HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Http1Io<T> {
    io: T,
    /// Bytes that were read and are to be given to hyper.
    ready: Bytes,
    inbound: Inbound,
    /// Time limits for heads; only towards clients.
    waiting: Waiting,
    /// When the last response was written, or the connection began.
    written_at: Instant,
    framer: Framer,
    queue: OutgoingQueue,
    insert: BytesMut,
}

/// Result of a look ahead.
struct Ahead {
    /// Number of bytes that may be written before something has to be inserted.
    writable: usize,
    /// If nothing has to be: the framer after them, and how many messages they end.
    after: Option<(Framer, usize)>,
    /// Instead, this many bytes have to be left out.
    muted: usize,
}

impl<T> Http1Io<T> {
    /// Towards an upstream, whose heads are at most `limit` bytes long.
    pub(crate) fn client(io: T, limit: usize, queue: OutgoingQueue) -> Self {
        Self {
            io,
            ready: Bytes::new(),
            inbound: Inbound::responses(limit),
            waiting: Waiting::new(None, None, None),
            written_at: Instant::now(),
            framer: Framer::new(Role::Client),
            queue,
            insert: BytesMut::new(),
        }
    }

    /// Towards a client. `read` was read to find out the protocol; heads are at most `limit` bytes
    /// long.
    pub(crate) fn server(
        io: T,
        read: Bytes,
        limit: usize,
        waiting: Waiting,
        queue: OutgoingQueue,
    ) -> Self {
        let mut inbound = Inbound::requests(limit);
        let ready = inbound.filter(&read, &queue).unwrap_or(read);
        Self {
            io,
            ready,
            inbound,
            waiting,
            written_at: Instant::now(),
            framer: Framer::new(Role::Server),
            queue,
            insert: BytesMut::new(),
        }
    }

    /// Returns the phase in which the client let the connection wait for too long, if that ended it, and tells whether the limit
    /// was `request_timeout`.
    pub(crate) fn expired(&self) -> Option<(Phase, bool)> {
        let phase = self.waiting.expired()?;
        Some((phase, self.waiting.whole()))
    }

    /// The socket, if the message that is being written ends with the connection: then only a reset can say
    /// that it is not complete.
    pub(crate) fn unended(&self) -> Option<&T> {
        self.framer.is_opaque().then_some(&self.io)
    }

    /// The bytes that are read from now on are not HTTP.
    pub(crate) fn open_tunnel(&mut self) {
        let held = self.inbound.open();
        // hyper has read all that was ready: it stops only where nothing is left to read.
        let mut ready = BytesMut::from(self.ready.as_ref());
        ready.extend_from_slice(&held);
        self.ready = ready.freeze();
    }

    /// Tells whether something has to be inserted at this stop into the message `index` from the front.
    fn wants(&self, index: usize, stop: Stop) -> bool {
        match stop {
            Stop::Head => self.queue.get(index).is_some_and(|m| m.has_interim()),
            Stop::Trailers => self.queue.get(index).is_some_and(|m| m.has_trailers()),
            Stop::End | Stop::MessageEnd | Stop::Chunk | Stop::Fault => false,
        }
    }

    /// Looks how many of these bytes may be written before something has to be inserted; if none,
    /// what has to be is in `insert` now.
    fn look_ahead(&mut self, bufs: &[IoSlice<'_>]) -> Ahead {
        let mut framer = self.framer;
        let mut ended = 0;
        let mut writable = 0;
        for buf in bufs {
            let mut at = 0;
            while at < buf.len() {
                let rest = buf.get(at..).unwrap_or_default();
                let facts = self.queue.facts(ended);
                if facts.continued_by_upstream
                    && framer.between_messages()
                    && rest.starts_with(CONTINUE)
                {
                    writable += at;
                    return Ahead {
                        writable,
                        after: None,
                        muted: if writable == 0 { CONTINUE.len() } else { 0 },
                    };
                }
                let (n, stop) = framer.advance(rest, facts);
                at += n;
                if self.wants(ended, stop) {
                    writable += at;
                    if writable == 0 {
                        self.framer = framer;
                        self.fill(stop);
                    }
                    return Ahead {
                        writable,
                        after: None,
                        muted: 0,
                    };
                }
                match stop {
                    // hyper writes no faults.
                    Stop::End | Stop::Fault => break,
                    Stop::MessageEnd => ended += 1,
                    Stop::Head | Stop::Trailers | Stop::Chunk => {}
                }
            }
            writable += buf.len();
        }
        Ahead {
            writable,
            after: Some((framer, ended)),
            muted: 0,
        }
    }

    fn fill(&mut self, stop: Stop) {
        if let Some(outgoing) = self.queue.get(0) {
            match stop {
                Stop::Head => outgoing.take_interim(&mut self.insert),
                Stop::Trailers => outgoing.take_trailers(&mut self.insert),
                Stop::End | Stop::MessageEnd | Stop::Chunk | Stop::Fault => {}
            }
        }
    }

    /// Takes note of `n` written bytes.
    fn written(&mut self, bufs: &[IoSlice<'_>], mut n: usize, ahead: &Ahead) {
        if let Some((framer, ended)) = ahead.after
            && n == ahead.writable
        {
            self.framer = framer;
            for _ in 0..ended {
                self.queue.pop();
            }
            if ended > 0 {
                self.written_at = Instant::now();
            }
            return;
        }
        for buf in bufs {
            let mut bytes = buf.get(..n.min(buf.len())).unwrap_or_default();
            let mut offered: &[u8] = buf;
            n -= bytes.len();
            loop {
                let facts = self.queue.facts(0);
                if !bytes.is_empty()
                    && self.framer.between_messages()
                    && let Some(head) = Head::read(offered)
                {
                    // The socket may have taken a part of it.
                    self.framer.begin(&head, facts);
                }
                let (taken, stop) = self.framer.advance(bytes, facts);
                bytes = bytes.get(taken..).unwrap_or_default();
                offered = offered.get(taken..).unwrap_or_default();
                match stop {
                    Stop::End | Stop::Fault => break,
                    Stop::MessageEnd => {
                        self.queue.pop();
                        self.written_at = Instant::now();
                    }
                    Stop::Trailers | Stop::Head | Stop::Chunk => {}
                }
            }
            if n == 0 {
                break;
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Http1Io<T> {
    fn poll_insert(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.insert.has_remaining() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.insert))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.insert.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Interim responses of a message whose final head has not come yet.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_insert(cx))?;
        if !self.framer.between_messages() {
            return Poll::Ready(Ok(()));
        }
        let Some(outgoing) = self.queue.get(0) else {
            return Poll::Ready(Ok(()));
        };
        while let Poll::Ready((status, headers)) = outgoing.poll_interim(cx) {
            write_interim(status, &headers, &mut self.insert);
            ready!(self.poll_insert(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Http1Io<T> {
    /// Nothing is there to be read: looks whether a head has been waited for too long.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.waiting.expired().is_some();
        let now = self.inbound.waits_for();
        // A response that is under way is timed by its exchange.
        let quiet_since = self.queue.is_empty().then_some(self.written_at);
        let expired = ready!(self.waiting.poll(cx, now, quiet_since));
        if expired == Phase::Head {
            if !before && self.framer.between_messages() {
                let text = match self.waiting.whole() {
                    true => "request timeout",
                    false => "request header timeout",
                };
                self.insert.extend_from_slice(timed_out(text).as_bytes());
            }
            // What is not taken at once goes out with the shutdown, which has a limit.
            if self.poll_insert(cx)?.is_ready() {
                let _ = Pin::new(&mut self.io).poll_flush(cx)?;
            }
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Http1Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready.has_remaining() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(n));
                return Poll::Ready(Ok(()));
            }
            if let Some(bytes) = this.inbound.declined(&this.queue) {
                this.ready = bytes;
                continue;
            }
            if this.inbound.is_full() {
                // Whoever decides on the tunnel goes on reading, or ends the connection.
                return Poll::Pending;
            }
            let before = buf.filled().len();
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => match this.inbound.flush() {
                    Some(joined) => {
                        this.ready = joined;
                        continue;
                    }
                    None => return this.poll_waiting(cx),
                },
            }
            let read = buf.filled().get(before..).unwrap_or_default();
            let end = read.is_empty();
            if end && this.inbound.holds_early() {
                // A client may have sent everything that it has for the tunnel.
                return Poll::Pending;
            }
            let instead = match end {
                true => Some(this.inbound.end()),
                false => this.inbound.filter(read, &this.queue),
            };
            let Some(bytes) = instead else {
                return Poll::Ready(Ok(()));
            };
            buf.set_filled(before);
            this.ready = bytes;
            if end && this.ready.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Http1Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        const MOST: usize = 64;
        let this = self.get_mut();
        ready!(this.poll_insert(cx))?;
        let mut ahead = this.look_ahead(bufs);
        if this.insert.has_remaining() {
            ready!(this.poll_insert(cx))?;
            ahead = this.look_ahead(bufs);
        }
        if ahead.muted > 0 {
            return Poll::Ready(Ok(ahead.muted));
        }
        let limit = ahead.writable;
        let whole: usize = bufs.iter().map(|buf| buf.len()).sum();
        let n = if limit == whole {
            ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?
        } else {
            let mut cut = [IoSlice::new(&[]); MOST];
            let mut used = 0;
            let mut left = limit;
            for (place, buf) in cut.iter_mut().zip(bufs) {
                let part = buf.get(..left.min(buf.len())).unwrap_or_default();
                *place = IoSlice::new(part);
                left -= part.len();
                used += 1;
                if left == 0 {
                    break;
                }
            }
            let cut = cut.get(..used).unwrap_or_default();
            ready!(Pin::new(&mut this.io).poll_write_vectored(cx, cut))?
        };
        this.written(bufs, n, &ahead);
        Poll::Ready(Ok(n))
    }

    forward_io!(io: is_write_vectored);

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_insert(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, HeaderValue};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http::h1::{MessageFacts, Outgoing};

    /// Trailers find their place also when the socket takes little at a time, heads included.
    #[tokio::test]
    async fn a_head_in_parts() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n";
        for room in 1..HEAD.len() {
            let (ours, mut theirs) = tokio::io::duplex(room);
            let queue = OutgoingQueue::default();
            let outgoing = Arc::new(Outgoing::new(MessageFacts::default()));
            queue.push(outgoing.clone());
            let mut trailers = HeaderMap::new();
            trailers.insert("x-t", HeaderValue::from_static("1"));
            outgoing.trailers(trailers);
            let waiting = Waiting::new(None, None, None);
            let mut io = Http1Io::server(ours, Bytes::new(), 1024, waiting, queue.clone());
            let message = format!("{HEAD}\r\n");
            let write = async {
                io.write_all(message.as_bytes()).await.unwrap();
                io.shutdown().await.unwrap();
            };
            let mut out = String::new();
            let ((), read) = tokio::join!(write, theirs.read_to_string(&mut out));
            read.unwrap();
            assert_eq!(out, format!("{HEAD}x-t: 1\r\n\r\n"), "{room}");
            assert!(queue.is_empty());
        }
    }
}
