//! Bodies in and out of content codings, without the filters around them.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use extproc_client::host::{BufferAccount, Held};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use super::bodies::{Compressed, Decompressed};
use crate::{
    config::snapshot::{Coding, Decoding},
    http::body::{Body, BoxError},
};

const GZIP: Coding = Coding::Gzip { level: 6 };
const BROTLI: Coding = Coding::Brotli {
    quality: 3,
    window: 18,
};
const BOTH: [(Coding, Decoding); 2] = [(GZIP, Decoding::Gzip), (BROTLI, Decoding::Brotli)];

/// Event behind the frames of a [`Source`].
#[derive(Clone, Copy)]
enum Then {
    Ends,
    Waits,
    /// The last frame comes again and again.
    Repeats,
}

struct Source(VecDeque<Bytes>, Then);

impl http_body::Body for Source {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = self.0.pop_front();
        match (next, self.1) {
            (Some(piece), Then::Repeats) if self.0.is_empty() => {
                self.0.push_back(piece.clone());
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, Then::Waits) => Poll::Pending,
            (None, _) => Poll::Ready(None),
        }
    }
}

fn source(pieces: impl IntoIterator<Item = Bytes>, then: Then) -> Body {
    Body::new(Source(pieces.into_iter().collect(), then))
}

fn compressed(body: Body, coding: Coding) -> Body {
    Body::new(Compressed::new(body, coding, Held::default()))
}

fn decompressed(body: Body, coding: Decoding) -> Body {
    Body::new(Decompressed::new(
        body,
        coding,
        u32::MAX,
        None,
        |error| error,
        Held::default(),
    ))
}

/// Data that comes out of a body before it waits or ends.
fn ready(body: &mut Body) -> Vec<u8> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut out = Vec::new();
    while let Poll::Ready(Some(frame)) = Pin::new(&mut *body).poll_frame(&mut cx) {
        out.extend(frame.unwrap().into_data().unwrap());
    }
    out
}

/// Bytes that compress neither too well nor too badly.
fn sample(len: usize) -> Bytes {
    let byte = |at: usize| (at.wrapping_mul(2_654_435_761) >> (at % 7 + 20)) as u8;
    (0..len).map(byte).collect()
}

async fn whole(body: Body) -> Result<Bytes, BoxError> {
    Ok(body.collect().await?.to_bytes())
}

#[tokio::test]
async fn there_and_back() {
    let qualities = [(0, 10), (1, 24), (3, 18), (5, 10), (9, 22), (11, 16)];
    let qualities =
        qualities.map(|(quality, window)| (Coding::Brotli { quality, window }, Decoding::Brotli));
    let levels = (0..=9).map(|level| (Coding::Gzip { level }, Decoding::Gzip));
    let pieces: Vec<Bytes> = [1, 20_000, 0, 4096, 30]
        .map(sample)
        .into_iter()
        .chain([Bytes::from(vec![0; 40_000])])
        .collect();
    let expected: Vec<u8> = pieces.concat();
    for (coding, decoding) in levels.chain(qualities) {
        let mut trailers = HeaderMap::new();
        trailers.insert("t", HeaderValue::from_static("1"));
        let body = source(pieces.clone(), Then::Ends);
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
        let body = decompressed(compressed(Body::new(body), coding), decoding);
        let got = body.collect().await.unwrap();
        assert_eq!(got.trailers(), Some(&trailers));
        assert!(got.to_bytes() == expected, "{coding:?}");
    }
}

#[test]
fn all_of_a_piece_comes_before_the_next() {
    for (coding, decoding) in BOTH {
        for len in [1, 90_000, 3_000_000] {
            let piece = Bytes::from(vec![7; len]);
            let body = compressed(source([piece.clone()], Then::Waits), coding);
            let mut body = decompressed(body, decoding);
            assert!(ready(&mut body) == piece, "{coding:?} {len}");
        }
    }
}

