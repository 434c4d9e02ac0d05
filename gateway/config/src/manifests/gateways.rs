//! Gateways and their listeners: which are valid, what they allow.

use std::collections::BTreeMap;

use super::{
    GatewayStatus, ListenerStatus, Objects, Scope, Serve, TRUSTED_HOPS,
    hostname::Hostname,
    status::{Condition, Reason},
    types::{
        FromNamespaces, GATEWAY_API, Gateway, GatewayClass, Key, Listener, Namespace, Protocol,
        ReferenceGrant, RouteGroupKind, Secret, SecretRef, TlsMode,
    },
};
use crate::snapshot::pem;

/// A Gateway of ours.
pub(super) struct GatewayState<'a> {
    pub(super) key: &'a Key,
    pub(super) object: &'a Gateway,
    pub(super) listeners: Vec<ListenerState<'a>>,
    /// Number in its annotation [`TRUSTED_HOPS`]; an error if that is none.
    trusted_hops: Result<u32, String>,
}

/// One of its listeners.
pub(super) struct ListenerState<'a> {
    pub(super) spec: &'a Listener,
    pub(super) hostname: Hostname,
    /// Certificate chain and key, PEM each.
    pub(super) certificates: Vec<(Vec<u8>, Vec<u8>)>,
    /// Routes that are attached.
    pub(super) attached: u32,
    supported_kinds: Vec<RouteGroupKind>,
    /// Reason why it cannot be accepted.
    refused: Option<Reason>,
    /// Reason why it is in conflict with an earlier one.
    conflict: Option<Reason>,
    /// A reference or kind that is no good.
    unresolved: Option<Reason>,
}

impl ListenerState<'_> {
    /// Returns whether routes may attach at all.
    pub(super) fn accepted(&self) -> bool {
        self.refused.is_none() && self.conflict.is_none()
    }

    /// Returns whether it can take connections.
    pub(super) fn programmed(&self) -> bool {
        self.accepted() && (self.spec.protocol == Protocol::Http || !self.certificates.is_empty())
    }

    /// Tells if its host is its own on its port: no other listener has it, even if this one takes no connections.
    pub(super) fn has_host(&self) -> bool {
        self.conflict.is_none()
    }

    /// Returns whether HTTPRoutes may attach.
    pub(super) fn takes_http_routes(&self) -> bool {
        !self.supported_kinds.is_empty()
    }
}

/// The Gateways that are ours, each with its listeners judged.
pub(super) fn ours<'a>(objects: &'a Objects, scope: &Scope) -> Vec<GatewayState<'a>> {
    let mut gateways: Vec<_> = objects
        .iter::<Gateway>()
        .filter(|(_, gateway)| is_ours(objects, scope, gateway))
        .map(|(key, gateway)| GatewayState {
            key,
            object: gateway,
            listeners: gateway
                .spec
                .listeners
                .iter()
                .map(|listener| judge(objects, scope, key, gateway, listener))
                .collect(),
            trusted_hops: trusted_hops(gateway),
        })
        .collect();
    if scope.serve == Serve::Together {
        gateways.sort_by(|a, b| {
            let (a, b) = (&a.object.metadata, &b.object.metadata);
            a.seniority().cmp(&b.seniority())
        });
        conflicts(gateways.iter_mut().flat_map(|g| g.listeners.iter_mut()));
    } else {
        for gateway in &mut gateways {
            conflicts(gateway.listeners.iter_mut());
        }
    }
    gateways
}

/// Number of proxies in front whose word on the client is taken. Default 0.
fn trusted_hops(gateway: &Gateway) -> Result<u32, String> {
    let Some(text) = gateway.metadata.annotations.get(TRUSTED_HOPS) else {
        return Ok(0);
    };
    text.parse().map_err(|_| {
        format!("annotation {TRUSTED_HOPS}: {text:?} is not a number, and no proxy is trusted")
    })
}

