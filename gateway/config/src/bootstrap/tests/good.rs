use std::time::Duration;

use extproc_client::{BodyMode, FilterConfig, SendMode, config::Effort};
use http::StatusCode;
use rustls::pki_types::ServerName;

use crate::{parse_envoy, snapshot::*};

const FULL: &str = include_str!("../testdata/full.yaml");

fn full() -> Snapshot {
    parse_envoy("full.yaml", FULL).unwrap()
}

fn manager(snapshot: &Snapshot) -> &HttpManager {
    &snapshot.listeners[0].chains[0].http
}

fn routes(snapshot: &Snapshot) -> &[std::sync::Arc<Route>] {
    &manager(snapshot).routes.virtual_hosts[0].routes
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn ext_proc(config: Option<Option<&std::sync::Arc<FilterConfig>>>) -> &FilterConfig {
    config.expect("said").expect("not disabled")
}

#[test]
fn nothing_in_the_full_file_is_left_undone() {
    assert_eq!(full().warnings, Vec::<String>::new());
}

#[test]
fn listeners() {
    let snapshot = full();
    assert_eq!(snapshot.admin, Some("127.0.0.1:9901".parse().unwrap()));
    let addresses: Vec<String> = snapshot
        .listeners
        .iter()
        .map(|listener| listener.address.to_string())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:10000", "[::1]:10000"]);
    assert_eq!(snapshot.listeners[0].buffer_limit, 65536);
    let facts = &routes(&snapshot)[0].facts;
    assert_eq!(facts.filter_chain_name, "chain");
    assert!(
        facts
            .listener_metadata
            .filter_metadata
            .contains_key("of.listener")
    );
    assert_eq!(
        facts.node,
        serde_json::json!({
            "id": "gateway-1",
            "cluster": "edge",
            "metadata": { "role": "test", "ports": [1, 2] },
            "locality": { "region": "r", "zone": "z", "sub_zone": "" },
        })
    );
}

#[test]
fn overload_manager() {
    let limits = full().overload.unwrap();
    assert_eq!(limits.refresh, Duration::from_millis(250));
    assert_eq!(limits.memory, Some(1 << 30));
    assert_eq!(limits.connections, Some(5000));
    assert_eq!(limits.stop_requests, Some(0.8));
    assert_eq!(limits.stop_connections, Some(0.9));
}

#[test]
fn connection_manager() {
    let snapshot = full();
    let manager = manager(&snapshot);
    assert_eq!(manager.stat_prefix, "ingress");
    assert_eq!(manager.codec, Codec::Auto);
    assert!(!manager.generate_request_id);
    assert_eq!(manager.server_header, ServerHeader::AppendIfAbsent);
    assert_eq!((&*manager.server_name, &*manager.via), ("edge", "edge-1"));
    assert!(manager.use_remote_address && manager.proxy_100_continue);
    assert_eq!(manager.upgrades, ["websocket", "CONNECT"]);
    assert_eq!(manager.request_headers.count, 50);
    assert_eq!(manager.request_headers.bytes, 30 * 1024);
    let timeouts = manager.timeouts;
    assert_eq!(timeouts.request_headers, None);
    assert_eq!(timeouts.request, Some(Duration::from_secs(20)));
    assert_eq!(timeouts.stream_idle, Some(Duration::from_secs(60)));
    assert_eq!(timeouts.connection_idle, Some(Duration::from_secs(600)));
    assert_eq!(
        timeouts.max_connection_duration,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(timeouts.max_stream_duration, None);
    let most = manager.max_requests_per_connection.map(|most| most.get());
    assert_eq!(most, Some(1000));
    assert_eq!(timeouts.drain, Duration::from_secs(3));
    assert_eq!(timeouts.delayed_close, Duration::from_millis(500));
    assert!(manager.http1.enable_trailers && manager.http1.accept_http_10);
    assert!(manager.http2.allow_connect);
    assert_eq!(manager.http2.max_concurrent_streams, 100);
    assert_eq!(manager.http2.initial_stream_window_size, 65536);
    let normalization = &manager.normalization;
    assert!(normalization.normalize_path && normalization.merge_slashes);
    assert_eq!(
        normalization.escaped_slashes,
        EscapedSlashes::UnescapeAndRedirect
    );
    assert_eq!(normalization.underscores, Underscores::Reject);
    let [file, stderr, stdout] = manager.access_log.as_slice() else {
        panic!("{:?}", manager.access_log);
    };
    assert_eq!(file.sink, LogSink::Stdout);
    let text = "%REQ(:PATH)% %RESPONSE_CODE%\n";
    let text = Template::parse(text).unwrap();
    assert_eq!(file.format, LogFormat::Text(text));
    assert_eq!(stderr.sink, LogSink::Stderr);
    let code = JsonTemplate::Text(Template::parse("%RESPONSE_CODE%").unwrap());
    let nested = JsonTemplate::Object(vec![("code".to_owned(), code)]);
    let LogFormat::Json(JsonTemplate::Object(fields)) = &stderr.format else {
        panic!("{:?}", stderr.format);
    };
    assert!(fields.contains(&("in".to_owned(), nested)));
    assert_eq!(stdout.sink, LogSink::Stdout);
    assert_eq!(stdout.format, LogFormat::default());
}

#[test]
fn filters() {
    let snapshot = full();
    let [metadata, first, second, mutation] = manager(&snapshot).filters.as_slice() else {
        panic!("four filters before the router");
    };
    let FilterKind::SetMetadata(entries) = &metadata.kind else {
        panic!("{metadata:?}");
    };
    assert_eq!(entries[0].namespace, "my.ns");
    assert!(entries[0].allow_overwrite);
    assert_eq!(
        entries[0].value.as_ref().map(|value| value.fields.len()),
        Some(6)
    );
    let typed = entries[1].typed.as_ref().expect("typed");
    assert_eq!(
        typed.type_url,
        "type.googleapis.com/google.protobuf.StringValue"
    );
    assert_eq!(typed.value, b"\x0a\x04text");
    let FilterKind::ExtProc(config) = &first.kind else {
        panic!("{first:?}");
    };
    assert_eq!(config.message_timeout(), Duration::from_millis(500));
    assert_eq!(
        config.processing_mode().request_body_mode,
        BodyMode::Streamed
    );
    assert_eq!(
        config.processing_mode().response_body_mode,
        BodyMode::Buffered
    );
    assert!(second.disabled && !first.disabled);
    assert!(matches!(&second.kind, FilterKind::ExtProc(config) if config.failure_mode_allow()));
    let FilterKind::HeaderMutation { request, response } = &mutation.kind else {
        panic!("{mutation:?}");
    };
    assert!(matches!(&request[0], HeaderChange::Remove(name) if name == "x-remove"));
    assert!(matches!(
        &request[1],
        HeaderChange::Set {
            value: HeaderTemplate::Template(value),
            action: AppendAction::AddIfAbsent,
            ..
        } if *value == Template::parse("%REQ(x-from)%").unwrap()
    ));
    assert!(matches!(
        &response[0],
        HeaderChange::Set {
            value: HeaderTemplate::Plain(value),
            action: AppendAction::OverwriteIfExists,
            ..
        } if value == "hello"
    ));
}

#[test]
fn route_table() {
    let snapshot = full();
    let table = &manager(&snapshot).routes;
    assert_eq!(table.name, "table");
    assert_eq!(table.request_headers.len(), 2);
    // The empty value without `keep_empty_value` is left out.
    assert_eq!(table.response_headers.len(), 2);
    let [api, rest] = table.virtual_hosts.as_slice() else {
        panic!("two virtual hosts");
    };
    assert_eq!(
        api.domains,
        ["api.example", "*.api.example", "api.*", "api.example:8080"]
    );
    assert_eq!(rest.domains, ["*"]);
    assert_eq!(api.response_headers.len(), 1);
}

#[test]
fn route_matches() {
    let snapshot = full();
    let routes = routes(&snapshot);
    let first = &routes[0].matches;
    assert!(matches!(&first.path, PathMatch::Prefix(prefix) if prefix == "/a"));
    assert!(!first.case_sensitive);
    let [exact, regex, range, present, missing, bare] = first.headers.as_slice() else {
        panic!("six conditions");
    };
    assert_eq!(exact.name, "x-exact");
    assert!(matches!(&exact.value, ValueMatch::String(matcher) if matcher.matches("V")));
    assert!(
        matches!(&regex.value, ValueMatch::String(matcher) if matcher.matches("vv") && !matcher.matches("vvx"))
    );
    assert!(matches!(range.value, ValueMatch::Range(1, 10)));
    assert!(matches!(present.value, ValueMatch::Present(true)) && present.invert);
    assert!(missing.missing_as_empty);
    assert!(matches!(bare.value, ValueMatch::Present(true)));
    assert_eq!(first.query.len(), 2);
    assert!(matches!(&routes[1].matches.path, PathMatch::Exact(path) if path == "/exact"));
    assert!(
        matches!(&routes[3].matches.path, PathMatch::Regex(regex) if regex.try_matches("/r/1/", &mut Effort::default()) == Some(false))
    );
    assert!(
        matches!(&routes[4].matches.path, PathMatch::PathSeparatedPrefix(path) if path == "/seg")
    );
    let grpc = &routes[5].matches.headers[0];
    assert!(matches!(
        &grpc.value,
        ValueMatch::String(matcher) if matcher.matches("application/grpc")
            && matcher.matches("application/grpc+proto")
            && !matcher.matches("application/grpc-web")
    ));
    assert!(matches!(routes[6].matches.path, PathMatch::Connect));
}

#[test]
fn route_actions() {
    let snapshot = full();
    let routes = routes(&snapshot);
    let first = forward(&routes[0]);
    assert_eq!(first.clusters[0].name, "upstream");
    assert_eq!(first.timeout, None);
    assert_eq!(first.idle_timeout, Some(Duration::from_secs(10)));
    assert_eq!(first.max_stream_duration, Some(Duration::from_secs(40)));
    assert_eq!(first.prefix_rewrite.as_deref(), Some("/b"));
    assert_eq!(
        first.host_rewrite.as_ref().map(|host| host.as_bytes()),
        Some(&b"inner.example"[..])
    );
    assert_eq!(first.upgrades, [("websocket".to_owned(), false)]);
    let retry = first.retry.as_ref().expect("the virtual host's policy");
    assert_eq!(retry.on, RetryOn::SERVER_ERROR.or(RetryOn::RESET));
    assert_eq!((retry.count, &*retry.status_codes), (2, &[503][..]));
    let RouteAction::Redirect(redirect) = &routes[1].action else {
        panic!("{:?}", routes[1].action);
    };
    assert!(redirect.https && redirect.strip_query);
    assert_eq!(redirect.status, StatusCode::FOUND);
    assert_eq!(
        (redirect.host.as_deref(), redirect.port),
        (Some("other.example"), Some(8443))
    );
    let RouteAction::Redirect(redirect) = &routes[2].action else {
        panic!("{:?}", routes[2].action);
    };
    assert_eq!(redirect.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(redirect.prefix_rewrite.as_deref(), Some("/new"));
    let rewrite = forward(&routes[3]);
    assert!(rewrite.auto_host_rewrite);
    assert_eq!(rewrite.timeout, Some(Duration::from_secs(15)));
    let substitution = rewrite.regex_rewrite.as_ref().expect("a rewrite");
    assert_eq!(substitution.apply("/r/12").as_deref(), Some("/s/12"));
    assert!(matches!(
        &routes[4].action,
        RouteAction::Direct { status, body, format: None } if *status == StatusCode::IM_A_TEAPOT && body == "teapot"
    ));
    assert_eq!(
        forward(&routes[5])
            .cluster_header
            .as_ref()
            .map(|name| name.as_str()),
        Some("x-cluster")
    );
    let [most, few] = forward(&routes[7]).clusters.as_slice() else {
        panic!("two clusters");
    };
    assert_eq!((most.weight, few.weight), (90, 10));
    assert_eq!(
        (few.request_headers.len(), few.response_headers.len()),
        (1, 1)
    );
    assert_eq!(
        (&*most.facts.cluster_name, most.facts.endpoints),
        ("upstream", 4)
    );
    assert_eq!(&*few.facts.cluster_name, "dns");
    assert!(most.overrides.is_none());
}

#[test]
fn facts_for_attributes() {
    let snapshot = full();
    let facts = &routes(&snapshot)[0].facts;
    assert_eq!(
        (&*facts.route_name, &*facts.virtual_host_name),
        ("prefix", "api")
    );
    assert_eq!((&*facts.cluster_name, facts.endpoints), ("upstream", 4));
    assert!(
        facts
            .route_metadata
            .filter_metadata
            .contains_key("of.route")
    );
    assert!(
        facts
            .virtual_host_metadata
            .filter_metadata
            .contains_key("of.host")
    );
    assert!(
        facts
            .cluster_metadata
            .filter_metadata
            .contains_key("of.cluster")
    );
    let typed = &facts.cluster_metadata.typed_filter_metadata["typed"];
    assert_eq!(typed.value, [8, 7]);
}

#[test]
fn per_route_levels_merge() {
    let snapshot = full();
    let table = &manager(&snapshot).routes;
    let of =
        |overrides: &RouteOverrides, name: &str| overrides.of(name).map(|config| config.cloned());
    // Route configuration, then virtual host (off), then route (on again).
    let overrides = &table.virtual_hosts[0].routes[0].overrides;
    let first = ext_proc(overrides.of("first"));
    assert!(first.failure_mode_allow());
    assert_eq!(
        first.processing_mode().response_header_mode,
        SendMode::Default
    );
    ext_proc(overrides.of("second"));
    assert!(overrides.of("not-there").is_none());
    // The virtual host alone.
    let overrides = &table.virtual_hosts[0].routes[1].overrides;
    assert!(matches!(of(overrides, "first"), Some(None)));
    assert!(of(overrides, "second").is_none());
    // A weighted cluster.
    let few = &forward(&table.virtual_hosts[0].routes[7]).clusters[1];
    let overrides = few.overrides.as_ref().expect("its own");
    assert!(!ext_proc(overrides.of("first")).failure_mode_allow());
    // The route configuration alone.
    let overrides = &table.virtual_hosts[1].routes[0].overrides;
    let first = ext_proc(overrides.of("first"));
    assert_eq!(first.processing_mode().response_header_mode, SendMode::Skip);
    assert_eq!(first.processing_mode().request_body_mode, BodyMode::None);
}

#[test]
fn clusters() {
    let snapshot = full();
    let upstream = &snapshot.clusters["upstream"];
    assert_eq!(upstream.connect_timeout, Duration::from_secs(1));
    assert_eq!(upstream.lb, LbPolicy::LeastRequest);
    assert_eq!(upstream.buffer_limit, 32768);
    assert_eq!(
        (
            upstream.response_headers.count,
            upstream.response_headers.bytes
        ),
        (30, 10 * 1024)
    );
    assert_eq!(upstream.idle_timeout, Some(Duration::from_secs(30)));
    assert!(upstream.http1.enable_trailers && upstream.tls.is_none());
    let Discovery::Static(endpoints) = &upstream.discovery else {
        panic!("{:?}", upstream.discovery);
    };
    let [one, two, three, four] = endpoints.as_slice() else {
        panic!("four endpoints");
    };
    assert_eq!(four.standing, Standing::Unhealthy);
    assert_eq!((one.weight, one.metadata.is_some()), (3, true));
    assert_eq!((two.weight, &*two.hostname), (1, "six"));
    assert_eq!(
        three.address,
        EndpointAddress::Pipe("/run/upstream.sock".into())
    );
    let dns = &snapshot.clusters["dns"];
    assert_eq!(
        (dns.protocol, &dns.lb),
        (UpstreamProtocol::Downstream, &LbPolicy::Random)
    );
    assert_eq!(dns.dns, DnsFamily::V4Only);
    assert_eq!(dns.http2.max_concurrent_streams, 10);
    assert_eq!(dns.connect_timeout, Duration::from_secs(5));
    let name = EndpointAddress::Name("upstream.example".into(), 80);
    assert!(matches!(&dns.discovery, Discovery::StrictDns(list) if list[0].address == name));
    assert!(matches!(
        &snapshot.clusters["logical"].discovery,
        Discovery::LogicalDns(_)
    ));
    assert!(matches!(
        &snapshot.clusters["by_header"].discovery,
        Discovery::OriginalDst(OriginalDst::Header(name)) if name == "x-gateway-destination-endpoint"
    ));
    assert!(
        matches!(&snapshot.clusters["picked"].lb, LbPolicy::OverrideHost(policy) if policy.sources.len() == 1)
    );
    let ext_proc = &snapshot.clusters["ext_proc"];
    assert_eq!(ext_proc.protocol, UpstreamProtocol::Http2);
    let tls = ext_proc.tls.as_ref().expect("tls");
    assert_eq!(
        (tls.sni.as_ref(), &tls.alpn[..]),
        (
            ServerName::try_from("processor.example").ok().as_ref(),
            &["h2".to_owned()][..]
        )
    );
    assert!(tls.trusted_ca.is_none());
}

#[test]
fn defaults_are_envoys_but_for_the_request_head() {
    let snapshot = parse_envoy("small.yaml", super::bad::BASE).unwrap();
    let manager = manager(&snapshot);
    assert_eq!(
        manager.timeouts.request_headers,
        Some(Duration::from_secs(30))
    );
    assert_eq!(manager.timeouts.request, None);
    assert_eq!(manager.timeouts.stream_idle, Some(Duration::from_secs(300)));
    assert_eq!(
        manager.timeouts.connection_idle,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(manager.timeouts.drain, Duration::from_secs(5));
    assert_eq!(manager.timeouts.delayed_close, Duration::from_secs(1));
    assert_eq!(manager.request_headers.count, 100);
    assert_eq!(manager.request_headers.bytes, 60 * 1024);
    assert!(manager.generate_request_id && !manager.http1.enable_trailers);
    assert_eq!(snapshot.listeners[0].buffer_limit, 1024 * 1024);
    let cluster = &snapshot.clusters["upstream"];
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.protocol, UpstreamProtocol::Http1);
    assert_eq!(cluster.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(cluster.response_headers.bytes, 80 * 1024);
    assert_eq!(cluster.lb, LbPolicy::RoundRobin);
}

#[test]
fn camel_case_and_json_are_the_same_language() {
    let json = r#"{"staticResources": {"listeners": [{"name": "l",
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 1}},
        "perConnectionBufferLimitBytes": 5,
        "filterChains": [{"filters": [{"name": "h", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "statPrefix": "s", "maxRequestHeadersKb": 7,
            "httpProtocolOptions": {"acceptHttp10": true},
            "routeConfig": {"virtualHosts": [{"name": "v", "domains": ["*"]}]},
            "httpFilters": [{"name": "r", "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
        }}]}]}]}}"#;
    let snapshot = parse_envoy("envoy.json", json).unwrap();
    assert_eq!(snapshot.listeners[0].buffer_limit, 5);
    assert_eq!(manager(&snapshot).request_headers.bytes, 7 * 1024);
    assert!(manager(&snapshot).http1.accept_http_10);
}

