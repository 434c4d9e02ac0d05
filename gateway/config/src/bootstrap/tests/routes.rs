//! Routes and filter chains of a bootstrap, and the snapshot that comes of them.

use std::time::Duration;

use http::StatusCode;

use super::super::parse;
use crate::snapshot::{
    FilterKind, Forward, Fraction, Mirror, Route, RouteAction, Snapshot, StripPort,
    TransportProtocol,
};

/// A bootstrap with these routes, more fields of the connection manager, and these of the virtual host.
fn bootstrap(manager: &str, host: &str, routes: &[&str]) -> String {
    let routes: String = routes
        .iter()
        .map(|route| format!("              - {{match: {{prefix: /}}, {route}}}\n"))
        .collect();
    format!(
        r#"static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          {manager}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              {host}
              routes:
{routes}
          http_filters:
          - name: envoy.filters.http.cors
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - {{name: a, type: STATIC}}
  - {{name: b, type: STATIC}}
"#
    )
}

fn snapshot(manager: &str, host: &str, routes: &[&str]) -> Snapshot {
    parse("envoy.yaml", &bootstrap(manager, host, routes)).unwrap()
}

fn refusal(manager: &str, host: &str, routes: &[&str]) -> String {
    parse("envoy.yaml", &bootstrap(manager, host, routes))
        .unwrap_err()
        .to_string()
}

