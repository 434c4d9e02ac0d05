//! The filter `envoy.filters.http.ext_proc`: the layer of `extproc-client` over the clusters.

use std::sync::Arc;

use extproc_client::{ExtProcLayer, FilterConfig, observer::Observer};
use tower::Layer;

use crate::{
    config::snapshot::Filter,
    filters::{Handler, Inner, Outer},
    processors::ClusterTransport,
};

/// The ext_proc filter `filter` around `inner`.
pub(crate) fn handler(
    filter: &Filter,
    config: &Arc<FilterConfig>,
    transport: &ClusterTransport,
    observer: Arc<dyn Observer>,
    inner: Arc<dyn Handler>,
) -> Arc<dyn Handler> {
    let layer = ExtProcLayer::new(config.clone(), transport.clone())
        .named(filter.name.as_str())
        .disabled(filter.disabled)
        // The next filter sees what this one's processor said, as in Envoy; what leaves is framed anew.
        .guards_framing(false)
        .observer(observer);
    Arc::new(Outer(layer.layer(Inner(inner))))
}
