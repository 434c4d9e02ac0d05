//! Traces of a connection manager's requests, and the collector that the spans go to.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri};

use super::{Fraction, Template};

/// `HttpConnectionManager.Tracing`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Recorder of the spans.
    pub provider: Arc<TraceProvider>,
    /// Requests that are traced.
    pub sampling: TraceSampling,
    /// Requests are drawn by their `x-request-id`, which says why they are traced, and those without one are not. Otherwise all
    /// are.
    pub by_request_id: bool,
    /// `verbose`: spans have the moments of the exchange as events.
    pub verbose: bool,
    /// Bytes of a path that `http.url` shows.
    pub max_path_tag_length: usize,
    /// Attributes beside those that every span has.
    pub custom_tags: Vec<CustomTag>,
    /// A span of its own for each attempt to have a request answered.
    pub spawn_upstream_span: bool,
    /// Name of the request's span; unset: `ingress`, or as the route's decorator says.
    pub operation: Option<Template>,
    /// Name of an attempt's span; unset: `router CLUSTER egress`.
    pub upstream_operation: Option<Template>,
    /// Upstreams are not told of the trace.
    pub no_context_propagation: bool,
}

impl Tracing {
    /// Everything is traced, with a span for each attempt.
    pub fn new(provider: Arc<TraceProvider>) -> Self {
        Self {
            provider,
            sampling: TraceSampling::default(),
            by_request_id: true,
            verbose: false,
            max_path_tag_length: 256,
            custom_tags: Vec::new(),
            spawn_upstream_span: true,
            operation: None,
            upstream_operation: None,
            no_context_propagation: false,
        }
    }
}

/// `client_sampling`, `random_sampling` and `overall_sampling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSampling {
    /// Of requests with [`CLIENT_TRACE_ID`](extproc_client::headers::CLIENT_TRACE_ID).
    pub client: Fraction,
    /// Of those that nobody asked to trace.
    pub random: Fraction,
    /// Of what the others chose.
    pub overall: Fraction,
}

impl Default for TraceSampling {
    fn default() -> Self {
        Self {
            client: Fraction::ALL,
            random: Fraction::ALL,
            overall: Fraction::ALL,
        }
    }
}

/// A route's configuration of traces: `decorator` and `tracing`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTracing {
    /// `decorator.operation`; empty if there is none.
    pub decorator: String,
    /// In place of the connection manager's.
    pub sampling: Option<TraceSampling>,
    /// Beside those of the connection manager, and before those of the same name.
    pub custom_tags: Vec<CustomTag>,
    /// In place of the connection manager's.
    pub operation: Option<Template>,
    /// In place of the connection manager's.
    pub upstream_operation: Option<Template>,
}

/// `envoy.type.tracing.v3.CustomTag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomTag {
    /// Its name.
    pub tag: String,
    /// Its value.
    pub value: Template,
    /// In place of a value that there is not; the tag is left out if this is empty, too.
    pub default: String,
}

/// `envoy.config.trace.v3.OpenTelemetryConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceProvider {
    /// Collector of the spans.
    pub exporter: TraceExporter,
    /// `service.name`; empty: as the environment says, or `unknown_service:gateway`.
    pub service_name: String,
    /// Attributes of the resource, of the detector `static_config`.
    pub resource: Vec<(String, String)>,
    /// `OTEL_RESOURCE_ATTRIBUTES` are attributes of the resource, too.
    pub resource_from_environment: bool,
    /// Chooses the spans that are recorded; unset: the caller's `traceparent`, or else the sampling of the connection manager.
    pub sampler: Option<TraceSampler>,
    /// Most spans that wait to be sent; unset: as the environment says.
    pub max_cache_size: Option<usize>,
}

/// Collector of the spans.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceExporter {
    /// The cluster of the collector.
    pub cluster: String,
    /// Protocol that it speaks.
    pub protocol: TraceProtocol,
    /// `:authority` and path. Of gRPC the authority alone counts.
    pub uri: Uri,
    /// Headers of each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Those of the environment (`OTEL_EXPORTER_OTLP_HEADERS`) are for this collector, too.
    pub headers_from_environment: bool,
    /// Longest time that a request may take; unset: as the environment says.
    pub timeout: Option<Duration>,
}

/// Forms of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceProtocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP, in protobuf.
    Http,
}

/// Samplers of Envoy's OpenTelemetry tracer.
#[derive(Clone, Debug, PartialEq)]
pub enum TraceSampler {
    /// `always_on`.
    AlwaysOn,
    /// `trace_id_ratio_based`: the part of traces that is recorded.
    Ratio(f64),
    /// `parent_based`: the caller decides, or else the one within.
    ParentBased(Box<Self>),
}
