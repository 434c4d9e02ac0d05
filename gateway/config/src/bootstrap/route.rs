//! `RouteConfiguration`, `VirtualHost` and `Route`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use extproc_client::host::{Metadata as MetadataModel, RouteFacts};
use http::StatusCode;
use serde::Deserialize;

use super::{
    action::{ClusterWeight, RouteAction},
    answer::{DirectResponseAction, RedirectAction},
    any::Metadata,
    header::{Changes, HeaderValueOption},
    matcher::RouteMatch,
    mirror::RequestMirrorPolicy,
    per_filter::{Filters, Level, PerFilterConfig, Place},
    rate_limit,
    retry::RetryPolicy,
    tracing::{self, Decorator, RouteTracing},
    value::{Enum, Name, ProtoEnum},
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{
        Cluster, Discovery, Forward, HeaderChange, PathMatch, Redirect, Route as RouteModel,
        RouteAction as ActionModel, RouteMatch as MatchModel, RouteTable, VirtualHost as HostModel,
        WeightedCluster as WeightedModel,
    },
};

/// `max_direct_response_body_size_bytes`.
const DEFAULT_DIRECT_BODY: u32 = 4096;

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteConfiguration {
    name: String,
    virtual_hosts: Vec<Located<VirtualHost>>,
    request_headers_to_add: Vec<Located<HeaderValueOption>>,
    request_headers_to_remove: Vec<Located<Name>>,
    response_headers_to_add: Vec<Located<HeaderValueOption>>,
    response_headers_to_remove: Vec<Located<Name>>,
    validate_clusters: Option<bool>,
    max_direct_response_body_size_bytes: Option<u32>,
    request_mirror_policies: Vec<Located<RequestMirrorPolicy>>,
    ignore_port_in_host_matching: bool,
    typed_per_filter_config: PerFilterConfig,
}

/// `envoy.config.route.v3.VirtualHost`.
#[derive(Debug, Deserialize)]
struct VirtualHost {
    name: String,
    domains: Vec<Located<String>>,
    #[serde(default)]
    routes: Vec<Located<Route>>,
    #[serde(default)]
    request_headers_to_add: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    request_headers_to_remove: Vec<Located<Name>>,
    #[serde(default)]
    response_headers_to_add: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    response_headers_to_remove: Vec<Located<Name>>,
    #[serde(default)]
    require_tls: Enum<RequireTls>,
    retry_policy: Option<RetryPolicy>,
    #[serde(default)]
    request_mirror_policies: Vec<Located<RequestMirrorPolicy>>,
    #[serde(default)]
    typed_per_filter_config: PerFilterConfig,
    #[serde(default)]
    metadata: Metadata,
    per_request_buffer_limit_bytes: Option<u32>,
    request_body_buffer_limit: Option<u64>,
    #[serde(default)]
    include_request_attempt_count: bool,
    #[serde(default)]
    include_attempt_count_in_response: bool,
    #[serde(default)]
    rate_limits: Vec<Subtree>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RequireTls(bool);

// No request is internal here, as in Envoy without `internal_address_config`.
impl ProtoEnum for RequireTls {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("NONE", 0, Ok(Self(false))),
        ("EXTERNAL_ONLY", 1, Ok(Self(true))),
        ("ALL", 2, Ok(Self(true))),
    ];
}

/// `envoy.config.route.v3.Route`.
#[derive(Debug, Deserialize)]
struct Route {
    #[serde(default)]
    name: String,
    r#match: Located<RouteMatch>,
    route: Option<Located<RouteAction>>,
    redirect: Option<Located<RedirectAction>>,
    direct_response: Option<DirectResponseAction>,
    non_forwarding_action: Option<NonForwardingAction>,
    decorator: Option<Decorator>,
    tracing: Option<RouteTracing>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    typed_per_filter_config: PerFilterConfig,
    #[serde(default)]
    request_headers_to_add: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    request_headers_to_remove: Vec<Located<Name>>,
    #[serde(default)]
    response_headers_to_add: Vec<Located<HeaderValueOption>>,
    #[serde(default)]
    response_headers_to_remove: Vec<Located<Name>>,
    per_request_buffer_limit_bytes: Option<u32>,
    request_body_buffer_limit: Option<u64>,
}

