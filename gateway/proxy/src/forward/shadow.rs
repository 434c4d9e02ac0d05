//! Copies of requests for other clusters (`request_mirror_policies`).
//!
//! A copy is sent beside the request and its response is read and dropped. Nothing waits for it: where a
//! copy cannot keep up, it is given up.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use extproc_client::host::{BufferAccount, Held};
use http::{Request, request::Parts, uri::Authority};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::{mpsc, oneshot};

use super::{Means, attempts::Attempts, policy::Policy};
use crate::{
    config::snapshot::{Forward, Mirror, Route},
    exchange::{Exchange, chain::Chain},
    http::{
        body::{Body, BoxError},
        headers::frame_size,
    },
    limits::breakers::{BehindBytes, Breakers, CopyPlace},
    route::{Selected, is_drawn},
    upstream::{Failure, Outbound, Upstream},
};

/// Bytes that a copy may be behind its original.
const BEHIND: usize = 1024 * 1024;

/// Cost of a frame in [`BEHIND`] beside its bytes.
const FRAME: usize = 64;

/// Time that a copy has from the end of the request if the route sets no limit: `timeout`'s default.
const LIMIT: Duration = Duration::from_secs(15);

/// Bytes that a copy is behind its original: of its cluster, and of what the process may hold of bodies.
struct Behind {
    bytes: BehindBytes,
    held: Mutex<Held>,
}

impl Behind {
    fn new(breakers: &Arc<Breakers>, account: Option<Arc<dyn BufferAccount>>) -> Self {
        Self {
            bytes: BehindBytes::new(breakers),
            held: Mutex::new(Held::new(account)),
        }
    }

    /// Adds bytes; returns false if it may not be so far behind.
    fn add(&self, bytes: usize) -> bool {
        let own = self.bytes.add(bytes);
        own.is_some_and(|own| {
            self.tell(own);
            own <= BEHIND
        })
    }

    fn remove(&self, bytes: usize) {
        self.tell(self.bytes.remove(bytes));
    }

    fn tell(&self, own: usize) {
        // Only a number is set under the lock. Two that come at once may be told in the wrong order; the next one is right again.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.set(own);
    }
}

/// Sends copies of a request as its route says; gives the body that the original has to be sent with.
/// `limit` is the longest time that a copy may take once the request has passed as a whole.
pub(super) fn start(
    means: &Means,
    exchange: &Exchange,
    route: &Selected,
    forward: &Forward,
    parts: &Parts,
    body: Body,
    limit: Option<Duration>,
) -> Body {
    let empty = body.is_end_stream();
    let mut copies = Vec::new();
    for mirror in &forward.mirrors {
        let Some(upstream) = means.upstreams.get(&mirror.cluster) else {
            continue;
        };
        if !is_drawn(mirror.fraction) {
            continue;
        }
        let breakers = &upstream.shared.breakers;
        let Some(place) = CopyPlace::take(breakers) else {
            upstream.shared.stats.upstream_rq_pending_overflow.add();
            tracing::debug!(cluster = %mirror.cluster, "too many copies of requests under way");
            continue;
        };
        let copy = exchange.of_copy();
        let (content, fed) = if empty {
            (Body::empty(), None)
        } else {
            let behind = Behind::new(breakers, Some(copy.clone()));
            let (feed, content, fed) = Copy::new(body.size_hint(), behind);
            copies.push(feed);
            (Body::new(content), Some(fed))
        };
        let request = Box::new(Outbound {
            parts: shadow(parts, mirror),
            body: content,
        });
        let route = route.route.clone();
        let upstream = upstream.clone();
        let filters = means.filters.of(&mirror.cluster).cloned();
        tokio::spawn(async move {
            let too_long = async {
                if let Some(fed) = fed {
                    // An error is what it ends with.
                    let _ = fed.await;
                }
                tokio::time::sleep(limit.unwrap_or(LIMIT)).await;
            };
            let failed = tokio::select! {
                result = send(&copy, &route, &upstream, filters.as_ref(), request) => result.err(),
                () = holds_too_much(&copy) => Some(Failure::Request),
                () = too_long => {
                    upstream.shared.stats.upstream_rq_timeout.add();
                    Some(Failure::Timeout)
                }
            };
            if let Some(failure) = failed {
                tracing::debug!(cluster = %upstream.cluster.name, %failure, "copy of a request failed");
            }
            drop(place);
        });
    }
    if copies.is_empty() {
        return body;
    }
    Body::new(Tee { body, copies })
}

/// The head of a copy.
fn shadow(parts: &Parts, mirror: &Mirror) -> Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method = parts.method.clone();
    head.uri = parts.uri.clone();
    head.headers = parts.headers.clone();
    if mirror.shadow_suffix
        && let Some(authority) = parts.uri.authority().and_then(suffixed)
    {
        let mut uri = parts.uri.clone().into_parts();
        uri.authority = Some(authority);
        if let Ok(uri) = http::Uri::from_parts(uri) {
            head.uri = uri;
        }
    }
    head
}

/// `host-shadow`, the port behind it.
fn suffixed(authority: &Authority) -> Option<Authority> {
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host)?;
    format!("{host}-shadow{port}").parse().ok()
}

