//! Counters of one service: what it was asked, and what went wrong.

mod prometheus;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Phase;

/// Counters of one [`ProcessorService`](crate::ProcessorService) and its clones.
#[derive(Debug, Default)]
pub struct Stats {
    pub(crate) started: Counter,
    pub(crate) finished: Counter,
    pub(crate) immediate: Counter,
    pub(crate) unexpected: Counter,
    pub(crate) errors: Counter,
    pub(crate) panics: Counter,
    pub(crate) deadlines: Counter,
    pub(crate) invalid: Counter,
    pub(crate) refused: Counter,
    pub(crate) unknown: Counter,
    messages: [Counter; 6],
}

impl Stats {
    /// Exchanges begun.
    pub fn exchanges(&self) -> u64 {
        self.started.value()
    }

    /// Exchanges that have begun and not ended.
    pub fn open_exchanges(&self) -> u64 {
        let finished = self.finished.value();
        self.started.value().saturating_sub(finished)
    }

    /// Messages received in a phase.
    pub fn messages(&self, phase: Phase) -> u64 {
        self.messages[phase as usize].value()
    }

    /// Immediate responses sent.
    pub fn immediate_responses(&self) -> u64 {
        self.immediate.value()
    }

    /// Messages out of the order of the protocol; they are answered all the same.
    pub fn unexpected_messages(&self) -> u64 {
        self.unexpected.value()
    }

    /// Handlers that returned an error.
    pub fn handler_errors(&self) -> u64 {
        self.errors.value()
    }

    /// Handlers that panicked.
    pub fn handler_panics(&self) -> u64 {
        self.panics.value()
    }

    /// Handlers that did not return within the deadline.
    pub fn missed_deadlines(&self) -> u64 {
        self.deadlines.value()
    }

    /// Replies that failed their check and were not sent.
    pub fn invalid_replies(&self) -> u64 {
        self.invalid.value()
    }

    /// Exchanges whose body modes the processor refused ([`Processor::check_modes`](crate::Processor::check_modes)).
    pub fn refused_modes(&self) -> u64 {
        self.refused.value()
    }

    /// Exchanges that ended because the proxy used a message or a body mode that this SDK does not know.
    pub fn unknown_messages(&self) -> u64 {
        self.unknown.value()
    }

    /// All of it in the Prometheus text format, for an endpoint of your own; or see
    /// [`serve_metrics`](crate::serve_metrics).
    pub fn prometheus(&self) -> String {
        prometheus::render(self)
    }

    pub(crate) fn received(&self, phase: Phase) {
        self.messages[phase as usize].add();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
