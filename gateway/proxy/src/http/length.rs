//! `content-length` and the bytes that follow it.
//!
//! The codecs check the messages that come in. In between, filters and routes may set any length and give any body, and a head
//! must not announce bytes that are not going to come: the next message on the connection would be read as the rest of this
//! one (RFC 9110 §8.6, RFC 9112 §6.3).

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

use crate::http::body::BoxError;

/// Response code details where a head announces another length than its body has.
pub(crate) const LENGTH_MISMATCH: &str =
    "mismatch_between_content_length_and_the_length_of_the_body";

/// The body does not have the length that the head announces.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body does not have the length that was announced")]
pub(crate) struct Mismatch;

/// The length that a head announces. Lines that are no plain number, or contradict each other, are removed,
/// repetitions too.
pub(crate) fn settle(headers: &mut HeaderMap) -> Option<u64> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lines.next()?;
    let length = number(first.as_bytes());
    let more = lines.next().is_some();
    if length.is_some() && !more {
        return length;
    }
    let agree = length.filter(|_| {
        let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
        lines.all(|line| line == first)
    });
    match agree {
        Some(length) => headers.insert(header::CONTENT_LENGTH, length.into()),
        None => headers.remove(header::CONTENT_LENGTH),
    };
    agree
}

/// The length that a settled head announces.
pub(crate) fn announced(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

/// Tells whether a body may have this length, as far as is known before it is read.
pub(crate) fn fits(announced: Option<u64>, body: &impl http_body::Body) -> bool {
    match (announced, body.size_hint().exact()) {
        (Some(announced), Some(exact)) => announced == exact,
        _ => true,
    }
}

/// Tells whether no byte comes of a body, as far as is known before it is read.
pub(crate) fn is_empty(body: &impl http_body::Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

/// Looks at a body that is announced to be empty: whether it is, `None` if that is not known yet.
pub(crate) async fn turns_out_empty<B>(body: &mut B) -> Option<bool>
where
    B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin,
{
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Poll::Ready(None),
                Poll::Ready(None) => return Poll::Ready(Some(true)),
                Poll::Ready(Some(Ok(frame)))
                    if frame.data_ref().is_none_or(|data| data.is_empty()) => {}
                Poll::Ready(Some(_)) => return Poll::Ready(Some(false)),
            }
        }
    })
    .await
}

/// Digits alone (RFC 9110 §8.6).
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// A body that fails where it has more or fewer bytes than announced.
///
/// A message that is too long never looks complete to whoever counts. So the piece with which it has its length may have to
/// wait; where the body fails behind it, it is given on all the same.
#[derive(Debug)]
pub(crate) struct Exact<B> {
    body: B,
    left: Option<u64>,
    held: Option<Bytes>,
    last: LastPiece,
    state: State,
}

/// The event that the piece with which a body has its length waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LastPiece {
    /// Nothing: a message is complete when its stream ends, as over HTTP/2.
    Passes,
    /// That the body ended, or knows that no byte follows.
    AwaitsKnowledge,
    /// That the body ended: who lets go of a body with its last byte would lose what follows.
    AwaitsEnd,
}

#[derive(Debug)]
enum State {
    Open,
    /// The body ended; trailers or its failure may be left to be given.
    Ended(Option<Result<Frame<Bytes>, BoxError>>),
}

impl<B> Exact<B> {
    /// Without an announced length, anything goes.
    pub(crate) fn new(body: B, announced: Option<u64>, last: LastPiece) -> Self {
        Self {
            body,
            left: announced,
            held: None,
            last,
            state: State::Open,
        }
    }

    /// The body under the wrapper.
    pub(crate) fn into_inner(self) -> B {
        self.body
    }

    fn mismatch<T>(&mut self) -> Option<Result<T, BoxError>> {
        self.held = None;
        self.state = State::Ended(None);
        Some(Err(Mismatch.into()))
    }
}

