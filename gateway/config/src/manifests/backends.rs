//! Backend references as clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use extproc_client::host::{HeaderLimits, Metadata};
use rustls::pki_types::ServerName;

use super::{
    Objects, Scope, duration,
    gateways::{Referrer, granted},
    status::Reason,
    types::{
        AGENTGATEWAY, AgentgatewayBackend, EndpointSlice, HttpVersion, Key, ObjectRef, Service,
        ServicePort,
    },
};
use crate::snapshot::{
    CircuitBreakers, Cluster, Discovery, DnsFamily, Endpoint, EndpointAddress, EndpointCheck,
    Health, Http1Options, LbPolicy, Reach, Standing, TcpKeepalive, UpstreamProtocol, UpstreamTls,
    pem,
};

/// The reason of a reference that would lead where it may not.
pub(super) const NOT_PERMITTED: &str = "RefNotPermitted";

/// The longest wait for a connection to a backend, if nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes clusters of what is referred to.
pub(super) struct Backends<'a> {
    objects: &'a Objects,
    scope: &'a Scope,
    pub(super) clusters: BTreeMap<String, Arc<Cluster>>,
    pub(super) without_endpoints: BTreeSet<(Key, u16)>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(objects: &'a Objects, scope: &'a Scope) -> Self {
        Self {
            objects,
            scope,
            clusters: BTreeMap::new(),
            without_endpoints: BTreeSet::new(),
        }
    }

    /// The cluster's name for a reference, which needs a ReferenceGrant across namespaces.
    pub(super) fn resolve(
        &mut self,
        from: &Referrer<'_>,
        reference: &ObjectRef,
    ) -> Result<String, Reason> {
        let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
        let key = Key::new(namespace, reference.name.as_str());
        let (group, kind) = (reference.group.as_str(), reference.kind.as_str());
        match (group, kind) {
            ("", "Service") | (AGENTGATEWAY, "AgentgatewayBackend") => {}
            _ => {
                return Err((
                    "InvalidKind",
                    format!("backend kind {kind} of group {group:?} is not supported"),
                ));
            }
        }
        if !granted(self.objects, from, group, kind, &key) {
            return Err((
                NOT_PERMITTED,
                format!("no ReferenceGrant permits {kind} {key}"),
            ));
        }
        match group {
            "" => self.service(&key, reference.port),
            _ => self.backend(&key),
        }
    }

    fn service(&mut self, key: &Key, port: Option<u16>) -> Result<String, Reason> {
        let missing = |message: String| ("BackendNotFound", message);
        let Some(number) = port else {
            return Err(missing(format!(
                "a reference to Service {key} needs a port"
            )));
        };
        let Some(service) = self.objects.get::<Service>(key) else {
            return Err(missing(format!("no Service {key}")));
        };
        if service.spec.kind.as_deref() == Some("ExternalName") {
            return Err(missing(format!(
                "Service {key} is of type ExternalName, which is not followed"
            )));
        }
        let port = service.spec.ports.iter().find(|port| port.port == number);
        let Some(port) = port else {
            return Err(missing(format!("Service {key} has no port {number}")));
        };
        let protocol = match port.app_protocol.as_deref() {
            Some("kubernetes.io/h2c") => UpstreamProtocol::Http2,
            _ => UpstreamProtocol::Http1,
        };
        let name = format!("{key}:{number}");
        if !self.clusters.contains_key(&name) {
            let given = self.scope.endpoints.get(&(key.clone(), number));
            let mut cluster = match given {
                // Whoever runs the gateway says where this is.
                Some(addresses) => cluster(&name, Reach::Anywhere, discovery(addresses.clone())),
                None => {
                    let addresses = self.slices(key, port)?;
                    cluster(&name, reach(self.scope), discovery(addresses))
                }
            };
            cluster.protocol = protocol;
            self.clusters.insert(name.clone(), Arc::new(cluster));
        }
        Ok(name)
    }

    /// Endpoints of a Service's port. Those that are ready; if none is, those that still serve.
    fn slices(&mut self, key: &Key, port: &ServicePort) -> Result<Vec<EndpointAddress>, Reason> {
        let reach = reach(self.scope);
        let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
        let mut known = false;
        for (_, slice) in self.objects.iter::<EndpointSlice>().filter(|(at, slice)| {
            at.namespace == key.namespace && slice.service() == Some(key.name.as_str())
        }) {
            known = true;
            let number = slice
                .ports
                .iter()
                .find(|candidate| candidate.name == port.name)
                .and_then(|port| port.port);
            let Some(number) = number else { continue };
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions;
                let address = endpoint.addresses.first();
                let Some(ip) = address.and_then(|text| text.parse::<IpAddr>().ok()) else {
                    continue;
                };
                if let Some(kind) = reach.refuses(ip) {
                    return Err((
                        NOT_PERMITTED,
                        format!("Service {key} has the endpoint {ip}, {kind}"),
                    ));
                }
                let address = SocketAddr::new(ip, number);
                if conditions.ready.unwrap_or(true) {
                    ready.insert(address);
                } else if conditions.serving.unwrap_or(false) {
                    serving.insert(address);
                }
            }
        }
        if !known {
            self.without_endpoints.insert((key.clone(), port.port));
        }
        let chosen = if ready.is_empty() { serving } else { ready };
        Ok(chosen.into_iter().map(EndpointAddress::Socket).collect())
    }

    fn backend(&mut self, key: &Key) -> Result<String, Reason> {
        let Some(backend) = self.objects.get::<AgentgatewayBackend>(key) else {
            return Err(("BackendNotFound", format!("no AgentgatewayBackend {key}")));
        };
        let name = format!("AgentgatewayBackend/{key}");
        if !self.clusters.contains_key(&name) {
            let cluster = of_backend(&name, reach(self.scope), backend).map_err(|message| {
                (
                    "BackendNotFound",
                    format!("AgentgatewayBackend {key}: {message}"),
                )
            })?;
            self.clusters.insert(name.clone(), Arc::new(cluster));
        }
        Ok(name)
    }

    /// The cluster's name for an address given as a URL.
    pub(super) fn url(&mut self, url: &str) -> Result<String, Reason> {
        let invalid = |message: String| ("Invalid", message);
        let uri = url.parse::<http::Uri>();
        let uri = uri.map_err(|error| invalid(format!("{url:?}: {error}")))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => {
                let message = format!("{url:?} begins with neither http:// nor https://");
                return Err(invalid(message));
            }
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.is_empty() || authority.contains('@') {
            let message = format!("{url:?} has to be a host, with a port or without");
            return Err(invalid(message));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid(format!("{url:?} may have neither path nor query")));
        }
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let name = format!("{}://{authority}", if tls { "https" } else { "http" });
        if !self.clusters.contains_key(&name) {
            let reach = reach(self.scope);
            let address = reachable(reach, host, port).map_err(|why| (NOT_PERMITTED, why))?;
            let mut cluster = cluster(&name, reach, discovery(vec![address]));
            cluster.protocol = UpstreamProtocol::Http2;
            if tls {
                let tls = upstream_tls(host, UpstreamProtocol::Http2);
                cluster.tls = Some(tls.map_err(invalid)?);
            }
            self.clusters.insert(name.clone(), Arc::new(cluster));
        }
        Ok(name)
    }
}

