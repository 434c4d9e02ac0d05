//! Secrets that a Gateway needs, and those that it may have.

use std::collections::BTreeSet;

use gateway_config::manifests::{
    Objects, Referrer, granted,
    types::{Gateway, Key},
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
pub(super) fn permitted(gateway: &Gateway, objects: &Objects) -> BTreeSet<Key> {
    let from = Referrer::gateway(&gateway.metadata.namespace);
    let mut secrets = named(gateway);
    secrets.retain(|secret| granted(objects, &from, "", "Secret", secret));
    secrets
}
