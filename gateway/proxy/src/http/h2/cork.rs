//! Several HTTP/2 frames in one TCP segment, and not too many of them in one turn.
//!
//! `h2` writes and flushes each DATA frame by itself, and most peers accept 16 KiB in one. A message of a MiB is sixty-four writes
//! then, each of which wakes the peer. Here a write of a whole frame tells the kernel that more is coming (`MSG_MORE`), so that
//! it sends full segments, and what the kernel still holds is pushed out as soon as the connection's task has written
//! everything: never is anything left waiting for the kernel's own timer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::http::io::forward_io;

/// `MSG_MORE` of `sendmsg(2)`; its value is the same on all architectures. Other systems have none.
const MORE: Option<i32> = if cfg!(target_os = "linux") {
    Some(0x8000)
} else {
    None
};

/// A write this long is one of several: the smallest limit for DATA frames that a peer may have (RFC 9113 §4.2).
const WHOLE_FRAME: usize = 16 * 1024;

/// Bytes that are read before the streams of the connection have their turn. Until then `h2` keeps what came for them, and of a
/// head that takes few bytes of the connection it keeps many.
const TURN: usize = 64 * 1024;

/// A stream that may be a bare TCP connection.
pub(crate) trait MaybeTcp {
    fn tcp(&self) -> Option<&TcpStream>;
}

/// The stream under an `h2` connection.
#[derive(Debug)]
pub(crate) struct Corked<S> {
    io: S,
    /// The kernel may hold bytes back. The task is going to be polled again then, and reads first.
    held: bool,
    /// Bytes that were read in this turn of the connection's task.
    read: usize,
}

impl<S: MaybeTcp> Corked<S> {
    pub(crate) fn new(io: S) -> Self {
        Self {
            io,
            held: false,
            read: 0,
        }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.io
    }

    /// Lets the kernel send what it holds.
    fn push(&mut self) {
        if std::mem::take(&mut self.held)
            && let Some(tcp) = self.io.tcp()
        {
            // It has that option; to set it again sends what is there (tcp(7)). A connection that is gone says so when it is
            // read.
            let _ = tcp.set_nodelay(true);
        }
    }
}

/// Writes as the stream does, but with `flags`.
fn poll_send(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
    flags: i32,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let sent = tcp.try_io(Interest::WRITABLE, || {
            SockRef::from(tcp).send_vectored_with_flags(bufs, flags)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}

impl<S: AsyncRead + MaybeTcp + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.push();
        if this.read >= TURN {
            this.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        match read {
            Poll::Ready(_) => this.read += buf.filled().len() - before,
            Poll::Pending => this.read = 0,
        }
        read
    }
}

impl<S: AsyncWrite + MaybeTcp + Unpin> AsyncWrite for Corked<S> {
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
        let this = self.get_mut();
        let whole: usize = bufs.iter().map(|buf| buf.len()).sum();
        if whole >= WHOLE_FRAME
            && let (Some(flags), Some(tcp)) = (MORE, this.io.tcp())
        {
            let sent = ready!(poll_send(tcp, cx, bufs, flags))?;
            if !std::mem::replace(&mut this.held, true) {
                cx.waker().wake_by_ref();
            }
            return Poll::Ready(Ok(sent));
        }
        let sent = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        // The kernel sends what it held before that with it.
        this.held = false;
        Poll::Ready(Ok(sent))
    }

    forward_io!(io: is_write_vectored, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::{Wake, Waker},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    struct Socket(TcpStream);

    impl MaybeTcp for Socket {
        fn tcp(&self) -> Option<&TcpStream> {
            Some(&self.0)
        }
    }

    crate::http::io::delegate_io!(Socket { Socket });

    /// By itself, the kernel would send the end of a whole frame after 200 ms. To set `TCP_NODELAY` sends it at once (tcp(7)); the
    /// option is off here, so that it shows when that is done.
    #[tokio::test]
    async fn nothing_is_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut theirs, _) = theirs.unwrap();
        let mut ours = Corked::new(Socket(ours.unwrap()));
        ours.io.0.set_nodelay(false).unwrap();
        for (length, is_pushed) in [(100, false), (WHOLE_FRAME, MORE.is_some())] {
            ours.write_all(&vec![7; length]).await.unwrap();
            assert!(!ours.io.0.nodelay().unwrap());
            // As the connection's task does when it is woken.
            poll_fn(|cx| {
                let mut byte = [0];
                let mut buf = ReadBuf::new(&mut byte);
                assert!(Pin::new(&mut ours).poll_read(cx, &mut buf).is_pending());
                Poll::Ready(())
            })
            .await;
            assert_eq!(ours.io.0.nodelay().unwrap(), is_pushed, "{length}");
            theirs.read_exact(&mut vec![0; length]).await.unwrap();
        }
    }

    /// A write wakes the task that writes to the socket, once.
    #[tokio::test]
    async fn a_whole_frame_wakes_the_task() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let mut ours = Corked::new(Socket(stream.unwrap()));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        for length in [100, WHOLE_FRAME, WHOLE_FRAME] {
            let cx = &mut Context::from_waker(&waker);
            let written = Pin::new(&mut ours).poll_write(cx, &vec![7; length]);
            assert!(matches!(written, Poll::Ready(Ok(n)) if n == length));
            let expected = u32::from(MORE.is_some() && length == WHOLE_FRAME);
            assert_eq!(woken.0.load(Ordering::Relaxed), expected);
        }
    }

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
