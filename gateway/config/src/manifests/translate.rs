//! From objects to what is served and what is said of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Objects, RouteParentStatus, Scope, Serve, Statuses, Translation,
    attach::{self, Parent},
    backends::Backends,
    compiled::Compiled,
    gateways::{self, GatewayState},
    listeners::{self, Attached, Bound},
    policies::{self, Reached},
    routes::{self, RoutePlan},
    status::Condition,
    types::{AgentgatewayBackend, GatewayClass, HttpRoute, Key},
};
use crate::snapshot::Snapshot;

/// Makes translations, and keeps what it compiles for one for the next: most objects stay as they are.
#[derive(Debug, Default)]
pub struct Translator {
    compiled: Compiled,
}

impl Translator {
    /// Translates the objects within `scope`.
    ///
    /// Never fails: what is wrong with an object is in its status.
    pub fn translate(&mut self, objects: &Objects, scope: &Scope) -> Translation {
        let translation = translation(objects, scope, &mut self.compiled);
        self.compiled.sweep();
        translation
    }
}

/// Translates the objects within `scope`, once.
pub fn translate(objects: &Objects, scope: &Scope) -> Translation {
    Translator::default().translate(objects, scope)
}

fn translation(objects: &Objects, scope: &Scope, compiled: &mut Compiled) -> Translation {
    let mut gateways = gateways::ours(objects, scope);
    let mut backends = Backends::new(objects, scope);
    let mut routes: Vec<(&Key, &HttpRoute)> = objects
        .iter::<HttpRoute>()
        .map(|(key, route)| (key, &**route))
        .collect();
    routes.sort_by(|(_, a), (_, b)| a.metadata.seniority().cmp(&b.metadata.seniority()));
    let routes: Vec<Route<'_>> = routes
        .into_iter()
        .map(|(key, object)| Route {
            parents: attach::attach(objects, &mut gateways, key, object),
            key,
            object,
        })
        .filter(|route| !route.parents.is_empty())
        .collect();
    let plans: Vec<RoutePlan<'_>> = routes
        .iter()
        .map(|route| routes::plan(&mut backends, compiled, route.key, route.object))
        .collect();
    let reached: BTreeMap<&Key, Reached<'_>> = routes
        .iter()
        .map(|route| {
            let gateways: BTreeSet<usize> = route
                .parents
                .iter()
                .filter(|parent| parent.attached.is_ok())
                .map(|parent| parent.gateway)
                .collect();
            let reached = Reached {
                object: route.object,
                gateways,
            };
            (route.key, reached)
        })
        .collect();
    let policies = policies::build(objects, &mut backends, compiled, &gateways, &reached);

    let bound = bound(scope, &gateways, &routes, &plans);
    let listeners = listeners::build(scope, &policies, &bound);
    let statuses = Statuses {
        classes: classes(objects, scope),
        gateways: gateways
            .iter()
            .map(|gateway| (gateway.key.clone(), gateway.status()))
            .collect(),
        routes: routes
            .iter()
            .zip(&plans)
            .map(|(route, plan)| (route.key.clone(), route.statuses(plan)))
            .collect(),
        policies: policies.statuses,
        backends: backends_status(objects, scope),
    };
    Translation {
        snapshot: Snapshot {
            listeners,
            clusters: backends.clusters,
            ..Snapshot::default()
        },
        statuses,
        without_endpoints: backends.without_endpoints.into_iter().collect(),
    }
}

/// A route that refers to a Gateway of ours.
struct Route<'a> {
    key: &'a Key,
    object: &'a HttpRoute,
    parents: Vec<Parent<'a>>,
}

