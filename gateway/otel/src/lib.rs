//! Traces of the gateway in OpenTelemetry: spans of its SDK, sent to a collector as OTLP.
//!
//! The data plane tells of its work through the traits of [`gateway_proxy::trace`]; here they become spans of `opentelemetry_sdk`.
//! A thread of the SDK sends them in batches, over the connections that the gateway has to the collector's cluster. What does not
//! fit into the queue before it is dropped and counted: nobody waits for a collector. What the configuration leaves open is read
//! from the environment (`OTEL_*`), as the OpenTelemetry specification has it.

#![forbid(unsafe_code)]

mod export;
mod queue;
mod sampler;
mod span;

use std::{sync::Arc, thread, time::Duration};

use gateway_config::snapshot::{TraceProvider, TraceSampler};
use gateway_proxy::trace::{Collector, Span, Start, TraceCounts, Tracer, Tracing};
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, ResourceDetector, TelemetryResourceDetector},
    trace::{Config, Sampler, SdkTracer, SdkTracerProvider},
};

use self::{queue::Queue, sampler::Gate, span::Recorded};

/// The name of a service that has none, in the form of the specification.
const UNKNOWN_SERVICE: &str = "unknown_service:gateway";

/// The longest that the last spans of a recorder may take to be sent.
const END: Duration = Duration::from_secs(5);

/// Records traces with the SDK of OpenTelemetry.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct OpenTelemetry {}

impl OpenTelemetry {
    /// A recorder that does as each provider of the configuration says.
    pub fn new() -> Self {
        Self {}
    }
}

impl Tracing for OpenTelemetry {
    fn open(
        &self,
        provider: &TraceProvider,
        collector: Collector,
        counts: Arc<TraceCounts>,
    ) -> Result<Arc<dyn Tracer>, String> {
        // Without a sampler of the configuration, the environment's counts, and else the caller's word.
        let sampler = match &provider.sampler {
            Some(sampler) => Box::new(sampler_of(sampler)),
            None => Config::default().sampler,
        };
        let builder = SdkTracerProvider::builder()
            .with_resource(resource(provider))
            .with_sampler(Gate(sampler));
        let exporter = export::exporter(&provider.exporter, collector)?;
        let queue = Queue::new(exporter, provider.max_cache_size, counts);
        let provider = builder.with_span_processor(queue).build();
        Ok(Arc::new(Recorder {
            tracer: provider.tracer("extproc-gateway"),
            provider,
        }))
    }
}

fn sampler_of(sampler: &TraceSampler) -> Sampler {
    match sampler {
        TraceSampler::AlwaysOn => Sampler::AlwaysOn,
        TraceSampler::Ratio(share) => Sampler::TraceIdRatioBased(*share),
        TraceSampler::ParentBased(within) => Sampler::ParentBased(Box::new(sampler_of(within))),
    }
}

/// Resource that the spans are of. The service's name comes from the configuration, or else from the environment.
fn resource(provider: &TraceProvider) -> Resource {
    let of_environment = EnvResourceDetector::new();
    let named = std::env::var("OTEL_SERVICE_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let service = match (provider.service_name.as_str(), named) {
        ("", Some(name)) => name,
        ("", None) => of_environment
            .detect()
            .iter()
            .find(|(key, _)| key.as_str() == "service.name")
            .map_or_else(
                || UNKNOWN_SERVICE.to_owned(),
                |(_, value)| value.to_string(),
            ),
        (name, _) => name.to_owned(),
    };
    let mut builder = Resource::builder_empty().with_detector(Box::new(TelemetryResourceDetector));
    if provider.resource_from_environment {
        builder = builder.with_detector(Box::new(of_environment));
    }
    let attributes = provider.resource.iter();
    builder
        .with_attributes(attributes.map(|(name, value)| KeyValue::new(name.clone(), value.clone())))
        .with_service_name(service)
        .build()
}

#[derive(Debug)]
struct Recorder {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Tracer for Recorder {
    fn start(&self, start: Start<'_>) -> Option<Arc<dyn Span>> {
        let above = span::caller(start.headers)?.with_value(sampler::Wanted(start.sampled));
        let builder = self
            .tracer
            .span_builder(start.name)
            .with_kind(SpanKind::Server)
            .with_start_time(start.time);
        let span = self.tracer.build_with_context(builder, &above);
        Some(Arc::new(Recorded::new(span, self.tracer.clone())))
    }

    fn flush(&self) {
        if let Err(error) = self.provider.force_flush() {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

impl Drop for Recorder {
    /// The end waits for the collector, and whoever drops the last reference may not.
    fn drop(&mut self) {
        let provider = self.provider.clone();
        let thread = thread::Builder::new().name("spans-end".into());
        let ending = thread.spawn(move || {
            // An error says that the collector did not take the last ones.
            let _ = provider.shutdown_with_timeout(END);
        });
        if let Err(error) = ending {
            tracing::warn!(%error, "the last spans are not sent");
        }
    }
}

/// The context whose remote parent is `span`.
fn below(span: opentelemetry::trace::SpanContext) -> Context {
    Context::new().with_remote_span_context(span)
}