fn is_ours(objects: &Objects, scope: &Scope, gateway: &Gateway) -> bool {
    if scope.serve == Serve::Together {
        return true;
    }
    let class = Key::new("", gateway.spec.gateway_class_name.as_str());
    objects
        .get::<GatewayClass>(&class)
        .is_some_and(|class| class.spec.controller_name == scope.controller)
}

fn judge<'a>(
    objects: &Objects,
    scope: &Scope,
    key: &Key,
    gateway: &Gateway,
    spec: &'a Listener,
) -> ListenerState<'a> {
    let mut state = ListenerState {
        spec,
        hostname: Hostname::of(spec.hostname.as_deref()),
        certificates: Vec::new(),
        attached: 0,
        supported_kinds: Vec::new(),
        refused: None,
        conflict: None,
        unresolved: None,
    };
    if let Protocol::Other(protocol) = &spec.protocol {
        let message = format!("protocol {protocol} is not supported; HTTP and HTTPS are");
        state.refused = Some(("UnsupportedProtocol", message));
        return state;
    }
    if scope.admin_port == Some(spec.port) {
        let message = format!("port {} is that of the admin server", spec.port);
        state.refused = Some(("PortUnavailable", message));
        return state;
    }
    kinds(&mut state);
    if spec.protocol == Protocol::Https {
        let unknown = gateway.spec.unknown(spec);
        if !unknown.is_empty() {
            // It may be what clients have to show: nobody is let in without.
            let message = format!("not supported: {}", unknown.join(", "));
            state.refused = Some(("UnsupportedValue", message));
            return state;
        }
        certificates(objects, key, &mut state);
    }
    state
}

/// Finds the allowed kinds that can attach here.
fn kinds(state: &mut ListenerState<'_>) {
    let http_route = RouteGroupKind {
        group: GATEWAY_API.into(),
        kind: "HTTPRoute".into(),
    };
    let allowed = &state.spec.allowed_routes.kinds;
    if let Some(other) = allowed.iter().find(|kind| **kind != http_route) {
        let message = format!(
            "allowedRoutes.kinds: kind {} of group {:?} cannot attach here; HTTPRoute can",
            other.kind, other.group
        );
        state.unresolved = Some(("InvalidRouteKinds", message));
    }
    if allowed.is_empty() || allowed.contains(&http_route) {
        state.supported_kinds = vec![http_route];
    }
}

fn certificates(objects: &Objects, gateway: &Key, state: &mut ListenerState<'_>) {
    let bad = |message: String| Some(("InvalidCertificateRef", message));
    let Some(tls) = &state.spec.tls else {
        state.unresolved = bad("a listener with HTTPS needs tls.certificateRefs".into());
        return;
    };
    if tls.mode == TlsMode::Passthrough {
        let message = "tls.mode: an HTTPS listener cannot pass TLS through".to_owned();
        state.refused = Some(("UnsupportedProtocol", message));
        return;
    }
    if tls.certificate_refs.is_empty() {
        state.unresolved = bad("tls.certificateRefs is empty".into());
    }
    for reference in &tls.certificate_refs {
        match certificate(objects, gateway, reference) {
            Ok(pair) => state.certificates.push(pair),
            Err(reason) => state.unresolved = Some(reason),
        }
    }
}

