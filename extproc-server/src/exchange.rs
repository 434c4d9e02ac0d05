//! One exchange: receives, has the processor handle, and answers, in the form that the body mode asks for.
//!
//! Not the gRPC side: it turns one stream of messages into another and does not care where they come from.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use async_stream::stream;
use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
    processing_request::Request,
};
use futures_core::Stream;
use futures_util::StreamExt;
use tonic::{Status, metadata::MetadataMap};
use tracing::{debug, error, warn};

use crate::{
    call::{Call, MoreTime},
    failure::{Failure, guard},
    headers::{Body, Headers, Trailers},
    mode::{BodyMode, Modes},
    processor::Processor,
    reply::{BodyReply, Content, Extras, HeadersReply, Mutation, TrailersReply},
    service::{Engine, OnFailure},
    stats::Phase,
    validate::{self, InvalidReply, Target},
    wire::{self, Side},
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
                let mut work = pin!(exchange.handle(message));
                let mut asked = false;
                while let Some(time) = poll_fn(|cx| advance(work.as_mut(), &more_time, cx)).await {
                    if !asked {
                        asked = true;
                        yield Ok(wire::more_time(time));
                    }
                }
            }
            while let Some(reply) = exchange.outbox.pop_front() {
                yield reply;
            }
            if exchange.stage == Stage::Over {
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
    engine: Engine<P>,
    call: Call<P::State>,
    stage: Stage,
    request: Direction,
    response: Direction,
    /// Metadata of replies that had no message of their own, for the next one.
    unsent: Extras,
    outbox: VecDeque<Result<ProcessingResponse, Status>>,
    begun: bool,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The processor.
    Processing,
    /// The SDK, with nothing changed.
    PassThrough,
    /// Nobody; the stream ends.
    Over,
}

/// One direction of the exchange: the request, or the response.
#[derive(Default)]
struct Direction {
    received: Received,
    /// Everything was said: what still comes is not answered, since the proxy would take an answer for an error. So
    /// after the body was replaced along with the headers, and after an end of stream in a duplex mode.
    done: bool,
    /// The headers, as far as known with our changes, have a `content-length`.
    declares_length: bool,
}

/// How far the proxy has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Received {
    #[default]
    Nothing,
    Headers,
    Body,
    End,
}

impl<P: Processor> Exchange<P> {
    fn new(engine: Engine<P>, initial_metadata: MetadataMap) -> Self {
        engine.stats.started.add();
        Self {
            engine,
            call: Call::new(initial_metadata),
            stage: Stage::Processing,
            request: Direction::default(),
            response: Direction::default(),
            unsent: Extras::default(),
            outbox: VecDeque::new(),
            begun: false,
        }
    }

    async fn handle(&mut self, message: ProcessingRequest) {
        let ProcessingRequest {
            request,
            metadata_context,
            attributes,
            observability_mode,
            protocol_config,
            flow_control_init,
            client_window_update,
            ..
        } = message;
        if !self.begun {
            self.begun = true;
            self.call.observe_only = observability_mode;
            if let Some(config) = &protocol_config {
                match Modes::from_wire(config) {
                    Ok(modes) => self.call.modes = modes,
                    Err(number) => return self.unknown(Failure::UnknownMode(number)),
                }
            }
        }
        if let Some(metadata) = metadata_context {
            self.call.metadata.replace(metadata);
        }
        if !attributes.is_empty() {
            self.call.attributes.extend(attributes);
        }
        match request {
            Some(Request::RequestHeaders(headers)) => self.headers(Side::Request, headers).await,
            Some(Request::ResponseHeaders(headers)) => self.headers(Side::Response, headers).await,
            Some(Request::RequestBody(body)) => self.body(Side::Request, body).await,
            Some(Request::ResponseBody(body)) => self.body(Side::Response, body).await,
            Some(Request::RequestTrailers(trailers)) => {
                self.trailers(Side::Request, trailers).await;
            }
            Some(Request::ResponseTrailers(trailers)) => {
                self.trailers(Side::Response, trailers).await;
            }
            // Offers of side-stream flow control ask for no answer.
            None if flow_control_init.is_some() || client_window_update.is_some() => {}
            None => self.unknown(Failure::UnknownMessage),
        }
    }

