//! Listeners of the snapshot: one for each port, with a virtual host for each host name.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use extproc_client::host::HeaderLimits;
use http::StatusCode;

use super::{
    Scope,
    attach::Host,
    gateways::ListenerState,
    hostname::Hostname,
    policies::{Effects, Policies},
    routes::{self, Match, Place, RoutePlan, RulePlan},
    types::{Key, Protocol},
};
use crate::snapshot::{
    AccessLog, Certificate, ChainMatch, Codec, DownstreamTls, EscapedSlashes, FilterChain, Floods,
    ForwardClientCert, HANDSHAKE_TIMEOUT, Http1Options, Http2Options, HttpManager, Listener,
    LogFormat, LogSink, Normalization, Route, RouteTable, SchemeHeader, ServerHeader, Timeouts,
    VirtualHost,
};

/// `maxBufferSize` unless a policy says otherwise, in bytes.
pub(super) const BUFFER_LIMIT: usize = 2 * 1024 * 1024;

/// HTTP/2 of listeners.
pub(super) const HTTP2: Http2Options = Http2Options {
    max_concurrent_streams: 1024,
    initial_stream_window_size: 1024 * 1024,
    initial_connection_window_size: 64 * 1024 * 1024,
    stream_buffer: None,
    allow_connect: false,
    keepalive: None,
    floods: Floods::ENVOY,
};

/// A route on one listener.
pub(super) struct Attached<'a> {
    pub(super) plan: &'a RoutePlan<'a>,
    pub(super) hosts: &'a [Host],
}

/// A listener with its routes.
pub(super) struct Bound<'a> {
    pub(super) gateway: &'a Key,
    pub(super) state: &'a ListenerState<'a>,
    pub(super) trusted_hops: u32,
    pub(super) routes: Vec<Attached<'a>>,
}