impl<B: http_body::Body> Exact<B> {
    /// Tells whether the last piece may be given on.
    fn is_last(&self) -> bool {
        let known = match self.last {
            LastPiece::Passes => true,
            LastPiece::AwaitsKnowledge => self.body.size_hint().exact() == Some(0),
            LastPiece::AwaitsEnd => false,
        };
        known || self.body.is_end_stream()
    }
}

impl<B> http_body::Body for Exact<B>
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
        loop {
            if let State::Ended(rest) = &mut this.state {
                return Poll::Ready(rest.take());
            }
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
            let Some(left) = this.left else {
                return Poll::Ready(frame);
            };
            let rest = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let Some(left) = left.checked_sub(data.len() as u64) else {
                        return Poll::Ready(this.mismatch());
                    };
                    this.left = Some(left);
                    if left > 0 || this.held.is_none() && this.is_last() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    if !data.is_empty() || this.held.is_none() {
                        this.held = Some(data);
                    }
                    continue;
                }
                Some(Ok(Err(trailers))) => Some(Ok(trailers)),
                Some(Err(error)) => Some(Err(error)),
                None => None,
            };
            if left > 0 && !matches!(rest, Some(Err(_))) {
                return Poll::Ready(this.mismatch());
            }
            this.state = State::Ended(rest);
            if let Some(held) = this.held.take() {
                return Poll::Ready(Some(Ok(Frame::data(held))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Ended(rest) => rest.is_none(),
            State::Open => {
                self.left.is_none_or(|left| left == 0)
                    && self.held.is_none()
                    && self.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            // The head says it.
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt;

    use super::*;
    use crate::http::body::is_behind;

    struct Pieces(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    /// Sends a body of these pieces through the check and writes down all that comes out. An empty piece stands for trailers.
    async fn through(pieces: &[&'static str], announced: Option<u64>) -> String {
        let frames = pieces.iter().map(|piece| match *piece {
            "" => Frame::trailers(HeaderMap::new()),
            piece => Frame::data(Bytes::from_static(piece.as_bytes())),
        });
        let mut body = Exact::new(Pieces(frames.collect()), announced, LastPiece::AwaitsEnd);
        let mut out = String::new();
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => out.push_str(&String::from_utf8_lossy(&data)),
                Ok(Err(_)) => out.push('T'),
                Err(error) => {
                    assert!(is_behind::<Mismatch>(&*error));
                    out.push('!');
                }
            }
        }
        out
    }

    #[tokio::test]
    async fn only_what_was_announced_passes() {
        for (pieces, announced, expected) in [
            (&["abc", "de"][..], None, "abcde"),
            (&["abc", "de"], Some(5), "abcde"),
            (&["abc", "de", ""], Some(5), "abcdeT"),
            (&["abc", "de"], Some(6), "abcde!"),
            (&["abc", "de", ""], Some(6), "abcde!"),
            // The piece with which it would be complete does not pass.
            (&["abc", "de"], Some(3), "!"),
            (&["a", "bc", "de"], Some(3), "a!"),
            (&["abc", "de"], Some(4), "abc!"),
            (&["abc"], Some(0), "!"),
            (&[], Some(0), ""),
            (&[""], Some(0), "T"),
            (&[], Some(1), "!"),
        ] {
            let got = through(pieces, announced).await;
            assert_eq!(got, expected, "{pieces:?} {announced:?}");
        }
    }

    #[test]
    fn lines_that_disagree_are_removed() {
        for (lines, expected) in [
            (&["5"][..], Some(5)),
            (&["5", "5"], Some(5)),
            (&["5", "6"], None),
            (&["5", "05"], None),
            (&["+5"], None),
            (&["5, 5"], None),
            (&[""], None),
            (&["18446744073709551616"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                let value = http::HeaderValue::from_static(line);
                headers.append(header::CONTENT_LENGTH, value);
            }
            assert_eq!(settle(&mut headers), expected, "{lines:?}");
            let left = headers.get_all(header::CONTENT_LENGTH).iter().count();
            assert_eq!(left, usize::from(expected.is_some()), "{lines:?}");
            assert_eq!(announced(&headers), expected);
        }
    }
}