    async fn headers(&mut self, side: Side, message: HttpHeaders) {
        let phase = side.headers();
        self.engine.stats.received(phase);
        let headers = Headers::new(message.headers, message.end_of_stream);
        let end = headers.end_of_stream();
        let received = if end {
            Received::End
        } else {
            Received::Headers
        };
        self.note(side, phase, Received::Nothing, received);
        self.direction(side).declares_length = headers.get("content-length").is_some();

        let reply = if self.stage == Stage::PassThrough {
            Ok(HeadersReply::new())
        } else {
            let Engine {
                processor,
                settings,
                ..
            } = &self.engine;
            let call = &mut self.call;
            match side {
                Side::Request => {
                    let handler = async { processor.request_headers(call, &headers).await };
                    guard(settings.deadline, handler).await
                }
                Side::Response => {
                    let handler = async { processor.response_headers(call, &headers).await };
                    guard(settings.deadline, handler).await
                }
            }
        };
        match side {
            Side::Request => self.call.request = Some(headers),
            Side::Response => self.call.response = Some(headers),
        }
        let checked = reply.and_then(|reply| {
            self.check_headers(side, &reply)?;
            Ok(reply)
        });
        if let Some(reply) = self.settle(phase, checked) {
            self.answer_headers(side, reply);
        }
    }

    async fn body(&mut self, side: Side, message: HttpBody) {
        let phase = side.body();
        self.engine.stats.received(phase);
        let body = Body {
            data: message.body.into(),
            end_of_stream: message.end_of_stream || message.end_of_stream_without_message,
            grpc_compressed: message.grpc_message_compressed,
            without_message: message.end_of_stream_without_message,
        };
        let first = self.direction(side).received < Received::Body;
        let received = if body.end_of_stream {
            Received::End
        } else {
            Received::Body
        };
        self.note(side, phase, Received::Body, received);
        if self.direction(side).done {
            return;
        }

        let reply = if self.stage == Stage::PassThrough {
            Ok(BodyReply::new())
        } else {
            let Engine {
                processor,
                settings,
                ..
            } = &self.engine;
            let call = &mut self.call;
            match side {
                Side::Request => {
                    let handler = async { processor.request_body(call, &body).await };
                    guard(settings.deadline, handler).await
                }
                Side::Response => {
                    let handler = async { processor.response_body(call, &body).await };
                    guard(settings.deadline, handler).await
                }
            }
        };
        let checked = reply.and_then(|reply| {
            self.check(&reply.mutation, &reply.extras, side.target())?;
            Ok(reply)
        });
        if let Some(reply) = self.settle(phase, checked) {
            self.answer_body(side, first, body, reply);
        }
    }

    async fn trailers(&mut self, side: Side, message: HttpTrailers) {
        let phase = side.trailers();
        self.engine.stats.received(phase);
        let trailers = Trailers::new(message.trailers);
        let bodied = self.direction(side).received == Received::Body;
        self.note(side, phase, Received::Body, Received::End);
        if self.direction(side).done {
            return;
        }

        let reply = if self.stage == Stage::PassThrough {
            Ok(TrailersReply::new())
        } else {
            let Engine {
                processor,
                settings,
                ..
            } = &self.engine;
            let call = &mut self.call;
            match side {
                Side::Request => {
                    let handler = async { processor.request_trailers(call, &trailers).await };
                    guard(settings.deadline, handler).await
                }
                Side::Response => {
                    let handler = async { processor.response_trailers(call, &trailers).await };
                    guard(settings.deadline, handler).await
                }
            }
        };
        let checked = reply.and_then(|reply| {
            self.check(&reply.mutation, &reply.extras, Target::Trailers)?;
            if reply.body.is_some() && !(bodied && self.mode(side).is_duplex()) {
                return Err(InvalidReply::BodyBeforeTrailers.into());
            }
            Ok(reply)
        });
        if let Some(reply) = self.settle(phase, checked) {
            self.answer_trailers(side, reply);
        }
    }

