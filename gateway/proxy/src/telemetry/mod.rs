//! Counters, access logs and spans.

pub(crate) mod access_log;
pub(crate) mod calls;
pub(crate) mod histogram;
pub(crate) mod spans;
pub(crate) mod stats;
pub(crate) mod writer;

use crate::exchange::{Exchange, operators::Scope};

/// An exchange is over: completes its span, and writes its line to the logs.
pub(crate) fn finish(exchange: &Exchange) {
    if !exchange.noted() {
        return;
    }
    let (head, reply) = exchange.take_log();
    let scope = Scope::of(exchange, head.as_ref(), &reply);
    if let (Some(trace), Some(recorder)) = (&exchange.trace, &exchange.listener.recorder) {
        spans::finish(trace, &recorder.config, &scope);
    }
    let listener = &exchange.listener;
    for _ in 0..access_log::log(&listener.logs, &scope) {
        listener.stats.access_log_dropped.add();
    }
}
