//! Clients that stand still, before the handshake is done and behind it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};

use crate::{
    CA, Client, chain,
    common::{admin, cluster, until},
    socket, start, start_with,
};

#[test]
fn a_handshake_has_a_limit() {
    let tls = format!(
        "transport_socket_connect_timeout: 0.2s\n      {}",
        socket(&["a"], "", "")
    );
    let (_running, at) = start(&[chain("main", "", &tls)]);
    // A hello, and nothing after it.
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(CA).unwrap())
        .unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let name = ServerName::try_from("a.example").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(at).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    connection.write_tls(&mut socket).unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    assert!(!rest.is_empty(), "the server's half of the handshake came");
}

/// TLS keeps bytes of its own, which wait where no write does: in a flush, and in the end of the connection.
#[test]
fn a_client_that_reads_nothing_is_given_up() {
    const BODY: usize = 32 * 1024 * 1024;
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream_at = upstream.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().unwrap();
        // The request, in one piece.
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
        // The gateway leaves before the end.
        let _ = stream.write_all(&vec![0; BODY]);
    });
    let chain = chain("main", "", &socket(&["a"], "", ""))
        .replace(
            "stat_prefix: main",
            "stat_prefix: main\n          stream_idle_timeout: 0.3s\n          delayed_close_timeout: 0.2s",
        )
        .replace(
            "direct_response: {status: 200, body: {inline_string: main}}",
            "route: {cluster: upstream}",
        );
    let cluster = cluster("upstream", upstream_at, &[]);
    let rest = format!("  clusters: [{cluster}]\n{}", admin());
    let (running, at) = start_with(&[chain], &rest);
    let admin = running.admin_addr().unwrap();
    let active = || {
        let mut stream = TcpStream::connect(admin).unwrap();
        let request = b"GET /stats HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = |line: &&str| line.starts_with("http.main.downstream_cx_active:");
        text.lines().find(line).unwrap().to_owned()
    };
    let mut client = Client::default().connect(at, "a.example").unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .unwrap();
    client.flush().unwrap();
    let mut status = [0; 12];
    client.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    assert!(active().ends_with(": 1"));
    // Nothing tells of it: it is asked for until it is so, and the limit keeps the test from hanging.
    until(|| active().ends_with(": 0"), "the connection is kept");
}
