//! `stream_idle_timeout`: an exchange in which nothing moves is ended.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio::time::{Instant, Sleep};

use super::Context;
use crate::{
    body::Body, config::snapshot::RouteAction, exchange::Exchange, local, upstream::error::flag,
};

/// The time after which an exchange without movement ends. One timer, moved on when it fires early.
pub(super) struct Idle {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    exchange: Arc<Exchange>,
}

impl Idle {
    /// The route's limit, otherwise the connection manager's; `None` if there is none.
    pub(super) fn new(exchange: &Arc<Exchange>) -> Option<Self> {
        let own = exchange
            .route()
            .and_then(|route| match &route.route.action {
                RouteAction::Forward(forward) => forward.idle_timeout,
                RouteAction::Direct { .. } | RouteAction::Redirect(_) => None,
            });
        let limit = own
            .or(exchange.http.timeouts.stream_idle)
            .filter(|limit| !limit.is_zero())?;
        Some(Self {
            limit,
            sleep: Box::pin(tokio::time::sleep(limit)),
            exchange: exchange.clone(),
        })
    }

    /// Ready when nothing has moved for the whole time.
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let quiet = self.exchange.quiet_for();
            match self.limit.checked_sub(quiet) {
                None | Some(Duration::ZERO) => return Poll::Ready(()),
                Some(left) => self.sleep.as_mut().reset(Instant::now() + left),
            }
        }
    }
}

/// Runs the chain; gives a local reply (408, or 504 after a complete request) if nothing moves.
pub(super) async fn call(
    context: &Context,
    request: Request<Body>,
    exchange: &Arc<Exchange>,
    idle: &mut Option<Idle>,
) -> Response<Body> {
    let mut response = pin!(context.chain.filters.call(request));
    poll_fn(|cx| {
        if let Poll::Ready(response) = response.as_mut().poll(cx) {
            return Poll::Ready(response);
        }
        match idle {
            Some(idle) => idle.poll(cx).map(|()| timed_out(exchange)),
            None => Poll::Pending,
        }
    })
    .await
}

fn timed_out(exchange: &Exchange) -> Response<Body> {
    let status = if exchange.request_done() {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::REQUEST_TIMEOUT
    };
    local::reply(
        false,
        status,
        Cow::Borrowed("stream timeout"),
        "stream_idle_timeout",
        flag::STREAM_IDLE_TIMEOUT,
    )
}
