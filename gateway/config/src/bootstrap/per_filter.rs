//! `typed_per_filter_config`: what a route configuration, virtual host, route or weighted cluster
//! says of the filters.

use std::{collections::BTreeMap, fmt, sync::Arc};

use extproc_client::{PerRoute, config::Overrides};
use serde::Deserialize;

use super::{
    any::unsupported,
    compression::COMPRESSOR_PER_ROUTE,
    cors::CorsPolicy,
    filter::{Making, Owner, check_metadata},
    matched::WITH_MATCHER_PER_ROUTE,
    route::Surroundings,
    small_filters::{BUFFER_PER_ROUTE, LOCAL_RATE_LIMIT},
    value::ByName,
};
use crate::{
    document::{Fault, NodeId, Subtree},
    snapshot::{
        Cors as CorsModel, Filter, FilterKind, OnRoute, Overridden, RouteMatch, RouteOverrides,
    },
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
    COMPRESSOR_PER_ROUTE,
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
    /// Returns the owner of the filters that a tree under this name may execute: a cluster has fewer than a listener.
    fn owner(self, name: &str) -> Owner {
        let mut of_clusters = self.of_clusters.values().flat_map(|filters| filters.iter());
        let decides = |filter: &Filter| matches!(filter.kind, FilterKind::Matched(_));
        match of_clusters.any(|filter| filter.name == name && decides(filter)) {
            true => Owner::Cluster,
            false => Owner::ConnectionManager,
        }
    }

    /// Tells whether a filter of the listener may limit the rate of requests by what their routes say of them.
    pub(super) fn limit_rates(self) -> bool {
        let mut found = false;
        for filter in self.of_listener {
            filter.kind.each(&mut |kind| {
                found |= matches!(kind, FilterKind::LocalRateLimit(_));
            });
        }
        found
    }

    fn named(self, name: &'a str) -> impl Iterator<Item = &'a FilterKind> {
        let of_clusters = self.of_clusters.values().flat_map(|filters| filters.iter());
        let all = self.of_listener.iter().chain(of_clusters);
        all.filter(move |filter| filter.name == name)
            .map(|filter| &filter.kind)
    }
}

/// Place of a filter's configuration.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// The chain of filters.
    Chain,
    /// The route configuration.
    Table,
    /// A virtual host.
    VirtualHost(&'a str),
    /// A route of a virtual host, by its name if it has one.
    Route(&'a str, &'a str, &'a RouteMatch),
    /// A weighted cluster of such a route.
    Cluster(&'a str, &'a str, &'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => Ok(()),
            Self::Table => f.write_str("route configuration"),
            Self::VirtualHost(host) => write!(f, "virtual host {host}"),
            Self::Route(host, "", matches) => write!(f, "virtual host {host}, route {matches:?}"),
            Self::Route(host, route, _) => write!(f, "virtual host {host}, route {route}"),
            Self::Cluster(host, route, cluster) => {
                write!(f, "virtual host {host}, route {route}, cluster {cluster}")
            }
        }
    }
}

/// One level's word on each filter it names.
#[derive(Debug, Default)]
pub(super) struct Level {
    filters: Vec<Entry>,
    /// Unset if the level does not speak of it, `Some(None)` if it switches it off.
    cors: Option<Option<Arc<CorsModel>>>,
}

/// The filter's name, where its configuration stands, and that itself.
type Entry = (String, NodeId, Said);

/// Setting of one filter on one level: route table, virtual host or route.
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
    /// Reads one level, which is at this place among the routes. Names that no filter bears have no effect, as in Envoy, but have to be
    /// readable.
    pub(super) fn read(
        surroundings: &Surroundings<'_, '_>,
        map: &PerFilterConfig,
        place: Place<'_>,
    ) -> Result<Self, Fault> {
        let mut level = Self::default();
        for (name, tree) in map {
            let making = Making {
                reader: surroundings.reader,
                owner: surroundings.filters.owner(name),
                graceful_close: surroundings.graceful_close,
                name,
                place,
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
            match &said {
                Said::Cors(policy) => level.cors = Some(policy.clone()),
                Said::Off if kinds.iter().any(|kind| matches!(kind, FilterKind::Cors)) => {
                    level.cors = Some(None);
                }
                _ => {}
            }
            level.filters.push((name.clone(), tree.node, said));
        }
        Ok(level)
    }

    /// The policy of the filter `cors` under these levels, least specific first.
    pub(super) fn cors(levels: &[&Self]) -> Option<Arc<CorsModel>> {
        levels.iter().rev().find_map(|level| level.cors.clone())?
    }

    /// The filters' configurations under these levels, least specific first.
    pub(super) fn merge(levels: &[&Self], filters: Filters<'_>) -> Result<RouteOverrides, Fault> {
        let mut of_clusters = Vec::new();
        for (cluster, filters) in filters.of_clusters {
            let merged = merge(levels, filters)?;
            if !merged.is_empty() {
                of_clusters.push((cluster.clone(), merged));
            }
        }
        Ok(RouteOverrides {
            filters: merge(levels, filters.of_listener)?,
            of_clusters,
        })
    }
}

fn merge(levels: &[&Level], filters: &[Filter]) -> Result<Overridden, Fault> {
    let mut merged = Overridden::new();
    for filter in filters {
        let said = said(levels, filter);
        let Some((_, node, last)) = said.last() else {
            continue;
        };
        let said = said.iter().map(|(_, _, said)| said);
        let configs: Vec<PerRoute> = match &filter.kind {
            FilterKind::ExtProc(_) => said.filter_map(Said::of_processor).collect(),
            _ => {
                merged.push((filter.name.clone(), last.of_other()));
                let configs = said.filter(|said| matches!(said, Said::ExtProc(_)));
                configs.filter_map(Said::of_processor).collect()
            }
        };
        if configs.is_empty() {
            continue;
        }
        // A processor knows its route's configuration by the filter's name, so that one of them can have one.
        let (config, others) = match asked(levels, filters, &filter.name).as_slice() {
            [] => continue,
            [own, others @ ..] => (own.for_route(&configs), !others.is_empty()),
        };
        if others && config.is_some() {
            return Err(Fault::at(
                *node,
                "several ext_proc filters have this name, for which a route can have no overrides",
            ));
        }
        merged.push((filter.name.clone(), OnRoute::Processor(config)));
    }
    Ok(merged)
}

/// Entries of these levels for the filter.
fn said<'a>(levels: &[&'a Level], filter: &Filter) -> Vec<&'a Entry> {
    let all = levels.iter().flat_map(|level| &level.filters);
    all.filter(|(name, _, said)| *name == filter.name && said.fits(&filter.kind))
        .collect()
}

