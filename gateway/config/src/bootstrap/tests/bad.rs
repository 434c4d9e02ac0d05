use crate::{Error, parse_envoy};

/// A small file that loads.
pub(super) const BASE: &str = r#"static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            name: r
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: upstream}
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: upstream
    type: STATIC
    load_assignment:
      cluster_name: upstream
"#;

const MANAGER: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
const HOST: &str = "route_config.virtual_hosts[0]";
const ROUTE: &str = "route_config.virtual_hosts[0].routes[0]";

/// Returns the error of [`BASE`] with one part replaced, without the file's name.
pub(super) fn error(from: &str, to: &str) -> String {
    assert_eq!(BASE.matches(from).count(), 1, "{from:?} once in the file");
    let text = BASE.replace(from, to);
    let error = match parse_envoy("envoy.yaml", &text) {
        Ok(_) => panic!("{to:?} was taken"),
        Err(error) => error.to_string(),
    };
    error
        .strip_prefix("envoy.yaml:")
        .unwrap_or(&error)
        .to_owned()
}

#[test]
fn the_small_file_loads() {
    let snapshot = parse_envoy("envoy.yaml", BASE).unwrap();
    assert!(snapshot.warnings.is_empty());
}

#[test]
fn runtime_keys_without_effect_are_told() {
    let layers = "layered_runtime: {layers: [{name: a, static_layer: {overload: {global_downstream_max_connections: 5}, \
                  envoy.reloadable_features.ext_proc_graceful_grpc_close: true, some.share: {numerator: 5}}}]}";
    let text = format!("{layers}\n{BASE}");
    let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
    let [limit, share] = snapshot.warnings.as_slice() else {
        panic!("{:?}", snapshot.warnings);
    };
    assert!(
        limit.contains(
            "overload.global_downstream_max_connections has no effect in this gateway; say"
        ),
        "{limit}"
    );
    assert!(
        share.contains("the runtime key some.share has no effect"),
        "{share}"
    );
}

#[test]
fn overload_managers() {
    const HEAP: &str = "{name: heap, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1000}}";
    let manager = |text: &str| {
        let text = format!("overload_manager: {text}\nstatic_resources:\n  listeners:");
        error("static_resources:\n  listeners:", &text)
    };
    let with_heap = |action: &str| {
        manager(&format!(
            "{{resource_monitors: [{HEAP}], actions: [{action}]}}"
        ))
    };
    for (error, expected) in [
        (
            manager("{refresh_interval: 0s}"),
            "overload_manager.refresh_interval: has to be 0.001s or more",
        ),
        (
            manager(
                "{resource_monitors: [{name: m, typed_config: {\"@type\": type.googleapis.com/a.B}}]}",
            ),
            "unsupported \"@type\" a.B",
        ),
        (
            with_heap("{name: envoy.overload_actions.reduce_timeouts, triggers: []}"),
            "action \"envoy.overload_actions.reduce_timeouts\" is not supported",
        ),
        (
            with_heap(
                "{name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: other, threshold: {value: 0.5}}]}",
            ),
            "no fixed_heap monitor is named \"other\"",
        ),
        (
            with_heap(
                "{name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: heap, threshold: {value: 1.5}}]}",
            ),
            "the threshold has to be from 0 to 1",
        ),
    ] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn runtime_layers_are_static() {
    for (layer, expected) in [
        ("rtds_layer: {name: r}", "rtds_layer"),
        ("static_layers: {}", "static_layers"),
    ] {
        let text = format!("layered_runtime: {{layers: [{{name: a, {layer}}}]}}\n{BASE}");
        let error = parse_envoy("envoy.yaml", &text).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("layered_runtime.layers[0]"),
            "{error}"
        );
    }
}

