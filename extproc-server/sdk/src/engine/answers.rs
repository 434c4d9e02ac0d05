//! The answers of one exchange: which messages of the proxy need one, in which form, and what has been said already.
//!
//! Not who gives them: that is a matter of [exchanges](super::exchange).

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
    processing_request::Request,
};
use http::StatusCode;
use tonic::Status;
use tracing::{error, warn};

use crate::{
    engine::{OnFailure, Settings, failure::Failure},
    reply::{
        BodyReply, Content, Extras, HeadersReply, Mutation, TrailersReply,
        validate::{self, InvalidReply},
        wire,
    },
    stats::Stats,
    types::{BodyMode, Modes, Phase, Side, Target},
    view::{Body, Headers, Trailers},
};

/// A message that needs an answer.
#[derive(Debug)]
pub(crate) enum Part {
    Headers(Side, Headers),
    Body(Side, Body),
    Trailers(Side, Trailers),
}

/// See the [module](self).
pub(crate) struct Answers {
    pub(crate) modes: Modes,
    pub(crate) observe_only: bool,
    pub(crate) stage: Stage,
    pub(crate) outbox: VecDeque<Result<ProcessingResponse, Status>>,
    pub(crate) settings: Settings,
    pub(crate) stats: Arc<Stats>,
    request: Direction,
    response: Direction,
    /// Metadata of replies that had no message of their own, for the next one.
    unsent: Extras,
    /// A streamed response has begun; messages are shown, and not answered.
    pub(crate) responding: bool,
    /// Set by the first message; says whether it told how bodies are sent.
    begun: Option<Announced>,
}

/// State of the proxy's announcement of its body modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// No: an old proxy, or one that only lets us observe.
    Nothing,
    Modes,
}

/// Source of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
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
    /// A piece of the body was received.
    bodied: bool,
    /// A piece of the body was answered.
    answered: bool,
    /// The headers, as far as known with our changes, have a `content-length`.
    declares_length: bool,
}

/// Progress of the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Received {
    #[default]
    Nothing,
    Headers,
    Body,
    End,
}

impl Answers {
    pub(crate) fn new(settings: Settings, stats: Arc<Stats>) -> Self {
        stats.started.add();
        Self {
            modes: Modes::default(),
            observe_only: false,
            stage: Stage::Processing,
            outbox: VecDeque::new(),
            settings,
            stats,
            request: Direction::default(),
            response: Direction::default(),
            unsent: Extras::default(),
            responding: false,
            begun: None,
        }
    }

    /// Takes a message; returns what must be answered.
    pub(crate) fn receive(&mut self, message: ProcessingRequest) -> Option<Part> {
        if self.begun.is_none() {
            self.begun = Some(Announced::Nothing);
            self.observe_only = message.observability_mode;
            if let Some(config) = &message.protocol_config {
                match Modes::from_wire(config) {
                    Ok(modes) => {
                        self.modes = modes;
                        self.begun = Some(Announced::Modes);
                    }
                    Err(number) => {
                        self.unknown(Failure::UnknownMode(number));
                        return None;
                    }
                }
            }
        }
        match message.request {
            Some(Request::RequestHeaders(headers)) => Some(self.headers(Side::Request, headers)),
            Some(Request::ResponseHeaders(headers)) => Some(self.headers(Side::Response, headers)),
            Some(Request::RequestBody(body)) => self.body(Side::Request, body),
            Some(Request::ResponseBody(body)) => self.body(Side::Response, body),
            Some(Request::RequestTrailers(trailers)) => self.trailers(Side::Request, trailers),
            Some(Request::ResponseTrailers(trailers)) => self.trailers(Side::Response, trailers),
            None => {
                // Offers of side-stream flow control ask for no answer.
                if message.flow_control_init.is_none() && message.client_window_update.is_none() {
                    self.unknown(Failure::UnknownMessage);
                }
                None
            }
        }
    }

    /// Returns the contents of the first message, once it is there.
    pub(crate) fn begun(&self) -> Option<Announced> {
        self.begun
    }

    /// Answers a message so that nothing changes.
    pub(crate) fn pass_through(&mut self, part: Part) {
        match part {
            Part::Headers(side, _) => self.answer_headers(side, HeadersReply::new()),
            Part::Body(side, body) => self.answer_body(side, body, BodyReply::new()),
            Part::Trailers(side, _) => self.answer_trailers(side, TrailersReply::new()),
        }
    }

    fn headers(&mut self, side: Side, message: HttpHeaders) -> Part {
        let phase = side.headers();
        let headers = Headers::new(message.headers, message.end_of_stream);
        let received = if headers.end_of_stream() {
            Received::End
        } else {
            Received::Headers
        };
        self.note(side, phase, Received::Nothing, received);
        self.direction(side).declares_length = headers.get("content-length").is_some();
        Part::Headers(side, headers)
    }

    fn body(&mut self, side: Side, message: HttpBody) -> Option<Part> {
        let body = Body {
            data: message.body.into(),
            end_of_stream: message.end_of_stream || message.end_of_stream_without_message,
            grpc_compressed: message.grpc_message_compressed,
            without_message: message.end_of_stream_without_message,
        };
        let received = if body.end_of_stream {
            Received::End
        } else {
            Received::Body
        };
        self.note(side, side.body(), Received::Body, received);
        let direction = self.direction(side);
        direction.bodied = true;
        let shown = !direction.done || self.responding;
        shown.then_some(Part::Body(side, body))
    }

    fn trailers(&mut self, side: Side, message: HttpTrailers) -> Option<Part> {
        let trailers = Trailers::new(message.trailers);
        self.note(side, side.trailers(), Received::Body, Received::End);
        let shown = !self.is_done(side) || self.responding;
        shown.then_some(Part::Trailers(side, trailers))
    }

