//! Builds the filter chain of a listener.

pub(crate) mod cors;
pub(crate) mod ext_proc;
mod header_mutation;
mod health_check;
mod set_metadata;
pub(crate) mod show_behind;

use std::sync::Arc;

use crate::{
    config::snapshot::{Filter, FilterKind},
    filters::{
        cors::CorsFilter,
        header_mutation::HeaderMutation,
        health_check::HealthCheck,
        set_metadata::MetadataFilter,
        show_behind::{Kept, ShownBehind},
    },
};

use crate::exchange::{answer::ResponseFuture, chain::Chain};

/// The chain of these filters around `inner`, the first one outermost.
pub(crate) fn chain(
    filters: &[Filter],
    inner: Chain,
    ext_proc: impl Fn(&Filter, &Arc<extproc_client::FilterConfig>, Chain) -> Chain,
) -> Chain {
    // Whether a filter further on has to do with responses.
    let mut responses = false;
    filters
        .iter()
        .rev()
        .fold(inner, |inner, filter| match &filter.kind {
            FilterKind::ExtProc(config) => match std::mem::replace(&mut responses, true) {
                true => Chain::new(ShownBehind {
                    filter: ext_proc(filter, config, Chain::new(Kept(inner.clone()))),
                    behind: inner,
                }),
                false => ext_proc(filter, config, inner),
            },
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
