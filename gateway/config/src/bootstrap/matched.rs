//! `ExtensionWithMatcher` and `Composite`: a match tree decides what a filter does.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    any::unsupported,
    cluster::TypedExtensionConfig,
    filter::Making,
    fraction::RuntimeFraction,
    match_tree::Matcher,
    value::{ByName, Whatever},
};
use crate::{
    document::{Fault, Located, NodeId},
    snapshot::{Filter, FilterKind, Fraction, MatchAction, MatchTree, Matched},
};

pub(super) const WITH_MATCHER: &str = "envoy.extensions.common.matching.v3.ExtensionWithMatcher";
pub(super) const WITH_MATCHER_PER_ROUTE: &str =
    "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute";
pub(super) const COMPOSITE: &str = "envoy.extensions.filters.http.composite.v3.Composite";

const SKIP: &str = "envoy.extensions.filters.common.matcher.action.v3.SkipFilter";
const EXECUTE: &str = "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction";

/// `envoy.extensions.common.matching.v3.ExtensionWithMatcher`.
#[derive(Debug, Deserialize)]
struct ExtensionWithMatcher {
    matcher: Option<Located<Matcher>>,
    xds_matcher: Option<Located<Matcher>>,
    extension_config: TypedExtensionConfig,
}

/// `envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExtensionWithMatcherPerRoute {
    xds_matcher: Option<Located<Matcher>>,
}

/// `envoy.extensions.filters.http.composite.v3.Composite`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Composite {
    matcher: Option<Located<Matcher>>,
    named_filter_chains: ByName<FilterChainConfiguration>,
}

/// `envoy.extensions.filters.http.composite.v3.FilterChainConfiguration`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilterChainConfiguration {
    typed_config: Vec<TypedExtensionConfig>,
}

/// `envoy.extensions.filters.http.composite.v3.ExecuteFilterAction`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExecuteFilterAction {
    typed_config: Option<TypedExtensionConfig>,
    filter_chain: Option<FilterChainConfiguration>,
    filter_chain_name: String,
    sample_percent: Option<RuntimeFraction>,
}

/// Filters that an action may execute.
enum Executes<'a> {
    /// The filter itself: anything else than to skip it leaves it in place.
    Base,
    /// The filter of the action, or a chain by its name.
    Named(&'a ByName<Arc<[Filter]>>),
}

impl Making<'_, '_> {
    /// The filter `ExtensionWithMatcher` at `node`.
    pub(super) fn with_matcher(&self, node: NodeId) -> Result<FilterKind, Fault> {
        let config: ExtensionWithMatcher = self.reader.read_typed(node)?;
        let tree = config.xds_matcher.or(config.matcher);
        let of = config.extension_config.typed_config.node;
        if self.reader.type_of(of)? == COMPOSITE {
            let composite: Located<Composite> = self.reader.read_typed(of)?;
            return self.composite(&composite, tree.as_ref());
        }
        Ok(FilterKind::Matched(Arc::new(Matched {
            tree: self.tree(tree.as_ref(), &Executes::Base)?,
            base: Some(Arc::new([self.inner(of)?])),
        })))
    }

    /// The filter `Composite` at `node`, whose tree is its own.
    pub(super) fn plain_composite(&self, node: NodeId) -> Result<FilterKind, Fault> {
        let composite: Located<Composite> = self.reader.read_typed(node)?;
        self.composite(&composite, None)
    }

    /// A route's word on a filter that a tree decides on; for a `Composite`, actions say what is executed.
    pub(super) fn tree_per_route(
        &self,
        node: NodeId,
        is_composite: bool,
    ) -> Result<FilterKind, Fault> {
        let config: ExtensionWithMatcherPerRoute = self.reader.read_typed(node)?;
        let named = ByName::default();
        let executes = match is_composite {
            true => Executes::Named(&named),
            false => Executes::Base,
        };
        Ok(FilterKind::Matched(Arc::new(Matched {
            tree: self.tree(config.xds_matcher.as_ref(), &executes)?,
            base: None,
        })))
    }

    fn composite(
        &self,
        composite: &Located<Composite>,
        around: Option<&Located<Matcher>>,
    ) -> Result<FilterKind, Fault> {
        let Composite {
            matcher,
            named_filter_chains,
        } = &composite.value;
        let tree = match (around, matcher) {
            (Some(_), Some(_)) => {
                return Err(Fault::at(
                    composite.node,
                    "has a matcher of its own beside that of the ExtensionWithMatcher around it",
                ));
            }
            (around, own) => around.or(own.as_ref()),
        };
        let named = named_filter_chains
            .iter()
            .map(|(name, chain)| Ok((name.clone(), self.listed(&chain.typed_config)?)))
            .collect::<Result<ByName<_>, Fault>>()?;
        Ok(FilterKind::Matched(Arc::new(Matched {
            tree: self.tree(tree, &Executes::Named(&named))?,
            base: None,
        })))
    }

    fn tree(
        &self,
        matcher: Option<&Located<Matcher>>,
        executes: &Executes<'_>,
    ) -> Result<Option<MatchTree>, Fault> {
        let build = |matcher: &Located<Matcher>| {
            matcher.build(self.reader, &|node| self.action(node, executes))
        };
        matcher.map(build).transpose()
    }

    fn action(&self, node: NodeId, executes: &Executes<'_>) -> Result<MatchAction, Fault> {
        match (self.reader.type_of(node)?, executes) {
            (SKIP, _) => {
                let _: Whatever = self.reader.read_typed(node)?;
                Ok(MatchAction::Skip)
            }
            (EXECUTE, Executes::Named(named)) => {
                let action: ExecuteFilterAction = self.reader.read_typed(node)?;
                let ExecuteFilterAction {
                    typed_config,
                    filter_chain,
                    filter_chain_name,
                    sample_percent,
                } = &action;
                let filters = match (typed_config, filter_chain, filter_chain_name.as_str()) {
                    (Some(config), None, "") => Arc::new([self.inner(config.typed_config.node)?]),
                    (None, Some(chain), "") => self.listed(&chain.typed_config)?,
                    (None, None, name) if !name.is_empty() => match named.get(name) {
                        Some(filters) => filters.clone(),
                        None => {
                            return Err(Fault::at(node, format!("unknown filter chain {name:?}")));
                        }
                    },
                    _ => {
                        return Err(Fault::at(
                            node,
                            "one and only one of typed_config, filter_chain and filter_chain_name has to be set",
                        ));
                    }
                };
                let share = sample_percent.as_ref();
                let share = share.map_or(Fraction::ALL, RuntimeFraction::build);
                Ok(MatchAction::Execute(filters, share))
            }
            (EXECUTE, Executes::Base) => {
                let _: Whatever = self.reader.read_typed(node)?;
                Ok(MatchAction::Keep)
            }
            (other, _) => Err(unsupported(node, other, &[SKIP, EXECUTE])),
        }
    }

    fn listed(&self, configs: &[TypedExtensionConfig]) -> Result<Arc<[Filter]>, Fault> {
        let configs = configs.iter();
        configs
            .map(|config| self.inner(config.typed_config.node))
            .collect()
    }

    /// A filter within one: routes know it by the name of the outer one.
    fn inner(&self, node: NodeId) -> Result<Filter, Fault> {
        Ok(Filter {
            name: self.name.to_owned(),
            disabled: false,
            kind: self.kind(node)?,
        })
    }
}
