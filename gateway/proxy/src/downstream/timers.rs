//! Limits of an exchange: `stream_idle_timeout`, `request_timeout`, `max_stream_duration`, and the memory that it holds of
//! its connection's and the process's.
//!
//! Whoever drives an exchange polls its [`Timers`] beside it. Before the response has begun, a limit
//! that passed becomes a local reply ([`call`]); after that it ends the message. Time is kept by one
//! [`LazyTimer`], because nearly every exchange ends before any of them, and HTTP/1 connections pass it on from
//! exchange to exchange.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use extproc_client::host::ResponseFlags;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::Instant;

use super::{Context, chains::ListenerShared};
use crate::{
    config::snapshot::flag,
    exchange::Exchange,
    http::{body::Body, lazy_timer::LazyTimer, local_reply},
    route::Selected,
    telemetry::stats::HttpStats,
};

/// Limit that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// `stream_idle_timeout`, or `idle_timeout` of the route: nothing has moved for so long.
    Idle,
    /// `request_timeout`: the request has not been received as a whole.
    Request,
    /// `max_stream_duration` of the route or else of the connection manager.
    Duration,
    /// Too much is held, and most of it here ([`Budget`](crate::limits::buffers::Budget)).
    Memory,
}

/// The limits of one exchange.
#[derive(Debug)]
pub(super) struct Timers {
    idle: Option<Duration>,
    request: Option<Duration>,
    duration: Option<Duration>,
    alarm: LazyTimer,
    exchange: Arc<Exchange>,
    listener: Arc<ListenerShared>,
}

impl Timers {
    pub(super) fn new(
        listener: &Arc<ListenerShared>,
        exchange: &Arc<Exchange>,
        alarm: LazyTimer,
    ) -> Self {
        let timeouts = &exchange.http.timeouts;
        let route = exchange.route();
        let forward = route.as_ref().and_then(Selected::forward);
        let own =
            forward.and_then(
                |forward| match (&forward.grpc_duration, exchange.grpc_timeout) {
                    (Some(limits), Some(asked)) => limits.limit(Some(asked)),
                    _ => forward.max_stream_duration,
                },
            );
        let duration = own
            .or(timeouts.max_stream_duration)
            .filter(|limit| !limit.is_zero());
        let mut timers = Self {
            idle: exchange.idle_limit(),
            request: timeouts.request.filter(|_| !exchange.request_done()),
            duration,
            alarm,
            exchange: exchange.clone(),
            listener: listener.clone(),
        };
        match timers.next() {
            Some((next, _)) => timers.alarm.set(next),
            None => timers.alarm = LazyTimer::default(),
        }
        timers
    }

    /// The limits of another exchange from now on, or of another route.
    pub(super) fn renew(&mut self, exchange: &Arc<Exchange>) {
        *self = Self::new(&self.listener, exchange, std::mem::take(&mut self.alarm));
    }

    /// The response has begun: `request_timeout` is about what comes before that.
    pub(super) fn answered(&mut self) {
        self.request = None;
    }

    /// A limit has passed, and filters see the reply: they get the same time once more.
    fn extend(&mut self) {
        self.exchange.touch();
        let passed = self.exchange.start.elapsed();
        let limits = [self.duration, self.request.take()];
        self.duration = limits
            .into_iter()
            .flatten()
            .min()
            .map(|limit| passed.saturating_add(limit));
        match self.next() {
            Some((next, _)) => self.alarm.set(next),
            None => self.alarm = LazyTimer::default(),
        }
    }

    /// Ready when a limit has passed.
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Expired> {
        if self.exchange.buffers.is_over() {
            return Poll::Ready(Expired::Memory);
        }
        loop {
            ready!(self.alarm.poll(cx));
            let Some((next, expired)) = self.next() else {
                return Poll::Pending;
            };
            if next <= Instant::now() {
                return Poll::Ready(expired);
            }
            self.alarm.set(next);
        }
    }

    /// Takes note that a limit ended the exchange after its response had begun.
    pub(super) fn cut(&self, expired: Expired) {
        count(&self.listener.stats, expired);
        let (details, flags) = match expired {
            Expired::Idle => ("stream_idle_timeout", flag::STREAM_IDLE_TIMEOUT),
            Expired::Duration => ("max_duration_timeout", 0),
            Expired::Request => ("request_overall_timeout", 0),
            Expired::Memory => (OVERLOAD, flag::OVERLOAD_MANAGER),
        };
        self.exchange.cut(details, ResponseFlags::new(flags));
    }

