//! A request's body that can be sent once more, for routes that retry.
//!
//! The part that was read is kept, up to a limit and counted for the exchange; a further attempt gets that again, and then what
//! still comes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use extproc_client::host::Held;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    exchange::answer::Whole,
    http::{
        body::{Body, BoxError},
        headers::frame_size,
    },
};

/// Cost of a piece in the limit beside its bytes.
const PIECE: usize = size_of::<Piece>();

/// Pieces that are shorter are copied.
const SMALL: usize = 1024;

/// The body, for the one who makes attempts.
#[derive(Clone)]
pub(crate) struct Kept(Arc<Mutex<State>>);

struct State {
    source: Body,
    pieces: Vec<Piece>,
    cost: usize,
    limit: usize,
    held: Held,
    /// Nothing more comes from the source.
    ended: bool,
    /// More was read than may be kept, or the source failed: what there is cannot be sent again.
    lost: bool,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The body, for one attempt.
struct Replay {
    kept: Kept,
    /// Pieces given.
    given: usize,
}

impl Kept {
    /// Keeps at most `limit` bytes of `source`, what the pieces themselves take among them.
    pub(crate) fn new(source: Body, limit: usize, held: Held) -> Self {
        Self(Arc::new(Mutex::new(State {
            source,
            pieces: Vec::new(),
            cost: 0,
            limit,
            held,
            ended: false,
            lost: false,
        })))
    }

    /// The body from its beginning; `None` if that is not here any more. Only the last one that was asked for gets on.
    pub(crate) fn replay(&self) -> Option<Body> {
        (!self.state().lost).then(|| {
            Body::new(Replay {
                kept: self.clone(),
                given: 0,
            })
        })
    }

    /// Returns true if all of it is here.
    pub(crate) fn is_whole(&self) -> bool {
        let state = self.state();
        !state.lost && (state.ended || state.source.is_end_stream())
    }

    /// The data for a request of its own, whose exchange has to account for it. The trailers stay behind, as in Envoy.
    pub(super) fn into_data(self) -> Whole {
        let mut state = self.state();
        state.held = Held::default();
        state.pieces.retain(|piece| matches!(piece, Piece::Data(_)));
        let cost = state.cost;
        drop(state);
        Whole {
            body: Body::new(Replay {
                kept: self,
                given: 0,
            }),
            cost,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No piece of what runs under the lock leaves it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(_)) => self.lost = true,
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        self.cost += PIECE + frame_size(frame);
        self.lost |= self.cost > self.limit;
        if self.lost {
            self.pieces = Vec::new();
            self.held.set(0);
            return;
        }
        self.held.set(self.cost);
        self.pieces.extend(match frame.data_ref() {
            // A small one would keep alive what it was read with.
            Some(data) if data.len() < SMALL && !self.pieces.is_empty() => {
                Some(Piece::Data(Bytes::copy_from_slice(data)))
            }
            Some(data) => Some(Piece::Data(data.clone())),
            None => frame.trailers_ref().cloned().map(Piece::Trailers),
        });
    }
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let mut state = this.kept.state();
        if let Some(piece) = state.pieces.get(this.given).cloned() {
            this.given += 1;
            return Poll::Ready(Some(Ok(match piece {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        let frame = ready!(state.poll_source(cx));
        this.given = state.pieces.len();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.kept.state();
        self.given >= state.pieces.len() && (state.ended || state.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.kept.state();
        let again = state
            .pieces
            .iter()
            .skip(self.given)
            .map(|piece| match piece {
                Piece::Data(data) => data.len() as u64,
                Piece::Trailers(_) => 0,
            });
        let again: u64 = again.sum();
        let rest = match state.ended {
            true => SizeHint::with_exact(0),
            false => state.source.size_hint(),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(again.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(again.saturating_add(upper));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::{HeaderValue, header};
    use http_body_util::BodyExt;

    use super::*;

    struct Source(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Source {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.get_mut().0.pop_front().map(Ok))
        }
    }

    fn source() -> Body {
        let trailers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("t"))]);
        let pieces = ["one", "two"].map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        let frames = pieces.into_iter().chain([Frame::trailers(trailers)]);
        Body::new(Source(frames.collect()))
    }

    async fn all(body: Body) -> (Bytes, usize) {
        let all = body.collect().await.unwrap();
        let trailers = all.trailers().map_or(0, HeaderMap::len);
        (all.to_bytes(), trailers)
    }

    #[tokio::test]
    async fn again_after_a_part_and_after_the_end() {
        let kept = Kept::new(source(), 1000, Held::default());
        let mut first = kept.replay().unwrap();
        assert!(first.frame().await.unwrap().unwrap().is_data());
        drop(first);
        for _ in 0..2 {
            let again = all(kept.replay().unwrap()).await;
            assert_eq!(again, (Bytes::from_static(b"onetwo"), 1));
        }
    }

    #[tokio::test]
    async fn a_request_of_its_own_has_the_data_and_pays_for_the_pieces() {
        let kept = Kept::new(source(), 1000, Held::default());
        all(kept.replay().unwrap()).await;
        assert!(kept.is_whole());
        let whole = kept.into_data();
        assert!(whole.cost >= 2 * PIECE + 6);
        assert_eq!(all(whole.body).await, (Bytes::from_static(b"onetwo"), 0));
    }

    #[tokio::test]
    async fn not_beyond_the_limit() {
        // The last of them holds all but the trailers.
        for limit in [5, 3 * PIECE + 5, 3 * PIECE + 6] {
            let kept = Kept::new(source(), limit, Held::default());
            let whole = all(kept.replay().unwrap()).await;
            assert_eq!(whole.0, "onetwo");
            assert!(kept.replay().is_none());
        }
    }
}
