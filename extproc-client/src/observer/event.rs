//! Events for observers.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, request, response};

use crate::{
    context::outcome::ExchangeSummary,
    types::{
        header_change::HeaderChange,
        mode::{BodyMode, ProcessingMode},
        phase::{Effect, Phase, Side},
        stream::{Close, StreamFacts},
    },
    wire::{Reply, message::Message},
};

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

/// Something that happened in an exchange.
///
/// Events marked *full* are told to observers of [`Detail::Full`](super::Detail::Full) alone.
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
        /// Time that the oldest unanswered message had waited, if the phase measures it.
        latency: Option<Duration>,
        /// Effect on the message.
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
        /// Reason, as in response code details.
        detail: &'a str,
    },
    /// The side stream was closed by this side, or ended cleanly by the processor.
    StreamClosed,
    /// The processor ended the stream, cleanly or not.
    ServerHalfClosed,
    /// The side stream ended with an error or could not be had.
    StreamFailed {
        /// The way in which it ended.
        close: &'a Close,
    },
    /// *Full:* the table of failures was asked.
    Failed {
        /// The row.
        row: FailureRow,
        /// Response code details.
        details: &'a str,
        /// Consequence for the exchange.
        verdict: Verdict,
    },
    /// The exchange went on without the processor.
    FailureModeAllowed,
    /// A reply did not come in time.
    MessageTimeout {
        /// Phase that got no answer.
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
        /// Origin of the change.
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
