//! The one body type of the gateway.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use extproc_client::host::HeaderLimits;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http::{h2::body::Http2Body, headers::trailers_fit};

/// Any error.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A request or response body, whatever its origin.
#[derive(Default)]
pub(crate) struct Body(Kind);

/// Trailers of a message of HTTP/1 are larger, or more, than is taken. The source is hyper's error, if that noticed first.
#[derive(Debug, thiserror::Error)]
#[error("trailers are too large")]
pub(crate) struct TrailersTooLarge(#[source] Option<hyper::Error>);

impl TrailersTooLarge {
    /// The meaning of hyper's error, of which it tells in words alone.
    fn or(error: hyper::Error) -> BoxError {
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        match source.starts_with("chunk trailers") {
            true => Self(Some(error)).into(),
            false => error.into(),
        }
    }
}

/// Tells whether an error of this type is behind another one.
pub(crate) fn is_behind<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Tells whether trailers, if it is them, are within the limits.
fn fits(frame: &Frame<Bytes>, limits: Option<HeaderLimits>) -> bool {
    match (frame.trailers_ref(), limits) {
        (Some(trailers), Some(limits)) => trailers_fit(trailers, limits),
        _ => true,
    }
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Http1 {
        body: Incoming,
        /// Those of trailers, if they are wanted.
        trailers: Option<HeaderLimits>,
    },
    Http2(Http2Body),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    /// No bytes and no trailers.
    pub(crate) fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// These bytes and no trailers.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::empty()
        } else {
            Self(Kind::Full(bytes))
        }
    }

    /// Any other body.
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Kind::Boxed(Box::pin(Erased { body })))
    }

    /// Tells whether a piece may be larger than this. Those that are read from a connection are not much larger than a read.
    pub(crate) fn may_exceed(&self, bytes: usize) -> bool {
        match &self.0 {
            Kind::Empty | Kind::Http1 { .. } | Kind::Http2(_) => false,
            Kind::Full(piece) => piece.len() > bytes,
            Kind::Boxed(_) => true,
        }
    }

    /// Takes the data that is here without waiting, and leaves nothing.
    pub(crate) fn take_ready(&mut self) -> Bytes {
        let mut body = std::mem::take(self);
        if let Kind::Full(bytes) = body.0 {
            return bytes;
        }
        let mut data = BytesMut::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
            data.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        data.freeze()
    }

    /// Without limits of `trailers`, those that come are dropped, as by a codec that does not know them.
    pub(crate) fn http1(body: Incoming, trailers: Option<HeaderLimits>) -> Self {
        if body.is_end_stream() {
            Self::empty()
        } else {
            Self(Kind::Http1 { body, trailers })
        }
    }

    pub(crate) fn http2(body: Http2Body) -> Self {
        if body.is_end_stream() {
            Self::empty()
        } else {
            Self(Kind::Http2(body))
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Kind::Empty => "Body(empty)",
            Kind::Full(_) => "Body(full)",
            Kind::Http1 { .. } => "Body(http1)",
            Kind::Http2(_) => "Body(http2)",
            Kind::Boxed(_) => "Body(boxed)",
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match &mut this.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Http1 { body, trailers } => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(match frame {
                    Some(Ok(frame)) if frame.is_trailers() && trailers.is_none() => None,
                    Some(Ok(frame)) if !fits(&frame, *trailers) => {
                        Some(Err(TrailersTooLarge(None).into()))
                    }
                    frame => frame.map(|frame| frame.map_err(TrailersTooLarge::or)),
                })
            }
            Kind::Http2(body) => Pin::new(body).poll_frame(cx),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Http1 { body, .. } => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Http1 { body, .. } => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

pin_project_lite::pin_project! {
    struct Erased<B> {
        #[pin]
        body: B,
    }
}

impl<B> http_body::Body for Erased<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project()
            .body
            .poll_frame(cx)
            .map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that reports what passes through it.
///
/// Told are bytes, the end, and being dropped without an end.
pub(crate) struct Watched<B, W: Watch> {
    /// `None` once taken back.
    body: Option<B>,
    watch: W,
    ended: bool,
}

/// Sees what passes through a [`Watched`] body.
pub(crate) trait Watch: Send + Unpin + 'static {
    /// Called before each poll; an error ends the body.
    fn before(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        let _ = cx;
        Ok(())
    }
    /// Bytes passed.
    fn data(&mut self, len: usize) {
        let _ = len;
    }
    /// Trailers pass, and may be changed.
    fn trailers(&mut self, trailers: &mut HeaderMap) {
        let _ = trailers;
    }
    /// The body failed: what it fails with from here on.
    fn failed(&mut self, error: BoxError) -> BoxError {
        error
    }
    /// The body ended: completely (`Ok`), or not.
    fn end(&mut self, result: Result<(), &BoxError>);
}

impl<W: Watch> Watch for Option<W> {
    fn before(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        self.as_mut().map_or(Ok(()), |watch| watch.before(cx))
    }

    fn data(&mut self, len: usize) {
        if let Some(watch) = self {
            watch.data(len);
        }
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        if let Some(watch) = self {
            watch.trailers(trailers);
        }
    }

    fn failed(&mut self, error: BoxError) -> BoxError {
        match self {
            Some(watch) => watch.failed(error),
            None => error,
        }
    }

    fn end(&mut self, result: Result<(), &BoxError>) {
        if let Some(watch) = self {
            watch.end(result);
        }
    }
}

impl<B: http_body::Body, W: Watch> Watched<B, W> {
    pub(crate) fn new(body: B, mut watch: W) -> Self {
        let ended = body.is_end_stream();
        if ended {
            watch.end(Ok(()));
        }
        Self {
            body: Some(body),
            watch,
            ended,
        }
    }

    /// Takes the body back without an end being reported.
    pub(crate) fn into_inner(mut self) -> Option<B> {
        self.ended = true;
        self.body.take()
    }
}

impl<B, W> http_body::Body for Watched<B, W>
where
    B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin,
    W: Watch,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = this.body.as_mut().filter(|_| !this.ended) else {
            return Poll::Ready(None);
        };
        if let Err(error) = this.watch.before(cx) {
            this.ended = true;
            this.watch.end(Err(&error));
            return Poll::Ready(Some(Err(error)));
        }
        let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(cx));
        let mut frame = frame.map(|frame| frame.map_err(|error| this.watch.failed(error)));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.watch.data(data.len());
                    this.ended = body.is_end_stream();
                } else if let Some(trailers) = frame.trailers_mut() {
                    this.watch.trailers(trailers);
                    this.ended = true;
                }
                if this.ended {
                    this.watch.end(Ok(()));
                }
            }
            Some(Err(error)) => {
                this.ended = true;
                this.watch.end(Err(error));
            }
            None => {
                this.ended = true;
                this.watch.end(Ok(()));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}

impl<B, W: Watch> Drop for Watched<B, W> {
    fn drop(&mut self) {
        if !self.ended {
            let error: BoxError = "dropped before its end".into();
            self.watch.end(Err(&error));
        }
    }
}
