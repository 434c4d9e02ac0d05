//! Filter chains, protocols and certificates that fit what a client says in its hello.

use std::io::{Read, Write};

use gateway_config as config;

use crate::{Client, chain, listener, plain, socket, start};

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
fn what_cannot_be_used_is_refused() {
    let tls = socket(&["a"], "", "").replace("a.key", "client.key");
    let text = listener(&[chain("main", "", &tls)]);
    let error = config::parse_envoy("test.yaml", &text).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("tls_certificates[0].private_key: ") && error.contains("KeyMismatch"),
        "{error}"
    );
}
