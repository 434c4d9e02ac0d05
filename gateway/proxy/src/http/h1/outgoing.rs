//! Bytes that are handed over to be inserted into one outgoing message.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::{Frame, SizeHint};

use super::framing::MessageFacts;
use crate::http::{
    body::BoxError,
    headers::{size, strip_trailers},
    length::{Exact, LastPiece},
};

/// Interim heads and trailers of one outgoing message.
///
/// Filled by the exchange, emptied by the connection that writes the message.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) facts: MessageFacts,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    interim: VecDeque<(StatusCode, HeaderMap)>,
    /// Bytes of all interim heads that there were.
    interim_bytes: usize,
    trailers: Option<HeaderMap>,
    writer: Option<Waker>,
}

impl Outgoing {
    pub(crate) fn new(facts: MessageFacts) -> Self {
        Self {
            facts,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that runs under the lock leaves it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over a 1xx head; it is written if the final head has not gone out.
    pub(crate) fn interim(&self, status: StatusCode, headers: HeaderMap) {
        /// A client that reads slowly must not make us keep more, and nothing else holds them back: they are hints, and
        /// have no flow control over HTTP/2.
        const MOST: usize = 64 * 1024;
        let size = size(&headers);
        let waker = {
            let mut inner = self.lock();
            if inner.interim_bytes + size > MOST {
                return;
            }
            inner.interim_bytes += size;
            inner.interim.push_back((status, headers));
            inner.writer.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Hands over the trailers; they are written after the last chunk. Where none is left, nothing is.
    pub(crate) fn trailers(&self, mut trailers: HeaderMap) {
        strip_trailers(&mut trailers);
        self.lock().trailers = (!trailers.is_empty()).then_some(trailers);
    }

    /// The next interim head; without one the task is woken when there is.
    pub(crate) fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<(StatusCode, HeaderMap)> {
        let mut inner = self.lock();
        if let Some(interim) = inner.interim.pop_front() {
            return Poll::Ready(interim);
        }
        match &mut inner.writer {
            Some(waker) => waker.clone_from(cx.waker()),
            writer => *writer = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Lets whoever writes the message look at its exchange.
    pub(crate) fn wake(&self) {
        let waker = self.lock().writer.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn has_interim(&self) -> bool {
        !self.lock().interim.is_empty()
    }

    pub(crate) fn has_trailers(&self) -> bool {
        self.lock().trailers.is_some()
    }

    /// Takes the trailers as they stand on the wire, without the empty line.
    pub(crate) fn take_trailers(&self, out: &mut BytesMut) {
        if let Some(trailers) = self.lock().trailers.take() {
            write_fields(&trailers, out);
        }
    }

    /// Takes all interim heads as they stand on the wire.
    pub(crate) fn take_interim(&self, out: &mut BytesMut) {
        for (status, headers) in self.lock().interim.drain(..) {
            write_interim(status, &headers, out);
        }
    }
}

/// An interim head as it stands on the wire.
pub(super) fn write_interim(status: StatusCode, headers: &HeaderMap, out: &mut BytesMut) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or("Interim").as_bytes());
    out.put_slice(b"\r\n");
    write_fields(headers, out);
    out.put_slice(b"\r\n");
}

/// Field lines; those that would change the framing are left out (RFC 9110 §6.5.1, RFC 9112 §6.1).
fn write_fields(fields: &HeaderMap, out: &mut BytesMut) {
    for (name, value) in fields {
        if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            continue;
        }
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
}

/// The messages of a connection that are not completely written, in order; towards an upstream also the
/// request that waits for its response.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutgoingQueue(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    writing: VecDeque<Arc<Outgoing>>,
    awaited: Option<MessageFacts>,
    /// The number of the last request that asked for a tunnel and does not get one, and what becomes of the bytes
    /// behind it.
    declined: Option<(u64, Behind)>,
    /// The number of the last request that may get a tunnel and had bytes come behind it.
    early: Option<u64>,
}

/// Bytes that a client sent behind a request for a tunnel that there is not going to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// The request was one like others: they are the next one.
    Request,
    /// They were meant for the tunnel, and the connection ends.
    Nothing,
}

impl OutgoingQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a message, before hyper can write its first byte.
    pub(crate) fn push(&self, outgoing: Arc<Outgoing>) {
        let mut queue = self.lock();
        queue.awaited = Some(outgoing.facts);
        queue.writing.push_back(outgoing);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().writing.is_empty()
    }

    pub(super) fn get(&self, index: usize) -> Option<Arc<Outgoing>> {
        self.lock().writing.get(index).cloned()
    }

    pub(super) fn facts(&self, index: usize) -> MessageFacts {
        let queue = self.lock();
        let outgoing = queue.writing.get(index);
        outgoing.map(|outgoing| outgoing.facts).unwrap_or_default()
    }

    pub(super) fn pop(&self) {
        self.lock().writing.pop_front();
    }

    /// The request `number` on this connection, counted from 1, asked for a tunnel and does not get one.
    pub(crate) fn decline(&self, number: u64, behind: Behind) {
        self.lock().declined = Some((number, behind));
    }

    /// Takes the part of this request that was [declined](Self::decline).
    pub(super) fn declined(&self, number: u64) -> Option<Behind> {
        let declined = self.lock().declined;
        declined.and_then(|(of, behind)| (of == number).then_some(behind))
    }

    /// Bytes have come behind this request, which may get a tunnel.
    pub(super) fn note_early(&self, number: u64) {
        self.lock().early = Some(number);
    }

    /// Tells if [such bytes](Self::note_early) have come behind this request.
    pub(crate) fn has_early(&self, number: u64) -> bool {
        self.lock().early == Some(number)
    }

    /// Returns the facts of the request that was pushed last, until its response was read.
    pub(super) fn awaited(&self) -> Option<MessageFacts> {
        self.lock().awaited
    }

    /// The response was read to its end.
    pub(super) fn answered(&self) {
        self.lock().awaited = None;
    }
}

/// A body whose trailers go to the connection's [`Outgoing`] in place of hyper.
#[derive(Debug)]
pub(crate) struct WithTrailers<B> {
    body: Exact<B>,
    outgoing: Option<Arc<Outgoing>>,
    failed: Option<BoxError>,
    /// The length of content that the head speaks of and that is not sent.
    absent: Option<u64>,
}

impl<B> WithTrailers<B> {
    /// Without an `outgoing`, trailers are dropped. `announced` is what a `content-length` header says; the
    /// body fails if it is something else.
    pub(crate) fn new(
        body: B,
        outgoing: Option<Arc<Outgoing>>,
        announced: Option<u64>,
        last: LastPiece,
    ) -> Self {
        Self {
            body: Exact::new(body, announced, last),
            outgoing,
            failed: None,
            absent: None,
        }
    }

    /// For a 304, whose `content-length` is that of the content it does not have (RFC 9110 §8.6). hyper
    /// leaves the field out unless the body claims that length; it does not read the body then.
    pub(crate) fn absent(mut self, length: Option<u64>) -> Self {
        self.absent = length;
        self
    }

    /// The body under the wrapper.
    pub(crate) fn into_inner(self) -> B {
        self.body.into_inner()
    }
}

impl<B> http_body::Body for WithTrailers<B>
where
    B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(trailers) => {
                    if let Some(outgoing) = &this.outgoing {
                        outgoing.trailers(trailers);
                    }
                    Poll::Ready(None)
                }
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            Some(Err(error)) => {
                // An error makes hyper drop what it has not written. One more turn lets it flush
                // what came before.
                this.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.absent.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.absent
            .map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_bytes_belong_to_one_request() {
        let queue = OutgoingQueue::default();
        assert!(!queue.has_early(1));
        queue.note_early(1);
        queue.decline(1, Behind::Request);
        assert!(queue.has_early(1) && !queue.has_early(2));
    }
}
