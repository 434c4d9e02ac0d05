//! The configuration that three flags make: one listener, one upstream, one processor.
//!
//! Flags are a short way to write a bootstrap: they are put into one and read like any other, so
//! that every default is the same.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Uri, uri::Scheme};
use serde_json::{Value, json};

use super::parse;
use crate::{Error, snapshot::Snapshot};

/// The cluster that requests go to.
const UPSTREAM: &str = "upstream";
/// The cluster of the processor.
const EXT_PROC: &str = "ext_proc";

/// One line an exchange, for people.
const HUMAN_LOG: &str = "%START_TIME(%H:%M:%S%.3f)% %DOWNSTREAM_REMOTE_ADDRESS% \
     %REQ(:METHOD)% %REQ(:AUTHORITY)%%REQ(:PATH)% %PROTOCOL% -> %RESPONSE_CODE% \
     %RESPONSE_CODE_DETAILS% ext_proc=%EXT_PROC% %DURATION%ms rx=%BYTES_RECEIVED% tx=%BYTES_SENT%\n";

/// Values of the flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags<'a> {
    /// `--listen`.
    pub listen: Option<&'a str>,
    /// `--upstream`.
    pub upstream: Option<&'a str>,
    /// `--ext-proc`.
    pub ext_proc: Option<&'a str>,
    /// Form of the access log.
    pub log: LogForm,
}

/// Form of the access log that the flags make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// Text for people.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

/// The configuration that the flags `--listen`, `--upstream` and `--ext-proc` make.
///
/// All requests go to the cluster `upstream` by HTTP/1.1, through a processor in the cluster
/// `ext_proc` that sees both header blocks; the access log is on standard output. WebSocket may pass. The
/// gateway adds no request headers of its own.
///
/// # Errors
/// Names a flag that is missing or does not hold what it should.
pub fn from_flags(flags: &Flags<'_>) -> Result<Snapshot, Error> {
    let missing = |flag: &str| {
        Error::whole(
            flag,
            "missing: give --listen, --upstream and --ext-proc, or --config FILE",
        )
    };
    let listen = match flags.listen {
        Some(text) => listen_address("--listen", text)?,
        None => return Err(missing("--listen")),
    };
    let target = |flag: &str, given: Option<&str>| match given {
        Some(text) => Target::parse(flag, text),
        None => Err(missing(flag)),
    };
    let upstream = target("--upstream", flags.upstream)?;
    let ext_proc = target("--ext-proc", flags.ext_proc)?;
    let bootstrap = bootstrap(listen, &upstream, &ext_proc, flags.log);
    let mut snapshot = parse("command line", &bootstrap.to_string())?;
    for listener in snapshot.listeners.iter_mut().filter_map(Arc::get_mut) {
        for chain in &mut listener.chains {
            if let Some(http) = Arc::get_mut(&mut chain.http) {
                http.add_forwarded_proto = false;
            }
        }
    }
    Ok(snapshot)
}

fn listen_address(flag: &str, text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        Error::whole(
            flag,
            format!("{text:?} is not an IP address and port, such as 127.0.0.1:8080"),
        )
    })
}

/// Target of a flag: `http://host[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
}

impl Target {
    fn parse(flag: &str, text: &str) -> Result<Self, Error> {
        let bad = |reason: &str| {
            Error::whole(
                flag,
                format!("{text:?} is not a URL such as http://127.0.0.1:8000: {reason}"),
            )
        };
        let uri: Uri = text.parse().map_err(|error| bad(&format!("{error}")))?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => {
                return Err(bad("TLS needs --config, where its roots can be named"));
            }
            Some(_) => return Err(bad("the scheme has to be http")),
            None => return Err(bad("the scheme is missing")),
        }
        let Some(authority) = uri.authority() else {
            return Err(bad("the host is missing"));
        };
        if authority.as_str().contains('@') {
            return Err(bad("user names have no place here"));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(bad("it may not have a path"));
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => 80,
            _ => authority
                .port_u16()
                .ok_or_else(|| bad("the port is not a number up to 65535"))?,
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    fn cluster(&self, name: &str, http: Value) -> Value {
        const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        json!({
            "name": name,
            "type": match self.host.parse::<IpAddr>() {
                Ok(_) => "STATIC",
                Err(_) => "STRICT_DNS",
            },
            // Local servers often listen on one of the addresses of `localhost` only.
            "dns_lookup_family": "V4_PREFERRED",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": {
                    "address": self.host,
                    "port_value": self.port,
                } } } }] }],
            },
            "typed_extension_protocol_options": {
                OPTIONS: {
                    "@type": format!("type.googleapis.com/{OPTIONS}"),
                    "explicit_http_config": http,
                },
            },
        })
    }
}

