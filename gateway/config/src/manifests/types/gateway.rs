//! `GatewayClass`, `Gateway` and `ReferenceGrant`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{GATEWAY_API, Metadata, Unknown};
use crate::manifests::objects::or_default;

/// `gateway.networking.k8s.io` `GatewayClass`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct GatewayClass {
    /// The object's metadata.
    pub metadata: Metadata,
    /// Its specification.
    pub spec: GatewayClassSpec,
}

/// `GatewayClassSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// Controller of Gateways of this class.
    pub controller_name: String,
}

/// `gateway.networking.k8s.io` `Gateway`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Gateway {
    /// The object's metadata.
    pub metadata: Metadata,
    /// Its specification.
    pub spec: GatewaySpec,
}

/// `GatewaySpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The class.
    pub gateway_class_name: String,
    /// Address that it listens on.
    #[serde(deserialize_with = "or_default")]
    pub listeners: Vec<Listener>,
    /// For the objects that serve it.
    pub infrastructure: Infrastructure,
    /// Fields that are not known here.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl GatewaySpec {
    /// The fields that are not known here and may be what TLS of this listener must not be served without, by their
    /// paths: `tls.frontend`, by which clients need certificates, and whatever comes after it.
    pub fn unknown(&self, listener: &Listener) -> Vec<String> {
        /// They ask for addresses, and for listeners and routes from elsewhere.
        const HARMLESS: &[&str] = &["addresses", "allowedListeners", "defaultScope"];
        /// Each of an implementation's own, which no other one needs to know.
        const OPTIONS: &str = "options";
        let fields = self
            .unknown
            .keys()
            .filter(|name| !HARMLESS.contains(&name.as_str()));
        let tls = listener.tls.iter().flat_map(|tls| tls.unknown.keys());
        let tls = tls.filter(|name| *name != OPTIONS);
        fields
            .map(|name| format!("spec.{name}"))
            .chain(tls.map(|name| format!("spec.listeners[{}].tls.{name}", listener.name)))
            .collect()
    }
}

/// `GatewayInfrastructure`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Infrastructure {
    /// Labels to put on.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations to put on.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// `Listener`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name, unique in the Gateway.
    pub name: String,
    /// Host names; all if unset.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The port.
    pub port: u16,
    /// Protocol of the connections.
    pub protocol: Protocol,
    /// TLS.
    #[serde(default)]
    pub tls: Option<GatewayTls>,
    /// Routes that may attach.
    #[serde(default, deserialize_with = "or_default")]
    pub allowed_routes: AllowedRoutes,
}

/// `ProtocolType`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// HTTP in cleartext.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP over TLS.
    #[serde(rename = "HTTPS")]
    Https,
    /// Anything else, which is not served here.
    #[serde(untagged)]
    Other(String),
}

/// `GatewayTLSConfig`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayTls {
    /// End that terminates TLS.
    pub mode: TlsMode,
    /// Certificates.
    #[serde(deserialize_with = "or_default")]
    pub certificate_refs: Vec<SecretRef>,
    /// Fields that are not known here.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `TLSModeType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsMode {
    /// The Gateway.
    #[default]
    Terminate,
    /// The backend.
    Passthrough,
}

/// `SecretObjectReference`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct SecretRef {
    /// The group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; the Gateway's if unset.
    pub namespace: Option<String>,
}

impl Default for SecretRef {
    fn default() -> Self {
        Self {
            group: String::new(),
            kind: "Secret".into(),
            name: String::new(),
            namespace: None,
        }
    }
}

/// `AllowedRoutes`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// Of which namespaces.
    #[serde(deserialize_with = "or_default")]
    pub namespaces: RouteNamespaces,
    /// Of which kinds; all that the protocol admits if empty.
    #[serde(deserialize_with = "or_default")]
    pub kinds: Vec<RouteGroupKind>,
}

/// `RouteNamespaces`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// Selection of namespaces.
    #[serde(deserialize_with = "or_default")]
    pub from: FromNamespaces,
    /// For [`FromNamespaces::Selector`].
    pub selector: Option<LabelSelector>,
}

/// `FromNamespaces`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FromNamespaces {
    /// Any.
    All,
    /// Those that the selector matches.
    Selector,
    /// The Gateway's.
    #[default]
    Same,
    /// None.
    None,
}

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// All of these.
    #[serde(deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
    /// All of these.
    #[serde(deserialize_with = "or_default")]
    pub match_expressions: Vec<Requirement>,
}

/// `LabelSelectorRequirement`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// Comparison.
    pub operator: SelectorOperator,
    /// With what.
    #[serde(default, deserialize_with = "or_default")]
    pub values: Vec<String>,
}

/// `LabelSelectorOperator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SelectorOperator {
    /// Has one of the values.
    In,
    /// Has none of the values, or is missing.
    NotIn,
    /// Is there.
    Exists,
    /// Is missing.
    DoesNotExist,
}

impl LabelSelector {
    /// Returns whether these labels are selected. An empty selector selects everything.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = value.is_some_and(|value| requirement.values.contains(value));
                match requirement.operator {
                    SelectorOperator::In => listed,
                    SelectorOperator::NotIn => !listed,
                    SelectorOperator::Exists => value.is_some(),
                    SelectorOperator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// `RouteGroupKind`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RouteGroupKind {
    /// The group.
    #[serde(default = "gateway_api")]
    pub group: String,
    /// The kind.
    pub kind: String,
}

pub(super) fn gateway_api() -> String {
    GATEWAY_API.into()
}

/// `gateway.networking.k8s.io` `ReferenceGrant`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ReferenceGrant {
    /// The object's metadata.
    pub metadata: Metadata,
    /// Its specification.
    pub spec: ReferenceGrantSpec,
}

/// `ReferenceGrantSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    /// Objects that may refer.
    #[serde(deserialize_with = "or_default")]
    pub from: Vec<GrantFrom>,
    /// To what, in the grant's namespace.
    #[serde(deserialize_with = "or_default")]
    pub to: Vec<GrantTo>,
}

/// `ReferenceGrantFrom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrantFrom {
    /// The group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
}

/// `ReferenceGrantTo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrantTo {
    /// The group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name; any if unset.
    pub name: Option<String>,
}
