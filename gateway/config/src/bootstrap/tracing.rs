//! `HttpConnectionManager.Tracing`, with the OpenTelemetry provider, and what routes say of traces.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::{
    any::unsupported,
    cluster::TypedExtensionConfig,
    fraction::FractionalPercent,
    header::HeaderValueOption,
    root::Loaded,
    template,
    value::{ByName, FieldValue, Name, Time, Whatever},
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{
        CustomTag as TagModel, FormatOperator, Fraction, HeaderChange, HeaderTemplate,
        RouteTracing as RouteModel, Template, TraceExporter, TraceProtocol, TraceProvider,
        TraceSampler, TraceSampling, Tracing as Model,
    },
};

const OPENTELEMETRY: &str = "envoy.config.trace.v3.OpenTelemetryConfig";

const ENVIRONMENT: &str = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig";
const STATIC: &str = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig";

const ALWAYS_ON: &str = "envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig";
const PARENT_BASED: &str =
    "envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig";
const RATIO: &str =
    "envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig";

/// `HttpConnectionManager.Tracing`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tracing {
    client_sampling: Option<Located<Percent>>,
    random_sampling: Option<Located<Percent>>,
    overall_sampling: Option<Located<Percent>>,
    verbose: bool,
    max_path_tag_length: Option<usize>,
    custom_tags: Vec<Located<CustomTag>>,
    provider: Option<Located<TracingProvider>>,
    spawn_upstream_span: Option<bool>,
    operation: Option<Located<String>>,
    upstream_operation: Option<Located<String>>,
    no_context_propagation: bool,
}

/// `envoy.config.route.v3.Tracing`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteTracing {
    client_sampling: Option<FractionalPercent>,
    random_sampling: Option<FractionalPercent>,
    overall_sampling: Option<FractionalPercent>,
    custom_tags: Vec<Located<CustomTag>>,
    operation: Option<Located<String>>,
    upstream_operation: Option<Located<String>>,
}

/// `envoy.config.route.v3.Decorator`.
#[derive(Debug, Deserialize)]
pub(super) struct Decorator {
    operation: Located<String>,
}

/// `envoy.type.v3.Percent`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Percent {
    value: f64,
}

/// `envoy.config.trace.v3.Tracing.Http`.
#[derive(Debug, Deserialize)]
struct TracingProvider {
    typed_config: Subtree,
}

/// `envoy.config.trace.v3.OpenTelemetryConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OpenTelemetryConfig {
    grpc_service: Option<Located<CollectorService>>,
    http_service: Option<Located<CollectorHttpService>>,
    service_name: String,
    resource_detectors: Vec<TypedExtensionConfig>,
    sampler: Option<TypedExtensionConfig>,
    max_cache_size: Option<usize>,
}

/// `envoy.config.core.v3.GrpcService`.
#[derive(Debug, Deserialize)]
struct CollectorService {
    envoy_grpc: Located<CollectorGrpc>,
    timeout: Option<Time>,
    #[serde(default)]
    initial_metadata: Vec<CollectorMetadata>,
}

/// `GrpcService.EnvoyGrpc`.
#[derive(Debug, Deserialize)]
struct CollectorGrpc {
    cluster_name: Located<String>,
    #[serde(default)]
    authority: String,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Debug, Deserialize)]
struct CollectorMetadata {
    key: Name,
    value: FieldValue,
}

/// `envoy.config.core.v3.HttpService`.
#[derive(Debug, Deserialize)]
struct CollectorHttpService {
    http_uri: CollectorUri,
    #[serde(default)]
    request_headers_to_add: Vec<Located<HeaderValueOption>>,
}

/// `envoy.config.core.v3.HttpUri`.
#[derive(Debug, Deserialize)]
struct CollectorUri {
    uri: Located<String>,
    cluster: Located<String>,
    timeout: Time,
}

/// Resource detector `static_config`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StaticDetector {
    attributes: ByName<String>,
}

/// Sampler `parent_based`.
#[derive(Debug, Deserialize)]
struct ParentBased {
    wrapped_sampler: TypedExtensionConfig,
}

/// Sampler `trace_id_ratio_based`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RatioBased {
    sampling_percentage: FractionalPercent,
}

