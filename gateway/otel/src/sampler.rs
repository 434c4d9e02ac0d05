//! Spans that are recorded: what both the connection manager and the sampler choose, and what is below that.

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId},
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// Tells whether the connection manager traces the request; travels in the context of its span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted(pub(crate) bool);

/// As in Envoy, the sampler is asked of requests that the connection manager traces.
#[derive(Clone, Debug)]
pub(crate) struct Gate(pub(crate) Box<dyn ShouldSample>);

impl ShouldSample for Gate {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let above = parent_context.map(|context| context.span().span_context().clone());
        let wanted = parent_context.and_then(|context| context.get::<Wanted>());
        let decision = match (wanted, &above) {
            (Some(Wanted(true)), _) => {
                return self.0.should_sample(
                    parent_context,
                    trace_id,
                    name,
                    span_kind,
                    attributes,
                    links,
                );
            }
            // What is below the span of a request is as that is.
            (None, Some(above)) if above.is_sampled() => SamplingDecision::RecordAndSample,
            _ => SamplingDecision::Drop,
        };
        SamplingResult {
            decision,
            attributes: Vec::new(),
            trace_state: above
                .map(|span| span.trace_state().clone())
                .unwrap_or_default(),
        }
    }
}