fn bootstrap(
    listen: SocketAddr,
    upstream: &Target,
    ext_proc: &Target,
    log_format: LogForm,
) -> Value {
    let message = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let log_format = match log_format {
        LogForm::Human => json!({ "text_format_source": { "inline_string": HUMAN_LOG } }),
        LogForm::Json => json!({ "json_format": {
            "time": "%START_TIME%",
            "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
            "method": "%REQ(:METHOD)%",
            "authority": "%REQ(:AUTHORITY)%",
            "path": "%REQ(:PATH)%",
            "protocol": "%PROTOCOL%",
            "status": "%RESPONSE_CODE%",
            "details": "%RESPONSE_CODE_DETAILS%",
            "ext_proc": "%EXT_PROC%",
            "duration_ms": "%DURATION%",
            "bytes_received": "%BYTES_RECEIVED%",
            "bytes_sent": "%BYTES_SENT%",
        } }),
    };
    let manager = json!({
        "@type": message(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
        ),
        "stat_prefix": "ingress",
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "http_protocol_options": { "enable_trailers": true },
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "access_log": [{
            "name": "stdout",
            "typed_config": {
                "@type": message("access_loggers.stream.v3.StdoutAccessLog"),
                "log_format": log_format,
            },
        }],
        "http_filters": [{
            "name": "envoy.filters.http.ext_proc",
            "typed_config": {
                "@type": message("filters.http.ext_proc.v3.ExternalProcessor"),
                "grpc_service": { "envoy_grpc": { "cluster_name": EXT_PROC } },
            },
        }, {
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": message("filters.http.router.v3.Router") },
        }],
        "route_config": {
            "name": "default",
            "virtual_hosts": [{
                "name": "default",
                "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "route": { "cluster": UPSTREAM },
                }],
            }],
        },
    });
    json!({
        "static_resources": {
            "listeners": [{
                "name": "default",
                "address": { "socket_address": {
                    "address": listen.ip().to_string(),
                    "port_value": listen.port(),
                    "ipv4_compat": listen.is_ipv6(),
                } },
                "filter_chains": [{ "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": manager,
                }] }],
            }],
            "clusters": [
                upstream.cluster(
                    UPSTREAM,
                    json!({ "http_protocol_options": { "enable_trailers": true } }),
                ),
                ext_proc.cluster(EXT_PROC, json!({ "http2_protocol_options": {} })),
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Discovery, EndpointAddress, FilterKind, UpstreamProtocol};

    fn flags<'a>(listen: &'a str, upstream: &'a str, ext_proc: &'a str) -> Flags<'a> {
        let given = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Flags {
            listen: given(listen),
            upstream: given(upstream),
            ext_proc: given(ext_proc),
            ..Flags::default()
        }
    }

    #[test]
    fn three_flags_make_a_gateway() {
        let snapshot = from_flags(&flags(
            "127.0.0.1:8080",
            "http://httpbin.example:8000",
            "http://[::1]:18080/",
        ))
        .unwrap();
        assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
        let listener = &snapshot.listeners[0];
        assert_eq!(listener.address, "127.0.0.1:8080".parse().unwrap());
        assert!(matches!(
            listener.chains[0].http.filters[0].kind,
            FilterKind::ExtProc(_)
        ));
        let upstream = &snapshot.clusters[UPSTREAM];
        let Discovery::StrictDns(endpoints) = &upstream.discovery else {
            panic!("{:?}", upstream.discovery);
        };
        let name = EndpointAddress::Name("httpbin.example".into(), 8000);
        assert_eq!(endpoints[0].address, name);
        let ext_proc = &snapshot.clusters[EXT_PROC];
        assert_eq!(ext_proc.protocol, UpstreamProtocol::Http2);
        let Discovery::Static(endpoints) = &ext_proc.discovery else {
            panic!("{:?}", ext_proc.discovery);
        };
        let address = EndpointAddress::Socket("[::1]:18080".parse().unwrap());
        assert_eq!(endpoints[0].address, address);
    }

    #[test]
    fn bad_flags_are_named() {
        const GOOD: &str = "http://127.0.0.1:1";
        for (listen, upstream, ext_proc, expected) in [
            ("", GOOD, GOOD, "--listen: missing"),
            ("127.0.0.1:1", "", GOOD, "--upstream: missing"),
            ("127.0.0.1:1", GOOD, "", "--ext-proc: missing"),
            (
                "localhost",
                GOOD,
                GOOD,
                "--listen: \"localhost\" is not an IP address and port",
            ),
            ("127.0.0.1:99999", GOOD, GOOD, "--listen: "),
            ("127.0.0.1:1", "127.0.0.1:1", GOOD, "--upstream: "),
            ("127.0.0.1:1", "https://a", GOOD, "TLS needs --config"),
            ("127.0.0.1:1", "ftp://a", GOOD, "the scheme has to be http"),
            ("127.0.0.1:1", "http://a/b", GOOD, "it may not have a path"),
            ("127.0.0.1:1", "http://a:99999", GOOD, "--upstream: "),
            ("127.0.0.1:1", "http://u@a", GOOD, "user names"),
            ("127.0.0.1:1", GOOD, "http://", "--ext-proc: "),
        ] {
            let error = from_flags(&flags(listen, upstream, ext_proc))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_port_may_be_left_out() {
        let target = Target::parse("--upstream", "http://example").unwrap();
        assert_eq!(
            target,
            Target {
                host: "example".into(),
                port: 80
            }
        );
    }
}
