//! The sampling of the connection manager, as a sampler of the SDK.

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// What the connection manager has decided of a request, in the context of its span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted(pub(crate) bool);

/// Does as the connection manager has decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decided;

impl ShouldSample for Decided {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        _trace_id: TraceId,
        _name: &str,
        _span_kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        let wanted = parent_context.and_then(|context| context.get::<Wanted>());
        let decision = match wanted {
            Some(Wanted(true)) => SamplingDecision::RecordAndSample,
            _ => SamplingDecision::Drop,
        };
        SamplingResult {
            decision,
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}
