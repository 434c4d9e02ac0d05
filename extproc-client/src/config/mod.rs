//! The filter's configuration: `envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor`.
//!
//! A [`FilterConfig`] is made from one of three forms and checked once, so that an illegal one cannot
//! be built: from ProtoJSON (serde, as in an Envoy bootstrap file), from the `envoy-types` message
//! (`TryFrom`), or in code with [`FilterConfig::builder`]. All three go through the same checks.
//!
//! ```
//! use extproc_client::{BodyMode, FilterConfig};
//!
//! let config: FilterConfig = serde_json::from_str(r#"{
//!     "grpc_service": {"envoy_grpc": {"cluster_name": "processor"}},
//!     "message_timeout": "0.5s",
//!     "processing_mode": {"request_body_mode": "BUFFERED"}
//! }"#).unwrap();
//! assert_eq!(config.processing_mode().request_body_mode, BodyMode::Buffered);
//!
//! let error = serde_json::from_str::<FilterConfig>(r#"{"message_timeout": "0.5s"}"#).unwrap_err();
//! assert!(error.to_string().contains("grpc_service"));
//! ```

mod builder;
mod check;
#[cfg(feature = "envoy-types")]
mod envoy;
mod matcher;
mod raw;
mod retry;
mod route;
mod service;
mod target;
mod written;

use std::{sync::Arc, time::Duration};

pub use self::{
    builder::FilterConfigBuilder,
    matcher::{PatternError, RegexMatcher, RegexSubstitution, StringMatcher},
    raw::StatusNumber,
    retry::RetryPolicy,
    route::{MetadataOverrides, Namespaces, Overrides, PerRoute},
    service::{GrpcService, GrpcTarget, HttpService, MetadataEntry, Service},
    target::TargetAddress,
};
use crate::attributes::AttributeSet;
pub use crate::{
    text::pattern::Effort,
    types::mode::{BodyMode, ProcessingMode, SendMode},
};

/// A configuration that cannot be used, with the field as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    field: &'static str,
    reason: String,
}

impl ConfigError {
    pub(crate) fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self {
            field,
            reason: reason.into(),
        }
    }

    /// The field's name in the proto.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

/// `RouteCacheAction`: what a reply to request headers may do to the selected route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteCacheAction {
    /// Re-select the route when the reply says so.
    #[default]
    Default,
    /// Re-select it after each reply that mutates headers.
    Clear,
    /// Never re-select it.
    Retain,
}

