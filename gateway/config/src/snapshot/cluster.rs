//! Clusters: who requests are sent to, and how.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use extproc_client::host::{HeaderLimits, Metadata};
use http::HeaderName;
use rustls::pki_types::ServerName;

use super::{Hashing, Health, Http1Options, Http2Options, NamePattern};

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Addresses that endpoints may have.
    pub reach: Reach,
    /// Source of the endpoints.
    pub discovery: Discovery,
    /// Addresses of a name that are used.
    pub dns: DnsFamily,
    /// Longest wait for a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest wait for the head of a response, from the beginning of an attempt; of a processor's, from
    /// the opening of its stream. `None` is no limit. Envoy has no such setting.
    pub response_timeout: Option<Duration>,
    /// Protocol of the connections.
    pub protocol: UpstreamProtocol,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// `max_response_headers_kb` and `max_headers_count`, in bytes and entries.
    pub response_headers: HeaderLimits,
    /// `per_connection_buffer_limit_bytes`. Default 1 MiB.
    pub buffer_limit: usize,
    /// Idle connections close after this. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// `max_requests_per_connection`; `None` is no limit.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// `max_connection_duration`: no new request on a connection that is older. `None` is no limit.
    pub max_connection_duration: Option<Duration>,
    /// `max_stream_duration`: how long a request and its response may take. `None` is no limit.
    pub max_stream_duration: Option<Duration>,
    /// Limits of connections and requests.
    pub circuit_breakers: CircuitBreakers,
    /// Policy by which an endpoint is chosen.
    pub lb: LbPolicy,
    /// `upstream_connection_options.tcp_keepalive`; `None` is none.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// TLS to endpoints without a `socket` of their own.
    pub tls: Option<UpstreamTls>,
    /// `transport_socket_matches`: TLS, or none, to other endpoints.
    pub sockets: Vec<Option<UpstreamTls>>,
    /// For attributes and `cluster_metadata_forwarding_namespaces`.
    pub metadata: Arc<Metadata>,
    /// Rules by which endpoints are left out.
    pub health: Health,
}

impl Cluster {
    /// Returns whether connections that were opened for `self` may serve `other`: the two differ in nothing but
    /// their endpoints, in how one is chosen and in how many there may be.
    pub fn connects_like(&self, other: &Self) -> bool {
        Self {
            discovery: other.discovery.clone(),
            dns: other.dns,
            lb: other.lb.clone(),
            circuit_breakers: other.circuit_breakers.clone(),
            metadata: other.metadata.clone(),
            ..self.clone()
        } == *other
    }
}

/// `envoy.config.cluster.v3.CircuitBreakers`, counted over all endpoints and workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CircuitBreakers {
    /// Of requests of routes without a priority, and of side streams.
    pub default: Thresholds,
    /// Of requests of routes with `priority: HIGH`.
    pub high: Thresholds,
}

impl CircuitBreakers {
    /// The limits of one priority.
    pub fn of(&self, priority: Priority) -> &Thresholds {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

/// `envoy.config.core.v3.RoutingPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Everything that says nothing else.
    #[default]
    Default,
    /// Has limits of its own.
    High,
}

/// `envoy.config.cluster.v3.CircuitBreakers.Thresholds`.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// `max_connections`. Default 1024.
    pub connections: u32,
    /// `max_pending_requests`: requests that wait for a connection. Default 1024.
    pub pending: u32,
    /// `max_requests`: requests on connections. Default 1024.
    pub requests: u32,
    /// `max_retries`: requests that are sent again. Default 3.
    pub retries: u32,
    /// Takes the place of `retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Shows what is left in the statistics. Default false.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending: 1024,
            requests: 1024,
            retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// `envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget`.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryBudget {
    /// Retries per hundred requests that are active or wait for a connection. Default 20.
    pub percent: f64,
    /// Retries that are always allowed. Default 3.
    pub least: u32,
}

/// The addresses that a cluster's endpoints may have. Whoever writes a backend in a cluster of many teams must not reach by
/// it what trusts the gateway's own machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// All.
    #[default]
    Anywhere,
    /// None of this machine or of its links, and not the admin server of this process.
    OtherMachines {
        /// Its port, if it has one.
        admin_port: Option<u16>,
    },
}

