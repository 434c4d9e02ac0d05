//! Clients: their addresses, and the request ids that they bring.

use std::net::{SocketAddr, TcpListener};

use gateway_config as config;
use gateway_proxy::{Gateway, Options};

use super::{exchange, gateway, has_line, scripted};

/// A client is believed its request id where it is no stranger.
#[test]
fn request_ids_of_clients() {
    for (manager, kept) in [
        ("use_remote_address: false", true),
        ("use_remote_address: true", false),
        (
            "use_remote_address: true\n          preserve_external_request_id: true",
            true,
        ),
    ] {
        let manager = format!("generate_request_id: true\n          {manager}");
        let (upstream, seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let (_running, address) = gateway(upstream, "timeout: 5s", &manager);
        exchange(
            address,
            "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\nconnection: close\r\n\r\n",
        );
        let head = seen.recv().unwrap();
        let mine = has_line(&head, "x-request-id: mine");
        assert_eq!(mine, kept, "{manager}: {head}");
        assert_eq!(head.matches("x-request-id").count(), 1, "{head}");
    }
}

#[test]
fn ipv4_clients_of_an_ipv6_listener_are_in_ranges_of_ipv4() {
    let text = r#"
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: "::", port_value: 0, ipv4_compat: true}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          use_remote_address: true
          xff_num_trusted_hops: 1
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: composite
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite
              matcher:
                matcher_list:
                  matchers:
                  - predicate: {single_predicate: {input: {name: input, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput}}, custom_match: {name: ip, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: x, cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}, {address_prefix: 10.0.0.0, prefix_len: 8}]}}}}
                    on_match: {action: {name: run, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.ExecuteFilterAction, typed_config: {name: inner, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {response_mutations: [{append: {header: {key: x-inside, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}}]}}}}}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;
    if TcpListener::bind("[::]:0").is_err() {
        // A machine without IPv6 has no such clients either.
        return;
    }
    let snapshot = config::parse_envoy("test.yaml", text).unwrap();
    let running = Gateway::start(snapshot, Options::default().concurrency(1)).unwrap();
    let port = running.local_addr("main").unwrap().port();
    for (said, inside) in [
        ("", Some("127.0.0.1")),
        ("x-forwarded-for: ::ffff:10.0.0.1\r\n", Some("10.0.0.1")),
        ("x-forwarded-for: ::ffff:11.0.0.1\r\n", None),
    ] {
        let answer = exchange(
            SocketAddr::from(([127, 0, 0, 1], port)),
            &format!("GET / HTTP/1.1\r\nhost: h\r\n{said}connection: close\r\n\r\n"),
        );
        match inside {
            Some(address) => assert!(
                has_line(&answer, &format!("x-inside: {address}")),
                "{answer}"
            ),
            None => assert!(!answer.contains("x-inside"), "{answer}"),
        }
    }
}
