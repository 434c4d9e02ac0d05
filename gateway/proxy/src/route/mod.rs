//! Selects the route of a request.

mod matching;
mod rewrite;

use std::{borrow::Cow, sync::Arc};

use extproc_client::{
    FilterConfig,
    config::Effort,
    host::{RouteConfig, RouteFacts},
    metadata::DynamicMetadata,
};
use http::request::Parts;

pub(crate) use self::{
    matching::{field_matches, headers_match, is_drawn, request_matches, value_is},
    rewrite::{Unwritable, redirect_location, rewrite, set_authority},
};
use crate::{
    config::snapshot::{
        Forward, HeaderChange, HeaderTemplate, HttpManager, Route, RouteAction, RouteOverrides,
        VirtualHost, WeightedCluster,
    },
    limits::throttle::Throttle,
};

/// The route of an exchange, its weighted cluster picked.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    http: Arc<HttpManager>,
    /// `None` for a redirect to TLS, which has nothing of the virtual host that asks for it.
    host: Option<usize>,
    pub(crate) route: Arc<Route>,
    cluster: usize,
    /// The cluster that a header of the request named when the route was selected.
    named: Option<Arc<str>>,
}

/// Selects the route for a request as it stands, with the dynamic metadata that filters have set since; `None` if there is none,
/// or its regular expressions would take too long to find out.
pub(crate) fn select(
    http: &Arc<HttpManager>,
    request: &Parts,
    metadata: Option<&DynamicMetadata>,
) -> Option<Selected> {
    let index = virtual_host(http, request)?;
    let host = http.routes.virtual_hosts.get(index)?;
    if let Some(route) = host.to_tls.as_ref().filter(|_| !is_https(request)) {
        return Some(Selected {
            http: http.clone(),
            host: None,
            route: route.clone(),
            cluster: 0,
            named: None,
        });
    }
    let mut effort = Effort::default();
    let mut routes = host.routes.iter();
    let route = routes.find(|route| {
        matching::route_matches(&route.matches, request, metadata, &mut effort) || effort.is_spent()
    })?;
    if effort.is_spent() {
        static SPENT: Throttle = Throttle::new();
        if let Some(suppressed) = SPENT.pass() {
            tracing::warn!(
                routes = %http.routes.name,
                suppressed,
                "a request is refused, as the regular expressions of its routes take too long for it"
            );
        }
        return None;
    }
    let cluster = match &route.action {
        RouteAction::Forward(forward) => pick(&forward.clusters),
        RouteAction::Direct { .. } | RouteAction::Redirect(_) => 0,
    };
    let mut selected = Selected {
        http: http.clone(),
        host: Some(index),
        route: route.clone(),
        cluster,
        named: None,
    };
    if let Some(header) = selected.forward().and_then(|f| f.cluster_header.as_ref()) {
        let value = request.headers.get(header);
        selected.named = value.and_then(|value| value.to_str().ok()).map(Arc::from);
    }
    Some(selected)
}

/// Tells whether the request came over TLS, as `x-forwarded-proto` says: a client's own word for that has been replaced, unless a
/// proxy in front is trusted.
fn is_https(request: &Parts) -> bool {
    match request.headers.get("x-forwarded-proto") {
        Some(said) => said == "https",
        None => request.uri.scheme_str() == Some("https"),
    }
}

/// The virtual host of a request.
pub(crate) fn virtual_host(http: &HttpManager, request: &Parts) -> Option<usize> {
    let authority = request
        .uri
        .authority()
        .map_or("", |authority| match http.routes.ignore_port {
            true => authority.host(),
            false => authority.as_str(),
        });
    let lower = match authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(authority.to_ascii_lowercase()),
        false => Cow::Borrowed(authority),
    };
    matching::virtual_host(&http.routes, &lower)
}

/// An index by weight.
fn pick(clusters: &[WeightedCluster]) -> usize {
    let total: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    if clusters.len() < 2 || total == 0 {
        return 0;
    }
    let mut at = rand::random_range(0..total);
    for (index, cluster) in clusters.iter().enumerate() {
        match at.checked_sub(u64::from(cluster.weight)) {
            Some(left) => at = left,
            None => return index,
        }
    }
    0
}