#[test]
fn fields_and_types() {
    for (from, to, expected) in [
        (
            "    type: STATIC\n",
            "    type: STATIC\n    foo: 1\n",
            "26:5: static_resources.clusters[0]: unknown field \"foo\", expected one of name, type,",
        ),
        (
            "    type: STATIC\n",
            "    type: STATIK\n",
            "25:11: static_resources.clusters[0].type: unknown value \"STATIK\", expected one of \
             STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST",
        ),
        (
            "    type: STATIC\n",
            "    type: EDS\n",
            "25:11: static_resources.clusters[0].type: EDS: discovery services (xDS) are not supported",
        ),
        (
            "    type: STATIC\n",
            "    connect_timeout: 5\n",
            "25:22: static_resources.clusters[0].connect_timeout: expected seconds, such as \
             \"0.25s\", found 5",
        ),
        (
            "    type: STATIC\n",
            "    connect_timeout: 5ms\n",
            "25:22: static_resources.clusters[0].connect_timeout: invalid duration \"5ms\": expected \
             seconds, such as \"0.25s\"",
        ),
        (
            "    type: STATIC\n",
            "    connect_timeout: -1s\n",
            "25:22: static_resources.clusters[0].connect_timeout: invalid duration: may not \
             be negative",
        ),
        (
            "    type: STATIC\n",
            "    type: STATIC\n    type: STATIC\n",
            "26:5: static_resources.clusters[0]: field \"type\" is given twice",
        ),
        (
            "  - name: upstream\n",
            "  - nom: upstream\n",
            "24:5: static_resources.clusters[0]: unknown field \"nom\"",
        ),
        (
            "port_value: 10000",
            "port_value: 70000",
            "4:64: static_resources.listeners[0].address.socket_address.port_value: expected an \
             integer from 0 to 65535, found 70000",
        ),
        (
            "address: 127.0.0.1",
            "address: localhost",
            "4:41: static_resources.listeners[0].address.socket_address.address: \"localhost\" is not \
             an IP address",
        ),
        (
            "static_resources:\n",
            "dynamic_resources: {ads_config: {}}\nstatic_resources:\n",
            "1:20: dynamic_resources: discovery services (xDS) are not supported",
        ),
        ("  clusters:\n", "  clusters: [\n", "24:"),
    ] {
        let error = error(from, to);
        assert!(
            error.starts_with(expected),
            "{to:?}\n  gave     {error}\n  expected {expected}"
        );
    }
}

