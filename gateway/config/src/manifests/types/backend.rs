//! `AgentgatewayBackend`.

use serde::Deserialize;

use super::{Metadata, Unknown};

/// `agentgateway.dev/v1alpha1` `AgentgatewayBackend`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct AgentgatewayBackend {
    /// The object's metadata.
    pub metadata: Metadata,
    /// Its specification.
    pub spec: AgentgatewayBackendSpec,
}

/// `AgentgatewayBackendSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AgentgatewayBackendSpec {
    /// One address.
    #[serde(rename = "static")]
    pub fixed: Option<StaticBackend>,
    /// Protocol and TLS towards it.
    pub policies: BackendPolicies,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

impl AgentgatewayBackendSpec {
    /// The fields that are not known here, by their paths.
    pub fn unknown(&self) -> Vec<String> {
        let policies = &self.policies;
        let parts = [
            ("", Some(&self.unknown)),
            ("policies.", Some(&policies.unknown)),
            (
                "policies.tcp.",
                policies.tcp.as_ref().map(|part| &part.unknown),
            ),
            (
                "policies.http.",
                policies.http.as_ref().map(|part| &part.unknown),
            ),
            (
                "policies.tls.",
                policies.tls.as_ref().map(|part| &part.unknown),
            ),
        ];
        super::paths(parts)
    }
}

/// `StaticBackend`: a host and port, or the path of a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct StaticBackend {
    /// An IP address or a name.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// A Unix socket.
    pub unix_path: Option<String>,
}

/// Settings of the connection to a backend.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct BackendPolicies {
    /// TCP.
    pub tcp: Option<BackendTcp>,
    /// HTTP.
    pub http: Option<BackendHttp>,
    /// TLS, if it is there.
    pub tls: Option<BackendTls>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

/// TCP settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct BackendTcp {
    /// Longest wait for a connection, at least 100 ms. Default 10 s.
    pub connect_timeout: Option<String>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

/// HTTP settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct BackendHttp {
    /// The version to speak.
    pub version: Option<HttpVersion>,
    /// Longest wait for the head of a response.
    pub request_timeout: Option<String>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

/// HTTP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[serde(rename = "HTTP1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "HTTP2")]
    Http2,
}

/// TLS settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct BackendTls {
    /// The server name; the host if unset.
    pub sni: Option<String>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}