/// Sends a copy through the filters of its cluster, and reads the response.
async fn send(
    copy: &Arc<Exchange>,
    route: &Route,
    upstream: &Upstream,
    filters: Option<&Chain>,
    mut request: Box<Outbound>,
) -> Result<(), Failure> {
    // What the route asks for is done, and the caller has a limit for all of it.
    let forward = Forward::default();
    let policy = Policy::take(&forward, copy, &mut request.parts);
    let mut attempts = Attempts::new(copy, &route.matches, &forward, &policy, upstream, filters);
    let mut body = attempts.run(request).await?.into_body();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            break;
        }
    }
    Ok(())
}

/// Ready when a copy has to end for the memory that its filters hold. Interim responses are for nobody.
async fn holds_too_much(copy: &Exchange) {
    poll_fn(|cx| {
        while copy.outgoing.poll_interim(cx).is_ready() {}
        match copy.buffers.is_over() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// The original's body, of which every copy gets what passes.
struct Tee {
    body: Body,
    copies: Vec<Copy>,
}

/// The end of a copy that is fed.
struct Copy {
    pieces: mpsc::UnboundedSender<Piece>,
    behind: Arc<Behind>,
    /// Dropped with it.
    _fed: oneshot::Sender<()>,
}

enum Piece {
    Frame(Frame<Bytes>),
    End,
}

/// The body of a copy.
struct Content {
    pieces: mpsc::UnboundedReceiver<Piece>,
    behind: Arc<Behind>,
    hint: SizeHint,
    ended: bool,
}

impl Copy {
    /// It, what it feeds, and what ends when nothing more is fed.
    fn new(hint: SizeHint, behind: Behind) -> (Self, Content, oneshot::Receiver<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let behind = Arc::new(behind);
        let content = Content {
            pieces: receiver,
            behind: behind.clone(),
            hint,
            ended: false,
        };
        let (fed, ended) = oneshot::channel();
        let copy = Self {
            pieces: sender,
            behind,
            _fed: fed,
        };
        (copy, content, ended)
    }

    /// Returns whether the copy took the frame; otherwise it is over.
    fn feed(&self, frame: &Frame<Bytes>) -> bool {
        let frame = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(data.clone()),
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return true,
        };
        self.behind.add(cost(&frame)) && self.pieces.send(Piece::Frame(frame)).is_ok()
    }
}

fn cost(frame: &Frame<Bytes>) -> usize {
    FRAME + frame_size(frame)
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                this.copies.retain(|copy| copy.feed(frame));
                if this.body.is_end_stream() {
                    finish(&mut this.copies);
                }
            }
            None => finish(&mut this.copies),
            // A copy without an end is given up by its reader.
            Some(Err(_)) => this.copies.clear(),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn finish(copies: &mut Vec<Copy>) {
    for copy in copies.drain(..) {
        // One that is gone needs no end.
        let _ = copy.pieces.send(Piece::End);
    }
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = std::task::ready!(self.pieces.poll_recv(cx));
        Poll::Ready(match piece {
            Some(Piece::Frame(frame)) => {
                self.behind.remove(cost(&frame));
                Some(Ok(frame))
            }
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(
                    "the original ended early, or left its copy behind".into()
                ))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    /// A body of pieces of these sizes.
    struct Pieces(&'static [usize]);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let Some((size, rest)) = self.0.split_first() else {
                return Poll::Ready(None);
            };
            self.0 = rest;
            Poll::Ready(Some(Ok(Frame::data(vec![b'x'; *size].into()))))
        }
    }

    /// A copy that is not behind, for a cluster of its own.
    fn near() -> Behind {
        Behind::new(&Arc::default(), None)
    }

    fn frames(sizes: &'static [usize]) -> Body {
        Body::new(Pieces(sizes))
    }

    #[tokio::test]
    async fn a_copy_gets_what_the_original_gets() {
        let (copy, content, mut fed) = Copy::new(SizeHint::default(), near());
        assert!(
            fed.try_recv()
                .is_err_and(|error| error == TryRecvError::Empty)
        );
        let body = Body::new(Tee {
            body: frames(&[3, 4]),
            copies: vec![copy],
        });
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 7);
        fed.await.unwrap_err();
        assert_eq!(content.collect().await.unwrap().to_bytes().len(), 7);
    }

    #[tokio::test]
    async fn a_copy_that_falls_behind_is_given_up() {
        let (copy, content, _) = Copy::new(SizeHint::default(), near());
        let body = Body::new(Tee {
            body: frames(&[BEHIND / 2, BEHIND / 2, 1]),
            copies: vec![copy],
        });
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), BEHIND + 1);
        content.collect().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_body_cut_short_cuts_its_copy_short() {
        let (copy, content, _) = Copy::new(SizeHint::default(), near());
        drop(Body::new(Tee {
            body: frames(&[1]),
            copies: vec![copy],
        }));
        content.collect().await.unwrap_err();
    }

    #[test]
    fn hosts_of_copies() {
        for (authority, expected) in [
            ("a.example", "a.example-shadow"),
            ("a.example:81", "a.example-shadow:81"),
        ] {
            let authority: Authority = authority.parse().unwrap();
            assert_eq!(suffixed(&authority).unwrap(), expected);
        }
    }
}
