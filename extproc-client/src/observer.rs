//! Events of an exchange, for statistics, logs and transcripts.
//!
//! Everything is borrowed for the time of the call, so that nothing is made for an observer that does not look. An observer
//! that wants counts alone says so with [`Detail::Counts`] and is spared the rest.

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, request, response};

use crate::{
    config::{BodyMode, FilterConfig, ProcessingMode},
    host::{ExchangeContext, ExchangeSummary},
    transport::{Close, Message},
    wire::Reply,
};

/// One of the two directions of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// From the client to the upstream.
    Request,
    /// From the upstream to the client.
    Response,
}

/// The part of an exchange that a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Request headers.
    RequestHeaders,
    /// Request body.
    RequestBody,
    /// Request trailers.
    RequestTrailers,
    /// Response headers.
    ResponseHeaders,
    /// Response body.
    ResponseBody,
    /// Response trailers.
    ResponseTrailers,
}

/// What a reply did to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing changed.
    None,
    /// A mutation was applied.
    Applied,
    /// A mutation was refused as invalid.
    Invalid,
    /// A mutation was refused by a size limit.
    TooLarge,
    /// A mutation was refused by `mutation_rules`.
    Refused,
}

/// A part of an HTTP message on its way.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum HttpPart<'a> {
    /// Head of the request.
    Request(&'a request::Parts),
    /// Head of the response.
    Response(&'a response::Parts),
    /// Bytes of the body.
    Data(&'a Bytes),
    /// Trailers.
    Trailers(&'a HeaderMap),
}

/// An operation of a processor on a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Set, or add where there was none.
    Set,
    /// Add to a value that is there.
    Append,
    /// Remove.
    Remove,
}

/// One change of a header that a processor asked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HeaderChange<'a> {
    /// The kind of change.
    pub operation: Operation,
    /// Name of the header, in lower case.
    pub name: &'a str,
    /// Value; empty for a removal.
    pub value: &'a [u8],
    /// Reason why the change was not made; `None` if it was.
    pub refused: Option<Refused>,
}

/// Reason why a change of a header was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// `mutation_rules.disallow_expression` matches the name.
    DisallowExpression,
    /// `mutation_rules.disallow_all` is set and `allow_expression` does not match.
    DisallowAll,
    /// `host`, `:authority`, `:scheme` and `:method` need `mutation_rules.allow_all_routing`.
    Routing,
    /// `mutation_rules.disallow_system` is set, or a value was to be added to a pseudo-header.
    System,
    /// Names that begin with `x-envoy` need `mutation_rules.allow_envoy`.
    Envoy,
    /// Pseudo-headers and `host` are never removed.
    Removal,
    /// The value is not one that this header may have.
    Value,
    /// The name or the value has a character that no header may have, or there is no name.
    Invalid,
    /// The field speaks of one connection, and the layer guards framing.
    Framing,
    /// The body may change its length, so that `content-length` is not taken.
    ContentLength,
    /// The header map would become too large.
    TooLarge,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DisallowExpression => "mutation_rules.disallow_expression matches",
            Self::DisallowAll => "mutation_rules.disallow_all is set",
            Self::Routing => "routing headers need mutation_rules.allow_all_routing",
            Self::System => {
                "mutation_rules.disallow_system is set, or a pseudo-header was appended to"
            }
            Self::Envoy => "x-envoy headers need mutation_rules.allow_envoy",
            Self::Removal => "pseudo-headers and host cannot be removed",
            Self::Value => "the value is not valid for this header",
            Self::Invalid => "invalid character in the name or value, or no name",
            Self::Framing => "the field belongs to one connection",
            Self::ContentLength => "content-length is not taken where the body may change",
            Self::TooLarge => "the headers would be larger than the limit",
        })
    }
}

/// Row of the table of failures that applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureRow {
    /// The side stream could not be had, or ended with an error.
    Stream,
    /// The HTTP service gave no usable answer.
    HttpService,
    /// No reply within `message_timeout`.
    Timeout,
    /// A reply that fits no outstanding message.
    Spurious,
    /// A header mutation was refused as a whole.
    Mutation,
    /// The new body and the `content-length` of its head differ.
    ContentLength,
    /// A body is larger than the buffer limit.
    BufferLimit,
    /// The stream ended cleanly within a body that the processor alone could complete.
    Unfinished,
}