#[test]
fn inside_the_connection_manager() {
    let mut wrong = Vec::new();
    for (from, to, place, path, expected) in [
        (
            "match: {prefix: /}",
            "match: {safe_regex: {regex: '('}}",
            "17:45",
            format!("{ROUTE}.match.safe_regex.regex"),
            "invalid regular expression: unclosed group",
        ),
        (
            "match: {prefix: /}",
            "match: {}",
            "17:24",
            format!("{ROUTE}.match"),
            "one and only one of prefix, path, safe_regex, connect_matcher and \
             path_separated_prefix has to be set",
        ),
        (
            "match: {prefix: /}",
            "match: {prefix: /, headers: [{name: a, string_match: {exact: a, prefix: b}}]}",
            "17:70",
            format!("{ROUTE}.match.headers[0].string_match"),
            "exactly one of exact, prefix, suffix, contains, safe_regex has to be set",
        ),
        (
            "route: {cluster: upstream}",
            "route: {cluster: other}",
            "18:34",
            format!("{ROUTE}.route.cluster"),
            "unknown cluster \"other\"",
        ),
        (
            "route: {cluster: upstream}",
            "route: {cluster: upstream, timeout: soon}",
            "18:53",
            format!("{ROUTE}.route.timeout"),
            "invalid duration \"soon\": expected seconds, such as \"0.25s\"",
        ),
        (
            "route: {cluster: upstream}",
            "direct_response: {status: 99}",
            "18:43",
            format!("{ROUTE}.direct_response.status"),
            "99 is not a status from 200 to 599",
        ),
        (
            "route: {cluster: upstream}",
            "name: x",
            "17:17",
            ROUTE.to_owned(),
            "one and only one of route, redirect, direct_response and non_forwarding_action has to be set",
        ),
        (
            "route: {cluster: upstream}",
            "route: {cluster: upstream}\n                request_headers_to_add: [{header: {key: a, value: 50%}}]",
            "19:51",
            format!("{ROUTE}.request_headers_to_add[0].header"),
            "% is no operator such as %REQ(name)%; a percent sign is written as %%",
        ),
        (
            "domains: [\"*\"]",
            "domains: [\"*\", a.*.b]",
            "15:30",
            format!("{HOST}.domains[1]"),
            "\"a.*.b\" is no domain: expected a name, *.suffix, prefix.* or *",
        ),
        (
            "domains: [\"*\"]",
            "domains: [\"*\", \"*\"]",
            "15:30",
            format!("{HOST}.domains[1]"),
            "the domain \"*\" is given twice",
        ),
        (
            "stat_prefix: ingress\n",
            "codec_type: HTTP4\n",
            "10:23",
            "codec_type".to_owned(),
            "unknown value \"HTTP4\", expected one of AUTO, HTTP1, HTTP2, HTTP3",
        ),
        (
            "          stat_prefix: ingress\n",
            "",
            "9:11",
            String::new(),
            "missing field \"stat_prefix\"",
        ),
        (
            "stat_prefix: ingress\n",
            "stat_prefix: ingress\n          rds: {route_config_name: r}\n",
            "11:16",
            "rds".to_owned(),
            "discovery services (xDS) are not supported",
        ),
        (
            "stat_prefix: ingress\n",
            "stat_prefix: ingress\n          max_request_headers_kb: 0\n",
            "11:35",
            "max_request_headers_kb".to_owned(),
            "has to be from 1 to 8192",
        ),
        (
            "filters.http.router.v3.Router",
            "filters.http.lua.v3.Lua",
            "22:15",
            "http_filters[0].typed_config".to_owned(),
            "envoy.extensions.filters.http.lua.v3.Lua is not supported here; an ext_proc filter in its place can ask \
             a processor that does what the script does",
        ),
        (
            "filters.http.router.v3.Router",
            "filters.http.unheard.v3.Unheard",
            "22:15",
            "http_filters[0].typed_config".to_owned(),
            "unsupported \"@type\" envoy.extensions.filters.http.unheard.v3.Unheard, supported here: \
             envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor, ",
        ),
        (
            "filters.http.router.v3.Router",
            "filters.http.ext_proc.v3.ExternalProcessor\n              message_timeout: 1s",
            "22:15",
            "http_filters[0].typed_config".to_owned(),
            "grpc_service: one and only one of grpc_service and http_service has to be set",
        ),
        (
            "filters.http.router.v3.Router",
            "filters.http.ext_proc.v3.ExternalProcessor\n              processing_mode: {request_body_mode: WHOLE}",
            "23:52",
            "http_filters[0].typed_config.processing_mode.request_body_mode".to_owned(),
            "unknown value \"WHOLE\", expected one of NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, \
             FULL_DUPLEX_STREAMED, GRPC",
        ),
        (
            "filters.http.router.v3.Router",
            "filters.http.ext_proc.v3.ExternalProcessor\n              mesage_timeout: 1s",
            "23:15",
            "http_filters[0].typed_config".to_owned(),
            "unknown field \"mesage_timeout\", expected one of grpc_service, http_service,",
        ),
    ] {
        let error = error(from, to);
        let path = match path.as_str() {
            "" => MANAGER.to_owned(),
            path => format!("{MANAGER}.{path}"),
        };
        let expected = format!("{place}: {path}: {expected}");
        if !error.starts_with(&expected) {
            wrong.push(format!("{to:?}\n  gave     {error}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn operators_in_the_metadata_of_calls() {
    const ROUTER: &str = "          - name: router";
    let with = |value: &str| {
        format!(
            "          - name: p\n            typed_config: {{\"@type\": a/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor, \
             grpc_service: {{envoy_grpc: {{cluster_name: upstream}}, initial_metadata: [{{key: x-a, value: \"{value}\"}}]}}}}\n{ROUTER}"
        )
    };
    let unknown = error(ROUTER, &with("a %NOBODY(x)% %REQ(a)%"));
    assert!(
        unknown.ends_with("initial_metadata \"x-a\": %NOBODY% is an unknown operator"),
        "{unknown}"
    );
    let snapshot = parse_envoy(
        "envoy.yaml",
        &BASE.replace(ROUTER, &with("%START_TIME% 100%")),
    )
    .unwrap();
    let told = |warning: &String| warning.contains("%START_TIME% has no value there");
    assert!(
        snapshot.warnings.iter().any(told),
        "{:?}",
        snapshot.warnings
    );
}

#[test]
fn an_unknown_type_under_a_filters_name() {
    let error = error(
        "                route: {cluster: upstream}\n",
        "                route: {cluster: upstream}\n                typed_per_filter_config:\n                  \
         envoy.filters.http.ext_proc: {\"@type\": type.googleapis.com/a.B}\n",
    );
    assert_eq!(
        error,
        format!(
            "20:48: {MANAGER}.{ROUTE}.typed_per_filter_config[\"envoy.filters.http.ext_proc\"]: \
             unsupported \"@type\" a.B, supported here: \
             envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, \
             envoy.extensions.filters.http.cors.v3.CorsPolicy, \
             envoy.extensions.filters.http.buffer.v3.BufferPerRoute, \
             envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, \
             envoy.extensions.filters.http.compressor.v3.CompressorPerRoute, \
             envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute, \
             envoy.config.route.v3.FilterConfig"
        )
    );
}

#[test]
fn messages_whose_presence_counts_are_refused_empty() {
    let route = "route: {cluster: upstream}";
    for (from, to, field) in [
        (route, "filter_action: {}", "filter_action"),
        (
            "name: main",
            "name: main\n    api_listener: {}",
            "api_listener",
        ),
    ] {
        let text = BASE.replacen(from, to, 1);
        let error = parse_envoy("envoy.yaml", &text).unwrap_err();
        assert!(error.path().ends_with(field), "{error}");
    }
}

#[test]
fn conditions_of_retries_have_to_be_known() {
    let policy = |on: &str| {
        let route = format!("route: {{cluster: upstream, retry_policy: {{retry_on: \"{on}\"}}}}");
        parse_envoy(
            "envoy.yaml",
            &BASE.replace("route: {cluster: upstream}", &route),
        )
    };
    assert!(policy("5xx,reset-before-request, unavailable,cancelled").is_ok());
    let error = policy("5xx,connection-failure").unwrap_err();
    assert!(error.path().ends_with("retry_policy.retry_on"), "{error}");
}

#[test]
fn all_filters_and_routes_that_are_refused_are_told_at_once() {
    let filter = |package: &str, message: &str| {
        format!(
            "          - name: {package}\n            typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.{package}.v3.{message}}}\n"
        )
    };
    let filters = [filter("lua", "Lua"), filter("rbac", "RBAC")].concat();
    let text = BASE
        .replace("          http_filters:\n", &format!("          http_filters:\n{filters}"))
        .replace("              - match: {prefix: /}\n", "              - {match: {prefix: /a}, route: {}}\n              - match: {prefix: /}\n")
        .replace("{cluster: upstream}", "{}");
    let told = |text: &str| {
        let error = parse_envoy("envoy.yaml", text).unwrap_err();
        let others = error.others().iter().map(Error::alone);
        let all: Vec<String> = std::iter::once(error.alone()).chain(others).collect();
        all.join("\n")
    };
    let all = told(&text);
    for place in [
        "http_filters[0]",
        "http_filters[1]",
        "routes[0]",
        "routes[1]",
    ] {
        assert!(all.contains(place), "{place} in {all}");
    }
    assert_eq!(all.lines().count(), 4, "{all}");
    // The filters are read without routes, too.
    let all = told(&text.replace("route_config:\n", "rds:\n"));
    assert!(all.contains("missing field \"route_config\""), "{all}");
    assert!(all.contains("http_filters[1]"), "{all}");
    assert_eq!(all.lines().count(), 4, "{all}");
}

#[test]
fn the_inspector() {
    for (inspect, expected) in [
        (
            "{max_body_bytes: 1048577}",
            "max_body_bytes: has to be from 0 to 1048576",
        ),
        (
            "{max_exchanges: 0}",
            "max_exchanges: has to be from 1 to 100000",
        ),
        (
            "{max_bytes: 1}",
            "max_bytes: has to be from 1048576 to 1073741824",
        ),
        ("{sample: 0}", "sample: has to be 1 or more"),
        (
            "{redact: [\"*\"]}",
            "redact[0]: expected a name, such as x-tenant or *-key",
        ),
        (
            "{replay: [\"http://a:1\"]}",
            "replay[0]: expected HOST:PORT",
        ),
        ("{replay: [\"a:0\"]}", "replay[0]: expected HOST:PORT"),
        ("{replay: [\"::1:80\"]}", "replay[0]: expected HOST:PORT"),
        (
            "{address: {pipe: {path: /a}}}",
            "address: only socket_address is supported for a listener",
        ),
        ("{bodies: 1}", "unknown field \"bodies\""),
    ] {
        let admin = format!("admin: {{inspect: {inspect}}}\nstatic_resources:\n  listeners:");
        let error = error("static_resources:\n  listeners:", &admin);
        assert!(
            error.contains("admin.inspect") && error.contains(expected),
            "{inspect}: {error}"
        );
    }
}
