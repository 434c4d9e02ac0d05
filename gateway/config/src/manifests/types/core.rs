//! Kinds of Kubernetes itself.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Metadata;
use crate::manifests::objects::or_default;

/// `v1` `Namespace`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Namespace {
    /// The object's metadata.
    pub metadata: Metadata,
}

/// `v1` `Service`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Service {
    /// The object's metadata.
    pub metadata: Metadata,
    /// Its specification.
    #[serde(default)]
    pub spec: ServiceSpec,
}

/// `ServiceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Ports.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    /// `ExternalName` is a DNS name instead of endpoints.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// `ServicePort`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// The name, which EndpointSlices repeat; empty if there is one port.
    pub name: String,
    /// The number that references use.
    pub port: u16,
    /// Protocol of the port, such as `kubernetes.io/h2c`.
    pub app_protocol: Option<String>,
}

/// `discovery.k8s.io/v1` `EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// The object's metadata; the label `kubernetes.io/service-name` names the Service.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// Endpoints.
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports that each endpoint has.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
}

impl EndpointSlice {
    /// The Service that the slice belongs to.
    pub fn service(&self) -> Option<&str> {
        self.metadata
            .labels
            .get("kubernetes.io/service-name")
            .map(String::as_str)
    }
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Its addresses, interchangeable.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    /// State of the endpoint: ready, serving, terminating.
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
}

/// `EndpointConditions`; unset means true for `ready` and `serving`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Takes new requests.
    pub ready: Option<bool>,
    /// Works, perhaps while it terminates.
    pub serving: Option<bool>,
    /// Is being shut down.
    pub terminating: Option<bool>,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointPort {
    /// The Service port's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The number on the endpoint.
    pub port: Option<u16>,
}

/// `v1` `Secret`.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// The object's metadata.
    pub metadata: Metadata,
    /// `kubernetes.io/tls` for certificates.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Values in base64.
    #[serde(default, deserialize_with = "or_default")]
    pub data: BTreeMap<String, String>,
    /// Values as text, which files may have; the API server turns them into `data`.
    #[serde(default, deserialize_with = "or_default")]
    pub string_data: BTreeMap<String, String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Content has no place in a log.
        write!(f, "Secret({})", self.metadata.key())
    }
}

impl Secret {
    /// A value, decoded; `None` if it is missing or not base64.
    pub fn value(&self, name: &str) -> Option<Vec<u8>> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        if let Some(text) = self.string_data.get(name) {
            return Some(text.as_bytes().to_vec());
        }
        STANDARD.decode(self.data.get(name)?.trim()).ok()
    }
}