fn routes(snapshot: &Snapshot) -> Vec<&Route> {
    let hosts = &snapshot.listeners[0].chains[0].http.routes.virtual_hosts;
    hosts[0].routes.iter().map(|route| &**route).collect()
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn mirrors_of_a_route_take_the_place_of_inherited_ones() {
    let built = snapshot(
        "",
        "request_mirror_policies: [{cluster: b}]",
        &[
            "route: {cluster: a}",
            "route: {cluster: a, request_mirror_policies: [{cluster: a, disable_shadow_host_suffix_append: true, \
             runtime_fraction: {default_value: {numerator: 5, denominator: TEN_THOUSAND}}}, {cluster: b}]}",
        ],
    );
    let all = |cluster: &str| Mirror {
        cluster: cluster.into(),
        fraction: Fraction::ALL,
        shadow_suffix: true,
    };
    let routes = routes(&built);
    assert_eq!(forward(routes[0]).mirrors, [all("b")]);
    let some = Mirror {
        cluster: "a".into(),
        fraction: Fraction {
            numerator: 5,
            denominator: 10_000,
        },
        shadow_suffix: false,
    };
    assert_eq!(forward(routes[1]).mirrors, [some, all("b")]);
    let unknown = "route: {cluster: a, request_mirror_policies: [{cluster: c}]}";
    assert!(refusal("", "", &[unknown]).contains("unknown cluster \"c\""));
}

#[test]
fn cors_of_the_most_specific_level() {
    const POLICY: &str =
        "\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
    const WRAPPER: &str = "\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig";
    let of = |config: &str| {
        format!("typed_per_filter_config: {{envoy.filters.http.cors: {{{config}}}}}")
    };
    let host = of(&format!(
        "{POLICY}, allow_methods: GET, allow_credentials: true"
    ));
    let own = format!(
        "route: {{cluster: a}}, {}",
        of(&format!("{POLICY}, max_age: '60'"))
    );
    let off = format!(
        "route: {{cluster: a}}, {}",
        of(&format!("{WRAPPER}, disabled: true"))
    );
    let zero = format!(
        "route: {{cluster: a}}, {}",
        of(&format!(
            "{POLICY}, filter_enabled: {{default_value: {{numerator: 0}}}}"
        ))
    );
    let built = snapshot("", &host, &["route: {cluster: a}", &own, &off, &zero]);
    assert!(matches!(
        built.listeners[0].chains[0].http.filters[0].kind,
        FilterKind::Cors
    ));
    let routes = routes(&built);
    let inherited = routes[0].cors.as_ref().unwrap();
    assert_eq!(inherited.allow_methods, "GET");
    assert!(inherited.allow_credentials && inherited.forward_not_matching_preflights);
    let own = routes[1].cors.as_ref().unwrap();
    assert_eq!(
        (own.allow_methods.as_str(), own.max_age.as_str()),
        ("", "60")
    );
    assert!(routes[2].cors.is_none());
    assert!(routes[3].cors.is_none());
}

#[test]
fn hosts_paths_and_missing_clusters() {
    let built = snapshot(
        "strip_any_host_port: true",
        "",
        &[
            "route: {cluster: a, host_rewrite_header: x-host}",
            r#"route: {cluster: a, host_rewrite_path_regex: {pattern: {regex: "^/(.+)$"}, substitution: '\1'}}"#,
            "route: {cluster: a, cluster_not_found_response_code: INTERNAL_SERVER_ERROR}",
            r#"redirect: {regex_rewrite: {pattern: {regex: "a"}, substitution: b}}"#,
        ],
    );
    let http = &built.listeners[0].chains[0].http;
    assert_eq!(http.normalization.strip_port, StripPort::Any);
    let routes = routes(&built);
    assert_eq!(
        forward(routes[0]).host_rewrite_header.as_ref().unwrap(),
        "x-host"
    );
    let of_path = forward(routes[1]).host_rewrite_path_regex.as_ref().unwrap();
    assert_eq!(of_path.apply("/b.example").as_deref(), Some("b.example"));
    assert_eq!(
        forward(routes[2]).missing_cluster,
        Some(StatusCode::INTERNAL_SERVER_ERROR)
    );
    let RouteAction::Redirect(redirect) = &routes[3].action else {
        panic!("{:?}", routes[3].action);
    };
    assert!(redirect.regex_rewrite.is_some());
    for (manager, route, expected) in [
        (
            "strip_any_host_port: true\n          strip_matching_host_port: true",
            "route: {cluster: a}",
            "only one of strip_matching_host_port and strip_any_host_port",
        ),
        (
            "",
            "route: {cluster: a, host_rewrite_header: x, auto_host_rewrite: true}",
            "only one of host_rewrite_literal",
        ),
        (
            "",
            "redirect: {path_redirect: /, prefix_rewrite: /}",
            "only one of path_redirect",
        ),
    ] {
        let error = refusal(manager, "", &[route]);
        assert!(error.contains(expected), "{error}");
    }
}

/// A bootstrap whose first chain has these fields, beside a default chain.
fn chained(fields: &str) -> String {
    let text = bootstrap("", "", &["route: {cluster: a}"]);
    let at = text.find("    - filters:").unwrap();
    let end = text.find("  clusters:").unwrap();
    let (head, chain, rest) = (&text[..at], &text[at..end], &text[end..]);
    let default = chain.replacen("    - ", "      ", 1);
    let first = chain.replacen("    - ", &format!("    - {fields}\n      "), 1);
    format!("{head}{first}    default_filter_chain:\n{default}{rest}")
}

#[test]
fn filter_chains() {
    let text = chained(
        "filter_chain_match: {destination_port: 80, server_names: [A.example, '*.b.example'], transport_protocol: tls, application_protocols: [h2]}\n      \
         transport_socket_connect_timeout: 3s",
    );
    let built = parse("envoy.yaml", &text).unwrap();
    let listener = &built.listeners[0];
    let [chain] = listener.chains.as_slice() else {
        panic!("{:?}", listener.chains);
    };
    assert_eq!(chain.matches.destination_port, Some(80));
    assert_eq!(chain.matches.server_names, ["a.example", "*.b.example"]);
    assert_eq!(
        chain.matches.transport_protocol,
        Some(TransportProtocol::Tls)
    );
    assert_eq!(chain.matches.application_protocols, ["h2"]);
    assert_eq!(chain.handshake_timeout, Duration::from_secs(3));
    assert!(listener.default_chain.is_some());
    assert_eq!(listener.all_chains().count(), 2);
    for (fields, expected) in [
        (
            "filter_chain_match: {server_names: ['a*']}",
            "\"a*\" is no server name",
        ),
        (
            "filter_chain_match: {transport_protocol: quic}",
            "unknown transport protocol \"quic\"",
        ),
        ("filter_chain_match: {source_ports: [80]}", "not supported"),
        (
            "transport_socket: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext}}",
            "tls_certificates may not be empty",
        ),
    ] {
        let error = parse("envoy.yaml", &chained(fields))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