/// `envoy.type.tracing.v3.CustomTag`.
#[derive(Debug, Deserialize)]
struct CustomTag {
    tag: Located<String>,
    literal: Option<Literal>,
    environment: Option<Named>,
    request_header: Option<Named>,
    metadata: Option<MetadataTag>,
    value: Option<Located<String>>,
}

#[derive(Debug, Deserialize)]
struct Literal {
    value: String,
}

/// `CustomTag.Environment` and `CustomTag.Header`.
#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    default_value: String,
}

/// `CustomTag.Metadata`.
#[derive(Debug, Deserialize)]
struct MetadataTag {
    kind: Located<MetadataKind>,
    metadata_key: TagMetadataKey,
    #[serde(default)]
    default_value: String,
}

/// `envoy.type.metadata.v3.MetadataKind`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MetadataKind {
    request: Option<Whatever>,
    route: Option<Whatever>,
    cluster: Option<Whatever>,
    host: Option<Whatever>,
}

/// `envoy.type.metadata.v3.MetadataKey`.
#[derive(Debug, Deserialize)]
struct TagMetadataKey {
    key: String,
    #[serde(default)]
    path: Vec<TagSegment>,
}

#[derive(Debug, Deserialize)]
struct TagSegment {
    key: String,
}

impl Located<Percent> {
    fn build(&self) -> Result<Fraction, Fault> {
        const MILLION: u32 = 1_000_000;
        let percent = self.value.value;
        if !(0.0..=100.0).contains(&percent) {
            return Err(Fault::at(self.node, "expected a number from 0 to 100"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is from 0 to 1,000,000"
        )]
        let numerator = (percent / 100.0 * f64::from(MILLION)).round() as u32;
        Ok(Fraction {
            numerator,
            denominator: MILLION,
        })
    }
}

impl Located<Tracing> {
    /// `None` if there is no provider: nothing is traced then.
    pub(super) fn build(&self, loaded: &Loaded<'_>) -> Result<Option<Model>, Fault> {
        let tracing = &self.value;
        let share = |given: &Option<Located<Percent>>| {
            let given = given.as_ref().map(Located::<Percent>::build);
            Ok::<_, Fault>(given.transpose()?.unwrap_or(Fraction::ALL))
        };
        let sampling = TraceSampling {
            client: share(&tracing.client_sampling)?,
            random: share(&tracing.random_sampling)?,
            overall: share(&tracing.overall_sampling)?,
        };
        let custom_tags = tags(&tracing.custom_tags)?;
        let Some(provider) = &tracing.provider else {
            return Ok(None);
        };
        let provider = provider.build(loaded)?;
        Ok(Some(Model {
            sampling,
            verbose: tracing.verbose,
            max_path_tag_length: tracing.max_path_tag_length.unwrap_or(256),
            custom_tags,
            spawn_upstream_span: tracing.spawn_upstream_span.unwrap_or_default(),
            operation: operation(tracing.operation.as_ref())?,
            upstream_operation: operation(tracing.upstream_operation.as_ref())?,
            no_context_propagation: tracing.no_context_propagation,
            ..Model::new(Arc::new(provider))
        }))
    }
}

/// Configuration by a route; `None` if there is none.
pub(super) fn of_route(
    decorator: Option<&Decorator>,
    tracing: Option<&RouteTracing>,
) -> Result<Option<Arc<RouteModel>>, Fault> {
    if decorator.is_none() && tracing.is_none() {
        return Ok(None);
    }
    let mut model = RouteModel::default();
    if let Some(decorator) = decorator {
        if decorator.operation.value.is_empty() {
            return Err(Fault::at(decorator.operation.node, "may not be empty"));
        }
        model.decorator.clone_from(&decorator.operation.value);
    }
    if let Some(tracing) = tracing {
        let share = |given: &Option<FractionalPercent>| {
            given
                .as_ref()
                .map_or(Fraction::ALL, FractionalPercent::build)
        };
        model.sampling = Some(TraceSampling {
            client: share(&tracing.client_sampling),
            random: share(&tracing.random_sampling),
            overall: share(&tracing.overall_sampling),
        });
        model.custom_tags = tags(&tracing.custom_tags)?;
        model.operation = operation(tracing.operation.as_ref())?;
        model.upstream_operation = operation(tracing.upstream_operation.as_ref())?;
    }
    Ok(Some(Arc::new(model)))
}

/// The name of a span; `None` where there is no text.
fn operation(format: Option<&Located<String>>) -> Result<Option<Template>, Fault> {
    format
        .filter(|format| !format.value.is_empty())
        .map(|format| {
            template::text(&format.value).map_err(|reason| Fault::at(format.node, reason))
        })
        .transpose()
}

fn tags(tags: &[Located<CustomTag>]) -> Result<Vec<TagModel>, Fault> {
    tags.iter().map(Located::<CustomTag>::build).collect()
}

impl Located<CustomTag> {
    fn build(&self) -> Result<TagModel, Fault> {
        let CustomTag {
            tag,
            literal: text,
            environment,
            request_header,
            metadata,
            value,
        } = &self.value;
        if tag.value.is_empty() {
            return Err(Fault::at(tag.node, "may not be empty"));
        }
        let mut found = Vec::new();
        found.extend(
            text.as_ref()
                .map(|text| (Template::literal(&text.value), "")),
        );
        found.extend(environment.as_ref().map(|variable| {
            let value = std::env::var(&variable.name).unwrap_or_default();
            (Template::literal(&value), variable.default_value.as_str())
        }));
        found.extend(request_header.as_ref().map(|header| {
            let value = Template::substituted(FormatOperator::RequestHeader, header.name.clone());
            (value, header.default_value.as_str())
        }));
        if let Some(metadata) = metadata {
            found.push((metadata.build()?, metadata.default_value.as_str()));
        }
        if let Some(value) = value {
            let template = template::text(&value.value);
            let template = template.map_err(|reason| Fault::at(value.node, reason))?;
            found.push((template, ""));
        }
        match (found.pop(), found.is_empty()) {
            (Some((value, default)), true) => Ok(TagModel {
                tag: tag.value.clone(),
                value,
                default: default.to_owned(),
            }),
            _ => Err(Fault::at(
                self.node,
                "one and only one of literal, environment, request_header, metadata and value has to be set",
            )),
        }
    }
}

impl MetadataTag {
    fn build(&self) -> Result<Template, Fault> {
        let kind = &self.kind.value;
        let of = match (&kind.request, &kind.route, &kind.cluster, &kind.host) {
            (Some(_), None, None, None) => "DYNAMIC",
            (None, Some(_), None, None) => "ROUTE",
            (None, None, Some(_), None) => "CLUSTER",
            (None, None, None, Some(_)) => "UPSTREAM_HOST",
            _ => {
                return Err(Fault::at(
                    self.kind.node,
                    "one and only one of request, route, cluster and host has to be set",
                ));
            }
        };
        let key = &self.metadata_key;
        let segments = key.path.iter().map(|segment| segment.key.as_str());
        let path: Vec<&str> = std::iter::once(key.key.as_str()).chain(segments).collect();
        if path.iter().any(|key| key.contains(':')) {
            return Err(Fault::at(
                self.kind.node,
                "the metadata_key of a tag may have no ':' in its keys here",
            ));
        }
        let argument = format!("{of}:{}", path.join(":"));
        Ok(Template::substituted(FormatOperator::Metadata, argument))
    }
}

impl Located<TracingProvider> {
    fn build(&self, loaded: &Loaded<'_>) -> Result<TraceProvider, Fault> {
        let node = self.value.typed_config.node;
        match loaded.reader.type_of(node)? {
            OPENTELEMETRY => loaded
                .reader
                .read_typed::<Located<OpenTelemetryConfig>>(node)?
                .build(loaded),
            other => Err(unsupported(node, other, &[OPENTELEMETRY])),
        }
    }
}

impl Located<OpenTelemetryConfig> {
    fn build(&self, loaded: &Loaded<'_>) -> Result<TraceProvider, Fault> {
        let config = &self.value;
        let exporter = match (&config.grpc_service, &config.http_service) {
            (Some(grpc), None) => grpc.build(loaded)?,
            (None, Some(http)) => http.build(loaded)?,
            _ => {
                return Err(Fault::at(
                    self.node,
                    "one and only one of grpc_service and http_service has to be set",
                ));
            }
        };
        let mut provider = TraceProvider {
            exporter,
            service_name: config.service_name.clone(),
            resource: Vec::new(),
            resource_from_environment: false,
            sampler: config
                .sampler
                .as_ref()
                .map(|config| sampler(loaded.reader, config))
                .transpose()?,
            max_cache_size: config.max_cache_size,
        };
        for detector in &config.resource_detectors {
            let node = detector.typed_config.node;
            match loaded.reader.type_of(node)? {
                ENVIRONMENT => provider.resource_from_environment = true,
                STATIC => {
                    let detector: StaticDetector = loaded.reader.read_typed(node)?;
                    provider.resource.extend(detector.attributes);
                }
                other => return Err(unsupported(node, other, &[ENVIRONMENT, STATIC])),
            }
        }
        Ok(provider)
    }
}

fn sampler(reader: &Reader<'_>, config: &TypedExtensionConfig) -> Result<TraceSampler, Fault> {
    let node = config.typed_config.node;
    match reader.type_of(node)? {
        ALWAYS_ON => Ok(TraceSampler::AlwaysOn),
        PARENT_BASED => {
            let config: ParentBased = reader.read_typed(node)?;
            let within = sampler(reader, &config.wrapped_sampler)?;
            Ok(TraceSampler::ParentBased(Box::new(within)))
        }
        RATIO => {
            let config: RatioBased = reader.read_typed(node)?;
            let share = config.sampling_percentage.build();
            Ok(TraceSampler::Ratio(
                f64::from(share.numerator) / f64::from(share.denominator),
            ))
        }
        other => Err(unsupported(node, other, &[ALWAYS_ON, PARENT_BASED, RATIO])),
    }
}

/// A header that no request has a part in.
fn fixed(option: &Located<HeaderValueOption>) -> Result<Option<(HeaderName, HeaderValue)>, Fault> {
    match option.build()? {
        Some(HeaderChange::Set {
            name,
            value: HeaderTemplate::Plain(value),
            ..
        }) => Ok(Some((name, value))),
        Some(HeaderChange::Set { .. }) => {
            Err(Fault::at(option.node, "operators are not supported here"))
        }
        _ => Ok(None),
    }
}

/// Tells of a cluster that there is not: as in Envoy, spans are dropped then.
fn check(name: &str, node: NodeId, loaded: &Loaded<'_>) {
    let known = loaded.clusters.contains_key(name)
        || loaded.refused.contains(name)
        || loaded.refused.contains("");
    if !known {
        loaded
            .reader
            .note(node, format!("unknown cluster {name:?}: no span is sent"));
    }
}

impl Located<CollectorService> {
    fn build(&self, loaded: &Loaded<'_>) -> Result<TraceExporter, Fault> {
        let grpc = &self.value.envoy_grpc.value;
        let cluster = &grpc.cluster_name;
        check(&cluster.value, cluster.node, loaded);
        let authority = match grpc.authority.as_str() {
            "" => cluster.value.as_str(),
            authority => authority,
        };
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query("/")
            .build();
        let metadata = self.value.initial_metadata.iter();
        Ok(TraceExporter {
            cluster: cluster.value.clone(),
            protocol: TraceProtocol::Grpc,
            // A cluster may have a name that no host can have.
            uri: uri.unwrap_or_else(|_| http::Uri::from_static("http://collector/")),
            headers: metadata
                .map(|entry| (entry.key.0.clone(), entry.value.0.clone()))
                .collect(),
            headers_from_environment: false,
            timeout: self.value.timeout.and_then(Time::limit),
        })
    }
}

impl Located<CollectorHttpService> {
    fn build(&self, loaded: &Loaded<'_>) -> Result<TraceExporter, Fault> {
        let CollectorUri {
            uri,
            cluster,
            timeout,
        } = &self.value.http_uri;
        check(&cluster.value, cluster.node, loaded);
        let parsed: http::Uri = uri
            .value
            .parse()
            .map_err(|error| Fault::at(uri.node, format!("{error}")))?;
        if parsed.authority().is_none() {
            return Err(Fault::at(uri.node, "has to name a host"));
        }
        let headers = self.value.request_headers_to_add.iter();
        Ok(TraceExporter {
            cluster: cluster.value.clone(),
            protocol: TraceProtocol::Http,
            uri: parsed,
            headers: headers
                .filter_map(|option| fixed(option).transpose())
                .collect::<Result<_, _>>()?,
            headers_from_environment: false,
            timeout: timeout.limit(),
        })
    }
}