    fn answer_headers(&mut self, side: Side, reply: HeadersReply) {
        let HeadersReply {
            mut mutation,
            body,
            clear_route_cache,
            mode,
            extras,
        } = reply;
        if !self.take(extras) {
            return;
        }
        let modes = self.call.modes;
        let direction = self.direction(side);
        if let Some(body) = &body {
            correct_length(&mut mutation, direction.declares_length, body.len());
        }
        if mutation.sets().any(|(name, _)| name == "content-length") {
            direction.declares_length = true;
        } else if mutation.removes().any(|name| name == "content-length") {
            direction.declares_length = false;
        }
        direction.done = body.is_some();
        let mut message = wire::headers(side, mutation, body, clear_route_cache);
        if let Some(mode) = mode {
            if modes.can_override() {
                message.mode_override = Some(mode.to_wire(modes));
                self.call.modes = mode.apply(modes);
            } else {
                warn!(
                    phase = %side.headers(),
                    "the proxy cannot change its processing mode in this exchange; mode override not sent"
                );
            }
        }
        self.send(message);
        self.skip_rest_if_asked();
    }

    fn answer_body(&mut self, side: Side, first: bool, received: Body, reply: BodyReply) {
        let BodyReply {
            mut mutation,
            content,
            clear_route_cache,
            extras,
        } = reply;
        if !self.take(extras) {
            return;
        }
        let mode = self.mode(side);
        let end = received.end_of_stream;
        if mode.is_duplex() {
            match content {
                Content::Keep if mode == BodyMode::Grpc => {
                    self.send(wire::streamed(side, wire::same_message(received)));
                }
                Content::Keep => self.send_pieces(side, received.data, end),
                Content::Replace(body) => {
                    drop(received);
                    self.send_pieces(side, body, end);
                }
                Content::Clear if end => self.send(wire::streamed(side, wire::end_of_body(mode))),
                Content::Clear => {}
            }
            if end {
                self.direction(side).done = true;
            }
        } else {
            let length = match &content {
                Content::Keep => None,
                Content::Replace(body) => Some(body.len()),
                Content::Clear => Some(0),
            };
            // If the headers are still held, the proxy compares their content-length with the new body. It holds them
            // for a buffered body, and may hold them for the first piece of any other: then the length of the whole is
            // known only if that piece is the last.
            if let Some(length) = length
                && first
                && self.direction(side).declares_length
            {
                if mode == BodyMode::Buffered || end {
                    correct_length(&mut mutation, true, length);
                } else {
                    mutation.forget("content-length");
                    mutation.remove("content-length");
                }
            }
            self.send(wire::body(side, mutation, content, clear_route_cache));
        }
        self.skip_rest_if_asked();
    }

    fn answer_trailers(&mut self, side: Side, reply: TrailersReply) {
        let TrailersReply {
            mutation,
            body,
            extras,
        } = reply;
        if !self.take(extras) {
            return;
        }
        if let Some(body) = body {
            self.send_pieces(side, body, false);
        }
        self.send(wire::trailers(side, mutation));
        self.skip_rest_if_asked();
    }

    fn send_pieces(&mut self, side: Side, body: Bytes, end: bool) {
        for piece in wire::pieces(self.mode(side), body, end) {
            self.send(wire::streamed(side, piece));
        }
    }

    fn check_headers(&self, side: Side, reply: &HeadersReply) -> Result<(), InvalidReply> {
        self.check(&reply.mutation, &reply.extras, side.target())?;
        if reply.body.is_some() && self.mode(side) == BodyMode::Grpc {
            return Err(InvalidReply::BodyInGrpcMode);
        }
        Ok(())
    }

