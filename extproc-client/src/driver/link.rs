//! The side stream of one exchange: opening, sending, receiving, and the timer.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use http::HeaderMap;
use tokio::{
    task::coop::{poll_proceed, unconstrained},
    time::Sleep,
};

use crate::{
    config::{GrpcService, Service},
    machine::{Closing, Exchange, Outbound},
    transport::{Call, Sidestream, Transport},
    types::{phase::Phase, stream::Close},
    wire::{Reply, fields, message::Message},
};

/// The side stream, from before it is opened until it is closed.
///
/// Each message and each reply is paid for from what Tokio lets a task do in one poll, whoever polls and however often within
/// it: a client can have thousands of small messages made at once, each of which takes more time than its bytes do, and a
/// processor in the same process may always have another reply.
pub(crate) struct SideStream<T: Transport> {
    transport: T,
    /// Metadata with its substitutions made.
    metadata: HeaderMap,
    stream: Option<T::Sidestream>,
    /// A message that waits for the stream to take it.
    waiting: Option<(Phase, Message)>,
    /// Reply that came right behind one that leads to another message.
    next: Option<Result<Reply, Close>>,
    /// Bytes of that reply.
    ahead: usize,
    timer: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
}

impl<T: Transport> SideStream<T> {
    pub(crate) fn new(transport: T, service: &Service, request: &http::request::Parts) -> Self {
        let metadata = match service {
            Service::Grpc(service) => expand_metadata(service, request),
            Service::Http(_) => HeaderMap::new(),
        };
        Self {
            transport,
            metadata,
            stream: None,
            waiting: None,
            next: None,
            ahead: 0,
            timer: None,
            deadline: None,
        }
    }

    /// Takes one reply or the timer, when everything for the processor was [sent](Self::flush). `Ready` if the machine was
    /// given something.
    pub(super) fn poll(&mut self, machine: &mut Exchange, cx: &mut Context<'_>) -> Poll<()> {
        let budget = ready!(poll_proceed(cx));
        if let Poll::Ready(received) = self.poll_recv(cx) {
            budget.made_progress();
            if let Some(stream) = &self.stream {
                machine.reached(|| stream.facts());
            }
            let now = Instant::now();
            match received {
                Ok(reply) => {
                    machine.handle_reply(reply, now);
                }
                Err(close) => {
                    self.stream = None;
                    self.forget(machine);
                    machine.handle_close(close);
                }
            }
            if machine.has_messages()
                && let Poll::Ready(next) = self.poll_recv(cx)
            {
                self.ahead = next.as_ref().map_or(0, Reply::framed_len);
                self.next = Some(next);
            }
            self.flush(machine, cx);
            return Poll::Ready(());
        }
        drop(budget);
        self.poll_timer(machine, cx)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        if let Some(next) = self.next.take() {
            self.ahead = 0;
            return Poll::Ready(next);
        }
        match &mut self.stream {
            Some(stream) => stream.poll_recv(cx),
            None => Poll::Pending,
        }
    }

    /// Tells whether what is here already ends the stream. What is not sent by now is not sent any more: all that was
    /// said is heard before something is written.
    fn is_over(&self, machine: &Exchange) -> bool {
        match &self.next {
            Some(Ok(reply)) => machine.is_last(reply),
            Some(Err(_)) => true,
            None => false,
        }
    }

