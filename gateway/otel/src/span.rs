//! Spans of the SDK, told of by the data plane.

use std::{
    borrow::Cow,
    str::FromStr as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use gateway_proxy::trace::{Span, Value};
use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
        Tracer as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

/// Bytes of a text that a span keeps, so that clients cannot fill the queue.
const TEXT: usize = 2048;

/// The header that tells of the caller's span.
const PARENT: &str = "traceparent";

/// The header that tells more of it.
const STATE: &str = "tracestate";

/// The context of the caller's span, an empty one if the caller tells of none; `None` if it is not understood.
pub(crate) fn caller(headers: &HeaderMap) -> Option<Context> {
    match headers.get(PARENT) {
        None => Some(Context::new()),
        Some(parent) => {
            let parent = parsed(parent.to_str().ok()?, state(headers))?;
            Some(crate::below(parent))
        }
    }
}

/// A `traceparent`. As in Envoy any version is read like the first, and letters may be of either case.
fn parsed(parent: &str, state: TraceState) -> Option<SpanContext> {
    /// Digits and dashes.
    const LENGTH: usize = 55;
    let mut parts = parent.split('-');
    let mut digits = |count: usize| {
        let part = parts.next().filter(|part| part.len() == count)?;
        let all = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        all.then(|| part.to_ascii_lowercase())
    };
    if parent.len() != LENGTH {
        return None;
    }
    let (_version, trace, span, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    let context = SpanContext::new(
        TraceId::from_hex(&trace).ok()?,
        SpanId::from_hex(&span).ok()?,
        TraceFlags::new(u8::from_str_radix(&flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        state,
    );
    context.is_valid().then_some(context)
}

/// The `tracestate` of all lines; empty if it is not understood.
fn state(headers: &HeaderMap) -> TraceState {
    let lines = headers.get_all(STATE).iter();
    let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    TraceState::from_str(&lines.join(",")).unwrap_or_default()
}

/// A span.
#[derive(Debug)]
pub(crate) struct Recorded {
    span: Mutex<SdkSpan>,
    context: SpanContext,
    tracer: SdkTracer,
}

impl Recorded {
    pub(crate) fn new(span: SdkSpan, tracer: SdkTracer) -> Self {
        Self {
            context: span.span_context().clone(),
            span: Mutex::new(span),
            tracer,
        }
    }

    fn span(&self) -> MutexGuard<'_, SdkSpan> {
        // Of what may panic under the lock, nothing is left half done.
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span for Recorded {
    fn is_recording(&self) -> bool {
        self.span().is_recording()
    }

    fn trace_id(&self) -> gateway_proxy::trace::TraceId {
        self.context.trace_id().to_bytes()
    }

    fn child(&self, name: Cow<'static, str>) -> Arc<dyn Span> {
        let builder = self.tracer.span_builder(cut(name));
        let builder = builder.with_kind(SpanKind::Client);
        let above = crate::below(self.context.clone());
        let span = self.tracer.build_with_context(builder, &above);
        Arc::new(Self::new(span, self.tracer.clone()))
    }

    fn inject(&self, headers: &mut HeaderMap) {
        let span = &self.context;
        let flags = span.trace_flags() & TraceFlags::SAMPLED;
        let parent = format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            flags.to_u8()
        );
        // As in Envoy, a state that is empty is told as well: one that came without a span says nothing.
        for (name, value) in [(PARENT, parent), (STATE, span.trace_state().header())] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }

    fn rename(&self, name: String) {
        self.span().update_name(cut(name.into()));
    }

    fn tag(&self, name: Cow<'static, str>, value: Value) {
        self.span().set_attribute(attribute(name, value));
    }

    fn event(&self, name: &'static str, time: SystemTime, tags: Vec<(&'static str, Value)>) {
        let tags = tags.into_iter();
        let tags = tags.map(|(name, value)| attribute(name.into(), value));
        self.span()
            .add_event_with_timestamp(name, time, tags.collect());
    }

    fn fail(&self, reason: &str) {
        self.span()
            .set_status(Status::error(short(reason).to_owned()));
    }

    fn end(&self) {
        self.span().end();
    }
}

fn attribute(name: Cow<'static, str>, value: Value) -> KeyValue {
    let value: opentelemetry::Value = match value {
        Value::Text(text) => match cut(text) {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        },
        Value::Number(number) => i64::try_from(number).unwrap_or(i64::MAX).into(),
        Value::Bool(value) => value.into(),
        _ => "".into(),
    };
    KeyValue::new(name, value)
}

fn cut(text: Cow<'static, str>) -> Cow<'static, str> {
    match text.len() > TEXT {
        true => Cow::Owned(short(&text).to_owned()),
        false => text,
    }
}

fn short(text: &str) -> &str {
    let end = (0..=TEXT.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_are_understood() {
        let of = |parent: &str| parsed(parent, TraceState::default());
        for good in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
        ] {
            assert!(of(good).unwrap().is_sampled(), "{good}");
        }
        for bad in [
            "",
            "00-xyz",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
        ] {
            assert!(of(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "é".repeat(TEXT);
        assert_eq!(cut(text.into()).len(), TEXT);
        assert_eq!(cut("ééé".into()), "ééé");
    }
}