impl Reach {
    /// Says what an address is, if endpoints may not have it.
    pub fn refuses(self, ip: IpAddr) -> Option<&'static str> {
        if self == Self::Anywhere {
            return None;
        }
        let ip = embedded(ip);
        let (loopback, link_local, unspecified) = match ip {
            IpAddr::V4(ip) => (
                ip.is_loopback(),
                ip.is_link_local(),
                // All of "this network" (RFC 6890): the system takes it for this machine, or for nothing.
                ip.octets()[0] == 0,
            ),
            IpAddr::V6(ip) => (
                ip.is_loopback(),
                ip.is_unicast_link_local(),
                ip.is_unspecified(),
            ),
        };
        match () {
            () if loopback => Some("a loopback address"),
            () if link_local => Some("a link-local address"),
            () if unspecified => Some("an unspecified address"),
            () if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) => {
                Some("a multicast address")
            }
            () => None,
        }
    }

    /// Says what a name is, if it stands for nothing but loopback addresses (RFC 6761 §6.3).
    pub fn refuses_name(self, name: &str) -> Option<&'static str> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let last = name.rsplit('.').next().unwrap_or_default();
        let refused = self != Self::Anywhere && last.eq_ignore_ascii_case("localhost");
        refused.then_some("a name of the loopback address")
    }

    /// Says what a connection leads to, if that may not be.
    pub fn refuses_connection(self, local: SocketAddr, remote: SocketAddr) -> Option<&'static str> {
        let Self::OtherMachines { admin_port } = self else {
            return None;
        };
        // The system takes an address of its own for both ends of a connection to itself.
        let own = local.ip() == remote.ip() && admin_port == Some(remote.port());
        own.then_some("the admin server of this gateway")
    }
}

/// The IPv4 address in an IPv6 address that stands for one: mapped, compatible (RFC 4291 §2.5.5), or behind the well-known
/// prefix of NAT64 (RFC 6052).
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = ip else {
        return ip;
    };
    match six.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
            if !(six.is_loopback() || six.is_unspecified()) =>
        {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => ip,
    }
}

/// Source of a cluster's endpoints.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// As written.
    Static(Vec<Endpoint>),
    /// All addresses of each name.
    StrictDns(Vec<Endpoint>),
    /// The first address of the one name.
    LogicalDns(Vec<Endpoint>),
    /// `ORIGINAL_DST`: wherever the request says.
    OriginalDst(OriginalDst),
}

/// The source of an endpoint's address in a cluster of type `ORIGINAL_DST`.
#[derive(Clone, Debug, PartialEq)]
pub enum OriginalDst {
    /// A request header (default `x-envoy-original-dst-host`).
    Header(HeaderName),
    /// The address that the client's connection was redirected from, at this port if one is given.
    Socket(Option<u16>),
}

/// `dns_lookup_family`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// The family that the system puts first.
    #[default]
    Auto,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
    /// IPv4, or IPv6 if there is no IPv4.
    V4Preferred,
    /// Both.
    All,
}

impl DnsFamily {
    /// The addresses to use, out of all that a name has, in the system's order.
    pub fn choose(self, found: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let mut found: Vec<SocketAddr> = found.into_iter().collect();
        let has_v4 = found.iter().any(SocketAddr::is_ipv4);
        let first_is_v4 = found.first().is_some_and(SocketAddr::is_ipv4);
        found.retain(|address| match self {
            Self::Auto => address.is_ipv4() == first_is_v4,
            Self::V4Only => address.is_ipv4(),
            Self::V6Only => address.is_ipv6(),
            Self::V4Preferred => address.is_ipv4() == has_v4,
            Self::All => true,
        });
        found
    }
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// An IP address or, with DNS, a name; or the path of a Unix socket.
    pub address: EndpointAddress,
    /// Relative weight. Default 1.
    pub weight: u32,
    /// Index in the cluster's `sockets` of the one for this endpoint; `None` for the cluster's `tls`.
    pub socket: Option<usize>,
    /// For attributes.
    pub metadata: Option<Arc<Metadata>>,
    /// `hostname`, for `auto_host_rewrite`.
    pub hostname: String,
    /// `priority` of its locality: the lowest number is used first.
    pub priority: u32,
    /// Health that the configuration gives it.
    pub standing: Standing,
    /// `health_check_config`.
    pub check: EndpointCheck,
}

/// `Endpoint.HealthCheckConfig`: how an endpoint is checked in another way than it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCheck {
    /// The port, if it is another one.
    pub port: Option<u16>,
    /// The address, if it is another one.
    pub address: Option<IpAddr>,
    /// `:authority` of the requests; empty: what the check says.
    pub hostname: String,
    /// `disable_active_health_check`: it is not checked.
    pub disabled: bool,
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Fit, as far as is known.
    #[default]
    Healthy,
    /// For what the healthy ones cannot take.
    Degraded,
    /// Left out, unless too few are left.
    Unhealthy,
}

/// Address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An IP address.
    Socket(SocketAddr),
    /// A name to resolve, and a port.
    Name(String, u16),
    /// A Unix socket.
    Pipe(PathBuf),
}

