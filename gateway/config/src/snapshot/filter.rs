//! HTTP filters.

use std::sync::Arc;

use extproc_client::FilterConfig;

use super::{Compressor, Decompressor, HeaderChange, HeaderMatch, LocalRateLimit, MatchTree};

/// One HTTP filter.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The name it was given, the key of per-route configuration.
    pub name: String,
    /// `disabled`: only active where a route's configuration says so.
    pub disabled: bool,
    /// Its work.
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
    /// `envoy.extensions.filters.http.grpc_web.v3.GrpcWeb`.
    GrpcWeb,
    /// `envoy.extensions.filters.http.health_check.v3.HealthCheck`: requests with these headers are answered with 200.
    HealthCheck(Arc<[HeaderMatch]>),
    /// `envoy.extensions.filters.http.set_metadata.v3.Config`.
    SetMetadata(Vec<SetMetadata>),
    /// `envoy.extensions.filters.http.buffer.v3.Buffer`: the whole request is gathered first, at most so many bytes.
    Buffer(usize),
    /// `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.extensions.filters.http.compressor.v3.Compressor`.
    Compressor(Arc<Compressor>),
    /// `envoy.extensions.filters.http.decompressor.v3.Decompressor`.
    Decompressor(Arc<Decompressor>),
    /// `envoy.extensions.common.matching.v3.ExtensionWithMatcher`, and `Composite`.
    Matched(Arc<Matched>),
}

impl FilterKind {
    /// Calls `seen` with the configuration of each ext_proc filter that it is or may execute.
    pub fn each_ext_proc<'a>(&'a self, seen: &mut dyn FnMut(&'a Arc<FilterConfig>)) {
        self.each(&mut |kind| {
            if let Self::ExtProc(config) = kind {
                seen(config);
            }
        });
    }

    /// Calls `seen` with it, or with each filter that it may execute.
    pub fn each<'a>(&'a self, seen: &mut dyn FnMut(&'a Self)) {
        match self {
            Self::Matched(matched) => matched.each_chain(&mut |filters| {
                filters.iter().for_each(|filter| filter.kind.each(seen));
            }),
            kind => seen(kind),
        }
    }
}

/// A filter for which a match tree decides.
#[derive(Debug, Default)]
pub struct Matched {
    /// Decides; without one nothing is done.
    pub tree: Option<MatchTree>,
    /// Work that is done unless the tree says something else; `None` for `Composite`.
    pub base: Option<Arc<[Filter]>>,
}

impl Matched {
    /// Calls `seen` with all filters that may be executed.
    pub fn each_chain<'a>(&'a self, seen: &mut dyn FnMut(&'a Arc<[Filter]>)) {
        if let Some(base) = &self.base {
            seen(base);
        }
        if let Some(tree) = &self.tree {
            tree.each_chain(seen);
        }
    }
}

/// A route's configuration of a filter.
#[derive(Clone, Debug)]
pub enum OnRoute {
    /// It does nothing.
    Off,
    /// It does what its own configuration says, also if it is `disabled`.
    On,
    /// An ext_proc filter has this configuration; `None` means disabled.
    Processor(Option<Arc<FilterConfig>>),
    /// It does what this says.
    As(FilterKind),
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
