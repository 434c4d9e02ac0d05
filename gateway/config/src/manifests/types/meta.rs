//! `ObjectMeta`.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

/// The group of Gateway API objects.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// The group of agentgateway's objects.
pub const AGENTGATEWAY: &str = "agentgateway.dev";

/// Namespace and name of an object; the namespace of a cluster-wide object is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key of these.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `metadata` of an object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// The name.
    pub name: String,
    /// The namespace; empty where the kind has none.
    pub namespace: String,
    /// Counts changes of the specification; 0 in files.
    pub generation: i64,
    /// RFC 3339 in UTC, so that the text sorts by time; empty in files.
    pub creation_timestamp: String,
    /// Labels.
    #[serde(deserialize_with = "super::super::objects::or_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "super::super::objects::or_default")]
    pub annotations: BTreeMap<String, String>,
    /// The identity that another object of the same name does not have; empty in files.
    pub uid: String,
    /// Set while the object waits for its finalizers.
    pub deletion_timestamp: Option<String>,
}

impl Metadata {
    /// Namespace and name.
    pub fn key(&self) -> Key {
        Key::new(self.namespace.as_str(), self.name.as_str())
    }

    /// Orders objects that conflict, as everywhere in Gateway API: the oldest wins, then the first by `namespace/name`.
    pub fn seniority(&self) -> (bool, &str, &str, &str) {
        (
            self.creation_timestamp.is_empty(),
            &self.creation_timestamp,
            &self.namespace,
            &self.name,
        )
    }
}