/// Certificate chain and key that a listener refers to.
fn certificate(
    objects: &Objects,
    gateway: &Key,
    reference: &SecretRef,
) -> Result<(Vec<u8>, Vec<u8>), Reason> {
    let bad = |message: String| ("InvalidCertificateRef", message);
    if !reference.group.is_empty() || reference.kind != "Secret" {
        return Err(bad(format!(
            "tls.certificateRefs: kind {} of group {:?} is not supported; Secret is",
            reference.kind, reference.group
        )));
    }
    let namespace = reference.namespace.as_ref().unwrap_or(&gateway.namespace);
    let key = Key::new(namespace.as_str(), reference.name.as_str());
    let from = Referrer::gateway(&gateway.namespace);
    if !granted(objects, &from, "", "Secret", &key) {
        return Err((
            "RefNotPermitted",
            format!("tls.certificateRefs: no ReferenceGrant permits Secret {key}"),
        ));
    }
    let Some(secret) = objects.get::<Secret>(&key) else {
        return Err(bad(format!("tls.certificateRefs: no Secret {key}")));
    };
    let part = |name: &str, what: &str| {
        let value = secret
            .value(name)
            .ok_or_else(|| bad(format!("Secret {key} has no valid {name}")))?;
        let text = String::from_utf8_lossy(&value);
        let whole = text.contains("-----BEGIN ") && text.contains("-----END ");
        if !(whole && text.contains(what)) {
            return Err(bad(format!("Secret {key}: {name} is not PEM")));
        }
        Ok(value)
    };
    let chain = part("tls.crt", "CERTIFICATE-----")?;
    let private = part("tls.key", "PRIVATE KEY-----")?;
    usable(&chain, &private).map_err(|reason| bad(format!("Secret {key}: {reason}")))?;
    Ok((chain, private))
}

/// Checks that the pair can be served.
fn usable(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = pem::certificates(chain).map_err(|error| format!("tls.crt: {error}"))?;
    let key = pem::key(key).map_err(|error| format!("tls.key: {error}"))?;
    pem::certified(chain, key).map(|_| ())
}

/// Marks listeners that cannot share a port with an earlier one.
fn conflicts<'a: 'b, 'b>(listeners: impl Iterator<Item = &'b mut ListenerState<'a>>) {
    let mut ports: BTreeMap<u16, (&Protocol, Vec<Hostname>)> = BTreeMap::new();
    for listener in listeners.filter(|listener| listener.refused.is_none()) {
        let spec = listener.spec;
        let (protocol, hostnames) = ports
            .entry(spec.port)
            .or_insert_with(|| (&spec.protocol, Vec::new()));
        if **protocol != spec.protocol {
            let message = format!(
                "port {} is taken by a listener of another protocol",
                spec.port
            );
            listener.conflict = Some(("ProtocolConflict", message));
        } else if hostnames.contains(&listener.hostname) {
            let message = format!(
                "port {} is taken by a listener of the same host name {:?}",
                spec.port,
                listener.hostname.domain()
            );
            listener.conflict = Some(("HostnameConflict", message));
        } else {
            hostnames.push(listener.hostname.clone());
        }
    }
}

/// Returns whether routes of this namespace may attach to a listener.
pub(super) fn allows_namespace(
    objects: &Objects,
    gateway: &Key,
    listener: &Listener,
    namespace: &str,
) -> bool {
    let namespaces = &listener.allowed_routes.namespaces;
    match namespaces.from {
        FromNamespaces::All => true,
        FromNamespaces::Same => namespace == gateway.namespace,
        FromNamespaces::None => false,
        FromNamespaces::Selector => namespaces.selector.as_ref().is_some_and(|selector| {
            let known = objects.get::<Namespace>(&Key::new("", namespace));
            let mut labels = known.map_or_else(BTreeMap::new, |n| n.metadata.labels.clone());
            // The API server gives every namespace this label; files need not have it.
            labels
                .entry("kubernetes.io/metadata.name".into())
                .or_insert_with(|| namespace.to_owned());
            selector.selects(&labels)
        }),
    }
}

/// The object that a reference stands in.
pub struct Referrer<'a> {
    /// Group of its kind.
    pub group: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
}

impl<'a> Referrer<'a> {
    /// A Gateway in this namespace.
    pub fn gateway(namespace: &'a str) -> Self {
        Self {
            group: GATEWAY_API,
            kind: "Gateway",
            namespace,
        }
    }
}

