//! AgentgatewayPolicies: which ext_proc holds where.

mod compile;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use extproc_client::host::RouteOverrides;

use self::compile::Compiled;
use super::{
    AncestorStatus, Objects,
    backends::Backends,
    gateways::GatewayState,
    status::Condition,
    types::{
        AGENTGATEWAY, AgentgatewayPolicy, GATEWAY_API, Gateway, HttpRoute, Inheritance, Key,
        ParentRef, Phase,
    },
};
use crate::config::snapshot::{Choice, Filter, FilterKind};

/// The filter of each phase, in the order in which requests meet them.
const FILTERS: [(Phase, &str); 2] = [
    (Phase::PreRouting, "ext_proc.pre_routing"),
    (Phase::PostRouting, "ext_proc"),
];

/// What a policy is attached to, least specific first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Gateway(Key),
    Listener(Key, String),
    Route(Key),
    Rule(Key, String),
}

/// The ext_proc that won on a target.
struct Winner {
    policy: Key,
    locked: bool,
    compiled: Arc<Compiled>,
}

/// Every policy's effect.
pub(super) struct Policies {
    winners: BTreeMap<(bool, Target), Winner>,
    pub(super) statuses: BTreeMap<Key, Vec<AncestorStatus>>,
    /// `maxBufferSize` of Gateways, in bytes.
    buffers: BTreeMap<Key, usize>,
}

/// A route as policies see it: the Gateways that it reaches, by their place among ours.
pub(super) struct Reached<'a> {
    pub(super) object: &'a HttpRoute,
    pub(super) gateways: BTreeSet<usize>,
}

/// Attaches every policy to its targets, the oldest first.
pub(super) fn build(
    objects: &Objects,
    backends: &mut Backends<'_>,
    gateways: &[GatewayState<'_>],
    routes: &BTreeMap<&Key, Reached<'_>>,
) -> Policies {
    let mut policies = Policies {
        winners: BTreeMap::new(),
        statuses: BTreeMap::new(),
        buffers: BTreeMap::new(),
    };
    let mut all: Vec<_> = objects.iter::<AgentgatewayPolicy>().collect();
    all.sort_by(|(_, a), (_, b)| a.metadata.seniority().cmp(&b.metadata.seniority()));
    let world = World {
        objects,
        gateways,
        routes,
    };
    for (key, policy) in all {
        policies.attach(&world, backends, key, policy);
    }
    policies
}

struct World<'a> {
    objects: &'a Objects,
    gateways: &'a [GatewayState<'a>],
    routes: &'a BTreeMap<&'a Key, Reached<'a>>,
}

/// A target with the Gateways that it reaches.
struct Found {
    target: Target,
    gateways: BTreeSet<usize>,
}