/// The listeners of the snapshot for these listeners of Gateways.
pub(super) fn build(scope: &Scope, policies: &Policies, bound: &[Bound<'_>]) -> Vec<Arc<Listener>> {
    let mut ports: BTreeMap<u16, Vec<&Bound<'_>>> = BTreeMap::new();
    for listener in bound.iter().filter(|listener| listener.state.has_host()) {
        ports
            .entry(listener.state.spec.port)
            .or_default()
            .push(listener);
    }
    ports
        .into_iter()
        .filter(|(_, listeners)| listeners.iter().any(|l| l.state.programmed()))
        .map(|(port, listeners)| {
            let bound_port = scope.listen_ports.get(&port).copied().unwrap_or(port);
            let (default_chain, chains) = chains(policies, port, &listeners);
            Arc::new(Listener {
                access_log: Vec::new(),
                name: format!("port-{port}"),
                address: SocketAddr::new(scope.address, bound_port),
                ipv4_compat: true,
                original_dst: false,
                buffer_limit: listeners
                    .iter()
                    .find_map(|listener| policies.buffer_limit(listener.gateway))
                    .unwrap_or(BUFFER_LIMIT),
                chains,
                default_chain,
            })
        })
        .collect()
}

/// The filter chains of listeners that share a port, and so a protocol: one for all without TLS, where
/// the host decides; one each with TLS, where the server name does. A listener that takes no connections, for
/// want of a certificate, keeps its host all the same: no other one may serve that.
fn chains(
    policies: &Policies,
    port: u16,
    listeners: &[&Bound<'_>],
) -> (Option<FilterChain>, Vec<FilterChain>) {
    let chain = |name: String, served: &[&Bound<'_>], tls: Option<DownstreamTls>| {
        let protocol = match tls {
            Some(_) => Protocol::Https,
            None => Protocol::Http,
        };
        let hostnames: Vec<&Hostname> = listeners
            .iter()
            .filter(|listener| listener.state.spec.protocol == protocol)
            .map(|listener| &listener.state.hostname)
            .collect();
        FilterChain {
            name,
            matches: ChainMatch::default(),
            tls: tls.map(Arc::new),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            http: Arc::new(manager(policies, port, served, &hostnames)),
        }
    };
    let (secure, bare): (Vec<&Bound<'_>>, Vec<&Bound<'_>>) = listeners
        .iter()
        .filter(|listener| listener.state.programmed())
        .partition(|listener| listener.state.spec.protocol == Protocol::Https);
    let mut default_chain = (!bare.is_empty()).then(|| chain(format!("port-{port}"), &bare, None));
    let mut named = Vec::new();
    for listener in secure {
        let name = format!("{}/{}", listener.gateway, listener.state.spec.name);
        let mut chain = chain(name, &[listener], Some(tls(listener)));
        match listener.state.spec.hostname.as_deref() {
            None | Some("") => default_chain = Some(chain),
            Some(hostname) => {
                chain.matches.server_names = vec![hostname.to_ascii_lowercase()];
                named.push(chain);
            }
        }
    }
    (default_chain, named)
}

fn tls(listener: &Bound<'_>) -> DownstreamTls {
    let certificates = listener.state.certificates.iter();
    DownstreamTls {
        certificates: certificates
            .map(|(chain, key)| Certificate {
                chain: chain.clone(),
                key: key.clone(),
                path: String::new(),
            })
            .collect(),
        alpn: vec!["h2".into(), "http/1.1".into()],
        ..DownstreamTls::default()
    }
}

/// The connection manager of listeners that share a filter chain, among all those of their port.
fn manager(
    policies: &Policies,
    port: u16,
    listeners: &[&Bound<'_>],
    all: &[&Hostname],
) -> HttpManager {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut virtual_hosts: Vec<VirtualHost> = listeners
        .iter()
        .flat_map(|listener| virtual_hosts(policies, listener, all))
        .collect();
    // Of listeners with TLS each is alone in its chain: the server name has decided.
    if let [only] = listeners
        && only.state.spec.protocol == Protocol::Https
    {
        virtual_hosts.extend(elsewhere(only, all));
    }
    let trusted_hops = listeners.iter().map(|l| l.trusted_hops).min();
    let mut routes = virtual_hosts.iter().flat_map(|host| &host.routes);
    let cors = routes.any(|route| route.cors.is_some());
    HttpManager {
        stat_prefix: format!("port_{port}"),
        codec: Codec::Auto,
        max_requests_per_connection: None,
        filters: policies.filters(cors),
        early_headers: Vec::new(),
        routes: RouteTable {
            name: format!("port-{port}"),
            virtual_hosts,
            ignore_port: true,
            ..RouteTable::default()
        },
        default_host: None,
        http1: Http1Options {
            enable_trailers: true,
            accept_http_10: false,
        },
        http2: HTTP2,
        timeouts: Timeouts {
            request_headers: Some(MINUTE),
            request: None,
            stream_idle: Some(5 * MINUTE),
            connection_idle: Some(60 * MINUTE),
            max_connection_duration: None,
            max_stream_duration: None,
            drain: Duration::from_secs(30),
            delayed_close: Duration::from_secs(1),
        },
        request_headers: HeaderLimits {
            count: 100,
            bytes: 60 * 1024,
        },
        generate_request_id: false,
        add_forwarded_proto: false,
        server_header: ServerHeader::PassThrough,
        server_name: String::new(),
        proxy_status: None,
        via: String::new(),
        forward_client_cert: ForwardClientCert::Sanitize,
        use_remote_address: true,
        xff_num_trusted_hops: trusted_hops.unwrap_or_default(),
        skip_xff_append: false,
        append_x_forwarded_port: false,
        user_agent: None,
        request_id_in_response: false,
        scheme_header: SchemeHeader::Keep,
        preserve_external_request_id: false,
        upgrades: vec!["websocket".into()],
        proxy_100_continue: false,
        local_reply: None,
        access_log: vec![AccessLog {
            sink: LogSink::Stdout,
            format: LogFormat::default(),
            filter: None,
            omit_empty: false,
        }],
        tracing: None,
        normalization: Normalization {
            normalize_path: true,
            one_reading: true,
            merge_slashes: true,
            // What a path with one means is known to the upstream alone.
            escaped_slashes: EscapedSlashes::Reject,
            strip_host_dot: true,
            ..Normalization::default()
        },
    }
}

/// The hosts of a port's other listeners, of which a request on a connection of this one is told that it came the
/// wrong way (421), and a place for those that no listener has (404); as the field `hostname` of Gateway API's
/// `Listener` has it.
fn elsewhere(own: &Bound<'_>, all: &[&Hostname]) -> Vec<VirtualHost> {
    let own_name = &own.state.hostname;
    let mut others: Vec<&Hostname> = Vec::new();
    for other in all {
        if *other != own_name && !others.contains(other) {
            others.push(other);
        }
    }
    let host = |domain: String, routes| VirtualHost {
        name: format!("{}/{}/{domain}", own.gateway, own.state.spec.name),
        domains: vec![domain],
        routes,
        to_tls: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
    };
    let unclaimed = (*own_name != Hostname::Any && !others.contains(&&Hostname::Any))
        .then(|| host(Hostname::Any.domain(), Vec::new()));
    let misdirected = others.into_iter().map(|name| {
        let answer = routes::answer(StatusCode::MISDIRECTED_REQUEST, Effects::default());
        host(name.domain(), vec![answer])
    });
    misdirected.chain(unclaimed).collect()
}

/// The virtual hosts of one listener among others on its port. A request belongs to the listener
/// with the most specific host name alone, even if that one has no route for it.
fn virtual_hosts(policies: &Policies, bound: &Bound<'_>, all: &[&Hostname]) -> Vec<VirtualHost> {
    let own = &bound.state.hostname;
    let mut names: Vec<&Hostname> = vec![own];
    for host in bound.routes.iter().flat_map(|route| route.hosts) {
        let taken = all.iter().any(|other| {
            *other != own && other.covers(&host.shared) && other.specificity(own).is_gt()
        });
        if !taken && !names.contains(&&host.shared) {
            names.push(&host.shared);
        }
    }
    names
        .into_iter()
        .map(|name| {
            let domain = name.domain();
            VirtualHost {
                name: format!("{}/{}/{domain}", bound.gateway, bound.state.spec.name),
                routes: routes(policies, bound, name, &domain),
                domains: vec![domain],
                to_tls: None,
                request_headers: Vec::new(),
                response_headers: Vec::new(),
            }
        })
        .collect()
}

/// The routes for a host name, in the order of Gateway API's precedence.
fn routes(
    policies: &Policies,
    bound: &Bound<'_>,
    name: &Hostname,
    domain: &str,
) -> Vec<Arc<Route>> {
    struct Candidate<'a> {
        host: &'a Hostname,
        key: &'a Key,
        rule: &'a RulePlan<'a>,
        index: usize,
        matched: &'a Match,
    }
    let mut candidates = Vec::new();
    // Routes come in order of seniority, rules and matches in the order of the route; a stable sort
    // keeps both among equals.
    for route in &bound.routes {
        let host = route
            .hosts
            .iter()
            .filter(|host| host.shared.covers(name))
            .map(|host| &host.own)
            .max_by(|a, b| a.specificity(b));
        let Some(host) = host else { continue };
        for rule in &route.plan.rules {
            for (index, matched) in rule.matches.iter().enumerate() {
                candidates.push(Candidate {
                    host,
                    key: route.plan.key,
                    rule,
                    index,
                    matched,
                });
            }
        }
    }
    candidates.sort_by(|a, b| {
        b.host
            .specificity(a.host)
            .then(a.matched.precedence().first(b.matched.precedence()))
    });
    let place = Place {
        listener: bound.state.spec,
        virtual_host: domain,
    };
    let listener = &bound.state.spec.name;
    let routes = candidates.into_iter().map(|candidate| {
        let rule = candidate.rule.spec.name.as_deref();
        let effects = policies.effects(bound.gateway, listener, candidate.key, rule);
        let Candidate {
            key,
            rule,
            index,
            matched,
            ..
        } = candidate;
        rule.route(key, index, matched, place, effects)
    });
    let nowhere = policies.without_route(bound.gateway, listener);
    let nowhere = nowhere.map(|effects| routes::answer(StatusCode::NOT_FOUND, effects));
    routes.chain(nowhere).collect()
}
