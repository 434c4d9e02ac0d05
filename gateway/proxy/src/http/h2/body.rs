//! HTTP/2 streams as bodies, on `h2`; used towards clients and towards upstreams.
//!
//! `h2` is used without hyper on top because interim responses, reset codes and the peer's stream
//! limit have to be seen and set.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use extproc_client::host::HeaderLimits;
use h2::{Reason, RecvStream, SendStream};
use h2_guard::{Account, Receiver, Traffic, fields_size};
use http::{HeaderMap, header};
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    config::snapshot::Keepalive,
    http::{
        body::{Body, BoxError},
        h2::backlog::{Backlog, Queued},
        headers::{strip_trailers, trailers_fit, trailers_size, trim_values},
    },
};

/// Bytes that `h2` keeps of a body to be sent for each stream. The number of pieces is bounded by a [`Backlog`].
pub(crate) const SEND_BUFFER: usize = 256 * 1024;

/// Pings as the configuration asks for them.
pub(crate) fn keepalive(settings: Keepalive) -> h2_guard::Keepalive {
    h2_guard::Keepalive {
        interval: settings.interval.map(|interval| h2_guard::Interval {
            period: interval.period,
            jitter: interval.jitter,
            when_idle: true,
        }),
        silence: settings.silence,
        timeout: settings.timeout,
    }
}

/// The body of a received message.
pub(crate) struct Http2Body {
    /// `None` after the end.
    stream: Option<Data>,
    left: Option<u64>,
    lost: fn(h2::Error) -> BoxError,
    /// Treatment of content where there must be none.
    refuse: Option<fn() -> BoxError>,
    /// Those of trailers.
    limits: HeaderLimits,
}

/// The data of a stream, of which small frames that are there at once are joined.
struct Data {
    stream: Receiver,
    /// DATA frames that were there without waiting for them.
    at_once: u32,
    /// Trailers are all that may come.
    ended: bool,
    /// End of the data, or an error, that came behind data that was joined.
    behind: Option<Option<h2::Error>>,
}

/// DATA frames that are given one by one where several are there at once, as in Envoy. A message for the processor, or a chunk,
/// for each of thousands of small ones would be another matter: those behind them are joined.
const APART: u32 = 8;

/// Joined data ends at this size.
const JOINED: usize = 64 * 1024;

/// A frame of this size is worth a piece of its own, and not worth a copy.
const LARGE: usize = 4 * 1024;

impl Http2Body {
    /// `headers` give the announced length, if any; `lost` makes the body's error. `traffic` is that of the connection, and
    /// `account` is told what nobody reads. Trailers beyond the limits are an error of the stream.
    pub(crate) fn new(
        stream: RecvStream,
        traffic: &Traffic,
        account: Option<Arc<dyn Account>>,
        headers: &HeaderMap,
        limits: HeaderLimits,
        lost: fn(h2::Error) -> BoxError,
    ) -> Self {
        Self {
            stream: (!stream.is_end_stream()).then(|| Data {
                stream: Receiver::new(stream, traffic, account, trailers_size(limits)),
                at_once: 0,
                ended: false,
                behind: None,
            }),
            left: headers
                .get(header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.parse().ok()),
            lost,
            refuse: None,
            limits,
        }
    }

    /// Fails where there is content, as in a response that has none by its status: it is malformed (RFC
    /// 9113, section 8.1.1).
    pub(crate) fn without_content(mut self, refuse: fn() -> BoxError) -> Self {
        self.refuse = Some(refuse);
        self
    }
}

impl Data {
    /// The next data: one frame, or several small ones.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(behind) = self.behind.take() {
            return Poll::Ready(behind.map(Err));
        }
        let first = match ready!(self.poll_one(cx)) {
            Some(Ok(first)) if self.at_once > APART && first.len() < LARGE => first,
            other => return Poll::Ready(other),
        };
        let mut joined = BytesMut::from(first);
        while joined.len() < JOINED
            && !self.stream.is_end_stream()
            && let Poll::Ready(next) = self.poll_one(cx)
        {
            match next {
                Some(Ok(data)) => joined.extend_from_slice(&data),
                end => {
                    self.behind = Some(end.and_then(Result::err));
                    break;
                }
            }
        }
        Poll::Ready(Some(Ok(joined.freeze())))
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let polled = self.stream.poll_data(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) => self.at_once = self.at_once.saturating_add(1),
            Poll::Ready(_) => {}
            Poll::Pending => self.at_once = 0,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.behind.is_none() && self.stream.is_end_stream()
    }
}

