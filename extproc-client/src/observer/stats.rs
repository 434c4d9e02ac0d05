//! Counters under Envoy's names.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Detail, Event, Observer, Watched};
use crate::host::ExchangeContext;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters under Envoy's names; itself an [`Observer`].
        #[derive(Debug, Default)]
        #[non_exhaustive]
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
    fn detail(&self, _: &ExchangeContext) -> Detail {
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
