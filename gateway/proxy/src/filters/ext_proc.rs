//! The filter `envoy.filters.http.ext_proc`: the layer of `extproc-client` over the clusters.

use std::sync::Arc;

use extproc_client::{ExtProcLayer, FilterConfig};
use tower::Layer;

use crate::{
    config::snapshot::{Filter, HttpManager},
    filters::{Handler, Inner, Outer},
    processors::ClusterTransport,
    telemetry::stats::Metrics,
};

/// The ext_proc filter `filter` around `inner`.
pub(crate) fn handler(
    http: &HttpManager,
    filter: &Filter,
    config: &Arc<FilterConfig>,
    transport: &ClusterTransport,
    metrics: &Metrics,
    inner: Arc<dyn Handler>,
) -> Arc<dyn Handler> {
    let layer = ExtProcLayer::new(config.clone(), transport.clone())
        .named(filter.name.as_str())
        .disabled(filter.disabled)
        // The next filter sees what this one's processor said, as in Envoy; what leaves is framed anew.
        .guards_framing(false)
        .observer(metrics.observer(&http.stat_prefix, config.stat_prefix()));
    Arc::new(Outer(layer.layer(Inner(inner))))
}
