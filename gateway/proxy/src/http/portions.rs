//! Large pieces of a body, handed on in portions.
//!
//! A codec takes a piece as a whole, however slowly its peer reads: an immediate response or a body that a processor put in
//! place of another one, for a client or for an upstream, may be 64 MiB in one piece. In portions, what the peer has not read
//! yet is counted as held: the whole piece, since its memory is one allocation, until its end has memory of its own.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use extproc_client::host::{BufferAccount, Held};
use http_body::{Frame, SizeHint};

use super::body::{Body, BoxError};

/// Most bytes of a portion.
const PORTION: usize = 64 * 1024;

/// End of a larger piece that gets memory of its own: what a codec has taken of it, and its peer does not read, keeps no more alive.
const TAIL: usize = 8 * PORTION;

/// A body whose pieces are at most [`PORTION`] long.
pub(crate) struct Portions {
    body: Body,
    /// Rest of a large piece.
    rest: Bytes,
    /// Bytes that it keeps alive.
    whole: usize,
    held: Held,
}

impl Portions {
    /// Splits large pieces of a body that may have some.
    pub(crate) fn of(body: Body, account: Arc<dyn BufferAccount>) -> Body {
        match body.may_exceed(PORTION) {
            true => Body::new(Self::new(body, Some(account))),
            false => body,
        }
    }

    /// The account is told of bytes that were not asked for yet.
    pub(crate) fn new(body: Body, account: Option<Arc<dyn BufferAccount>>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            whole: 0,
            held: Held::new(account),
        }
    }
}

impl http_body::Body for Portions {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(Err(frame))) => return Poll::Ready(Some(Ok(frame))),
                Some(Ok(Ok(data))) if data.len() <= PORTION => {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Ok(Ok(data))) => {
                    this.whole = data.len();
                    this.rest = data;
                }
            }
        }
        let portion = this.rest.split_to(PORTION.min(this.rest.len()));
        if this.whole > TAIL && this.rest.len() <= TAIL {
            this.rest = Bytes::copy_from_slice(&this.rest);
            this.whole = this.rest.len();
        }
        this.held.set(match this.rest.is_empty() {
            true => 0,
            false => this.whole,
        });
        Poll::Ready(Some(Ok(Frame::data(portion))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;

    #[derive(Debug, Default)]
    struct Account(AtomicUsize);

    impl BufferAccount for Account {
        fn hold(&self, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }

        fn release(&self, bytes: usize) {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_large_piece_is_counted_as_long_as_it_is_there() {
        let whole: Bytes = (0..10 * PORTION + 5).map(|n| n as u8).collect();
        let account = Arc::new(Account::default());
        let held = || account.0.load(Ordering::Relaxed);
        let mut body = Portions::new(Body::full(whole.clone()), Some(account.clone()));
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut got = Vec::new();
        let mut first_of_tail = None;
        while let Some(frame) = body.frame().await {
            got.extend_from_slice(&frame.unwrap().into_data().unwrap());
            let left = whole.len() - got.len();
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            // What is counted is not given back piece by piece, but with the allocation.
            let alive = match left {
                0 => 0,
                1..=TAIL => *first_of_tail.get_or_insert(left),
                _ => whole.len(),
            };
            assert_eq!(held(), alive - alive % (16 * 1024));
            assert_eq!(body.is_end_stream(), left == 0);
        }
        assert_eq!(got, whole);
        let mut body = Portions::new(Body::full(whole), Some(account.clone()));
        body.frame().await.unwrap().unwrap();
        assert!(held() > 0);
        drop(body);
        assert_eq!(held(), 0);
    }
}
