//! Configurations that change while clients are connected.

use std::io::{Read, Write};

use gateway_config as config;
use gateway_proxy::Running;

use crate::{Client, chain, file, listener, socket, start};

#[test]
fn a_renewed_certificate_serves_new_connections() {
    let (running, at) = start(&[chain("old", "", &socket(&["a"], "", ""))]);
    let client = Client::default();
    let mut open = client.connect(at, "a.example").unwrap();
    let renewed = listener(&[chain("new", "", &socket(&["wildcard"], "", ""))]);
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
    let text = listener(chains);
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