impl fmt::Display for FailureRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "the side stream could not be opened, or ended with an error",
            Self::HttpService => "the HTTP service gave no usable answer",
            Self::Timeout => "no reply came within message_timeout",
            Self::Spurious => "the reply fits no message that waits for one",
            Self::Mutation => "a header mutation was refused as a whole",
            Self::ContentLength => "the new body and its content-length differ",
            Self::BufferLimit => "a body is larger than the buffer limit",
            Self::Unfinished => {
                "the stream ended within a body that the processor alone could complete"
            }
        })
    }
}

/// Consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The exchange goes on without the processor.
    FailedOpen,
    /// The client gets this status from the filter.
    LocalReply {
        /// The status.
        status: u16,
        /// Reason why the exchange does not go on without the processor.
        because: NotOpen,
    },
    /// The response had begun and is cut.
    Cut {
        /// Reason why the exchange does not go on without the processor.
        because: NotOpen,
    },
    /// The response was complete; what is left of the request is cut.
    RequestCut {
        /// Reason why the exchange does not go on without the processor.
        because: NotOpen,
    },
}

/// Reason why an exchange does not go on without the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotOpen {
    /// `failure_mode_allow` is not set.
    Off,
    /// `failure_mode_allow` does not cover this failure.
    NotCovered,
    /// The original bytes are gone: data of a full duplex direction, or a response that the processor streams.
    TooLate,
}

impl fmt::Display for NotOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "failure_mode_allow is not set",
            Self::NotCovered => "failure_mode_allow does not cover this failure",
            Self::TooLate => "the original bytes are gone",
        })
    }
}

/// Origin of a change of the processing mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModeOrigin {
    /// `mode_override` beside the answer to headers.
    Reply,
    /// A reply with nothing but a `mode_override`.
    Standalone,
}

/// Reason why a `mode_override` had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModeIgnored {
    /// `allow_mode_override` is not set.
    NotAllowed,
    /// The configuration rules an override out: `send_body_without_waiting_for_header_response`, or a body in FULL_DUPLEX_STREAMED.
    Configured,
    /// No headers are with the processor.
    NotNow,
    /// `allowed_override_modes` does not have the result.
    NotListed,
}

impl fmt::Display for ModeIgnored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAllowed => "allow_mode_override is not set",
            Self::Configured => "the configured mode rules an override out",
            Self::NotNow => "it came with no answer to headers",
            Self::NotListed => "allowed_override_modes does not list the resulting mode",
        })
    }
}

/// Facts of a side stream, as far as its transport knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamFacts {
    /// Address of the processor.
    pub endpoint: Option<SocketAddr>,
    /// Whether the connection had carried another stream before.
    pub reused: Option<bool>,
    /// Times that the stream was opened, repetitions included; 0 if unknown.
    pub attempts: u32,
}

