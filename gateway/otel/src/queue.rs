//! The queue before the collector: bounded, and what does not fit is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway_proxy::trace::TraceCounts;
use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};

/// Spans that may wait where neither configuration nor environment say it.
const WAITING: usize = 2048;

/// The batches of the SDK, whose queue never gets too long.
#[derive(Debug)]
pub(crate) struct Queue {
    batches: BatchSpanProcessor,
    /// Spans that wait or are on their way.
    waiting: Arc<AtomicUsize>,
    most: usize,
    counts: Arc<TraceCounts>,
}

impl Queue {
    pub(crate) fn new(
        exporter: impl SpanExporter + 'static,
        most: Option<usize>,
        counts: Arc<TraceCounts>,
    ) -> Self {
        let of_environment = || {
            let given = std::env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok()?;
            given.parse().ok()
        };
        let most = most.or_else(of_environment).unwrap_or(WAITING).max(1);
        let waiting = Arc::<AtomicUsize>::default();
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(most)
            .build();
        let counted = Counted {
            exporter,
            waiting: waiting.clone(),
            counts: counts.clone(),
        };
        Self {
            batches: BatchSpanProcessor::builder(counted)
                .with_batch_config(config)
                .build(),
            waiting,
            most,
            counts,
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return self.counts.dropped();
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts what the exporter could send, and what it could not.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    counts: Arc<TraceCounts>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        match &result {
            Ok(()) => self.counts.sent(spans),
            Err(_) => self.counts.failed(spans),
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