fn config(said: Option<Option<&Arc<FilterConfig>>>) -> RouteConfig {
    match said {
        None => RouteConfig::Inherit,
        Some(None) => RouteConfig::Disabled,
        Some(Some(config)) => RouteConfig::Use(config.clone()),
    }
}

impl Selected {
    fn virtual_host(&self) -> Option<&VirtualHost> {
        self.http.routes.virtual_hosts.get(self.host?)
    }

    pub(crate) fn forward(&self) -> Option<&Forward> {
        match &self.route.action {
            RouteAction::Forward(forward) => Some(forward),
            RouteAction::Direct { .. } | RouteAction::Redirect(_) => None,
        }
    }

    /// The weighted cluster, where the route forwards.
    pub(crate) fn cluster(&self) -> Option<&WeightedCluster> {
        self.forward()?.clusters.get(self.cluster)
    }

    /// The cluster's name; empty if there is none.
    pub(crate) fn cluster_name(&self) -> &str {
        match &self.named {
            Some(named) => named,
            None => self.cluster().map_or("", |cluster| &cluster.name),
        }
    }

    /// The same route without the cluster that a header named, which does not exist.
    pub(crate) fn unnamed(&self) -> Self {
        Self {
            named: None,
            ..self.clone()
        }
    }

    /// Filter configurations that hold on this route.
    pub(crate) fn overrides(&self) -> &RouteOverrides {
        self.cluster()
            .and_then(|cluster| cluster.overrides.as_ref())
            .unwrap_or(&self.route.overrides)
    }

    /// Configuration of a filter of the listener.
    pub(crate) fn config(&self, filter: &str) -> RouteConfig {
        config(self.overrides().of(filter))
    }

    /// Configuration of a filter of the cluster.
    pub(crate) fn config_of_cluster(&self, filter: &str) -> RouteConfig {
        config(self.overrides().of_cluster(self.cluster_name(), filter))
    }

    /// Facts for attributes.
    pub(crate) fn facts(&self) -> Arc<RouteFacts> {
        let facts = self
            .cluster()
            .map_or(&self.route.facts, |cluster| &cluster.facts);
        match &self.named {
            Some(named) => {
                let mut facts = RouteFacts::clone(facts);
                facts.cluster_name = named.to_string();
                Arc::new(facts)
            }
            None => facts.clone(),
        }
    }

    /// Tells whether upgrades of this type may pass; `None` if the route says nothing of it.
    pub(crate) fn allows_upgrade(&self, kind: &str) -> Option<bool> {
        self.forward()?
            .upgrades
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(kind))
            .map(|(_, allowed)| *allowed)
    }

    /// Changes of request headers, level by level, in the order in which they are made.
    pub(crate) fn request_headers(&self) -> impl Iterator<Item = &[HeaderChange]> {
        let cluster = self.cluster().map(|c| c.request_headers.as_slice());
        let host = self.virtual_host().map(|h| h.request_headers.as_slice());
        let table = host.map(|_| self.http.routes.request_headers.as_slice());
        cluster
            .into_iter()
            .chain([self.route.request_headers.as_slice()])
            .chain(host)
            .chain(table)
            .filter(|level| !level.is_empty())
    }

    /// Tells whether a change of a response header shows something of the request.
    pub(crate) fn shows_request(&self) -> bool {
        self.response_headers()
            .flatten()
            .any(|change| match change {
                HeaderChange::Set {
                    value: HeaderTemplate::Template(template),
                    ..
                } => template
                    .substitutions()
                    .any(|substitution| substitution.operator.is_of_request()),
                HeaderChange::Set { .. }
                | HeaderChange::Remove(_)
                | HeaderChange::RemoveMatching(_) => false,
            })
    }

    /// Changes of response headers, level by level, in the order in which they are made.
    pub(crate) fn response_headers(&self) -> impl Iterator<Item = &[HeaderChange]> {
        let cluster = self.cluster().map(|c| c.response_headers.as_slice());
        let host = self.virtual_host().map(|h| h.response_headers.as_slice());
        let table = host.map(|_| self.http.routes.response_headers.as_slice());
        cluster
            .into_iter()
            .chain([self.route.response_headers.as_slice()])
            .chain(host)
            .chain(table)
            .filter(|level| !level.is_empty())
    }
}

#[cfg(test)]
mod tests;
