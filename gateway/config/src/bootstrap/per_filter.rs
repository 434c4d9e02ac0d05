//! `typed_per_filter_config`: what a route configuration, virtual host, route or weighted cluster
//! says of the filters.

use std::{collections::BTreeMap, sync::Arc};

use extproc_client::{PerRoute, config::Overrides};
use serde::Deserialize;

use super::{
    any::unsupported,
    cors::CorsPolicy,
    filter::{Making, Owner},
    matched::WITH_MATCHER_PER_ROUTE,
    route::Surroundings,
    small_filters::{BUFFER_PER_ROUTE, LOCAL_RATE_LIMIT},
    value::ByName,
};
use crate::{
    document::{Fault, NodeId, Subtree},
    snapshot::{Cors as CorsModel, Filter, FilterKind, OnRoute, Overridden, RouteOverrides},
};

/// `envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute`
const EXT_PROC: &str = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`
const CORS: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
/// All types that a filter has for routes.
const TYPES: &[&str] = &[
    EXT_PROC,
    CORS,
    BUFFER_PER_ROUTE,
    LOCAL_RATE_LIMIT,
    WITH_MATCHER_PER_ROUTE,
];
/// The wrapper that can switch a filter off and on.
const WRAPPER: &str = "envoy.config.route.v3.FilterConfig";

/// The map as it stands in the file.
pub(super) type PerFilterConfig = ByName<Subtree>;

/// The filters that routes may speak of, by their names.
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    pub(super) of_listener: &'a [Filter],
    pub(super) of_clusters: &'a BTreeMap<String, Arc<[Filter]>>,
}

impl<'a> Filters<'a> {
    fn named(self, name: &'a str) -> impl Iterator<Item = &'a FilterKind> {
        let of_clusters = self.of_clusters.values().flat_map(|filters| filters.iter());
        let all = self.of_listener.iter().chain(of_clusters);
        all.filter(move |filter| filter.name == name)
            .map(|filter| &filter.kind)
    }
}

/// One level's word on each filter it names.
#[derive(Debug, Default)]
pub(super) struct Level {
    filters: Vec<(String, Said)>,
    /// Unset if the level does not speak of it, `Some(None)` if it switches it off.
    cors: Option<Option<Arc<CorsModel>>>,
}

/// What a level says of one filter.
#[derive(Clone, Debug)]
enum Said {
    /// A filter of any kind is off.
    Off,
    /// A filter of any kind is on.
    On,
    ExtProc(PerRoute),
    Cors(Option<Arc<CorsModel>>),
    /// The configuration of a filter of this kind.
    As(FilterKind),
}

impl Said {
    /// Configuration of an ext_proc filter.
    fn of_processor(&self) -> Option<PerRoute> {
        match self {
            Self::Off => Some(PerRoute::Disabled),
            Self::On => Some(PerRoute::Overrides(Box::<Overrides>::default())),
            Self::ExtProc(config) => Some(config.clone()),
            Self::Cors(_) | Self::As(_) => None,
        }
    }

    /// Tells whether it is for filters of this kind.
    fn fits(&self, kind: &FilterKind) -> bool {
        match self {
            Self::Off | Self::On => true,
            Self::ExtProc(_) => matches!(kind, FilterKind::ExtProc(_) | FilterKind::Matched(_)),
            Self::Cors(_) => matches!(kind, FilterKind::Cors),
            Self::As(own) => std::mem::discriminant(own) == std::mem::discriminant(kind),
        }
    }

    /// Configuration of a filter other than ext_proc.
    fn of_other(&self) -> OnRoute {
        match self {
            Self::Off => OnRoute::Off,
            Self::On | Self::ExtProc(_) | Self::Cors(_) => OnRoute::On,
            Self::As(kind) => OnRoute::As(kind.clone()),
        }
    }
}

/// `envoy.config.route.v3.FilterConfig`; an empty `config` switches a disabled filter on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilterConfig {
    config: Option<Subtree>,
    is_optional: bool,
    disabled: bool,
}

impl Level {
    /// Reads one level. Names that no filter bears have no effect, as in Envoy, but have to be
    /// readable.
    pub(super) fn read(
        surroundings: &Surroundings<'_, '_>,
        map: &PerFilterConfig,
    ) -> Result<Self, Fault> {
        let mut level = Self::default();
        for (name, tree) in map {
            let making = Making {
                reader: surroundings.reader,
                owner: Owner::ConnectionManager,
                graceful_close: surroundings.graceful_close,
                name,
            };
            let kinds: Vec<&FilterKind> = surroundings.filters.named(name).collect();
            let Some(said) = entry(&making, tree.node, &kinds)? else {
                continue;
            };
            if !kinds.is_empty() && !kinds.iter().any(|kind| said.fits(kind)) {
                return Err(Fault::at(
                    tree.node,
                    "is the configuration of another filter than the one of this name",
                ));
            }
            if matches!(said, Said::ExtProc(PerRoute::Overrides(_)))
                && kinds.iter().any(|kind| processors(kind).len() > 1)
            {
                return Err(Fault::at(
                    tree.node,
                    "the filter of this name has several ext_proc filters, for which a route can have no overrides",
                ));
            }
            match &said {
                Said::Cors(policy) => level.cors = Some(policy.clone()),
                Said::Off if kinds.iter().any(|kind| matches!(kind, FilterKind::Cors)) => {
                    level.cors = Some(None);
                }
                _ => {}
            }
            level.filters.push((name.clone(), said));
        }
        Ok(level)
    }

    /// The policy of the filter `cors` under these levels, least specific first.
    pub(super) fn cors(levels: &[&Self]) -> Option<Arc<CorsModel>> {
        levels.iter().rev().find_map(|level| level.cors.clone())?
    }

    /// The filters' configurations under these levels, least specific first.
    pub(super) fn merge(levels: &[&Self], filters: Filters<'_>) -> RouteOverrides {
        let of_clusters = filters.of_clusters.iter().filter_map(|(cluster, filters)| {
            let merged = merge(levels, filters);
            (!merged.is_empty()).then(|| (cluster.clone(), merged))
        });
        RouteOverrides {
            filters: merge(levels, filters.of_listener),
            of_clusters: of_clusters.collect(),
        }
    }
}

fn merge(levels: &[&Level], filters: &[Filter]) -> Overridden {
    let mut merged = Overridden::new();
    for filter in filters {
        let all = levels.iter().flat_map(|level| &level.filters);
        let said: Vec<&Said> = all
            .filter(|(name, said)| *name == filter.name && said.fits(&filter.kind))
            .map(|(_, said)| said)
            .collect();
        let Some(last) = said.last() else {
            continue;
        };
        let configs: Vec<PerRoute> = match &filter.kind {
            FilterKind::ExtProc(_) => said.iter().filter_map(|said| said.of_processor()).collect(),
            _ => {
                merged.push((filter.name.clone(), last.of_other()));
                let configs = said.iter().filter(|said| matches!(said, Said::ExtProc(_)));
                configs.filter_map(|said| said.of_processor()).collect()
            }
        };
        if let (Some(own), false) = (processors(&filter.kind).first(), configs.is_empty()) {
            let config = own.for_route(&configs);
            merged.push((filter.name.clone(), OnRoute::Processor(config)));
        }
    }
    merged
}

/// The ext_proc filters that a filter is or may execute.
fn processors(kind: &FilterKind) -> Vec<&Arc<extproc_client::FilterConfig>> {
    let mut all = Vec::new();
    kind.each_ext_proc(&mut |config| all.push(config));
    all
}

/// What stands under one name; `None` if it is of an unknown type and optional.
fn entry(
    making: &Making<'_, '_>,
    node: NodeId,
    kinds: &[&FilterKind],
) -> Result<Option<Said>, Fault> {
    let reader = making.reader;
    let found = reader.type_of(node)?;
    if found != WRAPPER {
        return match plain(making, node, kinds)? {
            None => Err(unsupported(node, found, &[TYPES, &[WRAPPER]].concat())),
            said => Ok(said),
        };
    }
    let wrapper: FilterConfig = reader.read_typed(node)?;
    if wrapper.disabled {
        return Ok(Some(Said::Off));
    }
    match wrapper.config {
        None => Err(Fault::at(node, "one of config and disabled has to be set")),
        Some(config) if reader.is_empty(config.node) => Ok(Some(Said::On)),
        Some(config) => match plain(making, config.node, kinds)? {
            None if wrapper.is_optional => Ok(None),
            None => {
                let found = reader.type_of(config.node)?;
                Err(unsupported(config.node, found, TYPES))
            }
            said => Ok(said),
        },
    }
}

/// A filter's own message; `None` if its type is not known.
fn plain(
    making: &Making<'_, '_>,
    node: NodeId,
    kinds: &[&FilterKind],
) -> Result<Option<Said>, Fault> {
    let reader = making.reader;
    Ok(match reader.type_of(node)? {
        EXT_PROC => Some(Said::ExtProc(reader.read_typed(node)?)),
        CORS => {
            let policy: CorsPolicy = reader.read_typed(node)?;
            Some(Said::Cors(policy.build().map(Arc::new)))
        }
        BUFFER_PER_ROUTE => {
            let own = making.buffer_per_route(node)?;
            Some(own.map_or(Said::Off, Said::As))
        }
        LOCAL_RATE_LIMIT => Some(Said::As(making.local_rate_limit(node)?)),
        WITH_MATCHER_PER_ROUTE => {
            let is_composite = kinds
                .iter()
                .any(|kind| matches!(kind, FilterKind::Matched(matched) if matched.base.is_none()));
            Some(Said::As(making.tree_per_route(node, is_composite)?))
        }
        _ => None,
    })
}
