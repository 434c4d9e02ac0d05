//! HTTPRoute rules: compiled once, then made into routes for each listener they are attached to.

mod cors;
mod filters;
mod matches;

use std::{sync::Arc, time::Duration};

use extproc_client::host::RouteFacts;
use http::StatusCode;

use self::filters::{Effect, Filters, PathRewrite};
pub(super) use self::matches::Match;
use super::{
    backends::Backends,
    compiled::{Allowance, Compiled},
    duration,
    gateways::Referrer,
    policies::Effects,
    status::Reason,
    types::{BackendRef, FilterType, GATEWAY_API, HttpRoute, HttpRouteRule, Key, Listener},
};
use crate::snapshot::{Forward, HeaderChange, Retry, Route, RouteAction, WeightedCluster};

/// A cluster that does not exist: what a share of traffic without a usable backend is sent to.
const NO_BACKEND: &str = "";

/// Fields of a rule, in the experimental channel, that are not known here and change nothing about which requests
/// pass, and where to. Without any other one nothing is served.
const OPTIONAL: &[&str] = &["retry", "sessionPersistence"];

/// A route whose rules are compiled.
pub(super) struct RoutePlan<'a> {
    pub(super) key: &'a Key,
    pub(super) rules: Vec<RulePlan<'a>>,
    /// The first reference that is no good.
    pub(super) unresolved: Option<Reason>,
    /// Unsupported settings; requests that they concern are refused.
    pub(super) unsupported: Vec<String>,
    /// Settings without effect; requests are served without them.
    pub(super) ignored: Vec<String>,
    /// True if at least one rule does what it says.
    pub(super) usable: bool,
}

/// A compiled rule.
pub(super) struct RulePlan<'a> {
    pub(super) spec: &'a HttpRouteRule,
    pub(super) matches: Vec<Match>,
    plan: Plan,
}

enum Plan {
    /// Every request is refused with this.
    Refuse(StatusCode),
    /// Forwarded, redirected or answered, after the filters' changes.
    Serve(Box<Served>),
}

struct Served {
    filters: Filters,
    /// By the matches of the rule.
    rewrites: Vec<Option<PathRewrite>>,
    backends: Vec<Backend>,
    timeout: Option<Duration>,
    per_try_timeout: Option<Duration>,
}

struct Backend {
    /// [`NO_BACKEND`] if it cannot be used.
    cluster: String,
    weight: u32,
    request: Vec<HeaderChange>,
    response: Vec<HeaderChange>,
}

