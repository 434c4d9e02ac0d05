//! The receiving half of a stream.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

use crate::{Traffic, fields_size};

/// Most bytes of joined frames that are handed out as one piece.
const PIECE: usize = 64 * 1024;

/// Counts what streams have received and nobody has taken, for its owner to bound. Small amounts are not told.
pub trait Account: Send + Sync {
    /// Adds bytes that are held from now on.
    fn hold(&self, bytes: usize);
    /// Subtracts bytes that are no longer held.
    fn release(&self, bytes: usize);
}

/// The receiving half of a stream, whose small frames are joined while nobody takes them.
pub struct Receiver(Arc<Mutex<Inbox>>);

pub(crate) struct Inbox {
    stream: RecvStream,
    account: Option<Arc<dyn Account>>,
    /// Bytes that the account was told of.
    told: usize,
    /// Bytes taken from `h2` and not handed out.
    joined: BytesMut,
    /// Bytes handed out last, whose window is not given back.
    owed: usize,
    /// Bytes of a list of fields that trailers may have.
    most_trailers: u64,
    /// Trailers taken from `h2` that nobody has asked for, or that there are none.
    trailers: Option<Result<Option<HeaderMap>, h2::Error>>,
    /// Whoever waits for more.
    reader: Option<Waker>,
}

impl Receiver {
    /// The receiving half of a stream of the connection that `traffic` belongs to. `account` is told what waits in it.
    ///
    /// Trailers whose list is larger than `most_trailers`, as [`fields_size`] counts, may be given as an error.
    pub fn new(
        stream: RecvStream,
        traffic: &Traffic,
        account: Option<Arc<dyn Account>>,
        most_trailers: u64,
    ) -> Self {
        let inbox = Arc::new(Mutex::new(Inbox {
            stream,
            account,
            told: 0,
            joined: BytesMut::new(),
            owed: 0,
            most_trailers,
            trailers: None,
            reader: None,
        }));
        traffic.register(Arc::downgrade(&inbox));
        Self(inbox)
    }