    fn check(
        &self,
        mutation: &Mutation,
        extras: &Extras,
        target: Target,
    ) -> Result<(), InvalidReply> {
        let limits = self.engine.settings.limits;
        if let Some(immediate) = &extras.immediate {
            if immediate.status.is_informational() {
                return Err(InvalidReply::ImmediateStatus(immediate.status.as_u16()));
            }
            return validate::mutation(&immediate.mutation, Target::Immediate, limits);
        }
        validate::mutation(mutation, target, limits)
    }

    /// The reply to send, or none if the exchange has ended with a failure.
    fn settle<R: Default>(&mut self, phase: Phase, reply: Result<R, Failure>) -> Option<R> {
        let failure = match reply {
            Ok(reply) => return Some(reply),
            Err(failure) => failure,
        };
        failure.count(&self.engine.stats);
        error!(%phase, "{failure}");
        if self.call.observe_only {
            return Some(R::default());
        }
        match self.engine.settings.on_failure {
            OnFailure::Status => {
                self.outbox.push_back(Err(failure.status()));
                self.stage = Stage::Over;
                None
            }
            OnFailure::PassThrough => {
                self.stage = Stage::PassThrough;
                Some(R::default())
            }
        }
    }

    /// Ends the exchange: there is no telling what would be an answer.
    fn unknown(&mut self, failure: Failure) {
        failure.count(&self.engine.stats);
        warn!("{failure}");
        if self.engine.settings.on_failure == OnFailure::Status && !self.call.observe_only {
            self.outbox.push_back(Err(failure.status()));
        }
        self.stage = Stage::Over;
    }

    /// Keeps what goes beside a reply. False if the reply is an immediate response, which has then been sent.
    fn take(&mut self, extras: Extras) -> bool {
        self.unsent.metadata.fields.extend(extras.metadata.fields);
        self.unsent.typed_metadata.extend(extras.typed_metadata);
        self.unsent.skip_rest |= extras.skip_rest;
        let Some(immediate) = extras.immediate else {
            return true;
        };
        if !self.call.observe_only {
            self.engine.stats.immediate.add();
            self.send(wire::immediate(*immediate));
            self.stage = Stage::Over;
        }
        false
    }

    fn skip_rest_if_asked(&mut self) {
        if !self.unsent.skip_rest || self.stage == Stage::Over {
            return;
        }
        let Modes {
            request_body,
            response_body,
            ..
        } = self.call.modes;
        self.stage = if request_body.is_duplex() || response_body.is_duplex() {
            Stage::PassThrough
        } else {
            Stage::Over
        };
    }

    fn send(&mut self, mut message: ProcessingResponse) {
        if self.call.observe_only {
            return;
        }
        if !self.unsent.metadata.fields.is_empty() {
            message.dynamic_metadata = Some(std::mem::take(&mut self.unsent.metadata));
        }
        message.typed_dynamic_metadata = std::mem::take(&mut self.unsent.typed_metadata);
        self.outbox.push_back(Ok(message));
    }

    /// Follows the order of a direction. A message out of order is answered like any other, since an answer that the
    /// proxy does not expect costs no more than one that it misses.
    fn note(&mut self, side: Side, phase: Phase, at_most: Received, received: Received) {
        let direction = self.direction(side);
        let unexpected = direction.received > at_most;
        direction.received = direction.received.max(received);
        if unexpected {
            self.engine.stats.unexpected.add();
            warn!(%phase, "the proxy sent a message out of order");
        }
    }

    fn direction(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    fn mode(&self, side: Side) -> BodyMode {
        match side {
            Side::Request => self.call.modes.request_body,
            Side::Response => self.call.modes.response_body,
        }
    }
}

impl<P: Processor> Drop for Exchange<P> {
    fn drop(&mut self) {
        self.engine.stats.finished.add();
    }
}

/// Has a message that declares a length declare this one, unless the processor takes the header away.
fn correct_length(mutation: &mut Mutation, declared: bool, length: usize) {
    let named = |name: &str| name == "content-length";
    if mutation.removes().any(named) {
        return;
    }
    if declared || mutation.sets().any(|(name, _)| named(name)) {
        mutation.forget("content-length");
        mutation.set("content-length", length.to_string().as_bytes());
    }
}
