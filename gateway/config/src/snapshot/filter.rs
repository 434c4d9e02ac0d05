//! HTTP filters.

use std::sync::Arc;

use extproc_client::FilterConfig;

use super::{HeaderChange, HeaderMatch};

/// One HTTP filter.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The name it was given, the key of per-route configuration.
    pub name: String,
    /// `disabled`: only active where a route's configuration says so.
    pub disabled: bool,
    /// What it does.
    pub kind: FilterKind,
}

/// Filters that the gateway knows beside the router.
#[derive(Clone, Debug)]
pub enum FilterKind {
    /// `envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor`.
    ExtProc(Arc<FilterConfig>),
    /// `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.
    HeaderMutation {
        /// On requests.
        request: Vec<HeaderChange>,
        /// On responses.
        response: Vec<HeaderChange>,
    },
    /// `envoy.extensions.filters.http.cors.v3.Cors`; what it does is said by [`Route::cors`](super::Route::cors).
    Cors,
    /// `envoy.extensions.filters.http.health_check.v3.HealthCheck`: requests with these headers are answered with 200.
    HealthCheck(Arc<[HeaderMatch]>),
    /// `envoy.extensions.filters.http.set_metadata.v3.Config`.
    SetMetadata(Vec<SetMetadata>),
}

/// One entry of a `set_metadata` filter.
#[derive(Clone, Debug)]
pub struct SetMetadata {
    /// The namespace.
    pub namespace: String,
    /// Merged or replaced content.
    pub value: Option<prost_types::Struct>,
    /// A typed message.
    pub typed: Option<prost_types::Any>,
    /// Replace what is there.
    pub allow_overwrite: bool,
}
