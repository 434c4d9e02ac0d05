//! Traces: what the data plane tells of its work, and whoever records it.
//!
//! The data plane knows the traits here and nothing of what makes, keeps and sends spans. Where the configuration asks for no
//! traces, an exchange has no `Trace` and nothing is asked.

mod collector;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue};

pub use self::collector::{Answer, Collector};
use crate::config::snapshot::TraceProvider;

/// Number of a trace, as OpenTelemetry has it.
pub type TraceId = [u8; 16];

/// Opens recorders of traces.
pub trait Tracing: Send + Sync + 'static {
    /// A recorder as `provider` says. What it sends goes through `collector`, and is counted in `counts`.
    ///
    /// # Errors
    /// The text says what cannot be had.
    fn open(
        &self,
        provider: &TraceProvider,
        collector: Collector,
        counts: Arc<TraceCounts>,
    ) -> Result<Arc<dyn Tracer>, String>;
}

/// Records traces. It may not block, nor wait for whom it sends them to.
pub trait Tracer: fmt::Debug + Send + Sync + 'static {
    /// Begins the span of a request; `None` if what the request says of its caller's trace is not understood.
    fn start(&self, start: Start<'_>) -> Option<Arc<dyn Span>>;

    /// Sends what waits, as far as that is possible within a moment. Blocks.
    fn flush(&self);
}

/// Data that the span of a request begins with.
#[derive(Debug)]
#[non_exhaustive]
pub struct Start<'a> {
    /// Its name.
    pub name: Cow<'static, str>,
    /// When the request came.
    pub time: SystemTime,
    /// Headers of the request, which may tell of the caller's trace.
    pub headers: &'a HeaderMap,
    /// The trace is to be recorded, unless the caller says otherwise.
    pub sampled: bool,
}

/// A piece of work within a trace. It ends when it is told to, or dropped.
pub trait Span: fmt::Debug + Send + Sync + 'static {
    /// Tells whether what the span is told is recorded.
    fn is_recording(&self) -> bool;

    /// The trace that it belongs to.
    fn trace_id(&self) -> TraceId;

    /// Begins a span below this one, of work that somebody else is asked to do.
    fn child(&self, name: Cow<'static, str>) -> Arc<dyn Span>;

    /// Writes headers by which whoever is called finds this span.
    fn inject(&self, headers: &mut HeaderMap);

    /// Gives it another name.
    fn rename(&self, name: String);

    /// Sets an attribute.
    fn tag(&self, name: Cow<'static, str>, value: Value);

    /// Something happened at this time.
    fn event(&self, name: &'static str, time: SystemTime, tags: Vec<(&'static str, Value)>);

    /// The work failed.
    fn fail(&self, reason: &str);

    /// The work is over. What is told later is lost.
    fn end(&self);
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(u64),
    /// Yes or no.
    Bool(bool),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Counts of spans by their fate.
#[derive(Debug, Default)]
pub struct TraceCounts {
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl TraceCounts {
    /// The collector took so many.
    pub fn sent(&self, spans: usize) {
        self.sent.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// There was no room for one.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The collector did not take so many.
    pub fn failed(&self, spans: usize) {
        self.failed.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// Each number with its name.
    pub(crate) fn list(&self) -> [(&'static str, u64); 3] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("spans_dropped", read(&self.dropped)),
            ("spans_failed", read(&self.failed)),
            ("spans_sent", read(&self.sent)),
        ]
    }
}

/// The part of an exchange in a trace.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) span: Arc<dyn Span>,
    pub(crate) recording: bool,
    /// The client's `baggage`, for whoever else is called.
    pub(crate) baggage: Option<HeaderValue>,
    /// Spans of side streams that are open, by the number of their filter's part in the exchange.
    sides: Mutex<Vec<(u64, Arc<dyn Span>)>>,
}

impl Trace {
    pub(crate) fn new(span: Arc<dyn Span>, headers: &HeaderMap) -> Self {
        Self {
            recording: span.is_recording(),
            span,
            baggage: headers.get("baggage").cloned(),
            sides: Mutex::default(),
        }
    }

    /// The trace, if it is recorded.
    pub(crate) fn id(&self) -> Option<TraceId> {
        self.recording.then(|| self.span.trace_id())
    }

    fn sides(&self) -> MutexGuard<'_, Vec<(u64, Arc<dyn Span>)>> {
        // Only assignments run under the lock.
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A side stream of this part is opened.
    pub(crate) fn open_side(&self, part: u64, span: Arc<dyn Span>) {
        self.sides().push((part, span));
    }

    /// The span of the part's side stream.
    pub(crate) fn side(&self, part: u64) -> Option<Arc<dyn Span>> {
        let sides = self.sides();
        let found = sides.iter().find(|(of, _)| *of == part);
        found.map(|(_, span)| span.clone())
    }

    /// The part's side stream is over.
    pub(crate) fn close_side(&self, part: u64) -> Option<Arc<dyn Span>> {
        let mut sides = self.sides();
        let at = sides.iter().position(|(of, _)| *of == part)?;
        Some(sides.swap_remove(at).1)
    }
}
