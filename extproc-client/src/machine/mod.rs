//! The protocol: one HTTP request with its response, seen by one processor.
//!
//! [`Exchange`] is sans-IO. It never awaits, reads no clock, touches no body and no socket: inputs are
//! methods, time is an argument, outputs are polled. It builds and is tested without a runtime.
//!
//! After **every** input, drain the outputs in this order until both are empty:
//! 1. [`poll_outbound`](Exchange::poll_outbound): what goes to the processor;
//! 2. [`poll_action`](Exchange::poll_action): what goes to upstream and client.
//!
//! Then wait for the next input: a reply or the end of the side stream, a frame from a body for which
//! [`wants_frame`](Exchange::wants_frame) is true, the response, or the
//! [`next_timeout`](Exchange::next_timeout). When the HTTP exchange is over, however it ended, call
//! [`end`](Exchange::end).
//!
//! | file | holds |
//! |---|---|
//! | `half` | the life of one direction: headers, body, trailers |
//! | `progress` | how far a message is: from its sender, at the processor, to its receiver |
//! | `timer` | the message timeout of a direction |
//! | `flow` | events of the HTTP side |
//! | `reply` | replies of the processor, whatever their phase |
//! | `fit` | which reply fits |
//! | `body/*` | one file per body mode, and one for observability mode: what data and replies do |
//! | `mode` | `mode_override` and its rules |
//! | `failure` | which failure means what |
//! | `immediate` | replies that end the exchange at once |
//! | `local` | responses that the processor streams itself |

mod body;
mod failure;
mod fit;
mod flow;
mod half;
mod immediate;
mod local;
mod metadata;
mod mode;
mod observed;
mod progress;
mod reply;
mod send;
#[cfg(test)]
mod tests;
mod timer;

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, request, response};

use self::half::{Callback, Direction};
use crate::{
    config::{FilterConfig, Service},
    context::outcome::{Answer, ExchangeSummary},
    host::{ExchangeContext, ReplyForm},
    observer::{Event, HttpPart, Watch, Watcher},
    types::{
        phase::{Effect, Phase},
        stream::StreamFacts,
    },
    wire::message::Message,
};

pub(crate) use crate::types::phase::Side;

/// Output for the processor.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum Outbound {
    /// Open the side stream; the first output of a stream.
    Open,
    /// Send this.
    Message(Phase, Message),
    /// Nothing more is sent and nothing more is read.
    Close(Closing),
}

/// End of a side stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It is reset.
    Now,
    /// It is reset when what was just sent is on its way, which a reset at once would take back.
    Flushed,
    /// The processor may end its side within this time.
    Within(Duration),
}

/// Output for upstream and client.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum Action {
    /// Send the request on.
    RequestHead { head: request::Parts, end: bool },
    /// The answer of the upstream is not wanted any more: drop it, and the request with it.
    CancelRequest,
    /// Answer the client.
    ResponseHead { head: response::Parts, end: bool },
    /// Body bytes, after the head of that side.
    Data(Side, Bytes),
    /// Trailers; the side is complete.
    Trailers(Side, HeaderMap),
    /// The side is complete.
    End(Side),
    /// The response cannot be completed: cut it, or send this in its place where its head has not gone out.
    Abort(Box<Answer>),
}

/// Messages of an exchange that is over, whose stream stays open for them. As in Envoy, a stream that the processor ends
/// does not count as closed.
pub(crate) struct Rest {
    messages: VecDeque<(Phase, Message)>,
    watch: Option<Watch>,
    config: Arc<FilterConfig>,
    context: ExchangeContext,
}

impl Rest {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn config(&self) -> &FilterConfig {
        &self.config
    }

    /// The next message, which leaves.
    pub(crate) fn next(&mut self) -> Option<Message> {
        let (phase, message) = self.messages.pop_front()?;
        self.tell(phase, &message, true);
        Some(message)
    }

    /// The stream is over; `closed` if it was closed here.
    pub(crate) fn end(mut self, closed: bool) {
        for (phase, message) in std::mem::take(&mut self.messages) {
            self.tell(phase, &message, false);
        }
        if closed {
            self.event(&Event::StreamClosed);
        }
    }

    fn tell(&self, phase: Phase, message: &Message, left: bool) {
        self.event(&Event::MessageSent {
            phase,
            message,
            left,
        });
    }

