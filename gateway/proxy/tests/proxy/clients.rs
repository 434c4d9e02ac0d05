//! Clients: their addresses, and the request ids that they bring.

use std::net::{SocketAddr, TcpListener};

use super::{common::Bootstrap, exchange, gateway, has_line, scripted};

/// A client is believed its request id where it is no stranger.
#[test]
fn request_ids_of_clients() {
    for (manager, kept) in [
        ("use_remote_address: false", true),
        ("use_remote_address: true", false),
        (
            "use_remote_address: true, preserve_external_request_id: true",
            true,
        ),
    ] {
        let manager = format!("generate_request_id: true, {manager}");
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
    if TcpListener::bind("[::]:0").is_err() {
        // A machine without IPv6 has no such clients either.
        return;
    }
    const COMPOSITE: &str = r#"{name: composite, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite, matcher: {matcher_list: {matchers: [{
        predicate: {single_predicate: {input: {name: input, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput}}, custom_match: {name: ip, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: x, cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}, {address_prefix: 10.0.0.0, prefix_len: 8}]}}}},
        on_match: {action: {name: run, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.ExecuteFilterAction, typed_config: {name: inner, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {response_mutations: [{append: {header: {key: x-inside, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}}]}}}}}}}]}}}}"#;
    let (_running, address) = Bootstrap {
        listener: &[
            r#"address: {socket_address: {address: "::", port_value: 0, ipv4_compat: true}}"#,
        ],
        manager: &["use_remote_address: true", "xff_num_trusted_hops: 1"],
        routes: &["{match: {prefix: /}, direct_response: {status: 200}}"],
        filters: &[COMPOSITE],
        ..Bootstrap::default()
    }
    .start();
    let port = address.port();
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