    /// The limit that passes first, as far as is known now.
    fn next(&self) -> Option<(Instant, Expired)> {
        let exchange = &self.exchange;
        let start = Instant::from_std(exchange.start);
        let after = |limit: Option<Duration>, since: Instant, what| {
            limit.and_then(|limit| Some((since.checked_add(limit)?, what)))
        };
        let request = self.request.filter(|_| !exchange.request_done());
        [
            after(self.duration, start, Expired::Duration),
            after(request, start, Expired::Request),
            after(self.idle, start + exchange.moved_after(), Expired::Idle),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}

/// The limits of the exchange whose response is on its way on an HTTP/1 connection. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Running(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    timers: Option<Timers>,
    /// For the next exchange.
    alarm: LazyTimer,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        // What is in it is put in and taken out whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits of the exchange that begins.
    pub(super) fn begin(&self, listener: &Arc<ListenerShared>, exchange: &Arc<Exchange>) -> Timers {
        Timers::new(listener, exchange, std::mem::take(&mut self.lock().alarm))
    }

    /// The response begins.
    pub(super) fn set(&self, timers: Timers) {
        self.lock().timers = Some(timers);
    }

    pub(super) fn take(&self) -> Option<Timers> {
        self.lock().timers.take()
    }

    /// The response is over.
    pub(super) fn end(&self) {
        let mut slot = self.lock();
        if let Some(timers) = slot.timers.take() {
            slot.alarm = timers.alarm;
        }
    }

    /// Returns whether a limit of the response that is under way has passed; that is noted then.
    pub(super) fn expire(&self, cx: &mut TaskContext<'_>) -> bool {
        let mut slot = self.lock();
        let Poll::Ready(expired) = poll(&mut slot.timers, cx) else {
            return false;
        };
        if let Some(timers) = slot.timers.take() {
            timers.cut(expired);
        }
        true
    }
}

/// Polls what may not be there.
pub(super) fn poll(timers: &mut Option<Timers>, cx: &mut TaskContext<'_>) -> Poll<Expired> {
    timers
        .as_mut()
        .map_or(Poll::Pending, |timers| timers.poll(cx))
}

/// Runs the chain; gives a local reply if a limit passes, or if the process has no memory for it.
pub(super) async fn call(
    context: &Context,
    request: Request<Body>,
    exchange: &Arc<Exchange>,
    timers: &mut Timers,
) -> Response<Body> {
    let stats = &context.chain.shared.stats;
    if context.chain.overload.refuses_requests() {
        // Not even the filters see it: they would need memory for that.
        stats.downstream_rq_overload_close.add();
        return overloaded(exchange);
    }
    let mut response = pin!(context.chain.filters.call(request));
    let response = poll_fn(|cx| {
        loop {
            let polled = response.as_mut().poll(cx);
            if exchange.take_route_renewed() {
                // Limits are the new route's.
                timers.renew(exchange);
            }
            if let Poll::Ready(response) = polled {
                return Poll::Ready(response);
            }
            let expired = ready!(timers.poll(cx));
            count(stats, expired);
            let reply = timed_out(exchange, expired);
            if expired == Expired::Memory {
                // Filters would need memory to see it.
                return Poll::Ready(reply);
            }
            exchange.reply(reply);
            let polled = response.as_mut().poll(cx);
            if let Some(reply) = exchange.take_reply() {
                // The request is with nobody any more, its response is with filters.
                return Poll::Ready(reply);
            }
            if let Poll::Ready(response) = polled {
                return Poll::Ready(response);
            }
            timers.extend();
        }
    })
    .await;
    timers.answered();
    response
}

/// Response code details.
const OVERLOAD: &str = "overload";

fn overloaded(exchange: &Exchange) -> Response<Body> {
    local_reply::reply(
        exchange.grpc,
        StatusCode::SERVICE_UNAVAILABLE,
        Cow::Borrowed("overloaded"),
        OVERLOAD,
        flag::OVERLOAD_MANAGER,
    )
}

fn count(stats: &HttpStats, expired: Expired) {
    match expired {
        Expired::Idle => stats.downstream_rq_idle_timeout.add(),
        Expired::Request => stats.downstream_rq_timeout.add(),
        Expired::Duration => stats.downstream_rq_max_duration_reached.add(),
        Expired::Memory => stats.downstream_rq_overload_close.add(),
    }
}

fn timed_out(exchange: &Exchange, expired: Expired) -> Response<Body> {
    // Whoever sent everything has to wait for others.
    let status = match exchange.request_done() {
        true => StatusCode::GATEWAY_TIMEOUT,
        false => StatusCode::REQUEST_TIMEOUT,
    };
    let (body, details, flags) = match expired {
        Expired::Idle => (
            "stream timeout",
            "stream_idle_timeout",
            flag::STREAM_IDLE_TIMEOUT,
        ),
        Expired::Request => ("request timeout", "request_overall_timeout", 0),
        Expired::Duration => ("downstream duration timeout", "max_duration_timeout", 0),
        Expired::Memory => return overloaded(exchange),
    };
    let mut reply = local_reply::reply(exchange.grpc, status, Cow::Borrowed(body), details, flags);
    if exchange.grpc && expired == Expired::Duration {
        const DEADLINE_EXCEEDED: HeaderValue = HeaderValue::from_static("4");
        reply.headers_mut().insert("grpc-status", DEADLINE_EXCEEDED);
    }
    reply
}
