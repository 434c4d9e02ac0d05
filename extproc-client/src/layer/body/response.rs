//! The response's body, as the client of the layer gets it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::frame;
use crate::{
    context::error::{BoxError, Error},
    driver::{Piece, Ready, Receiver, Whole},
};

/// The body of a response before the filter.
///
/// Dropping it ends the exchange and its side stream.
pub struct ResponseBody<R> {
    inner: Inner<R>,
}

enum Inner<R> {
    /// Nothing.
    Empty,
    /// As it came, behind what was read of it already.
    Pass {
        before: Ready,
        body: Pin<Box<R>>,
        sized: bool,
    },
    /// Here as a whole.
    Whole { whole: Whole, sized: bool },
    /// Driven by polling this body.
    Inline {
        drive: Box<dyn Drive>,
        started: bool,
    },
    /// As the exchange's task gives it.
    Piped(Receiver),
}

/// An exchange that is driven by its response's body; hides the transport's type.
pub(crate) trait Drive: Send {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Error>>>;
    fn is_over(&self) -> bool;
}

impl<R> ResponseBody<R> {
    pub(crate) fn empty() -> Self {
        Self {
            inner: Inner::Empty,
        }
    }

    pub(crate) fn pass(before: Ready, body: Pin<Box<R>>, sized: bool) -> Self {
        Self {
            inner: Inner::Pass {
                before,
                body,
                sized,
            },
        }
    }

    /// `sized` as in [`pass`](Self::pass).
    pub(crate) fn whole(whole: Whole, sized: bool) -> Self {
        Self {
            inner: Inner::Whole { whole, sized },
        }
    }

    pub(crate) fn inline(drive: Box<dyn Drive>) -> Self {
        Self {
            inner: Inner::Inline {
                drive,
                started: false,
            },
        }
    }

    pub(crate) fn piped(receiver: Receiver) -> Self {
        Self {
            inner: Inner::Piped(receiver),
        }
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Pass { before, body, .. } => match before.pop() {
                Some(piece) => Poll::Ready(Some(Ok(frame(piece)))),
                None => body.as_mut().poll_frame(cx).map_err(Into::into),
            },
            Inner::Whole { whole, .. } => Poll::Ready(whole.next().map(|piece| Ok(frame(piece)))),
            Inner::Inline { drive, started } => {
                *started = true;
                let polled = drive.poll_piece(cx).map_ok(frame).map_err(BoxError::from);
                if matches!(polled, Poll::Ready(None | Some(Err(_)))) || drive.is_over() {
                    // The exchange ends with its last piece, not when the body is dropped.
                    self.inner = Inner::Empty;
                }
                polled
            }
            Inner::Piped(receiver) => receiver
                .poll_piece(cx)
                .map_ok(frame)
                .map_err(BoxError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Pass { before, body, .. } => before.is_empty() && body.is_end_stream(),
            Inner::Whole { whole, .. } => whole.is_complete(),
            // An empty body is framed as a body, as in `Whole`.
            Inner::Inline { drive, started } => *started && drive.is_over(),
            Inner::Piped(receiver) => receiver.is_complete(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Pass {
                before,
                body,
                sized: true,
            } if before.is_empty() => body.size_hint(),
            // An empty body is to be polled to its end all the same.
            Inner::Whole { whole, sized: true } if whole.size() > 0 => {
                SizeHint::with_exact(whole.size())
            }
            Inner::Pass { .. } | Inner::Whole { .. } | Inner::Inline { .. } | Inner::Piped(_) => {
                SizeHint::default()
            }
        }
    }
}

impl<R> std::fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.inner {
            Inner::Empty => "ResponseBody::Empty",
            Inner::Pass { .. } => "ResponseBody::Pass",
            Inner::Whole { .. } => "ResponseBody::Whole",
            Inner::Inline { .. } => "ResponseBody::Inline",
            Inner::Piped(_) => "ResponseBody::Piped",
        })
    }
}
