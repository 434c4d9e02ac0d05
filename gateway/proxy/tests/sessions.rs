//! TLS sessions that clients resume, and paths that the admin server answers.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use gateway_proxy::{Gateway, Options, Running};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
    client::{ClientSessionMemoryCache, Resumption, Tls12Resumption},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use self::common::Bootstrap;

const CA: &[u8] = include_bytes!("../../tests/tls/ca.pem");

/// A gateway whose listener has these fields of `DownstreamTlsContext`.
fn start(context: &str) -> (Running, SocketAddr) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tls");
    let tls = format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
         common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {folder}/a.pem}}, private_key: {{filename: {folder}/a.key}}}}]}}, {context}}}}}"
    );
    Bootstrap {
        chain: &[&tls],
        routes: &["{match: {prefix: /}, direct_response: {status: 200}}"],
        ..Bootstrap::default()
    }
    .start()
}

/// A client that remembers its sessions.
fn client(version: &'static SupportedProtocolVersion, tls12: Tls12Resumption) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(CA).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let store = Arc::new(ClientSessionMemoryCache::new(8));
    config.resumption = Resumption::store(store).tls12_resumption(tls12);
    Arc::new(config)
}

/// Makes a request on a connection of its own; says whether a session was resumed.
fn resumes(config: &Arc<ClientConfig>, address: SocketAddr) -> bool {
    let name = ServerName::try_from("a.example").unwrap();
    let connection = ClientConnection::new(config.clone(), name).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let request = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// As Envoy does it: without tickets nothing is resumed over TLS 1.3, and by the id of a session over TLS 1.2.
#[test]
fn sessions_are_resumed_as_configured() {
    const NO_TICKETS: &str = "disable_stateless_session_resumption: true";
    const NO_IDS: &str = "disable_stateful_session_resumption: true";
    let both = format!("{NO_TICKETS}, {NO_IDS}");
    for (context, tls13, tickets, ids) in [
        ("", true, true, true),
        (NO_TICKETS, false, true, true),
        (NO_IDS, true, true, false),
        (both.as_str(), false, false, false),
    ] {
        let (_running, at) = start(context);
        for (version, how, resumed) in [
            (&TLS13, Tls12Resumption::Disabled, tls13),
            (&TLS12, Tls12Resumption::SessionIdOrTickets, tickets),
            (&TLS12, Tls12Resumption::SessionIdOnly, ids),
        ] {
            let client = client(version, how);
            assert!(!resumes(&client, at));
            assert_eq!(
                resumes(&client, at),
                resumed,
                "{context:?}, {version:?}, {how:?}"
            );
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the age of a session is what is tried"
)]
fn an_old_session_is_not_resumed() {
    let (_running, at) = start("session_timeout: 1s");
    for (version, how) in [
        (&TLS13, Tls12Resumption::Disabled),
        (&TLS12, Tls12Resumption::SessionIdOrTickets),
        (&TLS12, Tls12Resumption::SessionIdOnly),
    ] {
        let client = client(version, how);
        assert!(!resumes(&client, at));
        // The age is what is tried.
        thread::sleep(Duration::from_millis(1100));
        assert!(!resumes(&client, at), "{version:?}, {how:?}");
    }
}

/// As Envoy has it: what is compared is the path with its query.
#[test]
fn the_admin_server_answers_allowed_paths() {
    let text = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}, allow_paths: [{exact: /stats}, {prefix: /rea}]}\n\
                static_resources: {}";
    let snapshot = gateway_config::parse_envoy("test.yaml", text).unwrap();
    let running = Gateway::start(snapshot, Options::default().concurrency(1)).unwrap();
    let admin = running.admin_addr().unwrap();
    for (request, status) in [
        ("GET /stats", 200),
        ("GET /stats?filter=a", 403),
        ("GET /ready", 200),
        ("GET /ready?x", 200),
        ("GET /", 403),
        ("GET /config_dump", 403),
        ("GET /nothing", 403),
        ("POST /logging", 403),
    ] {
        let mut stream = TcpStream::connect(admin).unwrap();
        let sent = format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(sent.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{request}: {answer}");
    }
}
