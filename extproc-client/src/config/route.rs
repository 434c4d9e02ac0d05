//! `ExtProcPerRoute`: what a virtual host, route or weighted cluster changes.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::{
    ConfigError, FilterConfig, MetadataOptions, ProcessingMode, Service,
    check::metadata_entry,
    raw::{RawExtension, RawGrpcService, RawHeader, RawMetadataOptions},
    service::{GrpcService, MetadataEntry},
};
use crate::attributes::AttributeSet;

/// `envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PerRoute {
    /// The filter does nothing here.
    Disabled,
    /// Some settings differ here.
    Overrides(Box<Overrides>),
}

/// `envoy.extensions.filters.http.ext_proc.v3.ExtProcOverrides`; what is unset keeps its value.
///
/// `request_attributes`, `response_attributes` and `async_mode` are accepted and have no effect, as
/// in Envoy.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Replaces the mode as a whole.
    pub processing_mode: Option<ProcessingMode>,
    /// Replaces the service, where that is one of gRPC.
    pub grpc_service: Option<GrpcService>,
    /// Merged by key into the service's metadata.
    pub grpc_initial_metadata: Vec<MetadataEntry>,
    /// Replaces those kinds of namespaces that are given.
    pub metadata_options: Option<MetadataOverrides>,
    /// Replaces the setting.
    pub failure_mode_allow: Option<bool>,
    /// Replaces the setting.
    pub emit_client_span: Option<bool>,
    pub(crate) mapped: Option<(AttributeSet, AttributeSet)>,
}

/// `MetadataOptions` of a route: what is given replaces the filter's lists of that kind, both of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataOverrides {
    /// `forwarding_namespaces`.
    pub forwarding: Option<Namespaces>,
    /// `receiving_namespaces`.
    pub receiving: Option<Namespaces>,
    /// `cluster_metadata_forwarding_namespaces`.
    pub cluster: Option<Namespaces>,
}

/// `MetadataNamespaces`: names by kind of content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// With JSON-like content.
    pub untyped: Vec<String>,
    /// With a typed message.
    pub typed: Vec<String>,
}

impl MetadataOverrides {
    pub(super) fn apply(&self, options: &mut MetadataOptions) {
        for (given, untyped, typed) in [
            (
                &self.forwarding,
                &mut options.forward_untyped,
                &mut options.forward_typed,
            ),
            (
                &self.receiving,
                &mut options.receive_untyped,
                &mut options.receive_typed,
            ),
            (
                &self.cluster,
                &mut options.cluster_untyped,
                &mut options.cluster_typed,
            ),
        ] {
            if let Some(given) = given {
                untyped.clone_from(&given.untyped);
                typed.clone_from(&given.typed);
            }
        }
    }
}

pub(super) fn merge<'a>(
    base: &FilterConfig,
    levels: impl IntoIterator<Item = &'a PerRoute>,
) -> Option<Arc<FilterConfig>> {
    let mut merged = base.clone();
    let mut disabled = false;
    let mut metadata = Vec::new();
    for level in levels {
        match level {
            PerRoute::Disabled => {
                disabled = true;
                merged.mode = base.mode;
            }
            PerRoute::Overrides(overrides) => {
                disabled = false;
                apply(&mut merged, overrides);
                metadata.extend(&overrides.grpc_initial_metadata);
            }
        }
    }
    if disabled {
        return None;
    }
    // Last, so that it also goes to a service of a more specific level.
    if let Service::Grpc(service) = &mut merged.service {
        for entry in metadata {
            add_metadata(&mut service.initial_metadata, entry);
        }
    }
    Some(Arc::new(merged))
}

fn add_metadata(entries: &mut Vec<MetadataEntry>, entry: &MetadataEntry) {
    let mut known = false;
    for same in entries.iter_mut().filter(|known| known.key == entry.key) {
        *same = entry.clone();
        known = true;
    }
    if !known {
        entries.push(entry.clone());
    }
}

fn apply(config: &mut FilterConfig, overrides: &Overrides) {
    if let Some(mode) = overrides.processing_mode {
        config.mode = mode;
    }
    // As in Envoy, a filter that speaks to an HTTP service goes on doing so.
    if let (Service::Grpc(own), Some(service)) = (&mut config.service, &overrides.grpc_service) {
        *own = service.clone();
    }
    if let Some(options) = &overrides.metadata_options {
        options.apply(&mut config.metadata);
    }
    if let Some(allow) = overrides.failure_mode_allow {
        config.failure_mode_allow = allow;
    }
    if let Some(emit) = overrides.emit_client_span {
        config.emit_client_span = emit;
    }
    if let Some((request, response)) = &overrides.mapped {
        if !request.entries.is_empty() {
            config.request_attributes = request.clone();
        }
        if !response.entries.is_empty() {
            config.response_attributes = response.clone();
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPerRoute {
    disabled: Option<bool>,
    overrides: Option<RawOverrides>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawOverrides {
    #[serde(alias = "processingMode")]
    processing_mode: Option<ProcessingMode>,
    #[serde(alias = "asyncMode")]
    async_mode: bool,
    #[serde(alias = "requestAttributes")]
    request_attributes: Vec<String>,
    #[serde(alias = "responseAttributes")]
    response_attributes: Vec<String>,
    #[serde(alias = "grpcService")]
    grpc_service: Option<RawGrpcService>,
    #[serde(alias = "metadataOptions")]
    metadata_options: Option<RawMetadataOptions>,
    #[serde(alias = "grpcInitialMetadata")]
    grpc_initial_metadata: Vec<RawHeader>,
    #[serde(alias = "failureModeAllow")]
    failure_mode_allow: Option<bool>,
    #[serde(alias = "processingRequestModifier")]
    processing_request_modifier: Option<RawExtension>,
    #[serde(alias = "emitClientSpan")]
    emit_client_span: Option<bool>,
}

impl TryFrom<RawPerRoute> for PerRoute {
    type Error = ConfigError;

    fn try_from(raw: RawPerRoute) -> Result<Self, ConfigError> {
        match (raw.disabled, raw.overrides) {
            (Some(true), None) => Ok(Self::Disabled),
            (Some(false), None) => Err(ConfigError::new("disabled", "may only be true")),
            (None, Some(overrides)) => Ok(Self::Overrides(Box::new(overrides.try_into()?))),
            _ => Err(ConfigError::new(
                "overrides",
                "one and only one of disabled and overrides has to be set",
            )),
        }
    }
}

impl TryFrom<RawOverrides> for Overrides {
    type Error = ConfigError;

    fn try_from(raw: RawOverrides) -> Result<Self, ConfigError> {
        Ok(Self {
            processing_mode: raw.processing_mode,
            grpc_service: raw.grpc_service.map(GrpcService::try_from).transpose()?,
            grpc_initial_metadata: raw
                .grpc_initial_metadata
                .iter()
                .map(|entry| metadata_entry("overrides.grpc_initial_metadata", entry))
                .collect::<Result<_, _>>()?,
            metadata_options: raw.metadata_options.map(Into::into),
            failure_mode_allow: raw.failure_mode_allow,
            emit_client_span: raw.emit_client_span,
            mapped: raw
                .processing_request_modifier
                .map(|modifier| super::check::attributes(&[], &[], Some(modifier)))
                .transpose()?,
        })
    }
}

impl<'de> Deserialize<'de> for PerRoute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawPerRoute::deserialize(deserializer)?
            .try_into()
            .map_err(serde::de::Error::custom)
    }
}