impl http_body::Body for Http2Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        if !stream.ended {
            match ready!(stream.poll(cx)) {
                Some(Ok(data)) => {
                    if let Some(refuse) = this.refuse.filter(|_| !data.is_empty()) {
                        this.stream = None;
                        return Poll::Ready(Some(Err(refuse())));
                    }
                    if stream.is_end_stream() {
                        this.stream = None;
                    }
                    if let Some(left) = &mut this.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The peer wants no more of the request, which is not a failure.
                Some(Err(error)) => return Poll::Ready(Some(Err((this.lost)(error)))),
                None => stream.ended = true,
            }
        }
        let trailers = ready!(stream.stream.poll_trailers(cx));
        this.stream = None;
        Poll::Ready(match trailers {
            Ok(Some(trailers)) if !trailers_fit(&trailers, this.limits) => {
                Some(Err((this.lost)(Reason::ENHANCE_YOUR_CALM.into())))
            }
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(error) => Some(Err((this.lost)(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(Data::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// Reason for which a body was not sent to its end.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The peer reset the stream, or the connection is gone.
    Peer(h2::Error),
    /// The body failed; the stream was reset.
    Body(BoxError),
}

/// Trailers that the peer does not take. With them, it might end the connection.
#[derive(Debug)]
pub(crate) struct TrailersTooLarge;

impl std::fmt::Display for TrailersTooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("trailers are larger than the peer takes (SETTINGS_MAX_HEADER_LIST_SIZE)")
    }
}

impl std::error::Error for TrailersTooLarge {}

/// Sends a body to its end. Dropping the future resets the stream.
///
/// `backlog` is what waits for the socket, of this stream and of others that share it; `traffic` knows what trailers the peer
/// takes.
pub(crate) async fn send_body(
    mut stream: SendStream<Queued>,
    body: &mut Body,
    backlog: &Arc<Backlog>,
    traffic: &Traffic,
    on_failure: Reason,
) -> Result<(), SendError> {
    let result = send_frames(&mut stream, body, backlog, traffic).await;
    if let Err(SendError::Body(_)) = &result {
        // A reset drops what is queued: the connection's task gets to write that first.
        tokio::task::yield_now().await;
        stream.send_reset(on_failure);
    }
    result
}

async fn send_frames(
    stream: &mut SendStream<Queued>,
    body: &mut Body,
    backlog: &Arc<Backlog>,
    traffic: &Traffic,
) -> Result<(), SendError> {
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(SendError::Peer(match reset {
                    Ok(reason) => reason.into(),
                    Err(error) => error,
                })));
            }
            Pin::new(&mut *body)
                .poll_frame(cx)
                .map(|frame| frame.transpose().map_err(SendError::Body))
        })
        .await?;
        let Some(frame) = frame else {
            return stream
                .send_data(Queued::empty(), true)
                .map_err(SendError::Peer);
        };
        match frame.into_data() {
            Ok(data) => {
                let end = body.is_end_stream();
                if data.is_empty() && !end {
                    continue;
                }
                send_data(stream, data, backlog, end).await?;
                if end {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    strip_trailers(&mut trailers);
                    trim_values(&mut trailers);
                    if !traffic.will_take(|| fields_size(&trailers)).await {
                        return Err(SendError::Body(TrailersTooLarge.into()));
                    }
                    return match trailers.is_empty() {
                        true => stream.send_data(Queued::empty(), true),
                        false => stream.send_trailers(trailers),
                    }
                    .map_err(SendError::Peer);
                }
            }
        }
    }
}

