//! `typed_per_filter_config`: what a route configuration, virtual host, route or weighted cluster
//! says of the filters.

use std::sync::Arc;

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
    snapshot::{Cors as CorsModel, Filter, FilterKind, OnRoute, RouteOverrides},
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

/// One level's word on each filter it names.
#[derive(Debug, Default)]
pub(super) struct Level {
    ext_proc: Vec<(String, PerRoute)>,
    /// Unset if the level does not speak of it, `Some(None)` if it has no policy.
    cors: Option<Option<Arc<CorsModel>>>,
    others: Vec<(String, OnRoute)>,
}

/// What a level says of one filter.
enum Said {
    /// Nothing else than that it is on or off.
    Switched(bool),
    ExtProc(PerRoute),
    Cors(Option<Arc<CorsModel>>),
    Other(OnRoute),
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
        let Surroundings {
            reader,
            filters,
            graceful_close,
            ..
        } = surroundings;
        let mut level = Self::default();
        for (name, tree) in map {
            let filter = filters.iter().find(|filter| filter.name == *name);
            let making = Making {
                reader,
                owner: Owner::ConnectionManager,
                graceful_close: *graceful_close,
                name,
            };
            let Some(said) = entry(&making, tree.node, filter)? else {
                continue;
            };
            level
                .add(name, filter.map(|filter| &filter.kind), said)
                .map_err(|fault| fault.or_at(tree.node))?;
        }
        Ok(level)
    }

    /// Takes what is said of a filter; one that does not exist needs no more than to be readable.
    fn add(&mut self, name: &str, filter: Option<&FilterKind>, said: Said) -> Result<(), Fault> {
        let switched = |on| match on {
            true => OnRoute::On,
            false => OnRoute::Off,
        };
        let other = match (filter, said) {
            (None, _) => return Ok(()),
            (Some(FilterKind::ExtProc(_)), Said::ExtProc(config)) => {
                self.ext_proc.push((name.to_owned(), config));
                return Ok(());
            }
            (Some(FilterKind::ExtProc(_)), Said::Switched(on)) => {
                let config = match on {
                    true => PerRoute::Overrides(Box::<Overrides>::default()),
                    false => PerRoute::Disabled,
                };
                self.ext_proc.push((name.to_owned(), config));
                return Ok(());
            }
            // As in Envoy, this does not switch on what is around the filters.
            (Some(kind @ FilterKind::Matched(_)), Said::ExtProc(config)) => {
                let mut filters = 0;
                kind.each_ext_proc(&mut |_| filters += 1);
                if filters > 1 && !matches!(config, PerRoute::Disabled) {
                    return Err(Fault::new(
                        "has several ext_proc filters, for which a route can have no configuration",
                    ));
                }
                self.ext_proc.push((name.to_owned(), config));
                OnRoute::On
            }
            (Some(FilterKind::Cors), Said::Cors(policy)) => {
                self.cors = Some(policy);
                OnRoute::On
            }
            (Some(FilterKind::Cors), Said::Switched(false)) => {
                self.cors = Some(None);
                OnRoute::Off
            }
            (Some(_), Said::Other(OnRoute::Off)) => OnRoute::Off,
            (Some(filter), Said::Other(OnRoute::As(kind)))
                if std::mem::discriminant(filter) == std::mem::discriminant(&kind) =>
            {
                OnRoute::As(kind)
            }
            (Some(_), Said::Switched(on)) => switched(on),
            (Some(_), _) => {
                return Err(Fault::new(
                    "is the configuration of another filter than the one of this name",
                ));
            }
        };
        self.others.push((name.to_owned(), other));
        Ok(())
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
            let mut of_filter = None;
            filter.kind.each_ext_proc(&mut |config| {
                of_filter.get_or_insert(config);
            });
            let config = of_filter.and_then(|config| config.for_route(said));
            merged.filters.push((filter.name.clone(), config));
        }
        let others = levels.iter().rev().flat_map(|level| &level.others);
        for (name, said) in others {
            if merged.other(name).is_none() {
                merged.others.push((name.clone(), said.clone()));
            }
        }
        merged
    }
}

/// What stands under one name; `None` if it is of an unknown type and optional.
fn entry(
    making: &Making<'_, '_>,
    node: NodeId,
    filter: Option<&Filter>,
) -> Result<Option<Said>, Fault> {
    let reader = making.reader;
    let found = reader.type_of(node)?;
    if found != WRAPPER {
        return match plain(making, node, filter)? {
            None => Err(unsupported(node, found, &[TYPES, &[WRAPPER]].concat())),
            said => Ok(said),
        };
    }
    let wrapper: FilterConfig = reader.read_typed(node)?;
    if wrapper.disabled {
        return Ok(Some(Said::Switched(false)));
    }
    match wrapper.config {
        None => Err(Fault::at(node, "one of config and disabled has to be set")),
        Some(config) if reader.is_empty(config.node) => Ok(Some(Said::Switched(true))),
        Some(config) => match plain(making, config.node, filter)? {
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
    filter: Option<&Filter>,
) -> Result<Option<Said>, Fault> {
    let reader = making.reader;
    Ok(match reader.type_of(node)? {
        EXT_PROC => Some(Said::ExtProc(reader.read_typed(node)?)),
        CORS => {
            let policy: CorsPolicy = reader.read_typed(node)?;
            Some(Said::Cors(policy.build().map(Arc::new)))
        }
        BUFFER_PER_ROUTE => Some(Said::Other(making.buffer_per_route(node)?)),
        LOCAL_RATE_LIMIT => Some(Said::Other(OnRoute::As(making.local_rate_limit(node)?))),
        WITH_MATCHER_PER_ROUTE => Some(Said::Other(OnRoute::As(making.per_route(node, filter)?))),
        _ => None,
    })
}
