//! `typed_per_filter_config`: what a route configuration, virtual host, route or weighted cluster
//! says of the filters.

use std::sync::Arc;

use extproc_client::{PerRoute, config::Overrides};
use serde::Deserialize;

use super::{any::unsupported, cors::CorsPolicy, value::ByName};
use crate::{
    document::{Fault, NodeId, Reader, Subtree},
    snapshot::{Cors as CorsModel, Filter, FilterKind, RouteOverrides},
};

/// `envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute`
const EXT_PROC: &str = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`
const CORS: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
/// The wrapper that can switch a filter off and on.
const WRAPPER: &str = "envoy.config.route.v3.FilterConfig";

/// The map as it stands in the file.
pub(super) type PerFilterConfig = ByName<Subtree>;

/// One level's word on each filter it names.
#[derive(Debug, Default)]
pub(super) struct Level {
    ext_proc: Vec<(String, PerRoute)>,
    /// Unset if the level does not speak of it, `Some(None)` if it switches it off.
    cors: Option<Option<Arc<CorsModel>>>,
}

/// What a level says of one filter.
enum Said {
    ExtProc(PerRoute),
    Cors(Option<Arc<CorsModel>>),
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
        filters: &[Filter],
        map: &PerFilterConfig,
    ) -> Result<Self, Fault> {
        let mut level = Self::default();
        for (name, tree) in map {
            let Some(config) = entry(reader, tree.node)? else {
                continue;
            };
            let filter = filters.iter().find(|filter| filter.name == *name);
            match (filter.map(|filter| &filter.kind), config) {
                (Some(FilterKind::Cors), Said::ExtProc(PerRoute::Disabled)) => {
                    level.cors = Some(None);
                }
                (Some(FilterKind::Cors), Said::Cors(policy)) => level.cors = Some(policy),
                (None, Said::Cors(_)) => {}
                (Some(FilterKind::ExtProc(_)) | None, Said::ExtProc(config))
                | (_, Said::ExtProc(config @ PerRoute::Disabled)) => {
                    level.ext_proc.push((name.clone(), config));
                }
                _ => {
                    return Err(Fault::at(
                        tree.node,
                        "this filter can only be disabled on a route",
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
    pub(super) fn merge(levels: &[&Self], filters: &[Filter]) -> RouteOverrides {
        let mut merged = RouteOverrides::default();
        for filter in filters {
            let mut said = levels
                .iter()
                .flat_map(|level| &level.ext_proc)
                .filter(|(name, _)| *name == filter.name)
                .map(|(_, config)| config)
                .peekable();
            if said.peek().is_none() {
                continue;
            }
            let config = match &filter.kind {
                FilterKind::ExtProc(config) => config.for_route(said),
                _ => None,
            };
            merged.filters.push((filter.name.clone(), config));
        }
        merged
    }
}

/// What stands under one name; `None` if it is of an unknown type and optional.
fn entry(reader: &Reader<'_>, node: NodeId) -> Result<Option<Said>, Fault> {
    match reader.type_of(node)? {
        WRAPPER => {
            let wrapper: FilterConfig = reader.read_typed(node)?;
            if wrapper.disabled {
                return Ok(Some(Said::ExtProc(PerRoute::Disabled)));
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
