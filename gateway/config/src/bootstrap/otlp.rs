//! A collector of traces that no file names: `--otlp-endpoint`, and the variables of the OpenTelemetry specification.

use std::sync::Arc;

use http::{Uri, uri::Scheme};
use serde_json::json;

use super::parse;
use crate::{
    Error,
    snapshot::{Snapshot, Template, TraceExporter, TraceProtocol, TraceProvider, Tracing},
};

/// The cluster that the collector becomes.
const CLUSTER: &str = "otlp";

/// Address of OTLP/gRPC by convention.
const GRPC_PORT: u16 = 4317;

/// The path of OTLP/HTTP below an endpoint.
const PATH: &str = "/v1/traces";

/// Certificates of the system, where no others are named.
const SYSTEM_CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// The one that named it, for errors.
    source: &'static str,
    uri: Uri,
    protocol: TraceProtocol,
    certificate: Option<String>,
}

impl Otlp {
    /// The collector that the flag names, or else the environment; `None` if neither does, or the environment turns traces off.
    ///
    /// # Errors
    /// The text is no URL, or names a protocol that is not supported.
    pub fn from_environment(
        flag: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Error> {
        const DISABLED: &str = "OTEL_SDK_DISABLED";
        const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
        const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is = |name: &str, value: &str| {
            variable(name).is_some_and(|given| given.eq_ignore_ascii_case(value))
        };
        if is(DISABLED, "true") || is(EXPORTER, "none") {
            return Ok(None);
        }
        // As the specification has it, the path of an endpoint of traces alone is complete.
        let (source, given, complete) = match (flag, variable(OWN), variable(BASE)) {
            (Some(flag), ..) => ("--otlp-endpoint", flag.to_owned(), false),
            (None, Some(own), _) => (OWN, own, true),
            (None, None, Some(base)) => (BASE, base, false),
            (None, None, None) => return Ok(None),
        };
        let bad = |what: String| Error::whole(source, format!("{given:?}: {what}"));
        let uri: Uri = given.parse().map_err(|error| bad(format!("{error}")))?;
        let is_http = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
        if !uri.scheme().is_some_and(is_http) || uri.host().is_none_or(str::is_empty) {
            return Err(bad("expected http://HOST:PORT or https://HOST:PORT".into()));
        }
        let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        let protocol = match protocol.as_deref() {
            None if uri.port_u16() == Some(GRPC_PORT) => TraceProtocol::Grpc,
            None | Some("http/protobuf") => TraceProtocol::Http,
            Some("grpc") => TraceProtocol::Grpc,
            Some(other) => {
                return Err(Error::whole(
                    "OTEL_EXPORTER_OTLP_PROTOCOL",
                    format!("{other:?} is not supported: expected grpc or http/protobuf"),
                ));
            }
        };
        let uri = match protocol {
            TraceProtocol::Http if !complete => below(&uri).map_err(|e| bad(e.to_string()))?,
            _ => uri,
        };
        Ok(Some(Self {
            source,
            uri,
            protocol,
            certificate: variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE")
                .or_else(|| variable("OTEL_EXPORTER_OTLP_CERTIFICATE")),
        }))
    }

    /// Has everything traced that the configuration does not trace elsewhere.
    ///
    /// # Errors
    /// The configuration has a cluster of the name that the collector's gets, or its certificates cannot be read.
    pub fn add_to(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        let bad = |what: String| Error::whole(self.source, what);
        if snapshot.clusters.contains_key(CLUSTER) {
            return Err(bad(format!(
                "the configuration has a cluster {CLUSTER:?} already: say `tracing` in its connection managers"
            )));
        }
        let tls = self.uri.scheme() == Some(&Scheme::HTTPS);
        let host = self.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        let mut cluster = json!({
            "name": CLUSTER,
            "type": match host.parse::<std::net::IpAddr>() {
                Ok(_) => "STATIC",
                Err(_) => "STRICT_DNS",
            },
            "dns_lookup_family": "V4_PREFERRED",
            "load_assignment": {
                "cluster_name": CLUSTER,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": {
                    "address": host,
                    "port_value": port,
                } } } }] }],
            },
            "typed_extension_protocol_options": { OPTIONS: {
                "@type": format!("type.googleapis.com/{OPTIONS}"),
                "explicit_http_config": match self.protocol {
                    TraceProtocol::Grpc => json!({ "http2_protocol_options": {} }),
                    TraceProtocol::Http => json!({ "http_protocol_options": {} }),
                },
            } },
        });
        if tls {
            let file = match &self.certificate {
                Some(file) => file.as_str(),
                None => SYSTEM_CERTIFICATES
                    .iter()
                    .copied()
                    .find(|file| std::path::Path::new(file).exists())
                    .ok_or_else(|| {
                        bad("no certificates of the system were found: name a file in OTEL_EXPORTER_OTLP_CERTIFICATE".into())
                    })?,
            };
            cluster["transport_socket"] = json!({
                "name": "tls",
                "typed_config": {
                    "@type": format!("type.googleapis.com/{TLS}"),
                    "sni": host,
                    "common_tls_context": { "validation_context": {
                        "trusted_ca": { "filename": file },
                        "match_typed_subject_alt_names": [{
                            "san_type": match host.parse::<std::net::IpAddr>() {
                                Ok(_) => "IP_ADDRESS",
                                Err(_) => "DNS",
                            },
                            "matcher": { "exact": host },
                        }],
                    } },
                },
            });
        }
        let bootstrap = json!({ "static_resources": { "clusters": [cluster] } });
        let parsed = parse(self.source, &bootstrap.to_string())?;
        snapshot.clusters.extend(parsed.clusters);
        snapshot.files.extend(parsed.files);
        let provider = Arc::new(TraceProvider {
            exporter: TraceExporter {
                cluster: CLUSTER.to_owned(),
                protocol: self.protocol,
                uri: self.uri.clone(),
                headers: Vec::new(),
                headers_from_environment: true,
                timeout: None,
            },
            service_name: String::new(),
            resource: Vec::new(),
            resource_from_environment: true,
            sampler: None,
            max_cache_size: None,
        });
        let tracing = Arc::new(Tracing {
            // As the specification has it for spans of HTTP.
            operation: Template::parse("%REQ(:METHOD)%").ok(),
            by_request_id: false,
            ..Tracing::new(provider)
        });
        snapshot.trace_where_nothing_is(&tracing);
        Ok(())
    }
}