/// `envoy.config.route.v3.NonForwardingAction`: requests that a filter answers. What none does is for no cluster.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NonForwardingAction {}

/// Request and response changes of any of the four levels.
macro_rules! changes {
    ($level:expr) => {{
        let level = $level;
        let request = Changes {
            add: &level.request_headers_to_add,
            remove: &level.request_headers_to_remove,
        };
        let response = Changes {
            add: &level.response_headers_to_add,
            remove: &level.response_headers_to_remove,
        };
        (request.build()?, response.build()?)
    }};
}

/// The limit of request bodies that a virtual host or a route sets, by its new name or by its old one.
macro_rules! body_limit {
    ($level:expr) => {{
        let old = $level.per_request_buffer_limit_bytes.map(u64::from);
        $level.request_body_buffer_limit.or(old)
    }};
}

/// Parts of the configuration around a route table.
pub(super) struct Surroundings<'a, 'd> {
    pub(super) reader: &'a Reader<'d>,
    pub(super) clusters: &'a BTreeMap<String, Arc<Cluster>>,
    pub(super) refused: &'a BTreeSet<String>,
    pub(super) filters: Filters<'a>,
    pub(super) filter_chain_name: &'a str,
    pub(super) listener_metadata: &'a MetadataModel,
    pub(super) node: &'a serde_json::Value,
    pub(super) graceful_close: Option<Duration>,
}

/// Place of a route in the table.
struct Position<'a> {
    surroundings: &'a Surroundings<'a, 'a>,
    levels: [&'a Level; 2],
    host_name: &'a str,
    host_metadata: MetadataModel,
    retry: Option<&'a RetryPolicy>,
    rate_limits: &'a [Subtree],
    /// The number of attempts is told to the upstream, to the client.
    counted: [bool; 2],
    mirrors: &'a [Located<RequestMirrorPolicy>],
    validate: bool,
    direct_limit: usize,
    body_limit: Option<u64>,
}

impl RouteConfiguration {
    pub(super) fn build(&self, surroundings: &Surroundings<'_, '_>) -> Result<RouteTable, Fault> {
        let reader = surroundings.reader;
        let place = Place::Table;
        let level = Level::read(surroundings, &self.typed_per_filter_config, place)?;
        let mut domains = BTreeSet::new();
        let mut virtual_hosts = Vec::with_capacity(self.virtual_hosts.len());
        for host in &self.virtual_hosts {
            let place = Place::VirtualHost(&host.value.name);
            let own = Level::read(surroundings, &host.value.typed_per_filter_config, place)?;
            let position = Position {
                surroundings,
                levels: [&level, &own],
                host_name: &host.value.name,
                host_metadata: host.value.metadata.build(reader)?,
                retry: host.value.retry_policy.as_ref(),
                rate_limits: &host.value.rate_limits,
                counted: [
                    host.value.include_request_attempt_count,
                    host.value.include_attempt_count_in_response,
                ],
                mirrors: match host.value.request_mirror_policies.as_slice() {
                    [] => &self.request_mirror_policies,
                    own => own,
                },
                validate: self.validate_clusters.unwrap_or(true),
                body_limit: body_limit!(host.value),
                direct_limit: self
                    .max_direct_response_body_size_bytes
                    .unwrap_or(DEFAULT_DIRECT_BODY) as usize,
            };
            virtual_hosts.push(host.build(&position, &mut domains)?);
        }
        let (request_headers, response_headers) = changes!(self);
        Ok(RouteTable {
            name: self.name.clone(),
            virtual_hosts,
            ignore_port: self.ignore_port_in_host_matching,
            request_headers,
            response_headers,
        })
    }
}