    fn event(&self, event: &Event<'_>) {
        if let Some(watch) = &self.watch {
            watch.event(&self.config, &self.context, event);
        }
    }
}

/// The side stream, as the machine sees it.
///
/// ```text
/// Unopened ──first message──▶ Open ──close by either side──▶ Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Unopened,
    Open,
    Done,
}

/// Bytes of a request's body that are read while only its head is with the processor.
const READ_AHEAD: usize = 128 * 1024;

/// One exchange. See the module's documentation for the order of calls.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Exchange {
    config: Arc<FilterConfig>,
    context: ExchangeContext,
    watch: Option<Watch>,
    /// The processor may not say how messages are framed.
    guards_framing: bool,
    request: Direction,
    response: Direction,
    stream: Stream,
    /// No further message is sent and no reply is looked at: everything passes by.
    complete: bool,
    first_message_sent: bool,
    /// A response head was given to the client.
    committed: bool,
    /// The processor streams the response itself.
    local: local::Local,
    /// Form of local replies.
    form: ReplyForm,
    /// Heads kept for attributes.
    seen: send::Seen,
    summary: Cell<ExchangeSummary>,
    outbound: VecDeque<Outbound>,
    /// Bytes of copies in `outbound`, in observability mode.
    copied: usize,
    actions: VecDeque<Action>,
}

impl Exchange {
    pub(crate) fn new(
        config: Arc<FilterConfig>,
        context: ExchangeContext,
        observer: Option<&Arc<Watcher>>,
    ) -> Self {
        Self {
            request: Direction::new(
                config.mode.request(),
                context.limits.request_buffer,
                context.limits.request_headers,
            ),
            response: Direction::new(
                config.mode.response(),
                context.limits.response_buffer,
                context.limits.response_headers,
            ),
            watch: observer.map(|watcher| Watch::new(watcher, &context)),
            config,
            context,
            guards_framing: false,
            stream: Stream::Unopened,
            complete: false,
            first_message_sent: false,
            committed: false,
            local: local::Local::None,
            form: ReplyForm {
                grpc: false,
                head: false,
            },
            seen: send::Seen::default(),
            summary: Cell::default(),
            outbound: VecDeque::new(),
            copied: 0,
            actions: VecDeque::new(),
        }
    }

    /// Keeps the processor from saying how messages are framed, or not, as Envoy does.
    pub(crate) fn guard_framing(&mut self, guards: bool) {
        self.guards_framing = guards;
    }

    /// The next thing for the processor.
    pub(crate) fn poll_outbound(&mut self) -> Option<Outbound> {
        let next = self.outbound.pop_front()?;
        if let Outbound::Message(_, message) = &next {
            self.copied = self.copied.saturating_sub(message.framed_len());
        }
        if self.outbound.is_empty() && !self.complete {
            body::grpc::resume(self, Side::Request);
            body::grpc::resume(self, Side::Response);
        }
        Some(next)
    }

    /// Takes note of a message that left, or did not because the stream ended before.
    pub(crate) fn sent(&self, phase: Phase, message: &Message, left: bool) {
        self.event(&Event::MessageSent {
            phase,
            message,
            left,
        });
    }

    /// Tells whether the next thing for the processor is the end of the stream, which waits for nothing.
    pub(crate) fn closes_next(&self) -> bool {
        matches!(self.outbound.front(), Some(Outbound::Close(_)))
    }

    /// Tells whether messages for the processor are there.
    pub(crate) fn has_messages(&self) -> bool {
        matches!(self.outbound.front(), Some(Outbound::Message(..)))
    }

    /// Nothing more goes to the processor. As in Envoy, what was on its way counts as sent.
    fn forget_messages(&mut self) {
        self.copied = 0;
        for forgotten in std::mem::take(&mut self.outbound) {
            if let Outbound::Message(phase, message) = &forgotten {
                self.sent(*phase, message, false);
            }
        }
    }

