//! Spans: one per exchange, and within it one per message while its handler runs.
//!
//! Both are at level `debug`, so that a program that logs at `info` pays nothing for them. They are what a log line of a
//! handler stands in, and what an exporter for traces turns into timings.

use tonic::metadata::MetadataMap;
use tracing::{Span, debug_span, field};

use crate::{
    engine::answers::Part,
    types::{Phase, Side},
    view::{Headers, TraceParent},
};

/// The span of an exchange, below the one of the proxy that the metadata of the stream tells of. What it is about follows with
/// its [headers](describe).
pub(crate) fn exchange(metadata: &MetadataMap) -> Span {
    let span = debug_span!(
        "exchange",
        otel.kind = field::Empty,
        trace_id = field::Empty,
        method = field::Empty,
        path = field::Empty,
        request_id = field::Empty,
        status = field::Empty,
    );
    if !span.is_disabled()
        && let Some(parent) = TraceParent::from_metadata(metadata)
    {
        let trace = u128::from_be_bytes(parent.trace_id);
        span.record("trace_id", field::display(format_args!("{trace:032x}")));
        #[cfg(feature = "opentelemetry")]
        join(&span, parent, metadata);
    }
    span
}

/// Puts a span below the proxy's.
#[cfg(feature = "opentelemetry")]
fn join(span: &Span, parent: TraceParent, metadata: &MetadataMap) {
    use opentelemetry::{
        Context,
        trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
    };
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    span.record("otel.kind", "server");
    let state = metadata
        .get("tracestate")
        .and_then(|state| state.to_str().ok());
    let state = state.and_then(|state| state.parse::<TraceState>().ok());
    let above = SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::default().with_sampled(parent.sampled),
        true,
        state.unwrap_or_default(),
    );
    // An error says that no layer exports the span.
    let _ = span.set_parent(Context::new().with_remote_span_context(above));
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
