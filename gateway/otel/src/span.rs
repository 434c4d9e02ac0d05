//! Spans of the SDK, told of by the data plane.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use gateway_proxy::trace::{Span, Value};
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span as SdkSpan},
};

/// Bytes of a text that a span keeps, so that clients cannot fill the queue.
const TEXT: usize = 2048;

/// The header that tells of the caller's span.
const PARENT: &str = "traceparent";

/// The context of the caller's span, an empty one if the caller tells of none; `None` if it is not understood.
pub(crate) fn caller(headers: &HeaderMap) -> Option<Context> {
    if !headers.contains_key(PARENT) {
        return Some(Context::new());
    }
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    let understood = context.span().span_context().is_valid();
    understood.then_some(context)
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

    fn child(&self, name: Cow<'static, str>) -> Arc<dyn Span> {
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Client);
        let above = crate::below(self.context.clone());
        let span = self.tracer.build_with_context(builder, &above);
        Arc::new(Self::new(span, self.tracer.clone()))
    }

    fn inject(&self, headers: &mut HeaderMap) {
        let context = crate::below(self.context.clone());
        TraceContextPropagator::new().inject_context(&context, &mut Into(headers));
    }

    fn rename(&self, name: String) {
        self.span().update_name(name);
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
        Value::Text(text) if text.len() > TEXT => short(&text).to_owned().into(),
        Value::Text(Cow::Borrowed(text)) => text.into(),
        Value::Text(Cow::Owned(text)) => text.into(),
        Value::Number(number) => i64::try_from(number).unwrap_or(i64::MAX).into(),
        Value::Bool(value) => value.into(),
        _ => "".into(),
    };
    KeyValue::new(name, value)
}

fn short(text: &str) -> &str {
    let end = (0..=TEXT.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Into<'a>(&'a mut HeaderMap);

impl Injector for Into<'_> {
    /// A state that is empty says nothing.
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
