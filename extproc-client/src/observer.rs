//! Events of an exchange, for statistics, logs and transcripts.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{config::BodyMode, transport::Close};

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

/// Something that happened in an exchange.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The side stream was opened.
    StreamStarted,
    /// A message was sent.
    MessageSent {
        /// Its phase.
        phase: Phase,
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
    },
}

/// Sees every event of every exchange of a layer. Called on the exchange's own task: be quick.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);
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
    fn on_event(&self, event: &Event<'_>) {
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
            Event::ModeOverridden { .. } => return,
        };
        counter.add();
    }
}
