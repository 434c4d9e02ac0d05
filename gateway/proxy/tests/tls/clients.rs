//! Certificates of clients: whether one has to be shown, whose, and what is told of it.

use crate::{Client, chain, file, socket, start};

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
