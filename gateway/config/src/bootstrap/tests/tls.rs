//! TLS settings: what cannot be used is refused with its place, before anything is served.

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};

use super::bad::BASE;
use crate::{
    parse_envoy,
    snapshot::{Cluster, Discovery, Snapshot, SubjectAltName, UpstreamProtocol},
};

const CLUSTER: &str = "static_resources.clusters[0].transport_socket.typed_config";
const CONTEXT: &str = "common_tls_context.validation_context";
const PAIR: &str = "common_tls_context.tls_certificates[0]";

fn file(name: &str) -> String {
    format!(
        "{{filename: {}/../tests/tls/{name}}}",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn pair(chain: &str, key: &str) -> String {
    let (chain, key) = (file(chain), file(key));
    format!(
        "common_tls_context: {{tls_certificates: [{{certificate_chain: {chain}, private_key: {key}}}]}}"
    )
}

fn context(fields: &str) -> String {
    format!("common_tls_context: {{validation_context: {{{fields}}}}}")
}

fn trusted(fields: &str) -> String {
    context(&format!("trusted_ca: {}, {fields}", file("ca.pem")))
}

fn socket(kind: &str, fields: &str) -> String {
    format!(
        "transport_socket: {{name: t, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}, {fields}}}}}"
    )
}

/// The small file with these settings of its cluster's TLS, and these other ones of the cluster.
fn upstream(fields: &str, others: &str) -> Result<Snapshot, String> {
    let socket = socket("UpstreamTlsContext", fields);
    let text = BASE.replace(
        "    type: STATIC\n",
        &format!("    type: STATIC\n    {socket}\n{others}"),
    );
    parse_envoy("envoy.yaml", &text).map_err(|error| error.to_string())
}

fn cluster(snapshot: &Snapshot) -> &Cluster {
    &snapshot.clusters["upstream"]
}

#[test]
fn what_cannot_be_used_has_its_place() {
    const TYPED: &str = "match_typed_subject_alt_names";
    let garbage = "inline_string: hello";
    let key = file("a.key");
    for (fields, place, expected) in [
        ("sni: '*.x'".to_owned(), "sni", "\"*.x\" is no server name"),
        ("sni: a..b".to_owned(), "sni", "\"a..b\" is no server name"),
        (
            context(&format!("trusted_ca: {{{garbage}}}")),
            &*format!("{CONTEXT}.trusted_ca"),
            "holds no certificate",
        ),
        (
            pair("a.pem", "client.key"),
            &*format!("{PAIR}.private_key"),
            "",
        ),
        (pair("a.pem", "a.pem"), &*format!("{PAIR}.private_key"), ""),
        (
            pair("a.key", "a.key"),
            &*format!("{PAIR}.certificate_chain"),
            "holds no certificate",
        ),
        (
            context(&format!(
                "{TYPED}: [{{san_type: DNS, matcher: {{exact: a}}}}]"
            )),
            &*format!("{CONTEXT}.{TYPED}[0].matcher"),
            "a name can only be verified with a trusted_ca",
        ),
        (
            context(&format!(
                "trust_chain_verification: ACCEPT_UNTRUSTED, {TYPED}: [{{san_type: DNS, matcher: {{exact: a}}}}]"
            )),
            &*format!("{CONTEXT}.{TYPED}[0].matcher"),
            "a name can only be verified with a trusted_ca",
        ),
        (
            context("match_subject_alt_names: [{exact: a}]"),
            &*format!("{CONTEXT}.match_subject_alt_names[0]"),
            "a name can only be verified with a trusted_ca",
        ),
        (
            trusted(&format!(
                "{TYPED}: [{{san_type: DNS, matcher: {{exact: 'spiffe://a/b'}}}}]"
            )),
            &*format!("{CONTEXT}.{TYPED}[0].matcher"),
            "\"spiffe://a/b\" is no DNS name",
        ),
        (
            trusted(&format!(
                "{TYPED}: [{{san_type: IP_ADDRESS, matcher: {{exact: a}}}}]"
            )),
            &*format!("{CONTEXT}.{TYPED}[0].matcher"),
            "\"a\" is no IP address",
        ),
        (
            trusted(&format!("{TYPED}: [{{matcher: {{exact: a}}}}]")),
            &*format!("{CONTEXT}.{TYPED}[0]"),
            "missing field \"san_type\"",
        ),
        (
            "auto_sni_san_validation: true".to_owned(),
            "auto_sni_san_validation",
            "needs a validation_context",
        ),
    ] {
        let error = upstream(&fields, "").unwrap_err();
        let expected = format!(": {CLUSTER}.{place}: {expected}");
        assert!(error.contains(&expected), "{error}\n  expected {expected}");
    }
    // Towards clients, too.
    let fields = format!(
        "common_tls_context: {{tls_certificates: [{{certificate_chain: {}, private_key: {key}}}]}}",
        file("client.pem")
    );
    let chain = socket("DownstreamTlsContext", &fields);
    let text = BASE.replace("    - filters:", &format!("    - {chain}\n      filters:"));
    let error = parse_envoy("envoy.yaml", &text).unwrap_err().to_string();
    let place = format!("filter_chains[0].transport_socket.typed_config.{PAIR}.private_key: ");
    assert!(error.contains(&place), "{error}");
}

#[test]
fn names_that_certificates_may_bear() {
    let fields = trusted(
        "match_subject_alt_names: [{exact: a.example}, {exact: 10.0.0.1}, {exact: 'spiffe://a/b'}], \
         match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: a.example}}]",
    );
    let server =
        |name: &str| SubjectAltName::Server(ServerName::try_from(name.to_owned()).unwrap());
    let snapshot = upstream(&format!("sni: '', {fields}"), "").unwrap();
    let tls = cluster(&snapshot).tls.as_ref().unwrap();
    assert_eq!((&tls.sni, tls.endpoint_name), (&None, false));
    assert_eq!(
        tls.subject_alt_names,
        [
            server("a.example"),
            server("10.0.0.1"),
            SubjectAltName::Uri("spiffe://a/b".into()),
            SubjectAltName::Uri("a.example".into()),
        ]
    );
    let snapshot = upstream(&format!("auto_sni_san_validation: true, {fields}"), "").unwrap();
    let tls = cluster(&snapshot).tls.as_ref().unwrap();
    assert!(tls.subject_alt_names.is_empty() && tls.trusted_ca.is_some());
}

#[test]
fn names_of_some_form() {
    let bears = |matcher: &str, kind: &str, certificate: &str| {
        let fields = trusted(&format!(
            "match_typed_subject_alt_names: [{{san_type: {kind}, matcher: {{{matcher}}}}}]"
        ));
        let snapshot = upstream(&format!("sni: a, {fields}"), "").unwrap();
        let names = &cluster(&snapshot).tls.as_ref().unwrap().subject_alt_names;
        let path = format!("{}/../tests/tls/{certificate}", env!("CARGO_MANIFEST_DIR"));
        let shown = CertificateDer::from_pem_file(path).unwrap();
        assert_eq!(names.len(), 1);
        names[0].is_borne_by(&shown)
    };
    for (matcher, kind, certificate, expected) in [
        ("prefix: 'spiffe://a.example/'", "URI", "spiffe.pem", true),
        ("prefix: 'spiffe://b.example/'", "URI", "spiffe.pem", false),
        ("suffix: /processor", "URI", "spiffe.pem", true),
        ("contains: example", "URI", "spiffe.pem", true),
        ("contains: example", "DNS", "spiffe.pem", false),
        (
            "safe_regex: {regex: 'spiffe://[a-z.]+/.*'}",
            "URI",
            "spiffe.pem",
            true,
        ),
        // The whole of it has to match.
        ("safe_regex: {regex: 'spiffe:'}", "URI", "spiffe.pem", false),
        (
            "exact: 'SPIFFE://a.example/processor', ignore_case: true",
            "URI",
            "spiffe.pem",
            true,
        ),
        (
            "exact: 'SPIFFE://a.example/processor'",
            "URI",
            "spiffe.pem",
            false,
        ),
        ("suffix: .example", "DNS", "a.pem", true),
        ("suffix: .example", "URI", "a.pem", false),
        ("prefix: b", "DNS", "a.pem", false),
    ] {
        assert_eq!(
            bears(matcher, kind, certificate),
            expected,
            "{kind} {matcher}"
        );
    }
    for (matcher, kind, expected) in [
        (
            "prefix: '10.'",
            "IP_ADDRESS",
            "only exact IP addresses are supported",
        ),
        (
            "prefix: a, suffix: b",
            "URI",
            "one and only one form has to be set",
        ),
        (
            "ignore_case: true",
            "URI",
            "one and only one form has to be set",
        ),
    ] {
        let fields = trusted(&format!(
            "match_typed_subject_alt_names: [{{san_type: {kind}, matcher: {{{matcher}}}}}]"
        ));
        let error = upstream(&format!("sni: a, {fields}"), "").unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// A message whose presence counts: nothing is trusted just because it is empty.
#[test]
fn roots_of_the_system() {
    let fields = format!("sni: a, {}", context("system_root_certs: {}"));
    match upstream(&fields, "") {
        Ok(snapshot) => assert!(
            cluster(&snapshot)
                .tls
                .as_ref()
                .unwrap()
                .trusted_ca
                .is_some()
        ),
        Err(error) => assert!(error.to_string().contains("trusted roots"), "{error}"),
    }
}

#[test]
fn the_endpoints_name_may_be_asked_for() {
    const OPTIONS: &str = "    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, upstream_http_protocol_options: {auto_sni: true}}}\n";
    const OLD: &str = "    upstream_http_protocol_options: {auto_sni: true}\n";
    const OFF: &str = "    upstream_http_protocol_options: {auto_sni: false}\n";
    for (fields, others, asked_for, warnings) in [
        ("sni: a", "", false, 0),
        ("auto_host_sni: true, sni: a", "", true, 0),
        ("", OPTIONS, true, 1),
        ("", OLD, true, 1),
        ("sni: a", OLD, false, 1),
        ("", OFF, false, 0),
    ] {
        let snapshot = upstream(fields, others).unwrap();
        let tls = cluster(&snapshot).tls.as_ref().unwrap();
        assert_eq!(tls.endpoint_name, asked_for, "{fields} {others}");
        assert_eq!(snapshot.warnings.len(), warnings, "{:?}", snapshot.warnings);
    }
}

/// The small file with these secrets, and these settings of its cluster.
fn with_secrets(secrets: &str, fields: &str, others: &str) -> Result<Snapshot, String> {
    let socket = socket("UpstreamTlsContext", fields);
    let text = BASE
        .replace(
            "    type: STATIC\n",
            &format!("    type: STATIC\n    {socket}\n{others}"),
        )
        .replace(
            "static_resources:\n",
            &format!("static_resources:\n  secrets: [{secrets}]\n"),
        );
    parse_envoy("envoy.yaml", &text).map_err(|error| error.to_string())
}

#[test]
fn secrets_stand_for_what_they_hold() {
    let (chain, key, ca) = (file("client.pem"), file("client.key"), file("ca.pem"));
    let us =
        format!("{{name: a, tls_certificate: {{certificate_chain: {chain}, private_key: {key}}}}}");
    let names = "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a.example}}]";
    let more = "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: b.example}}]";
    // The same name, another kind.
    let authority = format!("{{name: a, validation_context: {{trusted_ca: {ca}, {names}}}}}");
    let both = format!("{us}, {authority}");
    let fields = format!(
        "common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: a}}], combined_validation_context: {{default_validation_context: {{{more}}}, validation_context_sds_secret_config: {{name: a}}}}}}"
    );
    let snapshot = with_secrets(&both, &fields, "").unwrap();
    let tls = cluster(&snapshot).tls.as_ref().unwrap();
    assert!(tls.identity.is_some() && tls.trusted_ca.is_some());
    let server =
        |name: &str| SubjectAltName::Server(ServerName::try_from(name.to_owned()).unwrap());
    assert_eq!(
        tls.subject_alt_names,
        [server("b.example"), server("a.example")]
    );
    for (secrets, fields, expected) in [
        (
            &*us,
            "validation_context_sds_secret_config: {name: a}",
            "validation_context_sds_secret_config: no secret of static_resources with a validation_context is named \"a\"",
        ),
        (
            &authority,
            "tls_certificate_sds_secret_configs: [{name: a}]",
            "tls_certificate_sds_secret_configs[0]: no secret of static_resources with a tls_certificate is named \"a\"",
        ),
        (
            &authority,
            "validation_context_sds_secret_config: {name: a, sds_config: {ads: {}}}",
            "sds_config: discovery services (xDS) are not supported",
        ),
        (
            &authority,
            "validation_context_sds_secret_config: {name: a}, validation_context: {}",
            "only one of validation_context",
        ),
        (
            &authority,
            "combined_validation_context: {default_validation_context: {}}",
            "default_validation_context and validation_context_sds_secret_config have to be set",
        ),
        (&format!("{us}, {us}"), "", "is named \"a\", too"),
        ("{name: a}", "", "one and only one of tls_certificate"),
        (
            "{name: a, session_ticket_keys: {}}",
            "",
            "session_ticket_keys: not supported",
        ),
    ] {
        let fields = format!("common_tls_context: {{{fields}}}");
        let error = with_secrets(secrets, &fields, "").unwrap_err();
        assert!(error.contains(expected), "{error}\n  expected {expected}");
    }
}

#[test]
fn a_protocol_is_agreed_on_where_there_is_tls() {
    const AUTO: &str = "    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, auto_config: {}}}\n";
    const RAW: &str = "    transport_socket_matches: [{name: a, match: {}, transport_socket: {name: a, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}]\n";
    let snapshot = upstream("sni: a", AUTO).unwrap();
    assert_eq!(cluster(&snapshot).protocol, UpstreamProtocol::Auto);
    let without = BASE.replace("    type: STATIC\n", &format!("    type: STATIC\n{AUTO}"));
    for error in [
        upstream("sni: a", &format!("{AUTO}{RAW}")).unwrap_err(),
        parse_envoy("envoy.yaml", &without).unwrap_err().to_string(),
    ] {
        assert!(error.contains("auto_config needs TLS"), "{error}");
    }
}

/// A socket that cannot be read is none that could be guessed: a bare connection least of all.
#[test]
fn a_socket_without_a_type_is_refused() {
    const TYPED: &str = "missing field \"typed_config\"";
    for (fields, place, expected) in [
        (
            "transport_socket: {name: envoy.transport_sockets.tls}",
            "transport_socket",
            TYPED,
        ),
        (
            "transport_socket: {name: envoy.transport_sockets.raw_buffer}",
            "transport_socket",
            TYPED,
        ),
        (
            "transport_socket_matches: [{name: a, match: {}, transport_socket: {name: envoy.transport_sockets.tls}}]",
            "transport_socket_matches[0].transport_socket",
            TYPED,
        ),
        (
            "transport_socket_matches: [{name: a, match: {}}]",
            "transport_socket_matches[0]",
            "missing field \"transport_socket\"",
        ),
    ] {
        let text = BASE.replace(
            "    type: STATIC\n",
            &format!("    type: STATIC\n    {fields}\n"),
        );
        let error = parse_envoy("envoy.yaml", &text).unwrap_err().to_string();
        let expected = format!(": static_resources.clusters[0].{place}: {expected}");
        assert!(error.contains(&expected), "{error}\n  expected {expected}");
    }
    for (from, to, place) in [
        (
            "    - filters:",
            "    - transport_socket: {name: envoy.transport_sockets.tls}\n      filters:",
            "filter_chains[0].transport_socket",
        ),
        (
            "    filter_chains:",
            "    listener_filters: [{name: envoy.filters.listener.proxy_protocol}]\n    filter_chains:",
            "listener_filters[0]",
        ),
    ] {
        let error = parse_envoy("envoy.yaml", &BASE.replace(from, to)).unwrap_err();
        let (error, expected) = (error.to_string(), format!(".{place}: {TYPED}"));
        assert!(error.contains(&expected), "{error}\n  expected {expected}");
    }
}

/// Sockets of a cluster: with TLS for `tls: yes`, bare for `tls: no`, and with these more.
fn matches(more: &str) -> String {
    format!(
        "    transport_socket_matches: [\
         {{name: a, match: {{tls: 'yes'}}, transport_socket: {{name: t, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: a}}}}}}, \
         {{name: b, match: {{tls: 'no'}}, transport_socket: {{name: t, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}}}{more}]\n"
    )
}

const EMPTY: &str = ", {name: c, match: {}, transport_socket: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: c}}}";

#[test]
fn metadata_of_an_endpoint_choose_its_socket_before_those_of_its_locality() {
    for (own, locality, more, expected) in [
        ("{tls: 'no'}", "{tls: 'yes'}", "", Some(1)),
        ("{tls: 'yes'}", "{tls: 'no'}", "", Some(0)),
        ("{other: 1}", "{tls: 'no'}", "", Some(1)),
        ("{}", "{tls: 'yes'}", "", Some(0)),
        ("{}", "{}", "", None),
        // It fits every endpoint, so that none of their localities is looked at.
        ("{}", "{tls: 'no'}", EMPTY, Some(2)),
        ("{tls: 'no'}", "{tls: 'yes'}", EMPTY, Some(1)),
    ] {
        let metadata = |of: &str| {
            format!("metadata: {{filter_metadata: {{envoy.transport_socket_match: {of}}}}}")
        };
        let endpoints = format!(
            "      cluster_name: upstream\n      endpoints: [{{{}, lb_endpoints: [{{{}, endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}}}]}}]\n",
            metadata(locality),
            metadata(own)
        );
        let text = BASE
            .replace("      cluster_name: upstream\n", &endpoints)
            .replace(
                "    type: STATIC\n",
                &format!("    type: STATIC\n{}", matches(more)),
            );
        let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
        let Discovery::Static(endpoints) = &cluster(&snapshot).discovery else {
            panic!("{:?}", cluster(&snapshot).discovery);
        };
        assert_eq!(endpoints[0].socket, expected, "{own} in {locality}{more}");
    }
}

#[test]
fn endpoints_without_metadata_have_the_socket_that_asks_for_none() {
    let build = |more: &str| {
        let text = BASE.replace(
            "    type: STATIC\n    load_assignment:\n      cluster_name: upstream\n",
            &format!(
                "    type: ORIGINAL_DST\n    lb_policy: CLUSTER_PROVIDED\n{}",
                matches(more)
            ),
        );
        let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
        cluster(&snapshot).tls.clone()
    };
    assert!(build("").is_none());
    let sni = build(EMPTY).and_then(|tls| tls.sni);
    assert_eq!(sni, Some(ServerName::try_from("c").unwrap()));
}
