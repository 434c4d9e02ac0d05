//! Builds the filter chain of a listener.

pub(crate) mod cors;
pub(crate) mod ext_proc;
mod header_mutation;
mod health_check;
mod of_cluster;
mod set_metadata;
pub(crate) mod show_behind;

use std::sync::Arc;

use extproc_client::FilterConfig;

use crate::{
    config::snapshot::{Filter, FilterKind},
    exchange::{answer::ResponseFuture, chain::Chain},
    filters::{
        cors::CorsFilter,
        header_mutation::HeaderMutation,
        health_check::HealthCheck,
        of_cluster::OfCluster,
        set_metadata::MetadataFilter,
        show_behind::{Kept, ShownBehind},
    },
};

/// The chain of a listener's filters around `inner`, the first one outermost.
pub(crate) fn of_listener(
    filters: &[Filter],
    inner: Chain,
    ext_proc: impl Fn(&Filter, &Arc<FilterConfig>, Chain) -> Chain,
) -> Chain {
    chain(
        filters,
        inner,
        |filter, config, inner, responses| match responses {
            true => Chain::new(ShownBehind {
                filter: ext_proc(filter, config, Chain::new(Kept(inner.clone()))),
                behind: inner,
            }),
            false => ext_proc(filter, config, inner),
        },
    )
}

/// The chain of a cluster's filters around `inner`, the first one outermost.
pub(crate) fn of_cluster(
    filters: &[Filter],
    inner: Chain,
    ext_proc: impl Fn(&Filter, &Arc<FilterConfig>, Chain) -> Chain,
) -> Chain {
    chain(filters, inner, |filter, config, inner, _| {
        Chain::new(OfCluster {
            filter: ext_proc(filter, config, inner.clone()),
            behind: inner,
        })
    })
}

/// The chain of these filters around `inner`. `ext_proc` is also told whether a filter further on has to do with responses.
fn chain(
    filters: &[Filter],
    inner: Chain,
    ext_proc: impl Fn(&Filter, &Arc<FilterConfig>, Chain, bool) -> Chain,
) -> Chain {
    let mut responses = false;
    filters
        .iter()
        .rev()
        .fold(inner, |inner, filter| match &filter.kind {
            FilterKind::ExtProc(config) => {
                let further_on = std::mem::replace(&mut responses, true);
                ext_proc(filter, config, inner, further_on)
            }
            // These have no per-route form that could switch them on.
            _ if filter.disabled => inner,
            FilterKind::HeaderMutation { request, response } => {
                responses |= !response.is_empty();
                Chain::new(HeaderMutation {
                    request: request.clone().into(),
                    response: response.clone().into(),
                    inner,
                })
            }
            FilterKind::Cors => Chain::new(CorsFilter { inner }),
            FilterKind::HealthCheck(headers) => Chain::new(HealthCheck {
                headers: headers.clone(),
                inner,
            }),
            FilterKind::SetMetadata(entries) => Chain::new(MetadataFilter {
                entries: entries.clone(),
                inner,
            }),
        })
}

/// Tells whether a filter of the chain asks for an `ExchangeContext`.
pub(crate) fn has_ext_proc(filters: &[Filter]) -> bool {
    filters
        .iter()
        .any(|filter| matches!(filter.kind, FilterKind::ExtProc(_)))
}
