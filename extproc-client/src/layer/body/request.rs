//! The request's body, as the wrapped service gets it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::frame;
use crate::{
    context::error::{BoxError, Error},
    driver::{Ready, Receiver, Whole},
};

/// The body of a request behind the filter.
///
/// One that the processor does not see passes by as it is. The size of others is not known in
/// advance: `content-length` is in the headers where it is certain, and only there.
#[derive(Debug)]
pub struct RequestBody<B> {
    inner: Inner<B>,
}

#[derive(Debug)]
enum Inner<B> {
    /// Nothing.
    Empty,
    /// As it came, behind what was read of it already.
    Pass {
        before: Ready,
        body: Pin<Box<B>>,
        counter: Option<Arc<AtomicU64>>,
        sized: bool,
    },
    /// Here as a whole.
    Whole(Whole),
    /// As the exchange gives it.
    Piped(Receiver),
}

impl<B> RequestBody<B> {
    pub(crate) fn empty() -> Self {
        Self {
            inner: Inner::Empty,
        }
    }

    /// `sized` if the headers hold a `content-length`, so that the size may be told.
    pub(crate) fn pass(
        before: Ready,
        body: Pin<Box<B>>,
        counter: Option<Arc<AtomicU64>>,
        sized: bool,
    ) -> Self {
        Self {
            inner: Inner::Pass {
                before,
                body,
                counter,
                sized,
            },
        }
    }

    pub(crate) fn whole(whole: Whole) -> Self {
        Self {
            inner: Inner::Whole(whole),
        }
    }

    pub(crate) fn piped(receiver: Receiver) -> Self {
        Self {
            inner: Inner::Piped(receiver),
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Pass {
                before,
                body,
                counter,
                ..
            } => {
                if let Some(piece) = before.pop() {
                    return Poll::Ready(Some(Ok(frame(piece))));
                }
                let polled = body.as_mut().poll_frame(cx);
                if let (Poll::Ready(Some(Ok(frame))), Some(counter)) = (&polled, counter)
                    && let Some(data) = frame.data_ref()
                {
                    counter.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                polled.map_err(Into::into)
            }
            Inner::Whole(whole) => Poll::Ready(whole.next().map(|piece| Ok(frame(piece)))),
            Inner::Piped(receiver) => receiver
                .poll_piece(cx)
                .map_ok(frame)
                .map_err(|error: Error| error.into()),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Pass { before, body, .. } => before.is_empty() && body.is_end_stream(),
            Inner::Whole(whole) => whole.is_complete(),
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
                ..
            } if before.is_empty() => body.size_hint(),
            Inner::Piped(receiver) if receiver.is_spent() => SizeHint::with_exact(0),
            Inner::Pass { .. } | Inner::Whole(_) | Inner::Piped(_) => SizeHint::default(),
        }
    }
}
