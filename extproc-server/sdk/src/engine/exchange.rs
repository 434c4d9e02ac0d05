//! One exchange of a [`Processor`]: receives, has the processor handle, and answers.
//!
//! Not the gRPC side: it turns one stream of messages into another and does not care where they come from.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_stream::stream;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures_core::Stream;
use futures_util::StreamExt;
use tonic::{Status, metadata::MetadataMap};
use tracing::{Instrument as _, Span, debug};

use crate::{
    call::{Call, MoreTime},
    engine::{
        Engine,
        answers::{Announced, Answers, Part, Stage},
        failure::{Failure, guard},
        trace,
    },
    processor::Processor,
    reply::wire,
    types::Side,
    view::{Body, Headers, Trailers},
};

/// The replies to the messages of one exchange. It ends when the proxy ends its side, or when there is nothing more to
/// say.
pub(crate) fn run<P: Processor>(
    engine: Engine<P>,
    initial_metadata: MetadataMap,
    inbound: impl Stream<Item = Result<ProcessingRequest, Status>> + Send + 'static,
) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static {
    stream! {
        let mut inbound = pin!(inbound);
        let mut exchange = Exchange::new(engine, initial_metadata);
        let more_time = exchange.call.more_time.clone();
        let span = exchange.span.clone();
        while let Some(message) = inbound.next().await {
            let message = match message {
                Ok(message) => message,
                Err(status) => {
                    // The usual end: proxies reset the stream when the HTTP exchange is over.
                    debug!(%status, "the proxy ended the exchange");
                    break;
                }
            };
            {
                let mut work = pin!(exchange.handle(message).instrument(span.clone()));
                let mut asked = false;
                while let Some(time) = poll_fn(|cx| advance(work.as_mut(), &more_time, cx)).await {
                    if !asked {
                        asked = true;
                        yield Ok(wire::more_time(time));
                    }
                }
            }
            while let Some(reply) = exchange.answers.outbox.pop_front() {
                yield reply;
            }
            if exchange.answers.stage == Stage::Over {
                break;
            }
        }
    }
}

/// Ready with nothing when the work is done, or with the time that its handler asked for meanwhile.
fn advance(
    work: Pin<&mut impl Future<Output = ()>>,
    more_time: &MoreTime,
    cx: &mut Context<'_>,
) -> Poll<Option<Duration>> {
    let done = work.poll(cx).is_ready();
    match more_time.take() {
        _ if done => Poll::Ready(None),
        Some(time) => Poll::Ready(Some(time)),
        None => Poll::Pending,
    }
}

struct Exchange<P: Processor> {
    processor: Arc<P>,
    call: Call<P::State>,
    answers: Answers,
    span: Span,
}

impl<P: Processor> Exchange<P> {
    fn new(engine: Engine<P>, initial_metadata: MetadataMap) -> Self {
        Self {
            processor: engine.processor,
            span: trace::exchange(&initial_metadata),
            call: Call::new(initial_metadata),
            answers: Answers::new(engine.settings, engine.stats),
        }
    }

    async fn handle(&mut self, mut message: ProcessingRequest) {
        if let Some(metadata) = message.metadata_context.take() {
            self.call.metadata.replace(metadata);
        }
        let attributes = std::mem::take(&mut message.attributes);
        if !attributes.is_empty() {
            self.call.attributes.extend(attributes);
        }
        let first = self.answers.begun().is_none();
        let Some(part) = self.answers.receive(message) else {
            return;
        };
        trace::describe(&self.span, &part);
        self.call.modes = self.answers.modes;
        self.call.observe_only = self.answers.observe_only;
        if first && self.answers.begun() == Some(Announced::Modes) && !self.check_modes().await {
            return;
        }
        if self.answers.stage == Stage::PassThrough {
            return self.answers.pass_through(part);
        }
        match part {
            Part::Headers(side, headers) => self.headers(side, headers).await,
            Part::Body(side, body) => self.body(side, body).await,
            Part::Trailers(side, trailers) => self.trailers(side, trailers).await,
        }
    }

    /// False if the exchange has ended because the processor cannot work in these modes.
    async fn check_modes(&mut self) -> bool {
        let (processor, modes) = (&self.processor, self.answers.modes);
        let check = async { Ok(processor.check_modes(modes)) };
        let failure = match guard(None, check).await {
            Ok(Ok(())) => return true,
            Ok(Err(refusal)) => Failure::Modes(refusal),
            Err(failure) => failure,
        };
        self.answers.failed(None, &failure)
    }

    async fn headers(&mut self, side: Side, headers: Headers) {
        let (processor, call) = (&self.processor, &mut self.call);
        let deadline = self.answers.settings.deadline;
        let span = trace::phase(side.headers());
        let handled = match side {
            Side::Request => {
                let handler = async { processor.request_headers(call, &headers).await };
                guard(deadline, handler).instrument(span).await
            }
            Side::Response => {
                let handler = async { processor.response_headers(call, &headers).await };
                guard(deadline, handler).instrument(span).await
            }
        };
        match side {
            Side::Request => self.call.request = Some(headers),
            Side::Response => self.call.response = Some(headers),
        }
        let checked = handled.and_then(|reply| {
            self.answers.check_headers(side, &reply)?;
            Ok(reply)
        });
        if let Some(reply) = self.answers.settle(side.headers(), checked) {
            self.answers.answer_headers(side, reply);
        }
    }

    async fn body(&mut self, side: Side, body: Body) {
        let (processor, call) = (&self.processor, &mut self.call);
        let deadline = self.answers.settings.deadline;
        let span = trace::phase(side.body());
        let handled = match side {
            Side::Request => {
                let handler = async { processor.request_body(call, &body).await };
                guard(deadline, handler).instrument(span).await
            }
            Side::Response => {
                let handler = async { processor.response_body(call, &body).await };
                guard(deadline, handler).instrument(span).await
            }
        };
        let checked = handled.and_then(|reply| {
            self.answers.check_body(side, &reply)?;
            Ok(reply)
        });
        if let Some(reply) = self.answers.settle(side.body(), checked) {
            self.answers.answer_body(side, body, reply);
        }
    }

    async fn trailers(&mut self, side: Side, trailers: Trailers) {
        let (processor, call) = (&self.processor, &mut self.call);
        let deadline = self.answers.settings.deadline;
        let span = trace::phase(side.trailers());
        let handled = match side {
            Side::Request => {
                let handler = async { processor.request_trailers(call, &trailers).await };
                guard(deadline, handler).instrument(span).await
            }
            Side::Response => {
                let handler = async { processor.response_trailers(call, &trailers).await };
                guard(deadline, handler).instrument(span).await
            }
        };
        let checked = handled.and_then(|reply| {
            self.answers.check_trailers(side, &reply)?;
            Ok(reply)
        });
        if let Some(reply) = self.answers.settle(side.trailers(), checked) {
            self.answers.answer_trailers(side, reply);
        }
    }
}