/// Compiles the rules of a route.
pub(super) fn plan<'a>(
    backends: &mut Backends<'_>,
    compiled: &mut Compiled,
    key: &'a Key,
    object: &'a HttpRoute,
) -> RoutePlan<'a> {
    let mut allowance = compiled.allowance(&key.namespace);
    let mut plan = RoutePlan {
        key,
        rules: Vec::new(),
        unresolved: None,
        unsupported: Vec::new(),
        ignored: Vec::new(),
        usable: false,
    };
    for (index, rule) in object.spec.rules.iter().enumerate() {
        let mut compiler = Compiler {
            backends,
            allowance: &mut allowance,
            namespace: &key.namespace,
            place: format!("rules[{index}]"),
            unresolved: &mut plan.unresolved,
            unsupported: &mut plan.unsupported,
            ignored: &mut plan.ignored,
        };
        if let Some(compiled) = compiler.rule(rule) {
            plan.usable |= matches!(compiled.plan, Plan::Serve(_));
            plan.rules.push(compiled);
        }
    }
    // Without rules there is nothing that could be wrong.
    plan.usable |= object.spec.rules.is_empty();
    if allowance.exceeded {
        // Requests that one rule would have taken are for no other one.
        plan.usable = false;
        for rule in &mut plan.rules {
            rule.plan = Plan::Refuse(StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
    plan
}

struct Compiler<'c, 'o, 'a> {
    backends: &'c mut Backends<'o>,
    allowance: &'c mut Allowance<'a>,
    namespace: &'c str,
    place: String,
    unresolved: &'c mut Option<Reason>,
    unsupported: &'c mut Vec<String>,
    ignored: &'c mut Vec<String>,
}

impl Compiler<'_, '_, '_> {
    /// `None` if it cannot even be said which requests the rule is for.
    fn rule<'a>(&mut self, spec: &'a HttpRouteRule) -> Option<RulePlan<'a>> {
        let before = self.unsupported.len();
        let mut matches = Vec::new();
        let default = [super::types::RouteMatch::default()];
        let specs = match spec.matches.as_slice() {
            [] => default.as_slice(),
            specs => specs,
        };
        for (index, spec) in specs.iter().enumerate() {
            match Match::compile(spec, self.allowance) {
                Ok(compiled) => matches.push(compiled),
                Err(message) => {
                    let place = &self.place;
                    self.unsupported
                        .push(format!("{place}.matches[{index}].{message}"));
                }
            }
        }
        if matches.is_empty() {
            return None;
        }
        for name in spec.unknown.keys() {
            let field = format!("{}.{name}", self.place);
            match OPTIONAL.contains(&name.as_str()) {
                true => self.ignored.push(field),
                false => self.unsupported.push(format!("{field} is not supported")),
            }
        }
        let place = format!("{}.filters", self.place);
        let filters = self.filters(&spec.filters, &place);
        let rewrites = filters
            .as_ref()
            .and_then(|filters| self.rewrites(filters, &matches, &place));
        let timeouts = &spec.timeouts;
        let timeout = self.timeout("request", timeouts.request.as_deref());
        let per_try_timeout = self.timeout("backendRequest", timeouts.backend_request.as_deref());
        let backends: Vec<Backend> = spec
            .backend_refs
            .iter()
            .enumerate()
            .map(|(index, reference)| self.backend(index, reference))
            .collect();
        let plan = match filters.zip(rewrites) {
            Some((filters, rewrites)) if self.unsupported.len() == before => {
                Plan::Serve(Box::new(Served {
                    filters,
                    rewrites,
                    backends,
                    timeout,
                    per_try_timeout,
                }))
            }
            _ => Plan::Refuse(StatusCode::INTERNAL_SERVER_ERROR),
        };
        Some(RulePlan {
            spec,
            matches,
            plan,
        })
    }

    fn timeout(&mut self, field: &str, text: Option<&str>) -> Option<Duration> {
        let text = text?;
        match duration(text) {
            Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
            None => {
                let place = &self.place;
                self.unsupported.push(format!(
                    "{place}.timeouts.{field}: {text:?} is not a duration"
                ));
                None
            }
        }
    }

    fn filters(&mut self, specs: &[super::types::HttpRouteFilter], place: &str) -> Option<Filters> {
        let mut filters = Filters::default();
        for (index, spec) in specs.iter().enumerate() {
            let place = format!("{place}[{index}]");
            let added = match &spec.cors {
                Some(cors) if spec.kind == FilterType::Cors => {
                    filters.add_cors(cors, self.allowance)
                }
                _ => filters.add(spec, &mut |reference| self.resolve(&place, reference)),
            };
            match added {
                Ok(()) => {}
                Err(message) => {
                    self.unsupported.push(format!("{place}: {message}"));
                    return None;
                }
            }
        }
        Some(filters)
    }

    /// The rewrites of the path, one for each of the rule's matches.
    fn rewrites(
        &mut self,
        filters: &Filters,
        matches: &[Match],
        place: &str,
    ) -> Option<Vec<Option<PathRewrite>>> {
        let rewrites = matches
            .iter()
            .map(|matched| filters.path_rewrite(matched, self.allowance));
        match rewrites.collect() {
            Ok(rewrites) => Some(rewrites),
            Err(message) => {
                self.unsupported.push(format!("{place}: {message}"));
                None
            }
        }
    }

    fn resolve(&mut self, place: &str, reference: &super::types::ObjectRef) -> Option<String> {
        let from = Referrer {
            group: GATEWAY_API,
            kind: "HTTPRoute",
            namespace: self.namespace,
        };
        match self.backends.resolve(&from, reference) {
            Ok(cluster) => Some(cluster),
            Err((reason, message)) => {
                self.unresolved
                    .get_or_insert_with(|| (reason, format!("{place}: {message}")));
                None
            }
        }
    }

    fn backend(&mut self, index: usize, reference: &BackendRef) -> Backend {
        let place = format!("{}.backendRefs[{index}]", self.place);
        let cluster = self.resolve(&place, &reference.target);
        let filters = self.filters(&reference.filters, &format!("{place}.filters"));
        let filters = filters.and_then(|filters| match filters.only_headers() {
            true => Some(filters),
            false => {
                let message = "only header modifiers are supported on a backend";
                self.unsupported.push(format!("{place}.filters: {message}"));
                None
            }
        });
        let filters = filters.unwrap_or_default();
        Backend {
            cluster: cluster.unwrap_or_else(|| NO_BACKEND.to_owned()),
            weight: reference.weight,
            request: filters.request,
            response: filters.response,
        }
    }
}

