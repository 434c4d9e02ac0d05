//! Facts of an exchange that the program around the layer knows.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{StatusCode, Version, request};

use crate::{metadata::Metadata, types::limits::HeaderLimits};

/// A count of what has come from the client.
pub trait Received: fmt::Debug + Send + Sync {
    /// Bytes of the request's body so far.
    fn body_bytes(&self) -> u64;
}

/// Facts of the connection that attributes may ask for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HostFacts {
    /// `connection.id`.
    pub connection_id: u64,
    /// `source.address`, `source.port`.
    pub source: Option<SocketAddr>,
    /// `destination.address`, `destination.port`.
    pub destination: Option<SocketAddr>,
    /// The version that the client speaks, for `request.protocol`; without it, that of the request is taken. Over HTTP/1 a
    /// processor of a streamed body is told the end apart from the last bytes, as by Envoy.
    pub version: Option<Version>,
    /// `request.time`: when the first byte of the request arrived.
    pub start: Option<SystemTime>,
    /// `connection.requested_server_name`; empty without TLS.
    pub requested_server_name: String,
    /// `connection.tls_version`, with TLS only.
    pub tls_version: Option<String>,
    /// `connection.mtls`.
    pub mtls: bool,
    /// The client's certificate, with mutual TLS only.
    pub peer_certificate: Option<Arc<CertificateFacts>>,
    /// The certificate that the client was shown, with TLS only.
    pub local_certificate: Option<Arc<CertificateFacts>>,
}

/// Facts of a certificate that attributes may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateFacts {
    /// `connection.subject_peer_certificate` and `subject_local_certificate`, as RFC 2253 writes names.
    pub subject: String,
    /// Its URIs, of which `connection.uri_san_peer_certificate` and `uri_san_local_certificate` are the first.
    pub uris: Vec<String>,
    /// Its DNS names, of which `connection.dns_san_peer_certificate` and `dns_san_local_certificate` are the first.
    pub dns_names: Vec<String>,
    /// `connection.sha256_peer_certificate_digest`: SHA-256 of the certificate (DER), in lower-case hexadecimal digits.
    pub digest: String,
}

/// Facts of the selected route.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RouteFacts {
    /// `xds.cluster_name`; empty if the route has none.
    pub cluster_name: String,
    /// `xds.route_name`.
    pub route_name: String,
    /// `xds.virtual_host_name`.
    pub virtual_host_name: String,
    /// `xds.filter_chain_name`.
    pub filter_chain_name: String,
    /// `upstream.num_endpoints`.
    pub endpoints: u64,
    /// `xds.route_metadata`.
    pub route_metadata: Metadata,
    /// `xds.virtual_host_metadata`.
    pub virtual_host_metadata: Metadata,
    /// `xds.cluster_metadata`, also the source of `cluster_metadata_forwarding_namespaces`.
    pub cluster_metadata: Metadata,
    /// `xds.listener_metadata`.
    pub listener_metadata: Metadata,
    /// `xds.node`, as JSON of `envoy.config.core.v3.Node`.
    pub node: serde_json::Value,
}

impl RouteFacts {
    /// Tells whether there is a route: its virtual host has a name, if not the route itself.
    pub(crate) fn is_selected(&self) -> bool {
        !self.virtual_host_name.is_empty() || !self.route_name.is_empty()
    }
}

/// The endpoint that a request was sent to, and the attempts to get a response.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct UpstreamInfo {
    /// `upstream.address`, `upstream.port`: the endpoint that was chosen last.
    pub address: Option<SocketAddr>,
    /// That endpoint gave no response; this one says why.
    pub failed: bool,
    /// The status of its response, which filters may have changed since, for `response.code`.
    pub status: Option<StatusCode>,
    /// `upstream.local_address`.
    pub local_address: Option<SocketAddr>,
    /// `upstream.request_attempt_count`.
    pub attempts: u64,
    /// `upstream.cx_pool_ready_duration`.
    pub pool_ready: Option<Duration>,
    /// When the request began to be sent, for `response.backend_latency`.
    pub begun: Option<Instant>,
    /// `upstream.transport_failure_reason`.
    pub transport_failure_reason: String,
    /// `xds.upstream_host_metadata`.
    pub host_metadata: Option<Arc<Metadata>>,
    /// Limits of this endpoint's response headers; those of [`Limits`](crate::types::limits::Limits) if unset.
    pub response_headers: Option<HeaderLimits>,
    /// The head of the request as it was sent, where [`keep_sent`](crate::host::ExchangeContext::keep_sent) asked for it: response attributes
    /// speak of it.
    pub sent: Option<Arc<request::Parts>>,
    /// Attempts before the last one, oldest first.
    pub earlier: Vec<EarlierAttempt>,
}

/// An attempt to have a request answered that was followed by another one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EarlierAttempt {
    /// The endpoint, if one was chosen.
    pub address: Option<SocketAddr>,
    /// When it had failed.
    pub ended: Instant,
    /// Its outcome: the status of its response, or a failure in words.
    pub outcome: String,
}

impl EarlierAttempt {
    /// One that has just failed.
    pub fn ended_now(address: Option<SocketAddr>, outcome: impl Into<String>) -> Self {
        Self {
            address,
            ended: Instant::now(),
            outcome: outcome.into(),
        }
    }
}

impl UpstreamInfo {
    /// Tells whether the response is an endpoint's.
    pub fn responded(&self) -> bool {
        self.address.is_some() && !self.failed
    }
}
