//! Builds the filter chain of a listener.

pub(crate) mod cors;
pub(crate) mod ext_proc;
mod header_mutation;
mod health_check;
mod of_cluster;
mod set_metadata;
pub(crate) mod show_behind;
mod switch;

use std::sync::Arc;

use extproc_client::{
    FilterConfig,
    host::{Host, RouteConfig},
};
use http::request::Parts;

use crate::{
    config::snapshot::{Filter, FilterKind, HttpManager, RouteTable},
    exchange::{Exchange, answer::ResponseFuture, chain::Chain},
    filters::{
        cors::CorsFilter,
        header_mutation::HeaderMutation,
        health_check::HealthCheck,
        of_cluster::OfCluster,
        set_metadata::MetadataFilter,
        show_behind::{Kept, ShownBehind},
        switch::Switch,
    },
};

/// Whose filters a chain has.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Listener(&'a RouteTable),
    Cluster,
}

/// The chain of a listener's filters around `inner`, the first one outermost.
pub(crate) fn of_listener(
    http: &HttpManager,
    inner: Chain,
    ext_proc: impl Fn(&Filter, &Arc<FilterConfig>, Chain) -> Chain,
) -> Chain {
    chain(
        &http.filters,
        Owner::Listener(&http.routes),
        inner,
        ext_proc,
    )
}

/// The chain of a cluster's filters around `inner`, the first one outermost.
pub(crate) fn of_cluster(
    filters: &[Filter],
    inner: Chain,
    ext_proc: impl Fn(&Filter, &Arc<FilterConfig>, Chain) -> Chain,
) -> Chain {
    chain(filters, Owner::Cluster, inner, ext_proc)
}

fn chain(
    filters: &[Filter],
    owner: Owner<'_>,
    inner: Chain,
    ext_proc: impl Fn(&Filter, &Arc<FilterConfig>, Chain) -> Chain,
) -> Chain {
    // Whether a filter further on has to do with responses.
    let mut responses = false;
    filters.iter().rev().fold(inner, |inner, filter| {
        let behind = inner.clone();
        let made = match &filter.kind {
            FilterKind::ExtProc(config) => {
                let further_on = std::mem::replace(&mut responses, true);
                return match owner {
                    Owner::Cluster => Chain::new(OfCluster {
                        filter: ext_proc(filter, config, inner),
                        behind,
                    }),
                    Owner::Listener(_) if further_on => Chain::new(ShownBehind {
                        filter: ext_proc(filter, config, Chain::new(Kept(inner))),
                        behind,
                    }),
                    Owner::Listener(_) => ext_proc(filter, config, inner),
                };
            }
            // The others have no per-route form that could switch them on.
            _ if filter.disabled => return inner,
            FilterKind::HeaderMutation { request, response } => {
                responses |= !response.is_empty();
                Chain::new(HeaderMutation {
                    request: request.clone().into(),
                    response: response.clone().into(),
                    inner,
                })
            }
            FilterKind::HealthCheck(headers) => Chain::new(HealthCheck {
                headers: headers.clone(),
                inner,
            }),
            FilterKind::SetMetadata(entries) => Chain::new(MetadataFilter {
                entries: entries.clone(),
                inner,
            }),
            // It asks the route itself.
            FilterKind::Cors => return Chain::new(CorsFilter { inner }),
        };
        let says: fn(&Exchange, &str, &Parts) -> RouteConfig = match owner {
            Owner::Listener(routes) if !routes.switches_off(&filter.name) => return made,
            Owner::Listener(_) => <Exchange as Host>::route,
            Owner::Cluster => |exchange, filter, _| exchange.config_of_cluster(filter),
        };
        Chain::new(Switch {
            name: filter.name.clone(),
            says,
            filter: made,
            behind,
        })
    })
}

/// Tells whether a filter of the chain asks for an `ExchangeContext`.
pub(crate) fn has_ext_proc(filters: &[Filter]) -> bool {
    filters
        .iter()
        .any(|filter| matches!(filter.kind, FilterKind::ExtProc(_)))
}