/// Something that happened in an exchange.
///
/// Events marked *full* are told to observers of [`Detail::Full`] alone.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// *Full:* a part of the message came to the filter.
    Arrived {
        /// Its direction.
        side: Side,
        /// The part.
        part: HttpPart<'a>,
        /// Nothing follows in this direction.
        end: bool,
    },
    /// *Full:* a part of the message went on from the filter.
    Forwarded {
        /// Its direction.
        side: Side,
        /// The part.
        part: HttpPart<'a>,
        /// Nothing follows in this direction.
        end: bool,
    },
    /// *Full:* the request goes no further, or what is left of it does not.
    RequestCancelled,
    /// *Full:* the response is cut.
    Aborted {
        /// Response code details.
        details: &'a str,
    },
    /// The side stream was opened.
    StreamStarted,
    /// *Full:* the side stream has, or had, a connection. Told with its first reply, its end or a timeout.
    StreamReached {
        /// Facts of it.
        facts: &'a StreamFacts,
    },
    /// A message was sent.
    MessageSent {
        /// Its phase.
        phase: Phase,
        /// The message.
        message: &'a Message,
        /// False if the stream ended before it left; it counts as sent all the same, as in Envoy.
        left: bool,
    },
    /// *Full:* a message came from the processor. What it did follows.
    ReplyArrived {
        /// The message.
        reply: &'a Reply,
        /// False if it is not looked at: the exchange needs no more of it, or observability mode.
        heeded: bool,
    },
    /// A reply was accepted.
    MessageReceived {
        /// The phase it answers; `None` for an immediate response.
        phase: Option<Phase>,
        /// How long the oldest unanswered message had waited, if the phase measures it.
        latency: Option<Duration>,
        /// What it did.
        effect: Effect,
    },
    /// *Full:* one change of a header was made or refused.
    Header {
        /// The phase; `None` for a response that the processor makes.
        phase: Option<Phase>,
        /// The change.
        change: &'a HeaderChange<'a>,
    },
    /// A reply that fits no outstanding message.
    SpuriousMessage {
        /// Why, as in response code details.
        detail: &'a str,
    },
    /// The side stream was closed by this side, or ended cleanly by the processor.
    StreamClosed,
    /// The processor ended the stream, cleanly or not.
    ServerHalfClosed,
    /// The side stream ended with an error or could not be had.
    StreamFailed {
        /// How.
        close: &'a Close,
    },
    /// *Full:* the table of failures was asked.
    Failed {
        /// The row.
        row: FailureRow,
        /// Response code details.
        details: &'a str,
        /// What follows from it.
        verdict: Verdict,
    },
    /// The exchange went on without the processor.
    FailureModeAllowed,
    /// A reply did not come in time.
    MessageTimeout {
        /// What was not answered.
        phase: Phase,
    },
    /// The copy of a body does not fit what may wait for the processor: the rest is not sent.
    CopyCut {
        /// Of which body.
        phase: Phase,
    },
    /// One change, or one mutation as a whole, was refused.
    RejectedHeaderMutation,
    /// A reply set a new timeout.
    OverrideTimeoutReceived,
    /// A new timeout was not accepted.
    OverrideTimeoutIgnored,
    /// `clear_route_cache` without a header mutation.
    ClearRouteCacheIgnored,
    /// `clear_route_cache` where the configuration retains the route.
    ClearRouteCacheDisabled,
    /// *Full:* the route was cleared and is selected again.
    RouteCleared,
    /// The HTTP service gave no usable answer.
    HttpNotOk,
    /// The filter answered the client itself: an immediate response or an error.
    ImmediateResponseSent {
        /// The status.
        status: u16,
        /// The response code details.
        details: &'a str,
    },
    /// A reply changed the body modes.
    ModeOverridden {
        /// The new request body mode.
        request_body: BodyMode,
        /// The new response body mode.
        response_body: BodyMode,
        /// The whole mode. A direction whose headers were answered keeps the one it has.
        mode: &'a ProcessingMode,
        /// Where it comes from.
        origin: ModeOrigin,
    },
    /// *Full:* a `mode_override` had no effect.
    ModeIgnored {
        /// The reason.
        reason: ModeIgnored,
    },
    /// *Full:* the filter's part in the exchange is over. Where the close of the stream is deferred, its end may follow.
    Ended {
        /// Counts of messages.
        summary: &'a ExchangeSummary,
        /// Bytes of the request's body that the filter saw.
        request_bytes: u64,
        /// Bytes of the response's body that the filter saw.
        response_bytes: u64,
    },
}

/// One exchange of one layer, as an observer sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Watched<'a> {
    /// Number of the exchange: the host's ([`Host::exchange_id`](crate::host::Host::exchange_id)), which all layers of a
    /// chain share, otherwise [`next_id`]. 0 for an observer of counts.
    pub id: u64,
    /// Name of the filter.
    pub filter: &'a str,
    /// Configuration that holds for this exchange.
    pub config: &'a Arc<FilterConfig>,
    /// Surroundings of the exchange: host, limits, metadata, facts.
    pub context: &'a ExchangeContext,
}

/// Amount of what an observer is told, at least: two in a tuple are both told what one of them wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Events that are counted.
    Counts,
    /// Every event.
    Full,
}

/// Sees the events of every exchange of a layer. Called on the exchange's own task: never block.
///
/// Two observers in a tuple, or an observer in an `Arc`, are one as well.
pub trait Observer: Send + Sync + 'static {
    /// An exchange begins: how much of it is to be told. Default everything.
    fn detail(&self) -> Detail {
        Detail::Full
    }

    /// Something happened.
    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>);

    /// A side stream is opened with this metadata, to which more may be added, such as `traceparent`. Only for
    /// [`Detail::Full`].
    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        let _ = (exchange, metadata);
    }
}

impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn detail(&self) -> Detail {
        (**self).detail()
    }

    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        (**self).event(exchange, event);
    }

    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        (**self).opening(exchange, metadata);
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn detail(&self) -> Detail {
        self.0.detail().max(self.1.detail())
    }

    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        self.0.event(exchange, event);
        self.1.event(exchange, event);
    }

    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        self.0.opening(exchange, metadata);
        self.1.opening(exchange, metadata);
    }
}

/// The next number of an exchange; never 0. For hosts whose exchanges have no number of their own.
pub fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A layer's observer with the layer's name.
pub(crate) struct Watcher {
    pub(crate) filter: Arc<str>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Watcher {
    pub(crate) fn new(filter: impl Into<Arc<str>>, observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self {
            filter: filter.into(),
            observer,
        })
    }
}

