//! A gateway whose traces come to a collector in the test.

mod collector;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use gateway_config as config;
use gateway_otel::OpenTelemetry;
use gateway_proxy::{Gateway, Options, Running};
use http::HeaderMap;

pub(crate) use self::collector::{attribute, collector, events, serve, text};

/// Heads that came, in order.
pub(crate) type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// A gateway in front of `upstream`, with these fields of `Tracing` and of its provider, and these more filters.
pub(crate) struct Traced<'a> {
    pub(crate) upstream: SocketAddr,
    pub(crate) collector: SocketAddr,
    pub(crate) provider: &'a str,
    pub(crate) tracing: &'a str,
    pub(crate) route: &'a str,
    pub(crate) processor: Option<SocketAddr>,
    pub(crate) ext_proc: &'a str,
}

impl Traced<'_> {
    pub(crate) fn start(&self) -> (Running, SocketAddr) {
        let cluster = |name: &str, address: SocketAddr, protocol: &str| {
            format!(
                r#"
  - name: {name}
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{protocol}: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"#,
                port = address.port(),
            )
        };
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let processor = self.processor.unwrap_or(nobody);
        let filter = match self.processor {
            None => String::new(),
            Some(_) => format!(
                r#"
          - name: guard
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {{envoy_grpc: {{cluster_name: processor}}}}
              {}"#,
                self.ext_proc
            ),
        };
        let text = format!(
            r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
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
          tracing:
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                {provider}
            {tracing}
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, {route}}}]}}]}}
          http_filters:{filter}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:{upstream}{grpc}{http}{processor}
"#,
            provider = self.provider,
            tracing = self.tracing,
            route = self.route,
            upstream = cluster("upstream", self.upstream, "http_protocol_options"),
            grpc = cluster("otlp_grpc", self.collector, "http2_protocol_options"),
            http = cluster("otlp_http", self.collector, "http_protocol_options"),
            processor = cluster("processor", processor, "http2_protocol_options"),
        );
        let snapshot = config::parse_envoy("test.yaml", &text).unwrap();
        let options = Options::default()
            .concurrency(1)
            .tracing(Arc::new(OpenTelemetry::new()));
        let running = Gateway::start(snapshot, options).unwrap();
        let address = running.local_addr("main").unwrap();
        (running, address)
    }
}

/// Sends a request over HTTP/1; gives the whole answer.
pub(crate) async fn send(gateway: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(gateway).await.unwrap();
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let host = match path.starts_with("/stats") {
        true => "localhost",
        false => "a.test",
    };
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
