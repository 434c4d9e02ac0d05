//! Builds the filter chain of a listener.

mod buffer;
mod compression;
pub(crate) mod cors;
pub(crate) mod ext_proc;
mod grpc_web;
mod header_mutation;
mod health_check;
mod local_rate_limit;
mod matched;
mod of_cluster;
mod passing;
mod set_metadata;
pub(crate) mod show_behind;
mod switched;

use std::sync::Arc;

use extproc_client::FilterConfig;

use crate::{
    config::snapshot::{Compressor, Filter, FilterKind, Matched, OnRoute, RouteTable},
    exchange::{
        answer::ResponseFuture,
        chain::{Chain, Serve},
    },
    filters::{
        buffer::BufferFilter,
        compression::{CompressorFilter, DecompressorFilter},
        cors::CorsFilter,
        grpc_web::GrpcWeb,
        header_mutation::HeaderMutation,
        health_check::HealthCheck,
        local_rate_limit::RateLimitFilter,
        matched::MatchedFilter,
        of_cluster::OfCluster,
        passing::Passing,
        set_metadata::MetadataFilter,
        show_behind::{Kept, ShownBehind},
        switched::Switched,
    },
    limits::buckets::Chosen,
};

/// Things that chains are built with.
pub(crate) struct Building<'a, F> {
    /// The cluster whose filters they are; otherwise a listener's.
    pub(crate) cluster: Option<&'a str>,
    /// Tables of the routes that may say something of the filters.
    pub(crate) routes: &'a [&'a RouteTable],
    /// Tokens of the filters that limit requests.
    pub(crate) buckets: &'a Arc<Chosen>,
    /// Makes an ext_proc filter around what is behind it.
    pub(crate) ext_proc: F,
}

impl<F> Building<'_, F>
where
    F: Fn(&Filter, &Arc<FilterConfig>, Chain) -> Chain,
{
    /// The chain of these filters around `inner`, the first one outermost.
    pub(crate) fn chain(&self, filters: &[Filter], inner: Chain) -> Chain {
        self.around(filters, inner, &mut false)
    }

    /// As [`chain`](Self::chain). `responses` tells whether a filter further on has to do with responses.
    fn around(&self, filters: &[Filter], inner: Chain, responses: &mut bool) -> Chain {
        let compressors: Arc<[_]> = filters.iter().filter_map(compressor).cloned().collect();
        filters.iter().rev().fold(inner, |inner, filter| {
            self.filter(filter, &compressors, inner, responses)
        })
    }

    fn filter(
        &self,
        filter: &Filter,
        compressors: &Arc<[Arc<Compressor>]>,
        inner: Chain,
        responses: &mut bool,
    ) -> Chain {
        let behind = inner.clone();
        let is_named = self.said(&filter.name).next().is_some();
        let name = is_named.then(|| filter.name.clone());
        let made = match &filter.kind {
            FilterKind::ExtProc(config) => {
                let further_on = std::mem::replace(responses, true);
                return match self.cluster {
                    Some(_) => Chain::new(OfCluster {
                        filter: (self.ext_proc)(filter, config, inner),
                        behind,
                    }),
                    None if further_on => Chain::new(ShownBehind {
                        filter: (self.ext_proc)(filter, config, Chain::new(Kept(inner))),
                        behind,
                    }),
                    None => (self.ext_proc)(filter, config, inner),
                };
            }
            FilterKind::HeaderMutation { request, response } => {
                *responses |= !response.is_empty();
                let changes = HeaderMutation {
                    request: request.clone(),
                    response: response.clone(),
                };
                Chain::new(Passing::new(changes, inner))
            }
            FilterKind::Cors => Chain::new(CorsFilter { inner }),
            FilterKind::GrpcWeb => {
                *responses = true;
                Chain::new(GrpcWeb { inner })
            }
            FilterKind::HealthCheck(headers) => Chain::new(HealthCheck {
                headers: headers.clone(),
                inner,
            }),
            FilterKind::SetMetadata(entries) => Chain::new(MetadataFilter {
                entries: entries.clone(),
                inner,
            }),
            FilterKind::Buffer(limit) => Chain::new(BufferFilter {
                name,
                limit: *limit,
                inner,
            }),
            FilterKind::LocalRateLimit(config) => Chain::new(RateLimitFilter {
                name,
                config: config.clone(),
                buckets: self.buckets.clone(),
                inner,
            }),
            FilterKind::Compressor(config) => {
                *responses = true;
                let changes = CompressorFilter {
                    name,
                    config: config.clone(),
                    beside: compressors.clone(),
                };
                Chain::new(Passing::new(changes, inner))
            }
            FilterKind::Decompressor(config) => {
                *responses = true;
                Chain::new(Passing::new(DecompressorFilter::new(config), inner))
            }
            FilterKind::Matched(config) => self.matched(filter, config, inner, responses),
        };
        match filter.disabled {
            true if !is_named => behind,
            false if !is_named => made,
            disabled => Chain::new(Switched {
                name: filter.name.clone(),
                disabled,
                filter: made,
                inner: behind,
            }),
        }
    }

    /// All that routes say of a filter that is no ext_proc filter.
    fn said<'f>(&'f self, filter: &'f str) -> impl Iterator<Item = &'f OnRoute> {
        let tables = self.routes.iter();
        tables.flat_map(move |table| table.said(self.cluster, filter))
    }

    fn matched(
        &self,
        filter: &Filter,
        config: &Arc<Matched>,
        inner: Chain,
        responses: &mut bool,
    ) -> Chain {
        let mut choices: Vec<Arc<[Filter]>> = Vec::new();
        let mut take = |matched: &Matched| {
            matched.each_chain(&mut |filters| {
                if !choices.iter().any(|known| Arc::ptr_eq(known, filters)) {
                    choices.push(filters.clone());
                }
            });
        };
        take(config);
        for said in self.said(&filter.name) {
            if let OnRoute::As(FilterKind::Matched(matched)) = said {
                take(matched);
            }
        }
        let behind = *responses;
        let chains = choices.into_iter().map(|filters| {
            let mut own = behind;
            let chain = self.around(&filters, inner.clone(), &mut own);
            *responses |= own;
            (filters, chain)
        });
        let is_named = self.said(&filter.name).next().is_some();
        Chain::new(MatchedFilter {
            name: is_named.then(|| filter.name.clone()),
            config: config.clone(),
            chains: chains.collect(),
            inner: inner.clone(),
        })
    }
}

fn compressor(filter: &Filter) -> Option<&Arc<Compressor>> {
    match &filter.kind {
        FilterKind::Compressor(config) => Some(config),
        _ => None,
    }
}

/// Tells whether a filter of the chain asks for an `ExchangeContext`.
pub(crate) fn ask_for_context(filters: &[Filter]) -> bool {
    filters
        .iter()
        .any(|filter| matches!(filter.kind, FilterKind::ExtProc(_) | FilterKind::Matched(_)))
}
