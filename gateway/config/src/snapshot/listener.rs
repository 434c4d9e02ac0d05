//! Listeners: where connections come in, and which filter chain takes them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{AccessLog, HttpManager, SubjectAltName};

/// `envoy.config.listener.v3.Listener`.
///
/// A connection goes to the most specific of the chains whose match holds for it, as Envoy has it:
/// server names first, then transport protocol, then application protocols. If none matches it goes
/// to the default chain, and without one it is closed.
#[derive(Debug)]
pub struct Listener {
    /// The listener's name.
    pub name: String,
    /// Address that it listens on.
    pub address: SocketAddr,
    /// `ipv4_compat`: `::` takes IPv4 connections, too.
    pub ipv4_compat: bool,
    /// `original_dst`: a connection that was redirected here counts as one to where it was to go.
    pub original_dst: bool,
    /// `per_connection_buffer_limit_bytes`. Default 1 MiB.
    pub buffer_limit: usize,
    /// `access_log`: a line for each connection, when it ends.
    pub access_log: Vec<AccessLog>,
    /// `filter_chains`; no two have the same match.
    pub chains: Vec<FilterChain>,
    /// `default_filter_chain`.
    pub default_chain: Option<FilterChain>,
}

impl Listener {
    /// Returns whether sockets of both would take the same connections, and so cannot be there together.
    pub fn collides(&self, other: &Self) -> bool {
        let both = |one: &Self, other: &Self| {
            one.ipv4_compat
                && one.address.is_ipv6()
                && other.address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        let port = self.address.port();
        let same = self.address == other.address || both(self, other) || both(other, self);
        port != 0 && port == other.address.port() && same
    }

    /// All chains, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &FilterChain> {
        self.chains.iter().chain(&self.default_chain)
    }
}

/// `envoy.config.listener.v3.FilterChain`, with its one HTTP connection manager.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// The chain's name; may be empty.
    pub name: String,
    /// Connections that it takes.
    pub matches: ChainMatch,
    /// TLS towards clients; `None` for bare connections.
    pub tls: Option<Arc<DownstreamTls>>,
    /// `transport_socket_connect_timeout`: from the chain's choice to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// `HttpConnectionManager`.
    pub http: Arc<HttpManager>,
}

/// The default of [`FilterChain::handshake_timeout`]. Envoy has no limit there.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// `envoy.config.listener.v3.FilterChainMatch`; what is empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// The port that the connection came to.
    pub destination_port: Option<u16>,
    /// Server names (SNI), lower case: `a.example` or `*.example`.
    pub server_names: Vec<String>,
    /// Asks that the client begins TLS (`tls`), or that it does not (`raw_buffer`).
    pub transport_protocol: Option<TransportProtocol>,
    /// Protocols of which the client has to offer one (ALPN).
    pub application_protocols: Vec<String>,
}

/// Kind of a client's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportProtocol {
    /// A TLS ClientHello.
    Tls,
    /// Anything else.
    RawBuffer,
}

/// `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownstreamTls {
    /// The certificates to choose from, by what the client supports; at least one.
    pub certificates: Vec<Certificate>,
    /// `alpn_protocols`, in order of preference; none is negotiated if empty.
    pub alpn: Vec<String>,
    /// Rules for certificates of clients; `None` asks for none.
    pub client: Option<ClientValidation>,
    /// `tls_params.tls_minimum_protocol_version` is TLS 1.3.
    pub tls13_only: bool,
    /// `tls_params.tls_maximum_protocol_version` is TLS 1.2.
    pub tls12_only: bool,
    /// `disable_stateless_session_resumption`: no tickets, and so no resumption over TLS 1.3.
    pub no_tickets: bool,
    /// `disable_stateful_session_resumption`: no sessions are kept for clients without tickets.
    pub no_session_ids: bool,
    /// `session_timeout`: how long a session can be resumed.
    pub session_timeout: Option<Duration>,
}

impl DownstreamTls {
    /// Returns whether a client that met these settings has met `other` as well: they ask the same of clients, whatever they
    /// show them.
    pub fn asks_the_same_as(&self, other: &Self) -> bool {
        let asked = |tls: &Self| (tls.tls13_only, tls.tls12_only);
        let client = |tls: &Self| {
            let client = tls.client.as_ref();
            client.map(|client| (client.trusted_ca.clone(), client.required))
        };
        client(self) == client(other) && asked(self) == asked(other)
    }
}

impl ChainMatch {
    /// Returns whether there are connections that both take by their server names, of which `other` gets those because its names
    /// are more specific.
    pub fn gives_way_to(&self, other: &Self) -> bool {
        other.server_names.iter().any(|name| {
            self.server_names.is_empty()
                || self.server_names.iter().any(|own| {
                    own.strip_prefix('*')
                        .is_some_and(|suffix| name != own && name.ends_with(suffix))
                })
        })
    }
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `certificate_chain`.
    pub chain: Vec<u8>,
    /// `private_key`.
    pub key: Vec<u8>,
    /// File of the chain; empty if it stands in the configuration.
    pub path: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// `validation_context` and `require_client_certificate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// PEM of the trusted roots.
    pub trusted_ca: Vec<u8>,
    /// File of them; empty if they stand in the configuration.
    pub path: String,
    /// End connections of clients that show no certificate.
    pub required: bool,
    /// Subject alternative names of which a client's certificate has to bear one; any will do if empty.
    pub names: Vec<SubjectAltName>,
}
