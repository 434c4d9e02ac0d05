//! The objects that a translation reads, by kind, namespace and name.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use super::types::{
    AGENTGATEWAY, AgentgatewayBackend, AgentgatewayPolicy, EndpointSlice, GATEWAY_API, Gateway,
    GatewayClass, HttpRoute, Key, Metadata, Namespace, ReferenceGrant, Secret, Service,
};

/// A null counts as absent.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A kind of object that a translation reads.
pub trait Resource: DeserializeOwned + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Kind of these objects.
    const KIND: Kind;

    /// The object's metadata.
    fn metadata(&self) -> &Metadata;

    /// The objects of this kind.
    fn all(objects: &Objects) -> &BTreeMap<Key, Arc<Self>>;

    /// The objects of this kind, to change.
    fn all_mut(objects: &mut Objects) -> &mut BTreeMap<Key, Arc<Self>>;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $type:ty, $field:ident, $name:literal, $group:expr, $scoped:literal;)*) => {
        /// The kinds that a translation reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The `kind` of a manifest.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The group of its `apiVersion`; empty for core kinds.
            pub fn group(self) -> &'static str {
                match self {
                    $(Self::$kind => $group,)*
                }
            }

            /// The versions of its group that are known, the newest first.
            pub fn versions(self) -> &'static [&'static str] {
                match self.group() {
                    GATEWAY_API => &["v1", "v1beta1"],
                    AGENTGATEWAY => &["v1alpha1"],
                    _ => &["v1"],
                }
            }

            /// Returns whether its objects have a namespace.
            pub fn namespaced(self) -> bool {
                match self {
                    $(Self::$kind => $scoped,)*
                }
            }

            /// The kind of this group and name, whatever the version.
            pub fn of(group: &str, name: &str) -> Option<Self> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|kind| kind.name() == name && kind.group() == group)
            }
        }

        /// Input of a translation. Objects are shared, so that a copy of the whole is cheap.
        #[derive(Clone, Debug, Default)]
        pub struct Objects {
            $($field: BTreeMap<Key, Arc<$type>>,)*
        }

        impl Objects {
            /// Takes an object as the API server shows it; one of the same name is replaced. Says
            /// whether anything changed.
            ///
            /// # Errors
            /// Names the field that does not hold what it should. A policy is taken all the same: what it applies to is
            /// refused.
            pub fn insert_json(&mut self, kind: Kind, value: Value) -> Result<bool, String> {
                if kind == Kind::AgentgatewayPolicy {
                    return AgentgatewayPolicy::read(value).map(|policy| self.insert(policy));
                }
                Ok(match kind {
                    $(Kind::$kind => self.insert(parse::<$type>(value)?),)*
                })
            }

            /// Forgets an object. Says whether it was there.
            pub fn remove(&mut self, kind: Kind, key: &Key) -> bool {
                match kind {
                    $(Kind::$kind => self.$field.remove(key).is_some(),)*
                }
            }

            /// Forgets all objects of a kind for which `keep` does not hold, as after a new list.
            pub fn retain(&mut self, kind: Kind, keep: impl Fn(&Key) -> bool) {
                match kind {
                    $(Kind::$kind => self.$field.retain(|key, _| keep(key)),)*
                }
            }
        }

        $(
            impl Resource for $type {
                const KIND: Kind = Kind::$kind;

                fn metadata(&self) -> &Metadata {
                    &self.metadata
                }

                fn all(objects: &Objects) -> &BTreeMap<Key, Arc<Self>> {
                    &objects.$field
                }

                fn all_mut(objects: &mut Objects) -> &mut BTreeMap<Key, Arc<Self>> {
                    &mut objects.$field
                }
            }
        )*
    };
}

kinds! {
    /// Cluster-wide classes of Gateways.
    GatewayClass => GatewayClass, classes, "GatewayClass", GATEWAY_API, false;
    /// Entry of traffic.
    Gateway => Gateway, gateways, "Gateway", GATEWAY_API, true;
    /// Destinations of requests.
    HttpRoute => HttpRoute, routes, "HTTPRoute", GATEWAY_API, true;
    /// Permission to refer across namespaces.
    ReferenceGrant => ReferenceGrant, grants, "ReferenceGrant", GATEWAY_API, true;
    /// Named sets of endpoints.
    Service => Service, services, "Service", "", true;
    /// Endpoints of Services.
    EndpointSlice => EndpointSlice, slices, "EndpointSlice", "discovery.k8s.io", true;
    /// Namespaces, for their labels.
    Namespace => Namespace, namespaces, "Namespace", "", false;
    /// Certificates.
    Secret => Secret, secrets, "Secret", "", true;
    /// Policies, of which ext_proc is what matters here.
    AgentgatewayPolicy => AgentgatewayPolicy, policies, "AgentgatewayPolicy", AGENTGATEWAY, true;
    /// Backends that are no Services.
    AgentgatewayBackend => AgentgatewayBackend, backends, "AgentgatewayBackend", AGENTGATEWAY, true;
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

impl Objects {
    /// Takes an object; one of the same name is replaced. Says whether anything changed.
    pub fn insert<T: Resource>(&mut self, object: T) -> bool {
        let key = object.metadata().key();
        let all = T::all_mut(self);
        if all.get(&key).is_some_and(|known| **known == object) {
            return false;
        }
        all.insert(key, Arc::new(object));
        true
    }

    /// The object of this kind and name.
    pub fn get<T: Resource>(&self, key: &Key) -> Option<&Arc<T>> {
        T::all(self).get(key)
    }

    /// All objects of this kind, by namespace and name.
    pub fn iter<T: Resource>(&self) -> impl Iterator<Item = (&Key, &Arc<T>)> {
        T::all(self).iter()
    }
}
