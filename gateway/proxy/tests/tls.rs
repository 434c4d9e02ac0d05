//! TLS towards clients: which filter chain and certificate a client gets.

#[path = "tls/chains.rs"]
mod chains;
#[path = "tls/changes.rs"]
mod changes;
#[path = "tls/clients.rs"]
mod clients;
#[allow(dead_code, reason = "shared by several tests")]
mod common;
#[path = "tls/limits.rs"]
mod limits;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use gateway_config as config;
use gateway_proxy::{Gateway, Options, Running};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};

const CA: &[u8] = include_bytes!("../../tests/tls/ca.pem");

fn file(name: &str) -> String {
    format!("{}/../tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A filter chain whose routes answer with `name` and, in a header, with the scheme and the client's certificate header
/// as an upstream would see them.
fn chain(name: &str, matches: &str, tls: &str) -> String {
    format!(
        r#"
    - name: {name}
      filter_chain_match: {{{matches}}}
      {tls}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                direct_response: {{status: 200, body: {{inline_string: {name}}}}}
                response_headers_to_add:
                - header: {{key: x-seen, value: "%REQ(:SCHEME)% %REQ(X-FORWARDED-PROTO)% cert=%REQ(X-FORWARDED-CLIENT-CERT)%"}}
                - header: {{key: x-protocol, value: "%PROTOCOL%"}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
    )
}

/// A `transport_socket` with these certificates.
fn socket(certificates: &[&str], common: &str, context: &str) -> String {
    let certificates: Vec<String> = certificates
        .iter()
        .map(|name| {
            format!(
                "{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}",
                file(&format!("{name}.pem")),
                file(&format!("{name}.key"))
            )
        })
        .collect();
    format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
         {context} common_tls_context: {{{common} tls_certificates: [{}]}}}}}}",
        certificates.join(", ")
    )
}

fn start(chains: &[String]) -> (Running, SocketAddr) {
    start_with(chains, "")
}

/// A bootstrap whose listener has these chains.
fn listener(chains: &[String]) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
    filter_chains:{}
"#,
        chains.concat()
    )
}

/// With `rest` as the end of the bootstrap.
fn start_with(chains: &[String], rest: &str) -> (Running, SocketAddr) {
    let text = listener(chains) + rest;
    let snapshot = config::parse_envoy("test.yaml", &text).unwrap();
    assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
    let running = Gateway::start(snapshot, Options::default().concurrency(1)).unwrap();
    let address = running.local_addr("main").unwrap();
    (running, address)
}

#[derive(Default)]
struct Client {
    alpn: &'static [&'static str],
    certificate: bool,
    tls12: bool,
}

impl Client {
    /// Shakes hands for `name`, which also has to be that of the certificate.
    fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(CA).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = if self.tls12 { [&TLS12] } else { [&TLS13] };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if self.certificate {
            let chain = CertificateDer::from_pem_file(file("client.pem")).unwrap();
            let key = PrivateKeyDer::from_pem_file(file("client.key")).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = self
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    fn get(&self, address: SocketAddr, name: &str) -> std::io::Result<String> {
        let mut stream = self.connect(address, name)?;
        stream.write_all(
            b"GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-client-cert: By=me\r\nconnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn plain(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}
