//! `typed_per_filter_config`: what a route configuration, virtual host, route or weighted cluster
//! says of the filters.

use extproc_client::{PerRoute, config::Overrides, host::RouteOverrides};
use serde::Deserialize;

use super::{any::unsupported, value::ByName};
use crate::config::{
    document::{Fault, NodeId, Reader, Subtree},
    snapshot::{Filter, FilterKind},
};

/// `envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute`
const EXT_PROC: &str = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
/// The wrapper that can switch a filter off and on.
const WRAPPER: &str = "envoy.config.route.v3.FilterConfig";

/// The map as it stands in the file.
pub(super) type PerFilterConfig = ByName<Subtree>;

/// One level's word on each filter it names.
#[derive(Debug, Default)]
pub(super) struct Level(Vec<(String, PerRoute)>);

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
        let mut level = Vec::with_capacity(map.len());
        for (name, tree) in map {
            let Some(config) = entry(reader, tree.node)? else {
                continue;
            };
            let filter = filters.iter().find(|filter| filter.name == *name);
            match (filter.map(|filter| &filter.kind), &config) {
                (Some(FilterKind::ExtProc(_)) | None, _) | (_, PerRoute::Disabled) => {
                    level.push((name.clone(), config));
                }
                _ => {
                    return Err(Fault::at(
                        tree.node,
                        "this filter can only be disabled on a route",
                    ));
                }
            }
        }
        Ok(Self(level))
    }

    /// The filters' configurations under these levels, least specific first.
    pub(super) fn merge(levels: &[&Self], filters: &[Filter]) -> RouteOverrides {
        let mut merged = RouteOverrides::default();
        for filter in filters {
            let mut said = levels
                .iter()
                .flat_map(|level| &level.0)
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
fn entry(reader: &Reader<'_>, node: NodeId) -> Result<Option<PerRoute>, Fault> {
    match reader.type_of(node)? {
        EXT_PROC => reader.read_typed(node).map(Some),
        WRAPPER => {
            let wrapper: FilterConfig = reader.read_typed(node)?;
            if wrapper.disabled {
                return Ok(Some(PerRoute::Disabled));
            }
            match wrapper.config {
                None => Err(Fault::at(node, "one of config and disabled has to be set")),
                Some(config) if reader.is_empty(config.node) => {
                    Ok(Some(PerRoute::Overrides(Box::<Overrides>::default())))
                }
                Some(config) => match reader.type_of(config.node)? {
                    EXT_PROC => reader.read_typed(config.node).map(Some),
                    _ if wrapper.is_optional => Ok(None),
                    other => Err(unsupported(config.node, other, &[EXT_PROC])),
                },
            }
        }
        other => Err(unsupported(node, other, &[EXT_PROC, WRAPPER])),
    }
}
