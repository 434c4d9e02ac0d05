//! Which Secrets a Gateway needs, and which it may have.

use std::collections::BTreeSet;

use crate::config::manifests::{
    Objects,
    types::{GATEWAY_API, Gateway, Key, ReferenceGrant},
};

/// The Secrets that a Gateway's listeners name.
pub(super) fn named(gateway: &Gateway) -> BTreeSet<Key> {
    let namespace = &gateway.metadata.namespace;
    let listeners = gateway.spec.listeners.iter();
    listeners
        .filter_map(|listener| listener.tls.as_ref())
        .flat_map(|tls| &tls.certificate_refs)
        .filter(|reference| reference.group.is_empty() && reference.kind == "Secret")
        .map(|reference| {
            let namespace = reference.namespace.as_ref().unwrap_or(namespace);
            Key::new(namespace, &reference.name)
        })
        .collect()
}

/// Those of them that are in the Gateway's namespace, or that a ReferenceGrant lets it have.
pub(super) fn granted(gateway: &Gateway, objects: &Objects) -> BTreeSet<Key> {
    let from = &gateway.metadata.namespace;
    let mut secrets = named(gateway);
    secrets.retain(|secret| {
        secret.namespace == *from
            || objects
                .iter::<ReferenceGrant>()
                .any(|(_, grant)| grants(grant, from, secret))
    });
    secrets
}

fn grants(grant: &ReferenceGrant, from: &str, secret: &Key) -> bool {
    grant.metadata.namespace == secret.namespace
        && grant.spec.from.iter().any(|entry| {
            entry.group == GATEWAY_API && entry.kind == "Gateway" && entry.namespace == from
        })
        && grant.spec.to.iter().any(|entry| {
            entry.group.is_empty()
                && entry.kind == "Secret"
                && entry.name.as_ref().is_none_or(|name| *name == secret.name)
        })
}
