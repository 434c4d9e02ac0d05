//! A gateway for tests of what it does with bytes: one listener, one upstream.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use gateway_config as config;
use gateway_proxy::{Gateway, Options, Running};

/// A gateway with one worker. Its listener `main` has these fields of the connection manager and these routes, in front of
/// the cluster `upstream` with these fields of `HttpProtocolOptions`.
pub(crate) fn start(
    manager: &[&str],
    routes: &[&str],
    upstream: SocketAddr,
    protocol: &str,
) -> (Running, SocketAddr) {
    let text = format!(
        r#"
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          {manager}
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{routes}]}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: upstream
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        {{"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, {protocol}}}
    load_assignment:
      cluster_name: upstream
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"#,
        manager = manager.join("\n          "),
        routes = routes.join(", "),
        port = upstream.port(),
    );
    let snapshot = config::parse_envoy("test.yaml", &text).unwrap();
    let running = Gateway::start(snapshot, Options::default().concurrency(1)).unwrap();
    let address = running.local_addr("main").unwrap();
    (running, address)
}

/// Limit for what takes a moment, on a busy machine too: it keeps a test from hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until it is so.
pub(crate) fn until(mut done: impl FnMut() -> bool, what: &str) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::yield_now();
    }
}
