//! AgentgatewayPolicies: which ext_proc holds where.

mod compile;
mod targets;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    compile::ExtProc,
    targets::{Found, Target, Targets, World},
};
use super::{
    AncestorStatus, Objects,
    backends::Backends,
    compiled::Compiled,
    gateways::GatewayState,
    status::Condition,
    types::{AGENTGATEWAY, AgentgatewayPolicy, HttpRoute, Inheritance, Key, ParentRef, Phase},
};
use crate::snapshot::{Choice, Filter, FilterKind, OnRoute, RouteOverrides};

/// The filter of each phase, in the order in which requests meet them.
const FILTERS: [(Phase, &str); 2] = [
    (Phase::PreRouting, "ext_proc.pre_routing"),
    (Phase::PostRouting, "ext_proc"),
];

/// The ext_proc that won on a target.
struct Winner {
    policy: Key,
    locked: bool,
    compiled: Arc<ExtProc>,
}

/// Every policy's effect.
pub(super) struct Policies {
    winners: BTreeMap<(bool, Target), Winner>,
    pub(super) statuses: BTreeMap<Key, Vec<AncestorStatus>>,
    /// `maxBufferSize` of Gateways, in bytes.
    buffers: BTreeMap<Key, usize>,
    /// Places at which a policy asks for something that is not supported.
    refused: BTreeSet<Target>,
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
    compiled: &mut Compiled,
    gateways: &[GatewayState<'_>],
    routes: &BTreeMap<&Key, Reached<'_>>,
) -> Policies {
    let mut policies = Policies {
        winners: BTreeMap::new(),
        statuses: BTreeMap::new(),
        buffers: BTreeMap::new(),
        refused: BTreeSet::new(),
    };
    let mut all: Vec<_> = objects.iter::<AgentgatewayPolicy>().collect();
    all.sort_by(|(_, a), (_, b)| a.metadata.seniority().cmp(&b.metadata.seniority()));
    let world = World {
        objects,
        gateways,
        routes,
    };
    for (key, policy) in all {
        policies.attach(&world, (backends, compiled), key, policy);
    }
    policies
}

impl Policies {
    fn attach(
        &mut self,
        world: &World<'_>,
        (backends, known): (&mut Backends<'_>, &mut Compiled),
        key: &Key,
        policy: &AgentgatewayPolicy,
    ) {
        let Targets { found, missing } = world.targets(key, policy);
        if found.is_empty() && missing.is_empty() {
            // Nothing of ours: nothing to say.
            return;
        }
        let spec = &policy.spec;
        if let Some(error) = &spec.unreadable {
            let message = format!("cannot be read: {error}");
            self.refuse(world, key, policy, &found, &message);
            return;
        }
        let unknown = spec.unknown();
        if !unknown.is_empty() {
            let message = format!("not supported: spec.{}", unknown.join(", spec."));
            self.refuse(world, key, policy, &found, &message);
            return;
        }
        let mut problems = Vec::new();
        let mut not_permitted = Vec::new();
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
            let compiled =
                compile::compile(backends, known.allowance(&key.namespace), key, traffic);
            let compiled = compiled.map(Arc::new);
            if let Some(compiled) = compiled {
                problems.extend(compiled.problems.iter().cloned());
                not_permitted.clone_from(&compiled.not_permitted);
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
                not_permitted: &not_permitted,
                conflicts: &conflicts,
                won: &won,
            },
        );
    }