#[test]
fn what_is_not_done_is_said() {
    let text = super::bad::BASE.replace(
        "    type: STATIC\n",
        "    type: STATIC\n    connection_pool_per_downstream_connection: true\n",
    );
    let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
    assert_eq!(
        snapshot.warnings,
        [
            "envoy.yaml:26:48: static_resources.clusters[0].connection_pool_per_downstream_connection: has no effect in this gateway"
        ]
    );
}

#[test]
fn durations_as_messages() {
    let text = super::bad::BASE.replace(
        "    type: STATIC\n",
        "    type: STATIC\n    connect_timeout: {seconds: 2, nanos: 500000000}\n",
    );
    let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
    let timeout = snapshot.clusters["upstream"].connect_timeout;
    assert_eq!(timeout, Duration::from_millis(2500));
}

#[test]
fn health_checks_are_answered() {
    let filter = concat!(
        r#"{name: h, typed_config: {"@type": "type.googleapis.com/"#,
        r#"envoy.extensions.filters.http.health_check.v3.HealthCheck", "#,
        r#"pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /ready}}]}}"#,
    );
    let filters = format!("http_filters:\n          - {filter}");
    let text = super::bad::BASE.replace("http_filters:", &filters);
    let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
    let FilterKind::HealthCheck(headers) = &manager(&snapshot).filters[0].kind else {
        panic!("no health check");
    };
    assert_eq!(headers[0].name, ":path");
    for (from, to, error) in [
        ("mode: false", "mode: true", "only false is supported"),
        ("pass_through_mode: false, ", "", "pass_through_mode"),
    ] {
        let bad = parse_envoy("envoy.yaml", &text.replace(from, to)).unwrap_err();
        assert!(bad.to_string().contains(error), "{bad}");
    }
}

