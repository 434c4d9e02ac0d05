//! State that a conversation shares with the reply stream around it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Metadata,
        service::ext_proc::v3::{ProcessingRequest, ProcessingResponse},
    },
    google::protobuf::Struct,
};
use http::{HeaderMap, StatusCode};
use tonic::Status;
use tracing::Span;

use super::ConversationError;
use crate::{
    engine::{
        Settings,
        answers::{Answers, Part, Stage},
        failure::Failure,
        trace,
    },
    reply::{
        BodyReply, HeadersReply, Immediate, Mutation, TrailersReply,
        validate::{self, InvalidReply},
        wire,
    },
    stats::Stats,
    types::{BodyMode, Modes, Side, Target},
    view::Body,
};

/// Replies that may wait for the proxy before the handler has to.
const ROOM: usize = 16;

/// A message on its way to the handler.
pub(super) struct Notes {
    pub(super) part: Part,
    pub(super) metadata: Option<Metadata>,
    pub(super) attributes: HashMap<String, Struct>,
}

pub(super) struct Shared {
    answers: Answers,
    inbox: VecDeque<Notes>,
    /// No message comes any more.
    ended: bool,
    /// Nothing that the conversation says is heard any more.
    left: bool,
    request: Unanswered,
    response: Unanswered,
    /// Wakers of the tasks that wait for a message, for room, and for something to send.
    reader: Option<Waker>,
    writer: Option<Waker>,
    driver: Option<Waker>,
}

/// Messages of one side that wait for an answer.
#[derive(Default)]
struct Unanswered {
    headers: bool,
    /// For each piece of a body, whether it is the last. In the duplex modes, whether there was one.
    pieces: VecDeque<bool>,
    trailers: bool,
    /// A piece of the body was received.
    bodied: bool,
}

impl Shared {
    pub(super) fn new(settings: Settings, stats: Arc<Stats>) -> Self {
        Self {
            answers: Answers::new(settings, stats),
            inbox: VecDeque::new(),
            ended: false,
            left: false,
            request: Unanswered::default(),
            response: Unanswered::default(),
            reader: None,
            writer: None,
            driver: None,
        }
    }

    // === what the reply stream does ===

    pub(super) fn take_reply(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        let reply = self.answers.outbox.pop_front()?;
        wake(&mut self.writer);
        Some(reply)
    }

    pub(super) fn has_replies(&self) -> bool {
        !self.answers.outbox.is_empty()
    }

    /// Has the reply stream woken when the conversation says something, or wants a message, elsewhere than in its poll.
    pub(super) fn park(&mut self, cx: &Context<'_>) {
        self.driver = Some(cx.waker().clone());
    }

    pub(super) fn wants_message(&self) -> bool {
        self.reader.is_some() && self.inbox.is_empty() && !self.ended
    }

    pub(super) fn stage(&self) -> Stage {
        self.answers.stage
    }

    pub(super) fn receive(&mut self, mut message: ProcessingRequest, span: &Span) {
        let metadata = message.metadata_context.take();
        let attributes = std::mem::take(&mut message.attributes);
        let Some(part) = self.answers.receive(message) else {
            return;
        };
        trace::describe(span, &part);
        if self.answers.stage == Stage::PassThrough {
            return self.answers.pass_through(part);
        }
        if !self.answers.responding {
            match &part {
                Part::Headers(side, _) => self.unanswered(*side).headers = true,
                Part::Body(side, body) => {
                    let end = body.end_of_stream;
                    let unanswered = self.unanswered(*side);
                    unanswered.bodied = true;
                    unanswered.pieces.push_back(end);
                }
                Part::Trailers(side, _) => self.unanswered(*side).trailers = true,
            }
        }
        self.inbox.push_back(Notes {
            part,
            metadata,
            attributes,
        });
        wake(&mut self.reader);
    }

    pub(super) fn end_of_messages(&mut self) {
        self.ended = true;
        wake(&mut self.reader);
    }