#[test]
fn a_small_message_is_one_piece() {
    for (coding, _) in BOTH {
        let mut body = compressed(Body::full("small"), coding);
        let mut cx = Context::from_waker(Waker::noop());
        let frame = Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))), "{coding:?}");
        assert!(body.is_end_stream(), "{coding:?}");
    }
}

#[tokio::test]
async fn members_of_gzip_and_what_follows_them() {
    let member = |text: &'static str| whole(compressed(Body::full(text), GZIP));
    let (one, two) = (member("one").await.unwrap(), member("two").await.unwrap());
    let join = |parts: &[&[u8]]| Bytes::from(parts.concat());
    for (pieces, expected) in [
        (vec![join(&[&one, &two])], Some("onetwo")),
        (vec![one.clone(), two.clone()], Some("onetwo")),
        (vec![join(&[&one, &[0; 99]]), two.clone()], Some("one")),
        (vec![one.clone(), one.slice(..5)], None),
        (vec![one.slice(..one.len() - 1)], None),
        (vec![Bytes::from_static(&[0; 99])], None),
        (vec![], Some("")),
    ] {
        let body = decompressed(source(pieces.clone(), Then::Ends), Decoding::Gzip);
        let got = whole(body).await.ok();
        assert_eq!(got.as_deref(), expected.map(str::as_bytes), "{pieces:?}");
    }
}

#[tokio::test]
async fn only_windows_of_the_standard_are_taken() {
    // An empty message with a window of 1 GiB.
    let body = Body::full(&[0x11, 0xde][..]);
    whole(decompressed(body, Decoding::Brotli))
        .await
        .unwrap_err();
}

#[derive(Debug, Default)]
struct Account(AtomicUsize);

impl BufferAccount for Account {
    fn hold(&self, bytes: usize) {
        self.0.fetch_add(bytes, Relaxed);
    }

    fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Relaxed);
    }
}

#[tokio::test]
async fn memory_is_counted() {
    const LARGE: Coding = Coding::Brotli {
        quality: 9,
        window: 24,
    };
    let account = Arc::new(Account::default());
    let held = || Held::new(Some(account.clone()));
    let counted = || account.0.load(Relaxed);
    for (coding, decoding, most) in [
        (GZIP, Decoding::Gzip, 0),
        (BROTLI, Decoding::Brotli, 0),
        (LARGE, Decoding::Brotli, 32 << 20),
    ] {
        let body = source([sample(100_000)], Then::Waits);
        let mut body = Body::new(Compressed::new(body, coding, held()));
        let piece = Bytes::from(ready(&mut body));
        assert!(counted() >= most.max(128 * 1024), "{coding:?}");
        drop(body);
        assert_eq!(counted(), 0, "{coding:?}");

        let body = source([piece], Then::Waits);
        let mut body = Body::new(Decompressed::new(
            body,
            decoding,
            100,
            None,
            |error| error,
            held(),
        ));
        assert!(counted() > 0, "{coding:?}");
        ready(&mut body);
        assert!(counted() >= most / 2, "{coding:?}");
        drop(body);
        assert_eq!(counted(), 0, "{coding:?}");
    }
}

#[tokio::test]
async fn a_body_that_never_waits_lets_others_run() {
    let member = whole(compressed(Body::full("member"), GZIP)).await.unwrap();
    let zeros = Bytes::from_static(&[0; 1000]);
    for mut body in [
        compressed(source([zeros.clone()], Then::Repeats), GZIP),
        compressed(source([zeros.clone()], Then::Repeats), BROTLI),
        decompressed(source([member.clone()], Then::Repeats), Decoding::Gzip),
        // Nothing comes of what follows the coding.
        decompressed(source([member, zeros], Then::Repeats), Decoding::Gzip),
    ] {
        let frames = poll_fn(|cx| {
            let frames = (0..10_000).take_while(|_| match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(frame) => frame.unwrap().is_ok(),
                Poll::Pending => false,
            });
            Poll::Ready(frames.count())
        });
        assert!(frames.await < 10_000);
        tokio::task::yield_now().await;
    }
}