/// Checks that a backend can be used.
pub(super) fn check(backend: &AgentgatewayBackend, scope: &Scope) -> Result<(), String> {
    of_backend("", reach(scope), backend).map(|_| ())
}

/// The addresses that backends may have within a scope.
fn reach(scope: &Scope) -> Reach {
    match scope.local_backends {
        true => Reach::Anywhere,
        false => Reach::OtherMachines {
            admin_port: scope.admin_port,
        },
    }
}

/// The address of a host that is an address or a name. Names are looked at again when they are resolved.
fn reachable(reach: Reach, host: &str, port: u16) -> Result<EndpointAddress, String> {
    let address = address(host, port);
    let refused = match &address {
        EndpointAddress::Socket(address) => reach.refuses(address.ip()),
        EndpointAddress::Name(name, _) => reach.refuses_name(name),
        EndpointAddress::Pipe(_) => None,
    };
    match refused {
        Some(kind) => Err(format!("{host} is not permitted: {kind}")),
        None => Ok(address),
    }
}

/// Meaning of an AgentgatewayBackend's settings.
fn of_backend(name: &str, reach: Reach, backend: &AgentgatewayBackend) -> Result<Cluster, String> {
    let spec = &backend.spec;
    let unknown = spec.unknown();
    if !unknown.is_empty() {
        return Err(format!("not supported: spec.{}", unknown.join(", spec.")));
    }
    let Some(fixed) = &spec.fixed else {
        return Err("only spec.static is supported".into());
    };
    let (address, host) = match (&fixed.host, fixed.port, &fixed.unix_path) {
        (Some(host), Some(port), None) => {
            let address = reachable(reach, host, port);
            let address = address.map_err(|why| format!("spec.static.host: {why}"))?;
            (address, host.as_str())
        }
        (None, None, Some(_)) if reach != Reach::Anywhere => {
            return Err(
                "spec.static.unixPath is not permitted: a socket of the gateway's own machine"
                    .into(),
            );
        }
        (None, None, Some(path)) => (EndpointAddress::Pipe(PathBuf::from(path)), "localhost"),
        _ => return Err("spec.static needs host and port, or unixPath".into()),
    };
    let mut cluster = cluster(name, reach, discovery(vec![address]));
    let policies = &spec.policies;
    if let Some(limit) = policies
        .tcp
        .as_ref()
        .and_then(|t| t.connect_timeout.as_ref())
    {
        cluster.connect_timeout = duration(limit).ok_or_else(|| {
            format!("spec.policies.tcp.connectTimeout: {limit:?} is not a duration")
        })?;
    }
    if let Some(limit) = policies
        .http
        .as_ref()
        .and_then(|http| http.request_timeout.as_ref())
    {
        let limit = duration(limit).ok_or_else(|| {
            format!("spec.policies.http.requestTimeout: {limit:?} is not a duration")
        })?;
        cluster.response_timeout = Some(limit);
    }
    let version = policies.http.as_ref().and_then(|http| http.version);
    if version == Some(HttpVersion::Http2) {
        cluster.protocol = UpstreamProtocol::Http2;
    }
    if let Some(tls) = &policies.tls {
        let (field, name) = match tls.sni.as_deref() {
            Some(sni) => ("policies.tls.sni", sni),
            None => ("static.host", host),
        };
        let tls = upstream_tls(name, cluster.protocol);
        cluster.tls = Some(tls.map_err(|message| format!("spec.{field}: {message}"))?);
    }
    Ok(cluster)
}

