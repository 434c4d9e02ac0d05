//! Windows and keepalive of connections.

use std::time::Duration;

use super::bad::BASE;
use crate::{
    parse_envoy,
    snapshot::{
        Cluster, Discovery, Endpoint, EndpointAddress, Floods, Http2Options, Interval, Keepalive,
        TcpKeepalive,
    },
};

const MIB: u32 = 1024 * 1024;

fn cluster(fields: &str) -> Result<Cluster, String> {
    let text = format!("{BASE}{fields}");
    let snapshot = parse_envoy("envoy.yaml", &text).map_err(|error| error.to_string())?;
    Ok(Cluster::clone(&snapshot.clusters["upstream"]))
}

fn upstream(options: &str) -> Http2Options {
    let fields = format!("    http2_protocol_options: {options}\n");
    cluster(&fields).unwrap().http2
}

fn downstream(options: &str) -> Http2Options {
    let prefix = "stat_prefix: ingress\n";
    let fields = format!("{prefix}          http2_protocol_options: {options}\n");
    let snapshot = parse_envoy("envoy.yaml", &BASE.replace(prefix, &fields)).unwrap();
    snapshot.listeners[0].chains[0].http.http2
}

/// As wide as those of all streams that a connection may have, unless it is configured.
#[test]
fn windows_of_upstream_connections() {
    for (options, streams, window) in [
        ("{}", 1024, 1024 * MIB),
        ("{max_concurrent_streams: 100}", 100, 100 * MIB),
        (
            "{initial_stream_window_size: 16777216}",
            127,
            127 * 16 * MIB,
        ),
        ("{initial_connection_window_size: 1048576}", 1024, MIB),
    ] {
        let options = upstream(options);
        let connection = options.initial_connection_window_size;
        assert_eq!(
            (options.max_concurrent_streams, connection),
            (streams, window)
        );
    }
}

/// As wide as those of many streams, unless it is configured.
#[test]
fn windows_of_client_connections() {
    for (options, window) in [
        ("{}", 64 * MIB),
        ("{initial_stream_window_size: 33554432}", 128 * MIB),
        ("{initial_stream_window_size: 2147483647}", 0x7fff_ffff),
        ("{initial_connection_window_size: 1048576}", MIB),
    ] {
        let connection = downstream(options).initial_connection_window_size;
        assert_eq!(connection, window, "{options}");
    }
}

#[test]
fn keepalive() {
    let second = Duration::from_secs(1);
    assert_eq!(upstream("{}").keepalive, Some(Keepalive::default()));
    assert_eq!(downstream("{}").keepalive, None);
    for (settings, expected) in [
        (
            "{interval: 10s, timeout: 1s}",
            Keepalive {
                interval: Some(Interval {
                    period: second * 10,
                    jitter: Duration::from_millis(1500),
                }),
                silence: None,
                timeout: second,
            },
        ),
        (
            "{timeout: 1s, connection_idle_interval: 30s, interval_jitter: {value: 5}}",
            Keepalive {
                interval: None,
                silence: Some(second * 30),
                timeout: second,
            },
        ),
    ] {
        let options = format!("{{connection_keepalive: {settings}}}");
        assert_eq!(upstream(&options).keepalive, Some(expected));
        assert_eq!(downstream(&options).keepalive, Some(expected));
    }
    for (settings, place) in [
        ("{interval: 1s}", "timeout"),
        ("{interval: 0s, timeout: 1s}", "1 ms"),
        (
            "{interval: 1s, timeout: 1s, interval_jitter: {value: 101}}",
            "100",
        ),
    ] {
        let options = format!("    http2_protocol_options: {{connection_keepalive: {settings}}}\n");
        let error = cluster(&options).unwrap_err();
        assert!(error.contains(place), "{error}");
    }
}

#[test]
fn frames_that_say_little() {
    let floods = |options: &str| downstream(options).floods;
    assert_eq!(floods("{}"), Floods::ENVOY);
    let given = "{max_inbound_priority_frames_per_stream: 0, \
                 max_inbound_window_update_frames_per_data_frame_sent: 7}";
    let expected = Floods {
        priority: 0,
        window_updates: 7,
    };
    assert_eq!(floods(given), expected);
    let error = cluster(
        "    http2_protocol_options: {max_inbound_window_update_frames_per_data_frame_sent: 0}\n",
    );
    let error = error.unwrap_err();
    assert!(error.contains("has to be 1 or more"), "{error}");
}

#[test]
fn tcp_keepalive() {
    let second = Duration::from_secs(1);
    for (options, expected) in [
        ("{}", Some(TcpKeepalive::DEFAULT)),
        ("{tcp_keepalive: {keepalive_time: 0}}", None),
        (
            "{tcp_keepalive: {keepalive_time: 300, keepalive_probes: 3}}",
            Some(TcpKeepalive {
                probes: Some(3),
                time: Some(second * 300),
                interval: None,
            }),
        ),
    ] {
        let fields = format!("    upstream_connection_options: {options}\n");
        assert_eq!(cluster(&fields).unwrap().tcp_keepalive, expected);
    }
}

/// Weights of all endpoints of a cluster whose localities are these.
fn weights(localities: &str, policy: &str) -> Vec<(u16, u32)> {
    let text = BASE.replace(
        "      cluster_name: upstream\n",
        &format!("      cluster_name: upstream\n      endpoints: [{localities}]\n{policy}"),
    );
    let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
    let Discovery::Static(endpoints) = &snapshot.clusters["upstream"].discovery else {
        panic!("static endpoints");
    };
    let one = |endpoint: &Endpoint| match &endpoint.address {
        EndpointAddress::Socket(address) => (address.port(), endpoint.weight),
        other => panic!("{other:?}"),
    };
    endpoints.iter().map(one).collect()
}

#[test]
fn localities_share_by_their_weights() {
    const WEIGHTED: &str = "    common_lb_config: {locality_weighted_lb_config: {}}\n";
    const WRR: &str = "    load_balancing_policy: {policies: [{typed_extension_config: {name: w, typed_config: {\"@type\": a/envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality, endpoint_picking_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": a/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin}}}]}}}}]}\n";
    let endpoint = |port: u16, weight: u32| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, load_balancing_weight: {weight}}}"
        )
    };
    let (one, two) = (endpoint(1, 1), endpoint(2, 3));
    let other = endpoint(3, 1);
    let shares = format!(
        "{{load_balancing_weight: 2, lb_endpoints: [{one}, {two}]}}, {{load_balancing_weight: 6, lb_endpoints: [{other}]}}"
    );
    for policy in [WEIGHTED, WRR] {
        assert_eq!(
            weights(&shares, policy),
            [(1, 500), (2, 1500), (3, 6000)],
            "{policy}"
        );
    }
    assert_eq!(weights(&shares, ""), [(1, 1), (2, 3), (3, 1)]);
    let without = format!(
        "{{lb_endpoints: [{one}, {two}]}}, {{load_balancing_weight: 6, lb_endpoints: [{other}]}}"
    );
    assert_eq!(weights(&without, WEIGHTED), [(3, 6000)]);
    let none = format!("{{lb_endpoints: [{one}, {two}]}}, {{lb_endpoints: [{other}]}}");
    assert_eq!(weights(&none, WEIGHTED), [(1, 1), (2, 3), (3, 1)]);
}