impl Located<VirtualHost> {
    fn build(
        &self,
        position: &Position<'_>,
        taken: &mut BTreeSet<String>,
    ) -> Result<HostModel, Fault> {
        let host = &self.value;
        if host.name.is_empty() {
            return Err(Fault::at(self.node, "name may not be empty"));
        }
        if host.domains.is_empty() {
            return Err(Fault::at(self.node, "domains may not be empty"));
        }
        let Enum(RequireTls(require_tls)) = host.require_tls;
        let mut domains = Vec::with_capacity(host.domains.len());
        for domain in &host.domains {
            let name = domain.value.to_ascii_lowercase();
            let inner = name.strip_prefix('*').unwrap_or(&name);
            let inner = match inner.len() == name.len() {
                true => inner.strip_suffix('*').unwrap_or(inner),
                false => inner,
            };
            if name.is_empty() || inner.contains('*') {
                return Err(Fault::at(
                    domain.node,
                    format!("{name:?} is no domain: expected a name, *.suffix, prefix.* or *"),
                ));
            }
            if !taken.insert(name.clone()) {
                return Err(Fault::at(
                    domain.node,
                    format!("the domain {name:?} is given twice"),
                ));
            }
            domains.push(name);
        }
        let (request_headers, response_headers) = changes!(host);
        let mut routes = Vec::with_capacity(host.routes.len());
        for route in &host.routes {
            match route.build(position) {
                Ok(route) => routes.push(Arc::new(route)),
                Err(fault) => position.surroundings.reader.refuse(fault)?,
            }
        }
        Ok(HostModel {
            name: host.name.clone(),
            domains,
            routes,
            to_tls: require_tls.then(|| Arc::new(position.to_tls())),
            request_headers,
            response_headers,
        })
    }
}

impl Located<Route> {
    fn build(&self, position: &Position<'_>) -> Result<RouteModel, Fault> {
        let Surroundings {
            reader, filters, ..
        } = position.surroundings;
        let route = &self.value;
        let [table, host] = position.levels;
        let matches = route.r#match.build()?;
        let place = Place::Route(position.host_name, &route.name, &matches);
        let own = Level::read(position.surroundings, &route.typed_per_filter_config, place)?;
        let mut facts = position.facts(&route.name, route.metadata.build(reader)?);
        let action = match (
            &route.route,
            &route.redirect,
            &route.direct_response,
            &route.non_forwarding_action,
        ) {
            (Some(action), None, None, None) => {
                let mut forward = action.build(position.retry, reader)?;
                [forward.count_for_upstream, forward.count_for_client] = position.counted;
                forward.clusters = position.targets(&action.value, &[table, host, &own], &facts)?;
                forward.mirrors = action
                    .value
                    .mirrors(position.mirrors)
                    .iter()
                    .map(|mirror| mirror.build(|name, node| position.check(name, node)))
                    .collect::<Result<_, _>>()?;
                if let Some(only) = sole(&forward) {
                    position.about_cluster(&mut facts, only);
                }
                ActionModel::Forward(forward)
            }
            (None, Some(redirect), None, None) => redirect.build()?,
            (None, None, None, Some(NonForwardingAction {})) => {
                ActionModel::Forward(Forward::default())
            }
            (None, None, Some(direct), None) => direct.build(position.direct_limit, reader)?,
            _ => {
                return Err(Fault::at(
                    self.node,
                    "one and only one of route, redirect, direct_response and non_forwarding_action \
                     has to be set",
                ));
            }
        };
        let (request_headers, response_headers) = changes!(route);
        Ok(RouteModel {
            matches,
            action,
            request_headers,
            response_headers,
            overrides: Arc::new(Level::merge(&[table, host, &own], *filters)?),
            facts: Arc::new(facts),
            choices: Arc::new([]),
            cors: Level::cors(&[table, host, &own]),
            tracing: tracing::of_route(route.decorator.as_ref(), route.tracing.as_ref())?,
            request_buffer: body_limit!(route)
                .or(position.body_limit)
                .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            rate_limits: match (&route.route, filters.limit_rates()) {
                (Some(action), true) => Arc::new(rate_limit::of_route(
                    reader,
                    &action.value.rate_limits,
                    position.rate_limits,
                    action.value.include_vh_rate_limits.unwrap_or_default(),
                )?),
                _ => Arc::default(),
            },
        })
    }
}

fn sole(forward: &Forward) -> Option<&str> {
    match forward.clusters.as_slice() {
        [only] => Some(&only.name),
        _ => None,
    }
}