/// TLS that trusts the system's roots.
fn upstream_tls(host: &str, protocol: UpstreamProtocol) -> Result<UpstreamTls, String> {
    let name = ServerName::try_from(host.to_owned());
    Ok(UpstreamTls {
        sni: Some(name.map_err(|_| format!("{host:?} is no server name"))?),
        trusted_ca: Some(pem::system_roots()?.to_owned()),
        alpn: match protocol {
            UpstreamProtocol::Http2 => vec!["h2".into()],
            _ => vec!["http/1.1".into()],
        },
        ..UpstreamTls::default()
    })
}

fn address(host: &str, port: u16) -> EndpointAddress {
    match host.parse::<IpAddr>() {
        Ok(ip) => EndpointAddress::Socket(SocketAddr::new(ip, port)),
        Err(_) => EndpointAddress::Name(host.to_owned(), port),
    }
}

fn discovery(addresses: Vec<EndpointAddress>) -> Discovery {
    let named = addresses
        .iter()
        .any(|address| matches!(address, EndpointAddress::Name(..)));
    let endpoints = addresses
        .into_iter()
        .map(|address| Endpoint {
            hostname: match &address {
                EndpointAddress::Name(name, _) => name.clone(),
                _ => String::new(),
            },
            address,
            weight: 1,
            metadata: None,
            priority: 0,
            socket: None,
            standing: Standing::Healthy,
            check: EndpointCheck::default(),
        })
        .collect();
    match named {
        true => Discovery::StrictDns(endpoints),
        false => Discovery::Static(endpoints),
    }
}

/// A cluster with the usual settings.
fn cluster(name: &str, reach: Reach, discovery: Discovery) -> Cluster {
    Cluster {
        name: name.to_owned(),
        reach,
        discovery,
        dns: DnsFamily::V4Preferred,
        connect_timeout: CONNECT_TIMEOUT,
        response_timeout: None,
        protocol: UpstreamProtocol::Http1,
        http1: Http1Options {
            enable_trailers: true,
            accept_http_10: false,
        },
        http2: super::listeners::HTTP2.towards_endpoints(),
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_stream_duration: None,
        circuit_breakers: CircuitBreakers::default(),
        response_headers: HeaderLimits {
            count: 100,
            bytes: 80 * 1024,
        },
        buffer_limit: super::listeners::BUFFER_LIMIT,
        idle_timeout: Some(Duration::from_secs(3600)),
        lb: LbPolicy::RoundRobin,
        tcp_keepalive: Some(TcpKeepalive::DEFAULT),
        tls: None,
        sockets: Vec::new(),
        metadata: Arc::new(Metadata::default()),
        health: Health::default(),
    }
}