    /// Nobody can say what the policy would have kept away: nothing passes its targets.
    fn refuse(
        &mut self,
        world: &World<'_>,
        key: &Key,
        policy: &AgentgatewayPolicy,
        found: &[Found],
        message: &str,
    ) {
        let reached: BTreeSet<usize> = found.iter().flat_map(|f| &f.gateways).copied().collect();
        let condition = |kind, reason, message: &str| {
            Condition::new(policy.metadata.generation, kind, false, reason, message)
        };
        let ancestors = reached
            .iter()
            .filter_map(|index| world.gateways.get(*index))
            .map(|gateway| AncestorStatus {
                ancestor: ancestor(gateway),
                conditions: vec![
                    condition("Accepted", "Invalid", message),
                    condition("Attached", "Pending", "requests to the targets are refused"),
                ],
            });
        self.statuses.insert(key.clone(), ancestors.collect());
        self.refused
            .extend(found.iter().map(|found| found.target.clone()));
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
            let mut conditions = match lost {
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
            if !report.not_permitted.is_empty() {
                let message = report.not_permitted.join("; ");
                conditions.push(condition("ResolvedRefs", false, "RefNotPermitted", message));
            }
            ancestors.push(AncestorStatus {
                ancestor: ancestor(gateway),
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

    /// The filters that every listener has; routes switch them on. `cors` asks for the one of that name,
    /// which stands before ext_proc but behind what may still change the route.
    pub(super) fn filters(&self, cors: bool) -> Vec<Filter> {
        let any = |pre_routing: bool| self.winners.keys().any(|(pre, _)| *pre == pre_routing);
        let mut filters = Vec::new();
        for (phase, name) in FILTERS {
            let pre_routing = phase == Phase::PreRouting;
            if cors && !pre_routing {
                filters.push(Filter {
                    name: "cors".to_owned(),
                    disabled: false,
                    kind: FilterKind::Cors,
                });
            }
            if any(pre_routing) {
                filters.push(Filter {
                    name: name.to_owned(),
                    disabled: true,
                    kind: FilterKind::ExtProc(compile::refusing()),
                });
            }
        }
        filters
    }

    /// Effects of the filters on requests that no route of a listener takes: those of the phase before routing see them. `None`
    /// if there are none.
    pub(super) fn without_route(&self, gateway: &Key, listener: &str) -> Option<Effects> {
        let mut effects = Effects::default();
        self.pre_routing(gateway, listener, &mut effects);
        (!effects.overrides.filters.is_empty()).then_some(effects)
    }

    /// Effects of the filters on requests that a rule of a route takes on a listener.
    pub(super) fn effects(
        &self,
        gateway: &Key,
        listener: &str,
        route: &Key,
        rule: Option<&str>,
    ) -> Effects {
        let mut levels = vec![
            Target::Gateway(gateway.clone()),
            Target::Listener(gateway.clone(), listener.to_owned()),
            Target::Route(route.clone()),
        ];
        if let Some(rule) = rule {
            levels.push(Target::Rule(route.clone(), rule.to_owned()));
        }
        if levels.iter().any(|target| self.refused.contains(target)) {
            return Effects {
                refused: true,
                ..Effects::default()
            };
        }
        let mut effects = Effects::default();
        self.pre_routing(gateway, listener, &mut effects);
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

/// Result of the policies for one route.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    pub(super) overrides: RouteOverrides,
    pub(super) choices: Vec<Choice>,
    /// Nothing may pass.
    pub(super) refused: bool,
}

impl Effects {
    fn add(&mut self, filter: &str, compiled: &ExtProc) {
        // Where a request decides, the filter is off until it has.
        let config = OnRoute::Processor(compiled.config());
        self.overrides.filters.push((filter.to_owned(), config));
        if compiled.depends() {
            self.choices.push(Choice {
                filter: filter.to_owned(),
                cases: compiled.cases.clone(),
                undecided: compiled.refusing.clone(),
            });
        }
    }
}

fn ancestor(gateway: &GatewayState<'_>) -> ParentRef {
    ParentRef {
        namespace: Some(gateway.key.namespace.clone()),
        name: gateway.key.name.clone(),
        ..ParentRef::default()
    }
}

struct Report<'a> {
    found: &'a [Found],
    missing: &'a [String],
    problems: &'a [String],
    not_permitted: &'a [String],
    conflicts: &'a [(Target, Key)],
    won: &'a BTreeSet<usize>,
}