/// Returns whether a reference is within one namespace, or permitted by a grant in the target's.
pub fn granted(objects: &Objects, from: &Referrer<'_>, group: &str, kind: &str, to: &Key) -> bool {
    from.namespace == to.namespace
        || objects
            .iter::<ReferenceGrant>()
            .filter(|(key, _)| key.namespace == to.namespace)
            .any(|(_, grant)| {
                grant.spec.from.iter().any(|entry| {
                    entry.group == from.group
                        && entry.kind == from.kind
                        && entry.namespace == from.namespace
                }) && grant.spec.to.iter().any(|entry| {
                    entry.group == group
                        && entry.kind == kind
                        && entry.name.as_ref().is_none_or(|name| *name == to.name)
                })
            })
}

impl GatewayState<'_> {
    /// Number of proxies in front whose word on the client is taken.
    pub(super) fn trusted_hops(&self) -> u32 {
        *self.trusted_hops.as_ref().unwrap_or(&0)
    }

    /// Writes the status of the Gateway.
    pub(super) fn status(&self) -> GatewayStatus {
        let generation = self.object.metadata.generation;
        let listeners: Vec<ListenerStatus> = self
            .listeners
            .iter()
            .map(|listener| listener.status(generation))
            .collect();
        let accepted = self.listeners.iter().filter(|l| l.accepted()).count();
        let whole = self
            .listeners
            .iter()
            .all(|l| l.accepted() && l.unresolved.is_none());
        let condition = |kind, status, reason, message: &str| {
            Condition::new(generation, kind, status, reason, message)
        };
        let acceptance = match accepted {
            0 => condition(
                "Accepted",
                false,
                "ListenersNotValid",
                "no listener can be used; see their conditions",
            ),
            _ if whole => match &self.trusted_hops {
                Ok(_) => condition("Accepted", true, "Accepted", "the Gateway is valid"),
                Err(message) => condition("Accepted", true, "Accepted", message),
            },
            _ => condition(
                "Accepted",
                true,
                "ListenersNotValid",
                "some listeners cannot be used; see their conditions",
            ),
        };
        let programmed = match self.listeners.iter().any(ListenerState::programmed) {
            true => condition("Programmed", true, "Programmed", "the Gateway is served"),
            false => condition(
                "Programmed",
                false,
                "Invalid",
                "no listener can take connections; see their conditions",
            ),
        };
        GatewayStatus {
            conditions: vec![acceptance, programmed],
            listeners,
        }
    }
}

impl ListenerState<'_> {
    fn status(&self, generation: i64) -> ListenerStatus {
        let condition = |kind, bad: Option<&Reason>, good, message: &str| match bad {
            None => Condition::new(generation, kind, true, good, message),
            Some((reason, message)) => {
                Condition::new(generation, kind, false, reason, message.as_str())
            }
        };
        let refused = self.refused.as_ref().or(self.conflict.as_ref());
        let mut conditions = vec![condition(
            "Accepted",
            refused,
            "Accepted",
            "the listener is valid",
        )];
        conditions.push(match self.programmed() {
            true => Condition::new(
                generation,
                "Programmed",
                true,
                "Programmed",
                "the listener is served",
            ),
            false => Condition::new(
                generation,
                "Programmed",
                false,
                "Invalid",
                "the listener takes no connections; see its other conditions",
            ),
        });
        conditions.push(condition(
            "ResolvedRefs",
            self.unresolved.as_ref(),
            "ResolvedRefs",
            "all references are good",
        ));
        conditions.push(match &self.conflict {
            Some((reason, message)) => {
                Condition::new(generation, "Conflicted", true, reason, message.as_str())
            }
            None => Condition::new(
                generation,
                "Conflicted",
                false,
                "NoConflicts",
                "no other listener is in the way",
            ),
        });
        ListenerStatus {
            name: self.spec.name.clone(),
            supported_kinds: self.supported_kinds.clone(),
            attached_routes: self.attached,
            conditions,
        }
    }
}