    /// The next piece of data; as `RecvStream::poll_data`. The window of the piece before it is given back: who asks for more has
    /// room for it.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut inbox = self.lock();
        let owed = std::mem::take(&mut inbox.owed);
        if owed > 0 {
            // It fails only when the stream is over, which its polls report.
            let _ = inbox.stream.flow_control().release_capacity(owed);
        }
        let data = if inbox.joined.is_empty() {
            match inbox.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => data,
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {
                    inbox.note_reader(cx);
                    return Poll::Pending;
                }
            }
        } else {
            let length = inbox.joined.len().min(PIECE);
            inbox.joined.split_to(length).freeze()
        };
        inbox.owed = data.len();
        if inbox.told > 0 {
            inbox.tell();
        }
        Poll::Ready(Some(Ok(data)))
    }

    /// The trailers, after the data; as `RecvStream::poll_trailers`.
    pub fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        let mut inbox = self.lock();
        if let Some(trailers) = inbox.trailers.take() {
            return Poll::Ready(trailers);
        }
        let polled = inbox.stream.poll_trailers(cx);
        if polled.is_pending() {
            inbox.note_reader(cx);
        }
        polled
    }

    /// Returns whether everything has been handed out.
    pub fn is_end_stream(&self) -> bool {
        let inbox = self.lock();
        inbox.joined.is_empty() && inbox.trailers.is_none() && inbox.stream.is_end_stream()
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
    /// Tells the account what waits.
    pub(crate) fn tell(&mut self) {
        let Some(account) = &self.account else {
            return;
        };
        let used = self.stream.flow_control().used_capacity();
        let waits = used.saturating_sub(self.owed);
        if waits > self.told {
            account.hold(waits - self.told);
        } else if waits < self.told {
            account.release(self.told - waits);
        }
        self.told = waits;
    }

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

impl Inbox {
    /// Takes trailers that `h2` has, and all data before them. It would keep them, however large, as long as nobody reads.
    pub(crate) fn take_trailers(&mut self) {
        if self.trailers.is_some() {
            return;
        }
        let reader = self.reader.clone();
        let cx = &mut Context::from_waker(reader.as_ref().unwrap_or(Waker::noop()));
        loop {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.joined.extend_from_slice(&data),
                Poll::Ready(None) => break,
                // An error is there for whoever asks next.
                Poll::Ready(Some(Err(_))) | Poll::Pending => return,
            }
        }
        if let Poll::Ready(trailers) = self.stream.poll_trailers(cx) {
            self.trailers = Some(match trailers {
                Ok(Some(trailers)) if fields_size(&trailers) > self.most_trailers => {
                    Err(h2::Reason::ENHANCE_YOUR_CALM.into())
                }
                taken => taken,
            });
        }
    }

    fn note_reader(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
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
        if let Some(account) = self.account.take_if(|_| self.told > 0) {
            account.release(self.told);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin};

    use h2::{SendStream, client::ResponseFuture};
    use http::{Request, Response};
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::Frames;

    /// Frames of one byte, more than are left alone.
    const FRAMES: usize = 20_000;

    /// A connection to a server that answers with `send`, one response after the other.
    async fn connect<F>(send: impl Fn(SendStream<Bytes>) -> F + Send + 'static) -> Client
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((_, mut respond))) = server.accept().await {
                let stream = respond.send_response(Response::new(()), false).unwrap();
                tokio::spawn(send(stream));
            }
        });
        Client::new(near).await
    }

    struct Client {
        sender: h2::client::SendRequest<Bytes>,
        traffic: Arc<Traffic>,
    }

    impl Client {
        async fn new(io: DuplexStream) -> Self {
            let traffic = Arc::<Traffic>::default();
            let (sender, mut connection) = crate::client()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 18)
                .handshake(Frames::of_server(io, traffic.clone()))
                .await
                .unwrap();
            let turning = traffic.clone();
            tokio::spawn(poll_fn(move |cx| {
                let end = Pin::new(&mut connection).poll(cx);
                turning.turn();
                end.map(drop)
            }));
            Self { sender, traffic }
        }

        fn send(&mut self) -> ResponseFuture {
            let request = Request::get("http://a/").body(()).unwrap();
            self.sender.send_request(request, true).unwrap().0
        }

        async fn receiver(&mut self) -> Receiver {
            let response = self.send().await.unwrap();
            Receiver::new(response.into_body(), &self.traffic, None, 1024)
        }
    }

    async fn small_frames(mut stream: SendStream<Bytes>) {
        for number in 0..FRAMES {
            let byte = Bytes::copy_from_slice(&[number as u8]);
            stream.send_data(byte, number + 1 == FRAMES).unwrap();
        }
    }

    /// The window of bytes that were joined and never taken comes back.
    #[tokio::test]
    async fn what_is_dropped_gives_its_window_back() {
        let mut client = connect(small_frames).await;
        for _ in 0..60 {
            let receiver = client.receiver().await;
            while receiver.lock().stream.flow_control().used_capacity() < 10_000 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// A client that reads nothing does not keep trailers that nobody would take.
    #[tokio::test]
    async fn large_trailers_are_not_kept() {
        for (size, fit) in [(900, true), (400_000, false)] {
            let mut client = connect(move |mut stream| async move {
                let mut trailers = HeaderMap::new();
                trailers.insert("x", "v".repeat(size).parse().unwrap());
                stream
                    .send_data(Bytes::from_static(b"data"), false)
                    .unwrap();
                stream.send_trailers(trailers).unwrap();
            })
            .await;
            let mut receivers = Vec::new();
            for _ in 0..4 {
                receivers.push(client.receiver().await);
            }
            if !fit {
                for receiver in &receivers[..2] {
                    while receiver.lock().trailers.is_none() {
                        tokio::task::yield_now().await;
                    }
                    assert!(!receiver.is_end_stream());
                }
            }
            let mut receiver = receivers.swap_remove(0);
            let data = poll_fn(|cx| receiver.poll_data(cx)).await;
            assert_eq!(data.unwrap().unwrap(), "data");
            assert!(poll_fn(|cx| receiver.poll_data(cx)).await.is_none());
            let trailers = poll_fn(|cx| receiver.poll_trailers(cx)).await;
            assert_eq!(trailers.is_ok_and(|it| it.is_some()), fit);
            assert!(receiver.is_end_stream());
        }
    }

    /// Whoever waits for data is woken by it, also if frames were joined meanwhile.
    #[tokio::test]
    async fn who_waits_is_woken() {
        let mut client = connect(|mut stream| async move {
            tokio::task::yield_now().await;
            stream.send_data(Bytes::from_static(b"late"), true).unwrap();
        })
        .await;
        let mut receiver = client.receiver().await;
        let inbox = receiver.0.clone();
        let mut first = true;
        let data = poll_fn(|cx| {
            let data = receiver.poll_data(cx);
            if std::mem::take(&mut first) {
                assert!(data.is_pending());
                inbox.lock().unwrap().join();
            }
            data
        });
        assert_eq!(data.await.unwrap().unwrap(), "late");
    }
}
