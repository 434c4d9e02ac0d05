//! Targets of policies.

use std::collections::{BTreeMap, BTreeSet};

use super::Reached;
use crate::manifests::{
    Objects,
    gateways::GatewayState,
    types::{AgentgatewayPolicy, GATEWAY_API, Gateway, HttpRoute, Key},
};

/// Target of a policy, least specific first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Gateway(Key),
    Listener(Key, String),
    Route(Key),
    Rule(Key, String),
}

pub(super) struct World<'a> {
    pub(super) objects: &'a Objects,
    pub(super) gateways: &'a [GatewayState<'a>],
    pub(super) routes: &'a BTreeMap<&'a Key, Reached<'a>>,
}

/// A target with the Gateways that it reaches.
pub(super) struct Found {
    pub(super) target: Target,
    pub(super) gateways: BTreeSet<usize>,
}

#[derive(Default)]
pub(super) struct Targets {
    pub(super) found: Vec<Found>,
    /// Targets that do not exist or reach no Gateway of ours, with the reason.
    pub(super) missing: Vec<String>,
}

impl World<'_> {
    pub(super) fn targets(&self, key: &Key, policy: &AgentgatewayPolicy) -> Targets {
        let mut targets = Targets::default();
        for target in &policy.spec.target_refs {
            let section = target.section_name.as_deref();
            self.target(
                &mut targets,
                (&target.group, &target.kind),
                Key::new(key.namespace.as_str(), target.name.as_str()),
                section,
            );
        }
        for selector in &policy.spec.target_selectors {
            let selected = |labels: &BTreeMap<String, String>| {
                selector
                    .match_labels
                    .iter()
                    .all(|(name, value)| labels.get(name) == Some(value))
            };
            let named: Vec<Key> = match selector.kind.as_str() {
                "Gateway" => self
                    .objects
                    .iter::<Gateway>()
                    .filter(|(at, object)| {
                        at.namespace == key.namespace && selected(&object.metadata.labels)
                    })
                    .map(|(at, _)| at.clone())
                    .collect(),
                "HTTPRoute" => self
                    .objects
                    .iter::<HttpRoute>()
                    .filter(|(at, object)| {
                        at.namespace == key.namespace && selected(&object.metadata.labels)
                    })
                    .map(|(at, _)| at.clone())
                    .collect(),
                _ => Vec::new(),
            };
            if named.is_empty() {
                targets.missing.push(format!(
                    "no {} has the labels of the selector",
                    selector.kind
                ));
            }
            for name in named {
                let section = selector.section_name.as_deref();
                self.target(
                    &mut targets,
                    (&selector.group, &selector.kind),
                    name,
                    section,
                );
            }
        }
        targets
    }

    fn target(
        &self,
        targets: &mut Targets,
        (group, kind): (&str, &str),
        key: Key,
        section: Option<&str>,
    ) {
        let found = match (group, kind) {
            (GATEWAY_API, "Gateway") => {
                let index = self.gateways.iter().position(|gateway| *gateway.key == key);
                let Some((index, gateway)) =
                    index.and_then(|index| Some((index, self.gateways.get(index)?)))
                else {
                    // One of another class is not ours to speak of.
                    if self.objects.get::<Gateway>(&key).is_none() {
                        targets.missing.push(format!("no Gateway {key}"));
                    }
                    return;
                };
                if let Some(section) = section
                    && !gateway.listeners.iter().any(|l| l.spec.name == section)
                {
                    targets
                        .missing
                        .push(format!("Gateway {key} has no listener {section}"));
                    return;
                }
                Found {
                    target: match section {
                        Some(section) => Target::Listener(key, section.to_owned()),
                        None => Target::Gateway(key),
                    },
                    gateways: BTreeSet::from([index]),
                }
            }
            (GATEWAY_API, "HTTPRoute") => {
                let Some(route) = self.routes.get(&key) else {
                    targets.missing.push(format!("no HTTPRoute {key}"));
                    return;
                };
                if let Some(section) = section
                    && !route
                        .object
                        .spec
                        .rules
                        .iter()
                        .any(|rule| rule.name.as_deref() == Some(section))
                {
                    targets
                        .missing
                        .push(format!("HTTPRoute {key} has no rule {section}"));
                    return;
                }
                if route.gateways.is_empty() {
                    targets
                        .missing
                        .push(format!("HTTPRoute {key} is attached to no Gateway"));
                    return;
                }
                Found {
                    gateways: route.gateways.clone(),
                    target: match section {
                        Some(section) => Target::Rule(key, section.to_owned()),
                        None => Target::Route(key),
                    },
                }
            }
            _ => {
                targets
                    .missing
                    .push(format!("kind {kind} of group {group:?} is not supported"));
                return;
            }
        };
        if !targets
            .found
            .iter()
            .any(|known| known.target == found.target)
        {
            targets.found.push(found);
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gateway(key) => write!(f, "Gateway {key}"),
            Self::Listener(key, name) => write!(f, "listener {name} of Gateway {key}"),
            Self::Route(key) => write!(f, "HTTPRoute {key}"),
            Self::Rule(key, name) => write!(f, "rule {name} of HTTPRoute {key}"),
        }
    }
}