async fn send_data(
    stream: &mut SendStream<Queued>,
    mut data: Bytes,
    backlog: &Arc<Backlog>,
    end: bool,
) -> Result<(), SendError> {
    if data.is_empty() {
        return stream
            .send_data(Queued::empty(), end)
            .map_err(SendError::Peer);
    }
    while !data.is_empty() {
        unless_reset(stream, backlog.room()).await?;
        stream.reserve_capacity(data.len());
        let window = poll_fn(|cx| {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(SendError::Peer(match reset {
                    Ok(reason) => reason.into(),
                    Err(error) => error,
                })));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(window)) => Poll::Ready(Ok(window)),
                Some(Err(error)) => Poll::Ready(Err(SendError::Peer(error))),
                None => Poll::Ready(Err(SendError::Peer(Reason::CANCEL.into()))),
            }
        })
        .await?;
        let part = data.split_to(window.min(data.len()));
        if part.is_empty() {
            continue;
        }
        let last = end && data.is_empty();
        stream
            .send_data(Queued::new(part, Some(backlog)), last)
            .map_err(SendError::Peer)?;
    }
    Ok(())
}

/// Waits for `other`, unless the peer resets the stream first.
async fn unless_reset(
    stream: &mut SendStream<Queued>,
    other: impl Future<Output = ()>,
) -> Result<(), SendError> {
    let mut other = pin!(other);
    poll_fn(|cx| {
        if other.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        stream
            .poll_reset(cx)
            .map(|reset| Err(SendError::Peer(reset.map_or_else(|e| e, Into::into))))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinSet,
    };

    use super::*;

    const PIECE: usize = 16 * 1024;

    /// Pieces without end, which are counted as long as anybody has them.
    struct Endless(Arc<AtomicUsize>);

    struct Counted(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(PIECE, Ordering::Relaxed);
        }
    }

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0.fetch_add(PIECE, Ordering::Relaxed);
            let piece = Bytes::from_owner(Counted(vec![0; PIECE], self.0.clone()));
            Poll::Ready(Some(Ok(Frame::data(piece))))
        }
    }

    /// A client that opens all windows and reads one frame at a time gets no more queued by that than one that reads
    /// nothing.
    #[tokio::test]
    async fn what_waits_for_a_slow_client_is_bounded() {
        const STREAMS: usize = 50;
        const LIMIT: usize = 256 * 1024;
        let (near, far) = tokio::io::duplex(PIECE);
        let held = Arc::<AtomicUsize>::default();
        let serve = {
            let held = held.clone();
            async move {
                let mut connection = h2::server::Builder::new()
                    .max_send_buffer_size(256 * 1024)
                    .handshake::<_, Queued>(near)
                    .await
                    .unwrap();
                let backlog = Backlog::new(LIMIT);
                let mut streams = JoinSet::new();
                while let Some(accepted) = connection.accept().await {
                    let (_, mut respond) = accepted.unwrap();
                    let stream = respond
                        .send_response(http::Response::new(()), false)
                        .unwrap();
                    let mut body = Body::new(Endless(held.clone()));
                    let backlog = backlog.clone();
                    streams.spawn(async move {
                        let failed = Reason::INTERNAL_ERROR;
                        send_body(stream, &mut body, &backlog, &Traffic::default(), failed).await
                    });
                }
            }
        };
        let server = tokio::spawn(serve);
        let (mut read, mut write) = tokio::io::split(far);
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // SETTINGS_INITIAL_WINDOW_SIZE, and the window of the connection.
        out.extend(b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff");
        out.extend(b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0");
        for number in 0..STREAMS {
            let stream = u32::try_from(number * 2 + 1).unwrap();
            out.extend(b"\0\0\x06\x01\x05");
            out.extend(stream.to_be_bytes());
            // GET, http, /, and an authority.
            out.extend(b"\x82\x86\x84\x41\x01a");
        }
        let written = tokio::spawn(async move {
            write.write_all(&out).await.unwrap();
            write
        });
        let mut most = 0;
        let mut frame = vec![0; PIECE];
        for _ in 0..1000 {
            read.read_exact(&mut frame).await.unwrap();
            // The server's tasks have their turn, all of them.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            most = most.max(held.load(Ordering::Relaxed));
        }
        server.abort();
        drop(written);
        // Each stream holds the piece that it has no room for, and one too many may pass.
        let bound = LIMIT + (STREAMS + 2) * PIECE;
        assert!(most <= bound, "{most} bytes are held, not {bound}");
        assert!(most > LIMIT, "{most} bytes are held: nothing had to wait");
    }
}