impl Policies {
    fn attach(
        &mut self,
        world: &World<'_>,
        backends: &mut Backends<'_>,
        key: &Key,
        policy: &AgentgatewayPolicy,
    ) {
        let Targets { found, missing } = world.targets(key, policy);
        if found.is_empty() && missing.is_empty() {
            // Nothing of ours: nothing to say.
            return;
        }
        let spec = &policy.spec;
        let mut problems = Vec::new();
        if let Some(size) = spec
            .frontend
            .as_ref()
            .and_then(|frontend| frontend.http.as_ref()?.max_buffer_size)
        {
            for found in &found {
                if let Target::Gateway(gateway) = &found.target {
                    self.buffers.entry(gateway.clone()).or_insert(size as usize);
                }
            }
        }
        let mut conflicts: Vec<(Target, Key)> = Vec::new();
        let mut won: BTreeSet<usize> = BTreeSet::new();
        if let Some(traffic) = &spec.traffic {
            let pre_routing = traffic.phase == Phase::PreRouting;
            let locked = spec.strategy.inheritance == Inheritance::Override;
            let compiled = compile::compile(backends, key, traffic).map(Arc::new);
            if let Some(compiled) = compiled {
                problems.extend(compiled.problems.iter().cloned());
                for found in &found {
                    if pre_routing && matches!(found.target, Target::Route(_) | Target::Rule(..)) {
                        problems.push("phase PreRouting needs a Gateway as target".into());
                        continue;
                    }
                    match self.winners.entry((pre_routing, found.target.clone())) {
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            entry.insert(Winner {
                                policy: key.clone(),
                                locked,
                                compiled: compiled.clone(),
                            });
                            won.extend(&found.gateways);
                        }
                        std::collections::btree_map::Entry::Occupied(entry) => {
                            if entry.get().policy != *key {
                                conflicts.push((found.target.clone(), entry.get().policy.clone()));
                            }
                        }
                    }
                }
            } else {
                won.extend(found.iter().flat_map(|found| &found.gateways));
            }
        } else {
            won.extend(found.iter().flat_map(|found| &found.gateways));
        }
        self.report(
            world,
            key,
            policy,
            Report {
                found: &found,
                missing: &missing,
                problems: &problems,
                conflicts: &conflicts,
                won: &won,
            },
        );
    }

    fn report(
        &mut self,
        world: &World<'_>,
        key: &Key,
        policy: &AgentgatewayPolicy,
        report: Report<'_>,
    ) {
        let generation = policy.metadata.generation;
        let condition = |kind, status, reason, message: String| {
            Condition::new(generation, kind, status, reason, message)
        };
        let mut ancestors = Vec::new();
        let reached: BTreeSet<usize> = report
            .found
            .iter()
            .flat_map(|found| found.gateways.iter().copied())
            .collect();
        for index in &reached {
            let Some(gateway) = world.gateways.get(*index) else {
                continue;
            };
            let lost = report
                .conflicts
                .first()
                .map(|(target, winner)| format!("{target}: policy {winner} is older and wins"));
            let conditions = match lost {
                Some(message) if !report.won.contains(index) => vec![
                    condition("Accepted", false, "Conflicted", message.clone()),
                    condition("Attached", false, "Conflicted", message),
                ],
                lost => {
                    let problems: Vec<String> =
                        report.problems.iter().cloned().chain(lost).collect();
                    match problems.is_empty() {
                        true => vec![
                            condition("Accepted", true, "Valid", "Policy accepted".into()),
                            condition(
                                "Attached",
                                true,
                                "Attached",
                                "Attached to all targets".into(),
                            ),
                        ],
                        false => vec![condition(
                            "Accepted",
                            true,
                            "PartiallyValid",
                            problems.join("; "),
                        )],
                    }
                }
            };
            ancestors.push(AncestorStatus {
                ancestor: ParentRef {
                    namespace: Some(gateway.key.namespace.clone()),
                    name: gateway.key.name.clone(),
                    ..ParentRef::default()
                },
                conditions,
            });
        }
        if !report.missing.is_empty() {
            ancestors.push(AncestorStatus {
                ancestor: ParentRef {
                    group: AGENTGATEWAY.into(),
                    name: "StatusSummary".into(),
                    ..ParentRef::default()
                },
                conditions: vec![
                    condition("Accepted", true, "Valid", "Policy accepted".into()),
                    condition("Attached", false, "Pending", report.missing.join("; ")),
                ],
            });
        }
        self.statuses.insert(key.clone(), ancestors);
    }

    /// The filters that every listener has; routes switch them on.
    pub(super) fn filters(&self) -> Vec<Filter> {
        let any = |pre_routing: bool, wanted: fn(&Winner) -> bool| {
            let mut winners = self.winners.iter();
            winners.any(|((pre, _), winner)| *pre == pre_routing && wanted(winner))
        };
        let has_pre = any(true, |_| true);
        let mut filters = Vec::new();
        for (phase, name) in FILTERS {
            let pre_routing = phase == Phase::PreRouting;
            let reselect = has_pre && !pre_routing;
            if reselect || any(pre_routing, |winner| winner.compiled.depends()) {
                filters.push(Filter {
                    name: format!("{name}.conditions"),
                    disabled: false,
                    kind: FilterKind::Conditions {
                        filter: name.to_owned(),
                        reselect,
                    },
                });
            }
            if any(pre_routing, |_| true) {
                filters.push(Filter {
                    name: name.to_owned(),
                    disabled: true,
                    kind: FilterKind::ExtProc(compile::refusing()),
                });
            }
        }
        filters
    }

    /// What the filters do for requests that no route of a listener takes: those of the phase before
    /// routing see them. `None` if there are none.
    pub(super) fn without_route(&self, gateway: &Key, listener: &str) -> Option<Effects> {
        let mut effects = Effects::default();
        self.pre_routing(gateway, listener, &mut effects);
        (!effects.overrides.filters.is_empty()).then_some(effects)
    }

    /// What the filters do for a rule of a route on a listener.
    pub(super) fn effects(
        &self,
        gateway: &Key,
        listener: &str,
        route: &Key,
        rule: Option<&str>,
    ) -> Effects {
        let mut effects = Effects::default();
        self.pre_routing(gateway, listener, &mut effects);
        let mut levels = vec![
            Target::Gateway(gateway.clone()),
            Target::Listener(gateway.clone(), listener.to_owned()),
            Target::Route(route.clone()),
        ];
        if let Some(rule) = rule {
            levels.push(Target::Rule(route.clone(), rule.to_owned()));
        }
        let said: Vec<&Winner> = levels
            .into_iter()
            .filter_map(|target| self.winners.get(&(false, target)))
            .collect();
        // The least specific one that is locked, otherwise the most specific one.
        let winner = said
            .iter()
            .find(|winner| winner.locked)
            .or_else(|| said.last());
        if let Some(winner) = winner {
            effects.add(FILTERS[1].1, &winner.compiled);
        }
        effects
    }

    /// Before routing nothing is known of routes, and the listener's policy goes first.
    fn pre_routing(&self, gateway: &Key, listener: &str, effects: &mut Effects) {
        let levels = [
            Target::Listener(gateway.clone(), listener.to_owned()),
            Target::Gateway(gateway.clone()),
        ];
        let winner = levels
            .into_iter()
            .find_map(|target| self.winners.get(&(true, target)));
        if let Some(winner) = winner {
            effects.add(FILTERS[0].1, &winner.compiled);
        }
    }

    /// The largest buffered body on a Gateway, in bytes.
    pub(super) fn buffer_limit(&self, gateway: &Key) -> Option<usize> {
        self.buffers.get(gateway).copied()
    }
}

/// What policies come to for one route.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    pub(super) overrides: RouteOverrides,
    pub(super) choices: Vec<Choice>,
}

impl Effects {
    fn add(&mut self, filter: &str, compiled: &Compiled) {
        // Where a request decides, the filter is off until it has.
        self.overrides
            .filters
            .push((filter.to_owned(), compiled.config()));
        if compiled.depends() {
            self.choices.push(Choice {
                filter: filter.to_owned(),
                cases: compiled.cases.clone(),
            });
        }
    }
}

struct Report<'a> {
    found: &'a [Found],
    missing: &'a [String],
    problems: &'a [String],
    conflicts: &'a [(Target, Key)],
    won: &'a BTreeSet<usize>,
}

#[derive(Default)]
struct Targets {
    found: Vec<Found>,
    /// Targets that do not exist or reach no Gateway of ours, with the reason.
    missing: Vec<String>,
}

impl World<'_> {
    fn targets(&self, key: &Key, policy: &AgentgatewayPolicy) -> Targets {
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
