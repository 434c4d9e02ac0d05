//! `typed_per_filter_config`: what a route configuration, virtual host, route or weighted cluster
//! says of the filters.

use std::{collections::BTreeMap, sync::Arc};

use extproc_client::{PerRoute, config::Overrides};
use serde::Deserialize;

use super::{any::unsupported, cors::CorsPolicy, value::ByName};
use crate::{
    document::{Fault, NodeId, Reader, Subtree},
    snapshot::{Cors as CorsModel, Filter, FilterKind, Overridden, RouteOverrides},
};

/// `envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute`
const EXT_PROC: &str = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`
const CORS: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
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
    ExtProc(PerRoute),
    Cors(Option<Arc<CorsModel>>),
}

impl Said {
    fn of_processor(&self) -> Option<&PerRoute> {
        match self {
            Self::Off => Some(&PerRoute::Disabled),
            Self::ExtProc(config) => Some(config),
            Self::Cors(_) => None,
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
        reader: &Reader<'_>,
        filters: Filters<'_>,
        map: &PerFilterConfig,
    ) -> Result<Self, Fault> {
        let mut level = Self::default();
        for (name, tree) in map {
            let Some(config) = entry(reader, tree.node)? else {
                continue;
            };
            let is_known = filters.named(name).next().is_some();
            let is_cors = filters
                .named(name)
                .any(|kind| matches!(kind, FilterKind::Cors));
            let is_processor = filters
                .named(name)
                .any(|kind| matches!(kind, FilterKind::ExtProc(_)));
            match config {
                Said::Cors(policy) if is_cors => level.cors = Some(policy),
                Said::Cors(_) if !is_known => {}
                Said::Off => {
                    if is_cors {
                        level.cors = Some(None);
                    }
                    level.filters.push((name.clone(), config));
                }
                Said::ExtProc(_) if is_processor || !is_known => {
                    level.filters.push((name.clone(), config));
                }
                Said::Cors(_) | Said::ExtProc(_) => {
                    return Err(Fault::at(
                        tree.node,
                        "this filter can only be disabled on a route, by FilterConfig",
                    ));
                }
            }
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
    let merged = filters.iter().filter_map(|filter| {
        let mut said = levels
            .iter()
            .flat_map(|level| &level.filters)
            .filter(|(name, _)| *name == filter.name)
            .map(|(_, config)| config)
            .peekable();
        said.peek()?;
        let config = match &filter.kind {
            FilterKind::ExtProc(config) => config.for_route(said.filter_map(Said::of_processor)),
            // What is for a processor says nothing of a filter of another kind.
            _ => match said.last()? {
                Said::Off => None,
                Said::ExtProc(_) | Said::Cors(_) => return None,
            },
        };
        Some((filter.name.clone(), config))
    });
    merged.collect()
}

/// What stands under one name; `None` if it is of an unknown type and optional.
fn entry(reader: &Reader<'_>, node: NodeId) -> Result<Option<Said>, Fault> {
    match reader.type_of(node)? {
        WRAPPER => {
            let wrapper: FilterConfig = reader.read_typed(node)?;
            if wrapper.disabled {
                return Ok(Some(Said::Off));
            }
            match wrapper.config {
                None => Err(Fault::at(node, "one of config and disabled has to be set")),
                Some(config) if reader.is_empty(config.node) => {
                    let enabled = PerRoute::Overrides(Box::<Overrides>::default());
                    Ok(Some(Said::ExtProc(enabled)))
                }
                Some(config) => match plain(reader, config.node)? {
                    None if wrapper.is_optional => Ok(None),
                    None => Err(unsupported(
                        config.node,
                        reader.type_of(config.node)?,
                        &[EXT_PROC, CORS],
                    )),
                    said => Ok(said),
                },
            }
        }
        other => match plain(reader, node)? {
            None => Err(unsupported(node, other, &[EXT_PROC, CORS, WRAPPER])),
            said => Ok(said),
        },
    }
}

/// A filter's own message; `None` if its type is not known.
fn plain(reader: &Reader<'_>, node: NodeId) -> Result<Option<Said>, Fault> {
    Ok(match reader.type_of(node)? {
        EXT_PROC => Some(Said::ExtProc(reader.read_typed(node)?)),
        CORS => {
            let policy: CorsPolicy = reader.read_typed(node)?;
            Some(Said::Cors(policy.build().map(Arc::new)))
        }
        _ => None,
    })
}