    /// The conversation is over, wherever it went on.
    pub(super) fn leave(&mut self) {
        self.ended = true;
        self.left = true;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// The handler has returned: what it left is passed through.
    pub(super) fn finish(&mut self, result: Result<(), Failure>) {
        self.leave();
        let mut untaken: Vec<_> = self.inbox.drain(..).map(|notes| notes.part).collect();
        if let Err(failure) = result {
            let begun = self.answers.responding && self.answers.stage != Stage::Over;
            if !self.answers.failed(None, &failure) {
                return;
            }
            if begun && !self.answers.observe_only {
                // What the client has of the response must not look complete: only an error cuts it.
                self.answers.outbox.push_back(Err(failure.status()));
                self.answers.stage = Stage::Over;
            }
        }
        if self.answers.stage == Stage::Over {
            return;
        }
        if self.answers.responding {
            // A streamed response without an end would never reach the client whole.
            self.answers.send(wire::response_end());
            self.answers.stage = Stage::Over;
            return;
        }
        for side in [Side::Request, Side::Response] {
            let unanswered = std::mem::take(self.unanswered(side));
            if unanswered.headers {
                self.answers.answer_headers(side, HeadersReply::new());
            }
            if self.answers.mode(side).is_duplex() {
                // What the handler has taken is its own; what it has not, and the end, are not.
                let is_body = |part: &mut Part| matches!(part, Part::Body(of, _) if *of == side);
                for part in untaken.extract_if(.., is_body) {
                    if !self.answers.is_done(side) {
                        self.answers.pass_through(part);
                    }
                }
                if unanswered.pieces.contains(&true) && !self.answers.is_done(side) {
                    self.answers.end_body(side);
                }
            } else {
                for end_of_stream in unanswered.pieces {
                    let piece = Body {
                        end_of_stream,
                        ..Body::default()
                    };
                    self.answers.answer_body(side, piece, BodyReply::new());
                }
            }
            if unanswered.trailers {
                self.answers.answer_trailers(side, TrailersReply::new());
            }
        }
        self.answers.skip_rest();
    }

    // === what the conversation does ===

    pub(super) fn poll_event(&mut self, cx: &Context<'_>) -> Poll<Option<Notes>> {
        if self.answers.stage == Stage::Over {
            return Poll::Ready(None);
        }
        if let Some(notes) = self.inbox.pop_front() {
            return Poll::Ready(Some(notes));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        self.reader = Some(cx.waker().clone());
        wake(&mut self.driver);
        Poll::Pending
    }

    pub(super) fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<(), ConversationError>> {
        self.must_be_heard()?;
        if self.answers.outbox.len() < ROOM {
            return Poll::Ready(Ok(()));
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn modes(&self) -> Modes {
        self.answers.modes
    }

    pub(super) fn observe_only(&self) -> bool {
        self.answers.observe_only
    }

    pub(super) fn headers(
        &mut self,
        side: Side,
        reply: HeadersReply,
    ) -> Result<(), ConversationError> {
        if !self.unanswered(side).headers {
            return out_of_turn("no headers wait for an answer");
        }
        self.answers.check_headers(side, &reply)?;
        let replaced = reply.body.is_some();
        self.answers.answer_headers(side, reply);
        let unanswered = self.unanswered(side);
        unanswered.headers = false;
        if replaced {
            // The proxy discards what it has sent of this message meanwhile.
            *unanswered = Unanswered::default();
        }
        self.said();
        Ok(())
    }

    pub(super) fn body(&mut self, side: Side, reply: BodyReply) -> Result<(), ConversationError> {
        if self.answers.mode(side).is_duplex() {
            return Err(ConversationError::Mode(
                "pieces are not answered one by one",
            ));
        }
        let unanswered = self.unanswered(side);
        if unanswered.headers {
            return out_of_turn("the headers wait for an answer");
        }
        let Some(end_of_stream) = unanswered.pieces.front().copied() else {
            return out_of_turn("no piece waits for an answer");
        };
        self.answers.check_body(side, &reply)?;
        self.unanswered(side).pieces.pop_front();
        let piece = Body {
            end_of_stream,
            ..Body::default()
        };
        self.answers.answer_body(side, piece, reply);
        self.said();
        Ok(())
    }

    pub(super) fn pass_body(&mut self, side: Side, body: Body) -> Result<(), ConversationError> {
        if !self.answers.mode(side).is_duplex() {
            return self.body(side, BodyReply::new());
        }
        self.may_send(side)?;
        if body.end_of_stream {
            self.unanswered(side).pieces.clear();
        }
        self.answers.answer_body(side, body, BodyReply::new());
        self.said();
        Ok(())
    }

    pub(super) fn trailers(
        &mut self,
        side: Side,
        reply: TrailersReply,
    ) -> Result<(), ConversationError> {
        let duplex = self.answers.mode(side).is_duplex();
        let unanswered = self.unanswered(side);
        if !unanswered.trailers {
            return out_of_turn("no trailers wait for an answer");
        }
        if unanswered.headers || !(duplex || unanswered.pieces.is_empty()) {
            return out_of_turn("something before the trailers waits for an answer");
        }
        self.answers.check_trailers(side, &reply)?;
        self.unanswered(side).trailers = false;
        self.answers.answer_trailers(side, reply);
        self.said();
        Ok(())
    }

    pub(super) fn send(&mut self, side: Side, data: Bytes) -> Result<(), ConversationError> {
        self.may_send(side)?;
        self.answers.send_pieces(side, data, false);
        self.said();
        Ok(())
    }

    pub(super) fn end(&mut self, side: Side) -> Result<(), ConversationError> {
        self.may_send(side)?;
        self.unanswered(side).pieces.clear();
        self.answers.end_body(side);
        self.said();
        Ok(())
    }

    pub(super) fn respond(&mut self, response: Immediate) -> Result<(), ConversationError> {
        self.must_be_heard()?;
        if self.answers.responding {
            return out_of_turn("a response has begun");
        }
        let reply = HeadersReply::from(response);
        self.answers.check_headers(Side::Request, &reply)?;
        self.answers.answer_headers(Side::Request, reply);
        self.said();
        Ok(())
    }

    pub(super) fn begin_response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<(), ConversationError> {
        if !self.request.headers || self.answers.responding {
            return out_of_turn("no request headers wait for an answer");
        }
        let mode = self.answers.mode(Side::Request);
        if !matches!(mode, BodyMode::None | BodyMode::FullDuplexStreamed) {
            return Err(ConversationError::Mode("no response can be streamed"));
        }
        if status.is_informational() {
            return Err(InvalidReply::ImmediateStatus(status.as_u16()).into());
        }
        let fields = self.checked(headers, Target::Immediate)?;
        self.request = Unanswered::default();
        self.answers.begin_response(status, fields);
        self.said();
        Ok(())
    }

    pub(super) fn response_data(&mut self, data: Bytes) -> Result<(), ConversationError> {
        self.must_respond()?;
        for piece in wire::pieces(BodyMode::FullDuplexStreamed, data, false) {
            self.answers.send(wire::response_data(piece));
        }
        self.said();
        Ok(())
    }

    pub(super) fn end_response(
        &mut self,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), ConversationError> {
        self.must_respond()?;
        let end = match trailers {
            None => wire::response_end(),
            Some(trailers) => wire::response_trailers(self.checked(trailers, Target::Trailers)?),
        };
        self.answers.send(end);
        self.answers.stage = Stage::Over;
        self.said();
        Ok(())
    }

    fn checked(&self, fields: &HeaderMap, target: Target) -> Result<Mutation, InvalidReply> {
        let mut mutation = Mutation::default();
        for (name, value) in fields {
            mutation.set(name.as_str(), value.as_bytes());
        }
        validate::mutation(&mutation, target, self.answers.settings.limits)?;
        Ok(mutation)
    }

    fn must_be_heard(&self) -> Result<(), ConversationError> {
        if self.left || self.answers.stage == Stage::Over {
            return Err(ConversationError::Over);
        }
        Ok(())
    }

    fn must_respond(&self) -> Result<(), ConversationError> {
        if self.answers.responding && self.answers.stage != Stage::Over {
            return Ok(());
        }
        out_of_turn("no streamed response is open")
    }

    fn may_send(&mut self, side: Side) -> Result<(), ConversationError> {
        if !self.answers.mode(side).is_duplex() {
            return Err(ConversationError::Mode("bytes cannot be sent unasked"));
        }
        if self.answers.responding || self.answers.is_done(side) {
            return out_of_turn("the body has ended");
        }
        let unanswered = self.unanswered(side);
        if unanswered.headers {
            return out_of_turn("the headers wait for an answer");
        }
        if !unanswered.bodied {
            return out_of_turn("no piece of the body has been received");
        }
        Ok(())
    }

    fn unanswered(&mut self, side: Side) -> &mut Unanswered {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    fn said(&mut self) {
        wake(&mut self.driver);
    }
}

fn out_of_turn<T>(reason: &'static str) -> Result<T, ConversationError> {
    Err(ConversationError::OutOfTurn(reason))
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
