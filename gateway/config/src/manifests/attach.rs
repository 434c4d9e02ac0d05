//! Attachment of routes to listeners.

use super::{
    Objects,
    gateways::{GatewayState, allows_namespace},
    hostname::Hostname,
    status::Reason,
    types::{GATEWAY_API, HttpRoute, Key, ParentRef},
};

/// Result of one parent reference to a Gateway of ours.
pub(super) struct Parent<'a> {
    pub(super) reference: &'a ParentRef,
    /// The Gateway, by its place among ours.
    pub(super) gateway: usize,
    /// Listeners, by their place in the Gateway, with the hosts that route and listener share; or
    /// why there is none.
    pub(super) attached: Result<Vec<Attachment>, Reason>,
}

/// A listener that a route is attached to.
pub(super) struct Attachment {
    pub(super) listener: usize,
    pub(super) hosts: Vec<Host>,
}

/// Hosts for which a route holds on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Host names that listener and route have in common.
    pub(super) shared: Hostname,
    /// Host name of the route.
    pub(super) own: Hostname,
}

/// The parents of a route that are Gateways of ours, and the Gateways' counts of routes.
pub(super) fn attach<'a>(
    objects: &Objects,
    gateways: &mut [GatewayState<'_>],
    key: &Key,
    route: &'a HttpRoute,
) -> Vec<Parent<'a>> {
    let parents: Vec<Parent<'a>> = route
        .spec
        .parent_refs
        .iter()
        .filter(|parent| parent.group == GATEWAY_API && parent.kind == "Gateway")
        .filter_map(|reference| {
            let namespace = reference.namespace.as_ref().unwrap_or(&key.namespace);
            let gateway = gateways.iter().position(|gateway| {
                gateway.key.namespace == *namespace && gateway.key.name == reference.name
            })?;
            let attached = listeners(objects, gateways.get(gateway)?, key, route, reference);
            Some(Parent {
                reference,
                gateway,
                attached,
            })
        })
        .collect();
    for (index, gateway) in gateways.iter_mut().enumerate() {
        for (place, listener) in gateway.listeners.iter_mut().enumerate() {
            let attached = parents
                .iter()
                .filter(|parent| parent.gateway == index)
                .filter_map(|parent| parent.attached.as_ref().ok())
                .flatten()
                .any(|attachment| attachment.listener == place);
            // A route counts once, however many of its references lead here.
            listener.attached += u32::from(attached);
        }
    }
    parents
}

fn listeners(
    objects: &Objects,
    gateway: &GatewayState<'_>,
    key: &Key,
    route: &HttpRoute,
    reference: &ParentRef,
) -> Result<Vec<Attachment>, Reason> {
    let named: Vec<_> = gateway
        .listeners
        .iter()
        .enumerate()
        .filter(|(_, listener)| {
            let spec = listener.spec;
            listener.accepted()
                && reference
                    .section_name
                    .as_ref()
                    .is_none_or(|name| *name == spec.name)
                && reference.port.is_none_or(|port| port == spec.port)
        })
        .collect();
    if named.is_empty() {
        return Err((
            "NoMatchingParent",
            format!("Gateway {} has no such listener", gateway.key),
        ));
    }
    let allowed: Vec<_> = named
        .into_iter()
        .filter(|(_, listener)| {
            listener.takes_http_routes()
                && allows_namespace(objects, gateway.key, listener.spec, &key.namespace)
        })
        .collect();
    if allowed.is_empty() {
        return Err((
            "NotAllowedByListeners",
            format!(
                "allowedRoutes of Gateway {} do not admit HTTPRoutes of namespace {}",
                gateway.key, key.namespace
            ),
        ));
    }
    let attached: Vec<_> = allowed
        .into_iter()
        .filter_map(|(index, listener)| {
            let hosts = hosts(&listener.hostname, &route.spec.hostnames);
            (!hosts.is_empty()).then_some(Attachment {
                listener: index,
                hosts,
            })
        })
        .collect();
    match attached.is_empty() {
        true => Err((
            "NoMatchingListenerHostname",
            format!(
                "no host name is shared with a listener of Gateway {}",
                gateway.key
            ),
        )),
        false => Ok(attached),
    }
}

fn hosts(listener: &Hostname, route: &[String]) -> Vec<Host> {
    if route.is_empty() {
        return vec![Host {
            shared: listener.clone(),
            own: Hostname::Any,
        }];
    }
    let mut hosts = Vec::new();
    for own in route.iter().map(|name| Hostname::parse(name)) {
        if let Some(shared) = listener.intersection(&own) {
            let host = Host { shared, own };
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
    }
    hosts
}