/// The URL of traces below an endpoint.
fn below(endpoint: &Uri) -> Result<Uri, http::Error> {
    let path = endpoint.path().trim_end_matches('/');
    let mut parts = endpoint.clone().into_parts();
    parts.path_and_query = Some(format!("{path}{PATH}").parse()?);
    Ok(Uri::from_parts(parts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn otlp(flag: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<Otlp>, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Otlp::from_environment(flag, variable).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_and_the_flag() {
        use TraceProtocol::{Grpc, Http};
        const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
        assert_eq!(otlp(None, &[]), Ok(None));
        assert_eq!(otlp(None, &[(BASE, "")]), Ok(None));
        let off = [(BASE, "http://a:4318"), ("OTEL_SDK_DISABLED", "true")];
        assert_eq!(otlp(None, &off), Ok(None));
        assert_eq!(
            otlp(Some("http://a:1"), &[("OTEL_TRACES_EXPORTER", "none")]),
            Ok(None)
        );
        for (flag, variables, uri, protocol) in [
            (
                None,
                &[(BASE, "http://a:4318")][..],
                "http://a:4318/v1/traces",
                Http,
            ),
            (None, &[(BASE, "http://a/x/")], "http://a/x/v1/traces", Http),
            (
                None,
                &[(BASE, "http://b"), (OWN, "http://a/x")],
                "http://a/x",
                Http,
            ),
            (None, &[(BASE, "http://a:4317")], "http://a:4317", Grpc),
            (
                Some("http://a:1"),
                &[(BASE, "http://b"), (PROTOCOL, "grpc")],
                "http://a:1",
                Grpc,
            ),
        ] {
            let found = otlp(flag, variables).unwrap().unwrap();
            assert_eq!(found.uri, uri.parse::<Uri>().unwrap());
            assert_eq!(found.protocol, protocol, "{uri}");
        }
    }

    #[test]
    fn what_is_no_collector() {
        for (flag, variables, expected) in [
            ("localhost:4317", &[][..], "--otlp-endpoint: "),
            ("ftp://a", &[], "expected http://HOST:PORT"),
            (
                "http://a",
                &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
                "expected grpc or http/protobuf",
            ),
        ] {
            let error = otlp(Some(flag), variables).unwrap_err();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn everything_is_traced_that_was_not() {
        let flags = super::super::Flags {
            listen: Some("127.0.0.1:0"),
            upstream: Some("http://127.0.0.1:1"),
            ext_proc: Some("http://127.0.0.1:2"),
            ..Default::default()
        };
        let mut snapshot = super::super::from_flags(&flags).unwrap();
        let otlp = otlp(Some("http://127.0.0.1:4317"), &[]).unwrap().unwrap();
        otlp.add_to(&mut snapshot).unwrap();
        let http = &snapshot.listeners[0].chains[0].http;
        let tracing = http.tracing.as_ref().unwrap();
        assert!(tracing.spawn_upstream_span);
        assert!(snapshot.clusters.contains_key(CLUSTER));
        let again = otlp.add_to(&mut snapshot).unwrap_err().to_string();
        assert!(again.contains("a cluster \"otlp\" already"), "{again}");
    }
}