/// The protocol spoken to a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, with prior knowledge unless TLS negotiates it.
    Http2,
    /// Protocol of the client.
    Downstream,
    /// The protocol that TLS negotiates.
    Auto,
}

/// `lb_policy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LbPolicy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The less busy of two.
    LeastRequest,
    /// Any.
    Random,
    /// `RING_HASH` and `MAGLEV`.
    Hash(Hashing),
    /// The addresses that others choose first.
    OverrideHost(OverrideHost),
}

/// `envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideHost {
    /// Sources of addresses; the first one that a request has counts.
    pub sources: Vec<HostSource>,
    /// Metadata key under which the address of the chosen endpoint is put (`selected_host_key`).
    pub selected: Option<MetadataKey>,
    /// The policy for requests without, another one than this.
    pub fallback: Box<LbPolicy>,
}

/// `OverrideHostSource`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostSource {
    /// A header of the request.
    Header(HeaderName),
    /// A text in dynamic metadata.
    Metadata(MetadataKey),
}

/// `envoy.type.metadata.v3.MetadataKey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataKey {
    /// The namespace.
    pub namespace: String,
    /// The way within it.
    pub path: Vec<String>,
}

/// `envoy.config.core.v3.TcpKeepalive`. What is `None` is as the system has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection ends.
    pub probes: Option<u32>,
    /// Time without a byte before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

impl TcpKeepalive {
    /// Default: an idle connection whose path is gone ends after two minutes.
    pub const DEFAULT: Self = Self {
        probes: Some(6),
        time: Some(Duration::from_secs(60)),
        interval: Some(Duration::from_secs(10)),
    };
}

/// `UpstreamTlsContext`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The server name to ask for (SNI) and to find in the certificate. Without one none is asked for, and the
    /// certificate has to bear the endpoint's host name, or its address if it has none.
    pub sni: Option<ServerName<'static>>,
    /// `auto_host_sni`: the endpoint's host name takes the place of `sni` where it has one.
    pub endpoint_name: bool,
    /// PEM of the trusted roots; no validation if unset, as in Envoy.
    pub trusted_ca: Option<Vec<u8>>,
    /// File of them; empty if they stand in the configuration.
    pub trusted_ca_path: String,
    /// PEM of our certificate chain and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// File of our chain; empty if it stands in the configuration.
    pub identity_path: String,
    /// Protocols to offer.
    pub alpn: Vec<String>,
    /// Subject alternative names of which the certificate has to bear one; the server name if empty.
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// A name that a certificate may bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectAltName {
    /// A DNS name or an IP address.
    Server(ServerName<'static>),
    /// A URI, such as a SPIFFE ID; compared as a text.
    Uri(String),
    /// A DNS name of this form.
    DnsLike(NamePattern),
    /// A URI of this form.
    UriLike(NamePattern),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_reached() {
        let reach = Reach::OtherMachines {
            admin_port: Some(15000),
        };
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
        ] {
            let ip = address.parse().unwrap();
            assert!(reach.refuses(ip).is_some(), "{address}");
            assert_eq!(Reach::Anywhere.refuses(ip), None, "{address}");
        }
        for address in [
            "10.0.0.1",
            "192.0.2.1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(reach.refuses(address.parse().unwrap()), None, "{address}");
        }
        for (name, refused) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("a.localhost", true),
            ("localhost.example", false),
            ("a.example", false),
        ] {
            assert_eq!(reach.refuses_name(name).is_some(), refused, "{name}");
        }
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = |local, remote| reach.refuses_connection(at(local), at(remote)).is_some();
        assert!(own("10.0.0.1:40000", "10.0.0.1:15000"));
        assert!(!own("10.0.0.1:40000", "10.0.0.1:80"));
        assert!(!own("10.0.0.1:40000", "10.0.0.2:15000"));
    }

    #[test]
    fn families() {
        let six: SocketAddr = "[::1]:1".parse().unwrap();
        let four: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for (family, found, used) in [
            (DnsFamily::Auto, vec![six, four], vec![six]),
            (DnsFamily::Auto, vec![four, six], vec![four]),
            (DnsFamily::V4Only, vec![six, four], vec![four]),
            (DnsFamily::V4Only, vec![six], vec![]),
            (DnsFamily::V6Only, vec![six, four], vec![six]),
            (DnsFamily::V4Preferred, vec![six, four], vec![four]),
            (DnsFamily::V4Preferred, vec![six], vec![six]),
            (DnsFamily::All, vec![six, four], vec![six, four]),
            (DnsFamily::Auto, vec![], vec![]),
        ] {
            assert_eq!(
                family.choose(found.clone()),
                used,
                "{family:?} of {found:?}"
            );
        }
    }
}
