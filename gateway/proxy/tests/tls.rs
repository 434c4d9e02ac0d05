//! TLS towards clients: which filter chain and certificate a client gets.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
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

/// With `rest` as the end of the bootstrap.
fn start_with(chains: &[String], rest: &str) -> (Running, SocketAddr) {
    let text = format!(
        r#"
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
    filter_chains:{}
{rest}
"#,
        chains.concat()
    );
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

#[test]
fn the_server_name_chooses_the_chain() {
    let (_running, at) = start(&[
        chain(
            "exact",
            "server_names: [a.example]",
            &socket(&["a"], "", ""),
        ),
        chain(
            "wide",
            "server_names: ['*.b.example']",
            &socket(&["wildcard"], "", ""),
        ),
    ]);
    let client = Client::default();
    let answer = client.get(at, "a.example").unwrap();
    assert!(answer.ends_with("\r\n\r\nexact"), "{answer}");
    assert!(answer.contains("x-seen: https https cert=\r\n"), "{answer}");
    let answer = client.get(at, "x.b.example").unwrap();
    assert!(answer.ends_with("\r\n\r\nwide"), "{answer}");
    // Nobody takes these.
    client.get(at, "c.example").unwrap_err();
    client.get(at, "b.example").unwrap_err();
    assert_eq!(plain(at), "");
}

#[test]
fn a_request_for_another_name_is_misdirected() {
    let narrow = chain("narrow", "", &socket(&["a", "wildcard"], "", ""))
        .replace(r#"domains: ["*"]"#, "domains: [a.example]")
        .replace("match: {prefix: /}", "match: {path: /}");
    let (_running, at) = start(&[narrow]);
    for (host, path, status) in [
        ("a.example", "/", "200"),
        // Of another name than the connection, and served here all the same.
        ("A.example", "/", "200"),
        ("b.example", "/", "421"),
        // The right place, and nothing there.
        ("a.example", "/x", "404"),
    ] {
        let mut stream = Client::default().connect(at, "a.example").unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{host}{path}: {answer}");
    }
}

#[test]
fn bare_connections_and_protocols_have_chains_of_their_own() {
    let (_running, at) = start(&[
        chain("bare", "transport_protocol: raw_buffer", ""),
        chain("tls", "transport_protocol: tls", &socket(&["a"], "", "")),
        chain(
            "h2",
            "transport_protocol: tls, application_protocols: [h2]",
            &socket(&["a"], "alpn_protocols: [h2],", ""),
        ),
    ]);
    assert!(plain(at).ends_with("\r\n\r\nbare"));
    assert!(
        Client::default()
            .get(at, "a.example")
            .unwrap()
            .ends_with("\r\n\r\ntls")
    );
    let h2 = Client {
        alpn: &["h2", "http/1.1"],
        ..Client::default()
    };
    let stream = h2.connect(at, "a.example").unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn protocols_are_negotiated() {
    let tls = socket(&["a"], "alpn_protocols: [h2, http/1.1],", "");
    let (_running, at) = start(&[chain("main", "", &tls)]);
    for (offered, chosen) in [
        (&["http/1.1"][..], Some(&b"http/1.1"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        // As in Envoy, the connection goes on without.
        (&["spdy"], None),
        (&[], None),
    ] {
        let client = Client {
            alpn: offered,
            ..Client::default()
        };
        let stream = client.connect(at, "a.example").unwrap();
        assert_eq!(stream.conn.alpn_protocol(), chosen, "{offered:?}");
    }
}

#[test]
fn among_certificates_the_name_decides() {
    let (_running, at) = start(&[chain("main", "", &socket(&["a", "wildcard"], "", ""))]);
    let client = Client::default();
    client.get(at, "a.example").unwrap();
    client.get(at, "x.b.example").unwrap();
}

#[test]
fn clients_show_certificates() {
    let validation = format!(
        "validation_context: {{trusted_ca: {{filename: {}}}}},",
        file("ca.pem")
    );
    let required = socket(&["a"], &validation, "require_client_certificate: true,");
    let (_running, at) = start(&[
        chain("required", "server_names: [a.example]", &required),
        chain("asked", "", &socket(&["wildcard"], &validation, "")),
    ]);
    let with = Client {
        certificate: true,
        ..Client::default()
    };
    let answer = with.get(at, "a.example").unwrap();
    assert!(answer.ends_with("\r\n\r\nrequired"), "{answer}");
    assert!(answer.contains("cert=\r\n"), "{answer}");
    Client::default().get(at, "a.example").unwrap_err();
    assert!(with.get(at, "x.b.example").unwrap().ends_with("asked"));
    assert!(
        Client::default()
            .get(at, "x.b.example")
            .unwrap()
            .ends_with("asked")
    );
}

/// Names say which of an authority's clients may come in; one without a certificate has none.
#[test]
fn clients_bear_names() {
    let named = |name: &str| {
        let validation = format!(
            "validation_context: {{trusted_ca: {{filename: {}}}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{{name}}}}}]}},",
            file("ca.pem")
        );
        socket(&["a"], &validation, "")
    };
    let with = Client {
        certificate: true,
        ..Client::default()
    };
    for (name, expected) in [
        ("exact: client.example", true),
        ("suffix: .example", true),
        ("safe_regex: {regex: 'client[.].*'}", true),
        ("exact: other.example", false),
        ("prefix: other", false),
    ] {
        let (_running, at) = start(&[chain("main", "", &named(name))]);
        for tls12 in [false, true] {
            let with = Client { tls12, ..with };
            assert_eq!(with.get(at, "a.example").is_ok(), expected, "{name}");
            let without = Client {
                tls12,
                ..Client::default()
            };
            without.get(at, "a.example").unwrap_err();
        }
    }
}

/// As Envoy 1.40 writes it for the same certificate.
#[test]
fn the_certificate_of_a_client_is_told() {
    const DIGEST: &str = "2d7f686aded03acbf98324f2918803df7782a764342e4d6ec4d39bd1b37b1aa9";
    let validation = format!(
        "validation_context: {{trusted_ca: {{filename: {}}}}},",
        file("ca.pem")
    );
    let tls = socket(&["a"], &validation, "");
    let details = "{subject: true, dns: true, uri: true}";
    for (mode, expected) in [("SANITIZE_SET", ""), ("APPEND_FORWARD", "By=me,")] {
        let fields = format!(
            "stat_prefix: main\n          forward_client_cert_details: {mode}\n          set_current_client_cert_details: {details}"
        );
        let chain = chain("main", "", &tls).replace("stat_prefix: main", &fields);
        let (_running, at) = start(&[chain]);
        let with = Client {
            certificate: true,
            ..Client::default()
        };
        let answer = with.get(at, "a.example").unwrap();
        let told = format!(
            "cert={expected}Hash={DIGEST};Subject=\"CN=client.example\";URI=;DNS=client.example\r\n"
        );
        assert!(answer.contains(&told), "{mode}: {answer}");
        // Whoever shows none has no word in it.
        let answer = Client::default().get(at, "a.example").unwrap();
        assert!(answer.contains("cert=\r\n"), "{answer}");
    }
}

#[test]
fn versions() {
    let only13 = "tls_params: {tls_minimum_protocol_version: TLSv1_3},";
    let (_running, at) = start(&[
        chain(
            "new",
            "server_names: [a.example]",
            &socket(&["a"], only13, ""),
        ),
        chain("any", "", &socket(&["wildcard"], "", "")),
    ]);
    let old = Client {
        tls12: true,
        ..Client::default()
    };
    old.get(at, "a.example").unwrap_err();
    assert!(old.get(at, "x.b.example").unwrap().ends_with("any"));
    assert!(
        Client::default()
            .get(at, "a.example")
            .unwrap()
            .ends_with("new")
    );
}

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
    let port = upstream.local_addr().unwrap().port();
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
    let rest = format!(
        "  clusters:
  - name: upstream
    type: STATIC
    load_assignment:
      cluster_name: upstream
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}"
    );
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
    let begun = Instant::now();
    while !active().ends_with(": 0") {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the connection is kept"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_renewed_certificate_serves_new_connections() {
    let (running, at) = start(&[chain("old", "", &socket(&["a"], "", ""))]);
    let client = Client::default();
    let mut open = client.connect(at, "a.example").unwrap();
    let renewed = format!(
        "static_resources:\n  listeners:\n  - name: main\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    filter_chains:{}",
        chain("new", "", &socket(&["wildcard"], "", ""))
    );
    let renewed = config::parse_envoy("test.yaml", &renewed).unwrap();
    let files: Vec<_> = renewed
        .files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(files, [file("wildcard.pem"), file("wildcard.key")]);
    running.update(renewed).unwrap();
    assert!(client.get(at, "x.b.example").unwrap().ends_with("new"));
    client.get(at, "a.example").unwrap_err();
    // The open connection keeps its TLS, and takes the new routes.
    open.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nnew"), "{answer}");
}

/// A listener with these chains, in place of the one that runs.
fn replace(running: &Running, chains: &[String]) {
    let text = format!(
        "static_resources:\n  listeners:\n  - name: main\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    filter_chains:{}",
        chains.concat()
    );
    running
        .update(config::parse_envoy("test.yaml", &text).unwrap())
        .unwrap();
}

#[test]
fn connections_that_met_other_requirements_end() {
    let validation = |ca: &str| {
        format!(
            "validation_context: {{trusted_ca: {{filename: {}}}}},",
            file(ca)
        )
    };
    let bare = socket(&["a"], "", "");
    let required = |ca| socket(&["a"], &validation(ca), "require_client_certificate: true,");
    let wanted = socket(&["a"], &validation("ca.pem"), "");
    let kept = chain(
        "kept",
        "server_names: [x.b.example]",
        &socket(&["wildcard"], "", ""),
    );
    let (with, without) = (
        Client {
            certificate: true,
            ..Client::default()
        },
        Client::default(),
    );
    for (name, before, after, client) in [
        (
            "a certificate is required",
            vec![chain("old", "", &wanted)],
            vec![chain("new", "", &required("ca.pem"))],
            &without,
        ),
        (
            "another authority is trusted",
            vec![chain("old", "", &required("ca.pem"))],
            vec![chain("new", "", &required("a.pem"))],
            &with,
        ),
        (
            "a chain of its own asks for one",
            vec![chain("old", "", &bare)],
            vec![
                chain("old", "", &bare),
                chain("new", "server_names: [a.example]", &required("ca.pem")),
            ],
            &without,
        ),
        (
            "the chain is gone",
            vec![chain("old", "server_names: [a.example]", &bare)],
            vec![chain("new", "server_names: [c.example]", &bare)],
            &without,
        ),
    ] {
        let also = |chains: Vec<String>| [chains, vec![kept.clone()]].concat();
        let (running, at) = start(&also(before));
        let mut old = client.connect(at, "a.example").unwrap();
        let mut other = without.connect(at, "x.b.example").unwrap();
        replace(&running, &also(after));
        // It is told to be the last, or is closed at once; and it never sees the new routes.
        let mut answer = String::new();
        let _ = old.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
        let _ = old.read_to_string(&mut answer);
        assert!(!answer.contains("new"), "{name}: {answer}");
        assert!(
            answer.is_empty() || answer.contains("connection: close"),
            "{name}: {answer}"
        );
        for _ in 0..2 {
            other
                .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
                .unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"kept") {
                let mut piece = [0; 512];
                let read = other.read(&mut piece).unwrap();
                assert!(read > 0, "{name}: the other connection ended");
                got.extend_from_slice(&piece[..read]);
            }
        }
    }
}

/// Reads frames up to one of this type (RFC 9113 section 4.1).
fn read_until(stream: &mut impl Read, kind: u8) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let [a, b, c, found, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).unwrap();
        if found == kind {
            return;
        }
    }
}

#[test]
fn http2_connections_that_met_other_requirements_drain() {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let common = "alpn_protocols: [h2],";
    let validation = format!(
        "{common} validation_context: {{trusted_ca: {{filename: {}}}}},",
        file("ca.pem")
    );
    let required = socket(&["a"], &validation, "require_client_certificate: true,");
    let (running, at) = start(&[chain("old", "", &socket(&["a"], common, ""))]);
    let client = Client {
        alpn: &["h2"],
        ..Client::default()
    };
    let mut old = client.connect(at, "a.example").unwrap();
    old.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    old.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).unwrap();
    read_until(&mut old, SETTINGS);
    replace(&running, &[chain("new", "", &required)]);
    read_until(&mut old, GOAWAY);
}

#[test]
fn what_cannot_be_used_is_refused() {
    let tls = socket(&["a"], "", "").replace("a.key", "client.key");
    let text = format!(
        "static_resources:\n  listeners:\n  - name: main\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    filter_chains:{}",
        chain("main", "", &tls)
    );
    let error = config::parse_envoy("test.yaml", &text).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("tls_certificates[0].private_key: ") && error.contains("KeyMismatch"),
        "{error}"
    );
}