/// `HeaderForwardingRules`: which headers the processor gets to see.
#[derive(Clone, Debug, Default)]
pub struct ForwardRules {
    /// If not empty, only these.
    pub allowed: Vec<StringMatcher>,
    /// Never these.
    pub disallowed: Vec<StringMatcher>,
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutationRules`.
#[derive(Clone, Debug, Default)]
pub struct MutationRules {
    /// `:method`, `:scheme`, `:authority` and `host` may be changed.
    pub allow_all_routing: bool,
    /// `x-envoy-*` may be changed.
    pub allow_envoy: bool,
    /// Names beginning with `:` may not be changed.
    pub disallow_system: bool,
    /// Nothing may be changed but what `allow_expression` matches.
    pub disallow_all: bool,
    /// Names that may be changed whatever else is set.
    pub allow_expression: Option<RegexMatcher>,
    /// Names that may never be changed.
    pub disallow_expression: Option<RegexMatcher>,
    /// A refused change fails the exchange instead of being skipped.
    pub disallow_is_error: bool,
}

/// `MetadataOptions`: which namespaces of dynamic metadata are exchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataOptions {
    /// Sent to the processor as `filter_metadata`.
    pub forward_untyped: Vec<String>,
    /// Sent to the processor as `typed_filter_metadata`.
    pub forward_typed: Vec<String>,
    /// Taken from `dynamic_metadata`.
    pub receive_untyped: Vec<String>,
    /// Taken from `typed_dynamic_metadata`.
    pub receive_typed: Vec<String>,
    /// Sent from the selected cluster's metadata.
    pub cluster_untyped: Vec<String>,
    /// As `cluster_untyped`, typed.
    pub cluster_typed: Vec<String>,
}

impl MetadataOptions {
    /// Tells whether anything of the cluster's metadata may be sent.
    pub(crate) fn forwards_of_cluster(&self) -> bool {
        !self.cluster_untyped.is_empty() || !self.cluster_typed.is_empty()
    }
}

/// Everything the filter needs to know, checked.
#[derive(Clone, Debug)]
pub struct FilterConfig {
    pub(crate) service: Service,
    pub(crate) failure_mode_allow: bool,
    pub(crate) mode: ProcessingMode,
    /// The filter's own mode, whatever a route says: what an override leaves at its default.
    pub(crate) filter_mode: ProcessingMode,
    pub(crate) request_attributes: AttributeSet,
    pub(crate) response_attributes: AttributeSet,
    pub(crate) message_timeout: Duration,
    pub(crate) max_message_timeout: Option<Duration>,
    pub(crate) stat_prefix: String,
    pub(crate) mutation_rules: MutationRules,
    pub(crate) forward_rules: ForwardRules,
    pub(crate) allow_mode_override: bool,
    pub(crate) allowed_override_modes: Vec<ProcessingMode>,
    pub(crate) disable_immediate_response: bool,
    pub(crate) metadata: MetadataOptions,
    pub(crate) observability_mode: bool,
    pub(crate) deferred_close_timeout: Duration,
    pub(crate) route_cache_action: RouteCacheAction,
    pub(crate) send_body_without_waiting: bool,
    pub(crate) status_on_error: http::StatusCode,
    pub(crate) allow_content_length_header: bool,
    pub(crate) emit_client_span: bool,
    pub(crate) graceful_close: Option<Duration>,
}

impl FilterConfig {
    /// A configuration with Envoy's defaults for this service.
    pub fn builder(service: Service) -> FilterConfigBuilder {
        FilterConfigBuilder::new(service)
    }

    /// Address of the processor.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The mode an exchange begins with.
    pub fn processing_mode(&self) -> &ProcessingMode {
        &self.mode
    }

    /// The extra segment of statistics names; may be empty.
    pub fn stat_prefix(&self) -> &str {
        &self.stat_prefix
    }

    /// Longest time for a reply. Default 200 ms, 0 to 3600 s; with 0 messages are sent and no reply comes in time. No limit to
    /// full duplex and GRPC bodies, to responses that the processor streams, and in observability mode.
    pub fn message_timeout(&self) -> Duration {
        self.message_timeout
    }

    /// Tells whether an exchange goes on without a processor that failed.
    pub fn failure_mode_allow(&self) -> bool {
        self.failure_mode_allow
    }

    /// Tells whether the processor only gets copies.
    pub fn observability_mode(&self) -> bool {
        self.observability_mode
    }

    /// Tells whether the processor may refuse or change a response, by what it sees of it or may ask to see.
    pub(crate) fn may_judge_response(&self) -> bool {
        !self.observability_mode && (self.allow_mode_override || !self.mode.response().is_off())
    }

    /// Ends side streams with a half-close and leaves the processor this long to end its side; `None`
    /// resets them at once. It is no field of the filter: Envoy reads it from its runtime
    /// (`envoy.reloadable_features.ext_proc_graceful_grpc_close`, off by default). See
    /// [`FilterConfigBuilder::graceful_close`].
    #[must_use]
    pub fn with_graceful_close(mut self, timeout: Option<Duration>) -> Self {
        self.graceful_close = timeout;
        self
    }

    /// Longest time for the processor to end its side after a half-close; `None` if streams are
    /// reset at once.
    pub fn graceful_close(&self) -> Option<Duration> {
        self.graceful_close
    }

    /// Tells whether a span of each side stream is to be recorded by an [observer](crate::observer) that records any.
    pub fn emit_client_span(&self) -> bool {
        self.emit_client_span
    }

    /// This configuration as it holds on a route with these `ExtProcPerRoute`s, least specific
    /// first (virtual host, route, weighted cluster). `None` if the filter is disabled there.
    ///
    /// `processing_mode` and `grpc_service` replace the less specific value as a whole,
    /// `grpc_initial_metadata` merges by key, each list of `metadata_options` is replaced as a whole.
    /// A more specific `overrides` cancels a less specific `disabled`; of what is less specific still, only the modes are gone.
    pub fn for_route<'a>(
        &self,
        levels: impl IntoIterator<Item = &'a PerRoute>,
    ) -> Option<Arc<Self>> {
        route::merge(self, levels)
    }
}