/// The observer's part in one exchange.
#[derive(Clone)]
pub(crate) struct Watch {
    watcher: Arc<Watcher>,
    id: u64,
    detail: Detail,
    /// The facts of the side stream were told.
    reached: Cell<bool>,
}

impl Watch {
    pub(crate) fn new(watcher: &Arc<Watcher>, context: &ExchangeContext) -> Self {
        let detail = watcher.observer.detail();
        let id = match detail {
            Detail::Counts => 0,
            Detail::Full => {
                let given = context.host.as_ref().map_or(0, |host| host.exchange_id());
                if given == 0 { next_id() } else { given }
            }
        };
        Self {
            watcher: watcher.clone(),
            id,
            detail,
            reached: Cell::new(false),
        }
    }

    /// Whether everything is to be told.
    pub(crate) fn is_full(&self) -> bool {
        self.detail == Detail::Full
    }

    /// Whether the facts of the side stream are still to be told; asked once.
    pub(crate) fn take_reached(&self) -> bool {
        self.is_full() && !self.reached.replace(true)
    }

    pub(crate) fn event(
        &self,
        config: &Arc<FilterConfig>,
        context: &ExchangeContext,
        event: &Event<'_>,
    ) {
        self.watcher
            .observer
            .event(&self.watched(config, context), event);
    }

    pub(crate) fn opening(
        &self,
        config: &Arc<FilterConfig>,
        context: &ExchangeContext,
        metadata: &mut HeaderMap,
    ) {
        self.watcher
            .observer
            .opening(&self.watched(config, context), metadata);
    }

    fn watched<'a>(
        &'a self,
        config: &'a Arc<FilterConfig>,
        context: &'a ExchangeContext,
    ) -> Watched<'a> {
        Watched {
            id: self.id,
            filter: &self.watcher.filter,
            config,
            context,
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters under Envoy's names; itself an [`Observer`].
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Stats {
            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// `clear_route_cache` refused by configuration.
    clear_route_cache_disabled,
    /// `clear_route_cache` without a header mutation.
    clear_route_cache_ignored,
    /// Always 0 here: the layer has no upstream-filter form.
    clear_route_cache_upstream_ignored,
    /// Bodies whose copies, in observability mode, were cut; not one of Envoy's.
    copies_cut,
    /// Exchanges that went on without the processor.
    failure_mode_allowed,
    /// Unusable answers of an HTTP service.
    http_not_ok_resp_received,
    /// Replies made by the filter.
    immediate_responses_sent,
    /// Timeouts.
    message_timeouts,
    /// New timeouts not accepted.
    override_message_timeout_ignored,
    /// New timeouts accepted.
    override_message_timeout_received,
    /// Refused changes.
    rejected_header_mutations,
    /// Streams that the processor ended.
    server_half_closed,
    /// Replies out of order.
    spurious_msgs_received,
    /// Messages accepted.
    stream_msgs_received,
    /// Messages sent.
    stream_msgs_sent,
    /// Streams closed.
    streams_closed,
    /// Streams failed.
    streams_failed,
    /// Streams opened.
    streams_started,
}

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Observer for Stats {
    fn detail(&self) -> Detail {
        Detail::Counts
    }

    fn event(&self, _exchange: &Watched<'_>, event: &Event<'_>) {
        let counter = match event {
            Event::StreamStarted => &self.streams_started,
            Event::MessageSent { .. } => &self.stream_msgs_sent,
            Event::MessageReceived { .. } => &self.stream_msgs_received,
            Event::SpuriousMessage { .. } => &self.spurious_msgs_received,
            Event::StreamClosed => &self.streams_closed,
            Event::ServerHalfClosed => &self.server_half_closed,
            Event::StreamFailed { .. } => &self.streams_failed,
            Event::FailureModeAllowed => &self.failure_mode_allowed,
            Event::MessageTimeout { .. } => &self.message_timeouts,
            Event::CopyCut { .. } => &self.copies_cut,
            Event::RejectedHeaderMutation => &self.rejected_header_mutations,
            Event::OverrideTimeoutReceived => &self.override_message_timeout_received,
            Event::OverrideTimeoutIgnored => &self.override_message_timeout_ignored,
            Event::ClearRouteCacheIgnored => &self.clear_route_cache_ignored,
            Event::ClearRouteCacheDisabled => &self.clear_route_cache_disabled,
            Event::HttpNotOk => &self.http_not_ok_resp_received,
            Event::ImmediateResponseSent { .. } => &self.immediate_responses_sent,
            _ => return,
        };
        counter.add();
    }
}