/// The runtime's keys may be whole or nested; the last layer that says something holds.
#[test]
fn graceful_close_of_side_streams() {
    const ON: &str = "envoy.reloadable_features.ext_proc_graceful_grpc_close: true";
    const TIME: &str = "envoy: {filters: {http.ext_proc.remote_close_timeout_milliseconds: 250}}";
    let ext_proc = concat!(
        r#"{name: e, typed_config: {"@type": "type.googleapis.com/"#,
        r#"envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", "#,
        "grpc_service: {envoy_grpc: {cluster_name: upstream}}}}",
    );
    for (layers, expected) in [
        ("", None),
        (
            "{static_layer: {re2.max_program_size.error_level: 1000}}",
            None,
        ),
        (&*format!("{{static_layer: {{{ON}}}}}"), Some(1000)),
        (
            &format!("{{static_layer: {{{ON}}}}}, {{static_layer: {{{TIME}}}}}"),
            Some(250),
        ),
        (
            &format!(
                "{{static_layer: {{{ON}}}}}, {{static_layer: {{{}}}}}",
                ON.replace("true", "false")
            ),
            None,
        ),
    ] {
        let filters = format!("http_filters:\n          - {ext_proc}");
        let text = super::bad::BASE.replace("http_filters:", &filters);
        let text = format!("layered_runtime: {{layers: [{layers}]}}\n{text}");
        let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
        let FilterKind::ExtProc(config) = &manager(&snapshot).filters[0].kind else {
            panic!("not ext_proc");
        };
        let time = config.graceful_close();
        assert_eq!(time, expected.map(Duration::from_millis), "{layers}");
    }
}