    /// Sends all that the stream takes, for who looks at it no more.
    pub(super) fn flush_all(&mut self, machine: &mut Exchange) {
        let flushed = poll_fn(|cx| {
            self.flush(machine, cx);
            Poll::Ready(())
        });
        let _ = pin!(unconstrained(flushed)).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Sends until the machine has nothing more, the stream takes no more or other tasks have to run.
    pub(super) fn flush(&mut self, machine: &mut Exchange, cx: &mut Context<'_>) {
        loop {
            if machine.closes_next() {
                self.forget(machine);
            } else if self.is_over(machine) {
                return;
            }
            if let Some(stream) = &mut self.stream
                && self.waiting.is_some()
            {
                let Poll::Ready(budget) = poll_proceed(cx) else {
                    return;
                };
                if stream.poll_ready(cx).is_pending() {
                    return;
                }
                budget.made_progress();
                if let Some((phase, message)) = self.waiting.take() {
                    machine.sent(phase, &message, true);
                    match machine.has_messages() {
                        true => stream.send_with_next(message),
                        false => stream.send(message),
                    }
                }
            }
            match machine.poll_outbound() {
                None => return,
                Some(Outbound::Message(phase, message)) => self.waiting = Some((phase, message)),
                Some(Outbound::Close(closing)) => {
                    self.forget(machine);
                    match (self.stream.take(), closing) {
                        (Some(stream), Closing::Within(grace)) => {
                            super::task::finish(stream, grace)
                        }
                        (Some(stream), Closing::Flushed) => stream.close_flushed(),
                        (_, Closing::Now) | (None, _) => {}
                    }
                }
                Some(Outbound::Open) => {
                    machine.opening(&mut self.metadata);
                    let call = Call {
                        service: machine.config().service(),
                        metadata: std::mem::take(&mut self.metadata),
                        buffers: machine.context().buffers.clone(),
                    };
                    match self.transport.open(call) {
                        Ok(stream) => {
                            self.stream = Some(stream);
                            machine.opened();
                        }
                        Err(close) => machine.not_opened(close),
                    }
                }
            }
        }
    }

    /// Bytes of a reply that is not complete, and of one that waits for its turn.
    pub(super) fn buffered(&self) -> usize {
        self.ahead + self.stream.as_ref().map_or(0, Sidestream::buffered)
    }

    /// Returns whether a message waits for the stream to take it.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.is_some()
    }

    /// The message that waits does not leave.
    fn forget(&mut self, machine: &Exchange) {
        if let Some((phase, message)) = self.waiting.take() {
            machine.sent(phase, &message, false);
        }
    }

    /// Gives the stream away, for an end that is not now.
    pub(super) fn take(&mut self) -> (Option<T::Sidestream>, Option<(Phase, Message)>) {
        (self.stream.take(), self.waiting.take())
    }

    fn poll_timer(&mut self, machine: &mut Exchange, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = machine.next_timeout() else {
            self.deadline = None;
            return Poll::Pending;
        };
        let sleep = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if self.deadline != Some(deadline) {
            sleep.as_mut().reset(deadline.into());
            self.deadline = Some(deadline);
        }
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.deadline = None;
        if let Some(stream) = &mut self.stream {
            stream.timed_out();
            machine.reached(|| stream.facts());
        }
        machine.handle_timeout(deadline.max(Instant::now()));
        self.flush(machine, cx);
        Poll::Ready(())
    }
}

/// `initial_metadata` for a request; entries whose value is empty are left out.
fn expand_metadata(service: &GrpcService, request: &http::request::Parts) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for entry in &service.initial_metadata {
        let value = entry.value.expand(|name| lookup(request, name));
        if value.is_empty() {
            continue;
        }
        if let (Ok(name), Ok(value)) = (
            http::HeaderName::from_bytes(entry.key.as_bytes()),
            http::HeaderValue::from_bytes(&value),
        ) {
            // The last one of a name holds.
            metadata.insert(name, value);
        }
    }
    metadata
}

fn lookup(request: &http::request::Parts, name: &str) -> Option<Vec<u8>> {
    match name {
        ":path" => request
            .uri
            .path_and_query()
            .map(|path| path.as_str().as_bytes().to_vec()),
        ":method" => Some(request.method.as_str().as_bytes().to_vec()),
        ":authority" | "host" => fields::authority(request).map(<[u8]>::to_vec),
        ":scheme" => Some(fields::scheme(request).as_bytes().to_vec()),
        _ => request
            .headers
            .get(name)
            .map(|value| value.as_bytes().to_vec()),
    }
}