    /// The next thing for upstream or client.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        let next = self.actions.pop_front()?;
        if self.is_watched() {
            self.show_action(&next);
        }
        Some(next)
    }

    fn show_action(&self, action: &Action) {
        let forwarded = |side, part, end| Event::Forwarded { side, part, end };
        let empty = Bytes::new();
        self.show(&match action {
            Action::RequestHead { head, end } => {
                forwarded(Side::Request, HttpPart::Request(head), *end)
            }
            Action::ResponseHead { head, end } => {
                forwarded(Side::Response, HttpPart::Response(head), *end)
            }
            Action::Data(side, data) => forwarded(*side, HttpPart::Data(data), false),
            Action::Trailers(side, trailers) => {
                forwarded(*side, HttpPart::Trailers(trailers), true)
            }
            Action::End(side) => forwarded(*side, HttpPart::Data(&empty), true),
            Action::CancelRequest => Event::RequestCancelled,
            Action::Abort(answer) => Event::Aborted {
                details: answer.details(),
            },
        });
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        match (self.request.deadline(), self.response.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Tells whether one more frame of that side's body may be given. False is back-pressure, or the side is
    /// complete or not wanted.
    pub(crate) fn wants_frame(&self, side: Side) -> bool {
        let direction = self.direction(side);
        if direction.came.is_ended() || !direction.has_head() {
            return false;
        }
        if self.local.is_active() {
            return side == Side::Request && self.local_wants_request();
        }
        if self.complete {
            return true;
        }
        let unasked = direction.callback == Callback::Headers
            && direction.mode.shows_headers_alone()
            && !self.config.allow_mode_override;
        if unasked && !self.reads_ahead(side) {
            return false;
        }
        (self.outbound.is_empty() || self.is_observed()) && direction.has_room()
    }

    /// Tells whether a body is read although nobody asks for it before the head goes on: only who reads learns that the client or the
    /// upstream is gone, and a request that is here as a whole lets its connection go on after an answer of ours. Of a request
    /// more than a little stays where it is.
    fn reads_ahead(&self, side: Side) -> bool {
        let little = self.request.held.len() < READ_AHEAD && !self.context.awaits_continue;
        side == Side::Response || little
    }

    /// Tells whether more was received of that side's body than may be kept, and its end was not.
    pub(crate) fn is_overfull(&self, side: Side) -> bool {
        let direction = self.direction(side);
        !direction.came.is_ended() && direction.has_head() && direction.is_overfull()
    }

    /// Bytes that are kept here, of both bodies.
    pub(crate) fn kept(&self) -> usize {
        self.request.kept() + self.response.kept() + self.copied
    }

    /// Body bytes of the request that were received.
    pub(crate) fn request_size(&self) -> u64 {
        self.request.size
    }

    /// Body bytes of the request that passed by unseen, for attributes.
    pub(crate) fn set_request_size(&mut self, bytes: u64) {
        self.request.size = self.request.size.max(bytes);
    }

    /// Tells whether attributes may ask for the size of a body that passes by.
    pub(crate) fn counts_request(&self) -> bool {
        !self.config.response_attributes.entries.is_empty()
    }

    /// Tells whether bodies of that side pass by without the machine needing to see them.
    pub(crate) fn passes_by(&self, side: Side) -> bool {
        let direction = self.direction(side);
        let unseen = direction.is_forwarded() && direction.is_pass_by();
        unseen
            && (self.complete || !direction.mode.trailers && !self.observes_body(side))
            && !self.local.is_active()
    }

    /// Returns true if that side is given no other bytes from now on than those that still come, be it in other pieces.
    pub(crate) fn adds_nothing(&self, side: Side) -> bool {
        self.direction(side).adds_nothing()
    }

    /// Tells whether nothing is left to do for the machine: the rest passes by and no reply is expected.
    pub(crate) fn is_finished(&self) -> bool {
        self.complete && self.outbound.is_empty() && self.actions.is_empty()
    }

    /// Tells whether the side stream is to stay open after the exchange, for its `deferred_close_timeout`.
    pub(crate) fn defers_close(&self) -> bool {
        self.config.observability_mode && self.stream == Stream::Open
    }

    /// Tells whether the processor gets copies alone, and so nothing waits for it.
    pub(crate) fn is_observed(&self) -> bool {
        self.config.observability_mode
    }

    /// Takes what was not sent, behind a message that waits already, for a stream that outlives the exchange.
    pub(crate) fn take_rest(&mut self, waiting: Option<(Phase, Message)>) -> Rest {
        self.stream = Stream::Done;
        self.copied = 0;
        let mut rest = Rest {
            messages: waiting.into_iter().collect(),
            watch: self.watch.clone(),
            config: self.config.clone(),
            context: self.context.clone(),
        };
        for outbound in std::mem::take(&mut self.outbound) {
            if let Outbound::Message(phase, message) = outbound {
                rest.messages.push_back((phase, message));
            }
        }
        let mut summary = self.summary.get();
        summary.sent += u32::try_from(rest.messages.len()).unwrap_or(u32::MAX);
        self.summary.set(summary);
        rest
    }

    /// The HTTP exchange is over. Closes the side stream.
    pub(crate) fn end(&mut self) {
        self.close_stream();
    }

    /// Nothing more is told of the exchange, but the deferred close of its stream.
    pub(crate) fn over(&self) {
        self.show(&Event::Ended {
            summary: &self.summary.get(),
            request_bytes: self.request.size,
            response_bytes: self.response.size,
        });
    }

    /// The configuration of this exchange.
    pub(crate) fn config(&self) -> &Arc<FilterConfig> {
        &self.config
    }

    /// The surroundings of this exchange.
    pub(crate) fn context(&self) -> &ExchangeContext {
        &self.context
    }

    /// The side stream is about to be opened with this metadata.
    pub(crate) fn opening(&self, metadata: &mut HeaderMap) {
        if let Some(watch) = &self.watch {
            watch.opening(&self.config, &self.context, metadata);
        }
    }

    /// The side stream has got somewhere, or nowhere.
    pub(crate) fn reached(&self, facts: impl FnOnce() -> StreamFacts) {
        if self.watch.as_ref().is_some_and(Watch::take_reached) {
            self.show(&Event::StreamReached { facts: &facts() });
        }
    }

    /// The side stream was opened; counted apart from [`Outbound::Open`], since opening may fail at once.
    pub(crate) fn opened(&mut self) {
        if matches!(self.config.service, Service::Grpc(_)) {
            self.event(&Event::StreamStarted);
        }
    }

    fn direction(&self, side: Side) -> &Direction {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }

    fn direction_mut(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    fn event(&self, event: &Event<'_>) {
        let mut summary = self.summary.get();
        match event {
            Event::MessageSent { .. } => summary.sent += 1,
            Event::MessageReceived { effect, .. } => {
                summary.received += 1;
                summary.changed += u32::from(*effect == Effect::Applied);
            }
            Event::ImmediateResponseSent { .. } => summary.answered = true,
            Event::FailureModeAllowed => summary.failed_open = true,
            _ => {}
        }
        self.summary.set(summary);
        if let Some(watch) = &self.watch {
            watch.event(&self.config, &self.context, event);
        }
    }

    /// Tells whether somebody wants more than counts.
    fn is_watched(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_full)
    }

    /// Tells what is not counted to whoever wants it.
    fn show(&self, event: &Event<'_>) {
        if let Some(watch) = self.watch.as_ref().filter(|watch| watch.is_full()) {
            watch.event(&self.config, &self.context, event);
        }
    }

    /// Closes the side stream, which has nothing left to do; everything passes by from now on.
    fn close_stream(&mut self) {
        let closing = self
            .config
            .graceful_close
            .map_or(Closing::Now, Closing::Within);
        self.close_stream_so(closing);
    }

    /// Closes a side stream that failed.
    fn reset_stream(&mut self) {
        self.close_stream_so(Closing::Now);
    }

    /// Closes a side stream because of what came right behind a message that it was just given.
    fn close_stream_flushed(&mut self) {
        self.close_stream_so(Closing::Flushed);
    }

    fn close_stream_so(&mut self, closing: Closing) {
        self.complete = true;
        if self.stream == Stream::Open {
            self.stream = Stream::Done;
            // What was not sent yet has no reader.
            self.forget_messages();
            self.outbound.push_back(Outbound::Close(closing));
            if matches!(self.config.service, Service::Grpc(_)) {
                self.event(&Event::StreamClosed);
            }
        }
        self.stream = Stream::Done;
        for side in [Side::Request, Side::Response] {
            self.direction_mut(side).finish_call(Callback::Idle);
        }
    }
}

impl Side {
    fn headers(self) -> Phase {
        match self {
            Self::Request => Phase::RequestHeaders,
            Self::Response => Phase::ResponseHeaders,
        }
    }

    fn body(self) -> Phase {
        match self {
            Self::Request => Phase::RequestBody,
            Self::Response => Phase::ResponseBody,
        }
    }

    fn trailers(self) -> Phase {
        match self {
            Self::Request => Phase::RequestTrailers,
            Self::Response => Phase::ResponseTrailers,
        }
    }
}