/// A listener as the routes attached to it see it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) listener: &'a Listener,
    pub(super) virtual_host: &'a str,
}

impl RulePlan<'_> {
    /// The route for one of the rule's matches, which is the one at `index`.
    pub(super) fn route(
        &self,
        key: &Key,
        index: usize,
        matched: &Match,
        place: Place<'_>,
        effects: Effects,
    ) -> Arc<Route> {
        let facts = |cluster: &str| {
            let route_name = match &self.spec.name {
                Some(rule) => format!("{key}/{rule}"),
                None => key.to_string(),
            };
            let mut facts = RouteFacts::default();
            facts.cluster_name = cluster.to_owned();
            facts.route_name = route_name;
            facts.virtual_host_name = place.virtual_host.to_owned();
            facts.filter_chain_name = place.listener.name.clone();
            Arc::new(facts)
        };
        let cors = match &self.plan {
            Plan::Serve(served) if !effects.refused => served.filters.cors.clone(),
            _ => None,
        };
        let (action, request_headers, response_headers) = match &self.plan {
            _ if effects.refused => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                (direct(status), Vec::new(), Vec::new())
            }
            Plan::Refuse(status) => (direct(*status), Vec::new(), Vec::new()),
            Plan::Serve(served) => {
                let Served {
                    filters,
                    rewrites,
                    backends,
                    timeout,
                    per_try_timeout,
                } = served.as_ref();
                let action = match &filters.effect {
                    Effect::Redirect(redirect) => {
                        RouteAction::Redirect(filters::redirect(redirect, matched, place.listener))
                    }
                    // No backend at all, or none with a share: an error (HTTPRouteRule.backendRefs).
                    _ if backends.iter().all(|backend| backend.weight == 0) => {
                        direct(StatusCode::INTERNAL_SERVER_ERROR)
                    }
                    effect => {
                        let mut forward = forward(*timeout, *per_try_timeout);
                        forward.clusters = backends
                            .iter()
                            .filter(|backend| backend.weight > 0)
                            .map(|backend| WeightedCluster {
                                name: backend.cluster.clone(),
                                weight: backend.weight,
                                request_headers: backend.request.clone(),
                                response_headers: backend.response.clone(),
                                host_rewrite: None,
                                overrides: None,
                                facts: facts(&backend.cluster),
                            })
                            .collect();
                        forward.mirrors.clone_from(&filters.mirrors);
                        if let Effect::Rewrite(rewrite) = effect {
                            forward.host_rewrite = filters::host_rewrite(rewrite);
                        }
                        forward.regex_rewrite = rewrites.get(index).cloned().flatten();
                        RouteAction::Forward(forward)
                    }
                };
                (action, filters.request.clone(), filters.response.clone())
            }
        };
        Arc::new(Route {
            matches: matched.to_snapshot(),
            action,
            request_headers,
            response_headers,
            overrides: Arc::new(effects.overrides),
            facts: facts(""),
            choices: effects.choices.into(),
            cors,
            tracing: None,
            request_buffer: None,
            rate_limits: Arc::default(),
        })
    }
}

/// A route that answers every request with this status.
pub(super) fn answer(status: StatusCode, effects: Effects) -> Arc<Route> {
    Arc::new(Route {
        matches: Match::everything().to_snapshot(),
        action: direct(status),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        overrides: Arc::new(effects.overrides),
        facts: Arc::default(),
        choices: effects.choices.into(),
        cors: None,
        tracing: None,
        request_buffer: None,
        rate_limits: Arc::default(),
    })
}

fn direct(status: StatusCode) -> RouteAction {
    RouteAction::Direct {
        status,
        body: bytes::Bytes::new(),
        format: None,
    }
}

fn forward(timeout: Option<Duration>, per_try_timeout: Option<Duration>) -> Forward {
    Forward {
        // A share of traffic whose backend cannot be used.
        missing_cluster: Some(StatusCode::INTERNAL_SERVER_ERROR),
        timeout,
        retry: per_try_timeout.map(|limit| Retry {
            count: 0,
            per_try_timeout: Some(limit),
            ..Retry::default()
        }),
        ..Forward::default()
    }
}