    pub(crate) fn answer_headers(&mut self, side: Side, reply: HeadersReply) {
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
        let modes = self.modes;
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
                self.modes = mode.apply(modes);
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

    pub(crate) fn answer_body(&mut self, side: Side, received: Body, reply: BodyReply) {
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
            let direction = self.direction(side);
            let first = !std::mem::replace(&mut direction.answered, true);
            if let Some(length) = length
                && first
                && direction.declares_length
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

    pub(crate) fn answer_trailers(&mut self, side: Side, reply: TrailersReply) {
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

    pub(crate) fn send_pieces(&mut self, side: Side, body: Bytes, end: bool) {
        for piece in wire::pieces(self.mode(side), body, end) {
            self.send(wire::streamed(side, piece));
        }
    }

    /// Ends a body in a duplex mode.
    pub(crate) fn end_body(&mut self, side: Side) {
        self.send(wire::streamed(side, wire::end_of_body(self.mode(side))));
        self.direction(side).done = true;
    }

    /// Begins a streamed response in place of the answer to the request headers.
    pub(crate) fn begin_response(&mut self, status: StatusCode, headers: Mutation) {
        self.responding = true;
        self.stats.immediate.add();
        self.send(wire::response_head(status, headers));
    }

    pub(crate) fn is_done(&self, side: Side) -> bool {
        match side {
            Side::Request => self.request.done,
            Side::Response => self.response.done,
        }
    }

    pub(crate) fn check_headers(
        &self,
        side: Side,
        reply: &HeadersReply,
    ) -> Result<(), InvalidReply> {
        self.check(&reply.mutation, &reply.extras, side.target())?;
        if reply.body.is_some() && self.mode(side) == BodyMode::Grpc {
            return Err(InvalidReply::BodyInGrpcMode);
        }
        Ok(())
    }

    pub(crate) fn check_body(&self, side: Side, reply: &BodyReply) -> Result<(), InvalidReply> {
        self.check(&reply.mutation, &reply.extras, side.target())
    }

    pub(crate) fn check_trailers(
        &self,
        side: Side,
        reply: &TrailersReply,
    ) -> Result<(), InvalidReply> {
        self.check(&reply.mutation, &reply.extras, Target::Trailers)?;
        let bodied = match side {
            Side::Request => self.request.bodied,
            Side::Response => self.response.bodied,
        };
        if reply.body.is_some() && !(bodied && self.mode(side).is_duplex()) {
            return Err(InvalidReply::BodyBeforeTrailers);
        }
        Ok(())
    }

    fn check(
        &self,
        mutation: &Mutation,
        extras: &Extras,
        target: Target,
    ) -> Result<(), InvalidReply> {
        let limits = self.settings.limits;
        if let Some(immediate) = &extras.immediate {
            if immediate.status.is_informational() {
                return Err(InvalidReply::ImmediateStatus(immediate.status.as_u16()));
            }
            return validate::mutation(&immediate.mutation, Target::Immediate, limits);
        }
        validate::mutation(mutation, target, limits)
    }

    /// The reply to send, or none if the exchange has ended with a failure.
    pub(crate) fn settle<R: Default>(
        &mut self,
        phase: Phase,
        reply: Result<R, Failure>,
    ) -> Option<R> {
        match reply {
            Ok(reply) => Some(reply),
            Err(failure) => self.failed(Some(phase), &failure).then(R::default),
        }
    }

    /// Notes that a handler has failed. False if the exchange has ended with that.
    pub(crate) fn failed(&mut self, phase: Option<Phase>, failure: &Failure) -> bool {
        failure.count(&self.stats);
        error!(phase = phase.map(Phase::name), "{failure}");
        if self.observe_only {
            return true;
        }
        if self.stage == Stage::Over {
            return false;
        }
        match self.settings.on_failure {
            OnFailure::Status => {
                self.outbox.push_back(Err(failure.status()));
                self.stage = Stage::Over;
                false
            }
            OnFailure::PassThrough => {
                self.stage = Stage::PassThrough;
                true
            }
        }
    }

    /// Ends the exchange: there is no telling what would be an answer.
    pub(crate) fn unknown(&mut self, failure: Failure) {
        failure.count(&self.stats);
        warn!("{failure}");
        if self.settings.on_failure == OnFailure::Status && !self.observe_only {
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
        if !self.observe_only {
            self.stats.immediate.add();
            self.send(wire::immediate(*immediate));
            self.stage = Stage::Over;
        }
        false
    }

    fn skip_rest_if_asked(&mut self) {
        if self.unsent.skip_rest && self.stage != Stage::Over {
            self.skip_rest();
        }
    }

    /// Leaves the rest of the exchange to the proxy.
    pub(crate) fn skip_rest(&mut self) {
        let Modes {
            request_body,
            response_body,
            ..
        } = self.modes;
        self.stage = if request_body.is_duplex() || response_body.is_duplex() {
            Stage::PassThrough
        } else {
            Stage::Over
        };
    }

    pub(crate) fn send(&mut self, mut message: ProcessingResponse) {
        if self.observe_only {
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
        self.stats.received(phase);
        let direction = self.direction(side);
        let unexpected = direction.received > at_most;
        direction.received = direction.received.max(received);
        if unexpected {
            self.stats.unexpected.add();
            warn!(%phase, "the proxy sent a message out of order");
        }
    }

    fn direction(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    pub(crate) fn mode(&self, side: Side) -> BodyMode {
        match side {
            Side::Request => self.modes.request_body,
            Side::Response => self.modes.response_body,
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.stats.finished.add();
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