/// The ext_proc filters that filters of this name are, or may execute under these levels: where a route has a tree of its
/// own, that one's.
fn asked<'a>(
    levels: &[&'a Level],
    filters: &'a [Filter],
    name: &str,
) -> Vec<&'a Arc<extproc_client::FilterConfig>> {
    let mut all: Vec<&Arc<extproc_client::FilterConfig>> = Vec::new();
    let mut take = |config: &'a Arc<extproc_client::FilterConfig>| {
        if !all.iter().any(|known| Arc::ptr_eq(known, config)) {
            all.push(config);
        }
    };
    for filter in filters.iter().filter(|filter| filter.name == name) {
        match (&filter.kind, said(levels, filter).last()) {
            (FilterKind::Matched(matched), Some((_, _, Said::As(own)))) => {
                let base = matched.base.iter().flat_map(|base| base.iter());
                base.for_each(|filter| filter.kind.each_ext_proc(&mut take));
                own.each_ext_proc(&mut take);
            }
            (kind, _) => kind.each_ext_proc(&mut take),
        }
    }
    all
}

/// Reads the entry of one name; `None` if it is of an unknown type and optional.
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
        EXT_PROC => {
            let said: PerRoute = reader.read_typed(node)?;
            if let PerRoute::Overrides(overrides) = &said {
                check_metadata(reader, node, &overrides.grpc_initial_metadata)?;
                if let Some(service) = &overrides.grpc_service {
                    check_metadata(reader, node, &service.initial_metadata)?;
                }
            }
            Some(Said::ExtProc(said))
        }
        CORS => {
            let policy: CorsPolicy = reader.read_typed(node)?;
            Some(Said::Cors(policy.build().map(Arc::new)))
        }
        BUFFER_PER_ROUTE => {
            let own = making.buffer_per_route(node)?;
            Some(own.map_or(Said::Off, Said::As))
        }
        LOCAL_RATE_LIMIT => Some(Said::As(making.local_rate_limit(node)?)),
        COMPRESSOR_PER_ROUTE => {
            let own = making.compressor_per_route(node, kinds)?;
            Some(own.map_or(Said::Off, Said::As))
        }
        WITH_MATCHER_PER_ROUTE => {
            let is_composite = |kind: &&FilterKind| match kind {
                FilterKind::Matched(matched) => Some(matched.base.is_none()),
                _ => None,
            };
            let mut composites = kinds.iter().filter_map(is_composite);
            let is_composite = composites.next().unwrap_or_default();
            if composites.any(|other| other != is_composite) {
                return Err(Fault::at(
                    node,
                    "a Composite and an ExtensionWithMatcher have this name, and no tree is for both",
                ));
            }
            Some(Said::As(making.tree_per_route(node, is_composite)?))
        }
        _ => None,
    })
}