/// The listeners to serve, each with its routes.
fn bound<'a>(
    scope: &Scope,
    gateways: &'a [GatewayState<'a>],
    routes: &'a [Route<'a>],
    plans: &'a [RoutePlan<'a>],
) -> Vec<Bound<'a>> {
    let mut bound = Vec::new();
    for (index, gateway) in gateways.iter().enumerate() {
        match &scope.serve {
            Serve::Each => continue,
            Serve::One(key) if key != gateway.key => continue,
            _ => {}
        }
        for (place, state) in gateway.listeners.iter().enumerate() {
            let attached = routes.iter().zip(plans).flat_map(|(route, plan)| {
                route
                    .parents
                    .iter()
                    .filter(|parent| parent.gateway == index)
                    .filter_map(|parent| parent.attached.as_ref().ok())
                    .flatten()
                    .filter(|attachment| attachment.listener == place)
                    // Two references of one route may lead to one listener.
                    .take(1)
                    .map(move |attachment| Attached {
                        plan,
                        hosts: &attachment.hosts,
                    })
            });
            bound.push(Bound {
                gateway: gateway.key,
                state,
                trusted_hops: gateway.trusted_hops(),
                routes: attached.collect(),
            });
        }
    }
    bound
}

impl Route<'_> {
    fn statuses(&self, plan: &RoutePlan<'_>) -> Vec<RouteParentStatus> {
        let generation = self.object.metadata.generation;
        let condition = |kind, status, reason, message: &str| {
            Condition::new(generation, kind, status, reason, message)
        };
        let resolved = match &plan.unresolved {
            None => condition(
                "ResolvedRefs",
                true,
                "ResolvedRefs",
                "all references are good",
            ),
            Some((reason, message)) => condition("ResolvedRefs", false, reason, message),
        };
        let unsupported = plan.unsupported.join("; ");
        self.parents
            .iter()
            .map(|parent| {
                let mut conditions = match &parent.attached {
                    Err((reason, message)) => {
                        vec![condition("Accepted", false, reason, message)]
                    }
                    Ok(_) if !plan.usable => {
                        vec![condition(
                            "Accepted",
                            false,
                            "UnsupportedValue",
                            &unsupported,
                        )]
                    }
                    Ok(_) => vec![condition(
                        "Accepted",
                        true,
                        "Accepted",
                        "the route is attached",
                    )],
                };
                let refused = (plan.usable && !unsupported.is_empty())
                    .then(|| format!("requests to these rules are refused: {unsupported}"));
                let ignored = (!plan.ignored.is_empty())
                    .then(|| format!("without effect here: {}", plan.ignored.join(", ")));
                let remarks: Vec<String> = refused.into_iter().chain(ignored).collect();
                if !remarks.is_empty() {
                    conditions.push(condition(
                        "PartiallyInvalid",
                        true,
                        "UnsupportedValue",
                        &remarks.join("; "),
                    ));
                }
                conditions.push(resolved.clone());
                RouteParentStatus {
                    parent: parent.reference.clone(),
                    conditions,
                }
            })
            .collect()
    }
}

fn classes(objects: &Objects, scope: &Scope) -> BTreeMap<String, Vec<Condition>> {
    objects
        .iter::<GatewayClass>()
        .filter(|(_, class)| class.spec.controller_name == scope.controller)
        .map(|(key, class)| {
            let accepted = Condition::new(
                class.metadata.generation,
                "Accepted",
                true,
                "Accepted",
                "Gateways of this class are served",
            );
            (key.name.clone(), vec![accepted])
        })
        .collect()
}

fn backends_status(objects: &Objects, scope: &Scope) -> BTreeMap<Key, Vec<Condition>> {
    objects
        .iter::<AgentgatewayBackend>()
        .map(|(key, backend)| {
            let generation = backend.metadata.generation;
            let condition = match super::backends::check(backend, scope) {
                Ok(()) => Condition::new(
                    generation,
                    "Accepted",
                    true,
                    "Accepted",
                    "the backend is valid",
                ),
                Err(message) => Condition::new(generation, "Accepted", false, "Invalid", message),
            };
            (key.clone(), vec![condition])
        })
        .collect()
}
