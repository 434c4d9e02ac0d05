//! Exchanges that need a task of their own.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::{
    sync::oneshot,
    task::coop::{cooperative, poll_proceed},
    time::timeout,
};

use super::{Core, Receiver, SideStream, Step, pace};
use crate::{
    context::error::BoxError,
    machine::Exchange,
    transport::{Sidestream, Transport},
    types::buffers::Held,
};

/// The response future's end of a task.
pub(crate) struct Handle<R> {
    /// Receiver of the upstream's response, until it was sent.
    pub(crate) upstream: Option<oneshot::Sender<Response<R>>>,
    /// Source of the head for the client; its body is in the pipe, if there is one.
    pub(crate) head: oneshot::Receiver<(http::response::Parts, Option<Receiver>)>,
}

/// Runs the exchange in a task. It ends with the exchange, or when the handle and then the response's
/// body are dropped.
pub(crate) fn spawn<T, B, R>(core: Core<T, B, R>) -> Handle<R>
where
    T: Transport,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (upstream, response) = oneshot::channel();
    let (sender, head) = oneshot::channel();
    tokio::spawn(run(core, response, sender));
    Handle {
        upstream: Some(upstream),
        head,
    }
}

async fn run<T, B, R>(
    mut core: Core<T, B, R>,
    response: oneshot::Receiver<Response<R>>,
    head: oneshot::Sender<(http::response::Parts, Option<Receiver>)>,
) where
    T: Transport,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let mut response = Some(response);
    let mut head = Some(head);
    let mut looks = pace::ENVOY.last_pieces;
    poll_fn(|cx| {
        loop {
            while let Some(step) = core.next_step() {
                match step {
                    Step::Request { .. } => {}
                    Step::Cancel if looks > 0 && core.hands_over(cx) => {
                        looks -= 1;
                        core.put_back(Step::Cancel);
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Step::Cancel => {
                        // First the future learns that the upstream's answer does not count, then the
                        // upstream that its request is cut.
                        response = None;
                        core.cancel_request();
                    }
                    Step::Response { head: parts, end } => {
                        let Some(head) = head.take() else { continue };
                        response = None;
                        let body = (!end).then(|| core.pipe_response());
                        if head.send((parts, body)).is_err() || end {
                            return Poll::Ready(());
                        }
                    }
                }
            }
            if let Some(head) = &mut head
                && head.poll_closed(cx).is_ready()
            {
                return Poll::Ready(());
            }
            if head.is_none() && core.is_over(cx) {
                return Poll::Ready(());
            }
            if let Some(receiver) = &mut response
                && let Poll::Ready(received) = Pin::new(receiver).poll(cx)
            {
                response = None;
                if let Ok(upstream) = received {
                    let (parts, body) = upstream.into_parts();
                    core.response(parts, body);
                    continue;
                }
            }
            if core.poll(cx).is_pending() && !(head.is_none() && core.is_over(cx)) {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Half-closes a side stream and resets it if the processor has not ended it after `grace`.
pub(super) fn finish(mut stream: impl Sidestream, grace: Duration) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    stream.finish();
    runtime.spawn(timeout(grace, async move {
        // Replies to what is over.
        while cooperative(poll_fn(|cx| stream.poll_recv(cx)))
            .await
            .is_ok()
        {}
    }));
}

/// Keeps the side stream of an observed exchange open for its `deferred_close_timeout`, sending what
/// is left and dropping replies.
pub(super) fn linger<T: Transport>(
    machine: &mut Exchange,
    side: &mut SideStream<T>,
    mut held: Held,
) {
    let (stream, waiting) = side.take();
    held.set(machine.kept());
    let mut rest = machine.take_rest(waiting);
    let (Some(mut stream), Ok(runtime)) = (stream, tokio::runtime::Handle::try_current()) else {
        return rest.end(true);
    };
    let limit = rest.config().deferred_close_timeout;
    runtime.spawn(async move {
        let flushed = poll_fn(|cx| {
            loop {
                let budget = ready!(poll_proceed(cx));
                if !rest.is_empty() && stream.poll_ready(cx).is_ready() {
                    budget.made_progress();
                    match rest.next() {
                        Some(message) if rest.is_empty() => stream.send(message),
                        Some(message) => stream.send_with_next(message),
                        None => {}
                    }
                    continue;
                }
                if rest.is_empty() {
                    held.set(0);
                }
                match stream.poll_recv(cx) {
                    Poll::Ready(Ok(_)) => budget.made_progress(),
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let ended = timeout(limit, flushed).await.is_ok();
        stream.finish();
        if !ended {
            // The half-close leaves before the reset.
            stream.close_flushed();
        }
        rest.end(!ended);
    });
}