impl Position<'_> {
    /// The route of requests that have to come over TLS and did not.
    fn to_tls(&self) -> RouteModel {
        RouteModel {
            matches: MatchModel {
                fraction: None,
                path: PathMatch::Prefix("/".into()),
                headers: Vec::new(),
                query: Vec::new(),
                cookies: Vec::new(),
                metadata: Vec::new(),
                case_sensitive: true,
            },
            action: ActionModel::Redirect(Redirect {
                https: true,
                keep_port: true,
                status: StatusCode::MOVED_PERMANENTLY,
                ..Redirect::default()
            }),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            overrides: Arc::default(),
            facts: Arc::new(self.facts("", MetadataModel::default())),
            choices: Arc::new([]),
            cors: None,
            tracing: None,
            request_buffer: None,
            rate_limits: Arc::default(),
        }
    }

    fn facts(&self, route_name: &str, route_metadata: MetadataModel) -> RouteFacts {
        let mut facts = RouteFacts::default();
        facts.route_name = route_name.to_owned();
        facts.virtual_host_name = self.host_name.to_owned();
        facts.filter_chain_name = self.surroundings.filter_chain_name.to_owned();
        facts.route_metadata = route_metadata;
        facts.virtual_host_metadata = self.host_metadata.clone();
        facts.listener_metadata = self.surroundings.listener_metadata.clone();
        facts.node = self.surroundings.node.clone();
        facts
    }

    /// Completes a route's facts by those of the cluster.
    fn about_cluster(&self, facts: &mut RouteFacts, name: &str) {
        facts.cluster_name = name.to_owned();
        if let Some(cluster) = self.surroundings.clusters.get(name) {
            facts.cluster_metadata = (*cluster.metadata).clone();
            facts.endpoints = match &cluster.discovery {
                Discovery::Static(list)
                | Discovery::StrictDns(list)
                | Discovery::LogicalDns(list) => list.len() as u64,
                Discovery::OriginalDst(_) => 0,
            };
        }
    }

    fn check(&self, name: &str, node: NodeId) -> Result<(), Fault> {
        if name.is_empty() {
            return Err(Fault::at(node, "may not be empty"));
        }
        let Surroundings {
            clusters, refused, ..
        } = self.surroundings;
        let refused = refused.contains(name) || refused.contains("");
        if self.validate && !clusters.contains_key(name) && !refused {
            return Err(Fault::at(node, format!("unknown cluster {name:?}")));
        }
        Ok(())
    }

    fn targets(
        &self,
        action: &RouteAction,
        levels: &[&Level; 3],
        facts: &RouteFacts,
    ) -> Result<Vec<WeightedModel>, Fault> {
        if let Some(name) = &action.cluster {
            self.check(&name.value, name.node)?;
            let mut facts = facts.clone();
            self.about_cluster(&mut facts, &name.value);
            return Ok(vec![WeightedModel {
                name: name.value.clone(),
                weight: 1,
                request_headers: Vec::new(),
                response_headers: Vec::new(),
                host_rewrite: None,
                overrides: None,
                facts: Arc::new(facts),
            }]);
        }
        let Some(weighted) = &action.weighted_clusters else {
            return Ok(Vec::new());
        };
        let targets = weighted
            .value
            .clusters
            .iter()
            .map(|target| self.target(&target.value, levels, facts.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let total: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
        if total == 0 || total > u64::from(u32::MAX) {
            return Err(Fault::at(
                weighted.node,
                "the sum of all weights has to be from 1 to 4294967295",
            ));
        }
        Ok(targets)
    }

    fn target(
        &self,
        target: &ClusterWeight,
        [table, host, route]: &[&Level; 3],
        mut facts: RouteFacts,
    ) -> Result<WeightedModel, Fault> {
        let filters = self.surroundings.filters;
        self.check(&target.name.value, target.name.node)?;
        self.about_cluster(&mut facts, &target.name.value);
        let place = Place::Cluster(self.host_name, &facts.route_name, &target.name.value);
        let own = Level::read(self.surroundings, &target.typed_per_filter_config, place)?;
        let (request_headers, response_headers): (Vec<HeaderChange>, _) = changes!(target);
        let overrides = match target.typed_per_filter_config.is_empty() {
            true => None,
            false => {
                let levels = [table, host, route, &own];
                Some(Arc::new(Level::merge(&levels, filters)?))
            }
        };
        Ok(WeightedModel {
            name: target.name.value.clone(),
            weight: target.weight,
            request_headers,
            response_headers,
            host_rewrite: match &target.host_rewrite_literal {
                Some(host) if !host.value.is_empty() => {
                    let authority = host.value.parse();
                    Some(authority.map_err(|_| Fault::at(host.node, "is no host"))?)
                }
                _ => None,
            },
            overrides,
            facts: Arc::new(facts),
        })
    }
}
