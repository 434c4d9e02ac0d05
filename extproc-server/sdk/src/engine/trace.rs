//! Spans: one per exchange, and within it one per message while its handler runs.
//!
//! Both are at level `debug`, so that a program that logs at `info` pays nothing for them. They are what a log line of a
//! handler stands in, and what an exporter for traces turns into timings.

use tracing::{Span, debug_span, field};

use crate::{
    engine::answers::Part,
    types::{Phase, Side},
    view::Headers,
};

/// The span of an exchange. What it is about follows with its [headers](describe).
pub(crate) fn exchange() -> Span {
    debug_span!(
        "exchange",
        method = field::Empty,
        path = field::Empty,
        request_id = field::Empty,
        status = field::Empty,
    )
}

/// The span of a message while the handler has it.
pub(crate) fn phase(phase: Phase) -> Span {
    debug_span!("phase", phase = phase.name())
}

/// Records in the span of an exchange what the headers say.
pub(crate) fn describe(span: &Span, part: &Part) {
    let Part::Headers(side, headers) = part else {
        return;
    };
    if span.is_disabled() {
        return;
    }
    let record = |field: &str, headers: &Headers, name: &str| {
        if let Some(value) = headers.get_str(name) {
            span.record(field, value);
        }
    };
    match side {
        Side::Request => {
            record("method", headers, ":method");
            record("path", headers, ":path");
            record("request_id", headers, "x-request-id");
        }
        Side::Response => record("status", headers, ":status"),
    }
}
