//! Counters, access logs and spans.

pub(crate) mod access_log;
pub(crate) mod calls;
pub(crate) mod histogram;
pub(crate) mod spans;
pub(crate) mod stats;
pub(crate) mod writer;

use std::sync::Arc;

use self::{access_log::Logger, stats::HttpStats};
use crate::exchange::{Exchange, operators::Scope};

/// An exchange is over: completes its span, and writes its line to the logs.
pub(crate) fn finish(exchange: &Exchange, logs: &[Arc<Logger>], stats: &HttpStats) {
    if !exchange.noted() {
        return;
    }
    let (head, reply) = exchange.take_log();
    let scope = Scope::of(exchange, head.as_ref(), &reply);
    if let (Some(trace), Some(config)) = (&exchange.trace, &exchange.http.tracing) {
        spans::finish(trace, config, &scope);
    }
    access_log::log(logs, &scope, Some(stats));
}
