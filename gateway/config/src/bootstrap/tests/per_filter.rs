//! Settings of routes for filters for which a match tree decides.

use extproc_client::config::{GrpcTarget, Service};

use super::{super::parse, bad::BASE};
use crate::snapshot::OnRoute;

const MATCHING: &str = "type.googleapis.com/envoy.extensions";

fn ext_proc(cluster: &str) -> String {
    format!(
        "{{\"@type\": {MATCHING}.filters.http.ext_proc.v3.ExternalProcessor, grpc_service: {{envoy_grpc: {{cluster_name: {cluster}}}}}}}"
    )
}

fn cors() -> String {
    format!("{{\"@type\": {MATCHING}.filters.http.cors.v3.Cors}}")
}

/// A tree that executes each of these where `x-c` is its place in the list.
fn tree(filters: &[String]) -> String {
    let matchers = filters.iter().enumerate().map(|(at, filter)| {
        format!(
            "{{predicate: {{single_predicate: {{input: {{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-c}}}}, value_match: {{exact: \"{at}\"}}}}}}, \
             on_match: {{action: {{name: run, typed_config: {{\"@type\": {MATCHING}.filters.http.composite.v3.ExecuteFilterAction, typed_config: {{name: inner, typed_config: {filter}}}}}}}}}}}"
        )
    });
    let matchers: Vec<String> = matchers.collect();
    format!("{{matcher_list: {{matchers: [{}]}}}}", matchers.join(", "))
}

fn composite(name: &str, filters: &[String]) -> String {
    let tree = tree(filters);
    format!(
        "{{name: {name}, typed_config: {{\"@type\": {MATCHING}.filters.http.composite.v3.Composite, matcher: {tree}}}}}"
    )
}

fn on_route(filters: &[String]) -> String {
    let tree = tree(filters);
    format!(
        "typed_per_filter_config: {{c: {{\"@type\": {MATCHING}.common.matching.v3.ExtensionWithMatcherPerRoute, xds_matcher: {tree}}}}}"
    )
}

/// The small file with a filter in the listener, a field of the virtual host and one of the route.
fn bootstrap(filter: &str, host: &str, route: &str) -> String {
    BASE.replace(
        "http_filters:",
        &format!("http_filters:\n          - {filter}"),
    )
    .replace(
        "domains: [\"*\"]",
        &format!("domains: [\"*\"]\n              {host}"),
    )
    .replace(
        "route: {cluster: upstream}",
        &format!("route: {{cluster: upstream}}\n                {route}"),
    )
}

fn overrides(processing_mode: &str) -> String {
    format!(
        "typed_per_filter_config: {{c: {{\"@type\": {MATCHING}.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {{processing_mode: {{{processing_mode}}}}}}}}}"
    )
}

#[test]
fn overrides_are_of_the_processor_that_the_tree_of_the_route_asks() {
    let text = bootstrap(
        &composite("c", &[ext_proc("x")]),
        &overrides("request_body_mode: BUFFERED"),
        &on_route(&[ext_proc("y")]),
    );
    let snapshot = parse("envoy.yaml", &text).unwrap();
    let http = &snapshot.listeners[0].chains[0].http;
    let overrides = &http.routes.virtual_hosts[0].routes[0].overrides;
    assert!(matches!(overrides.said(None, "c"), Some(OnRoute::As(_))));
    let Some(Some(config)) = overrides.of("c") else {
        panic!("{overrides:?}");
    };
    let Service::Grpc(service) = config.service() else {
        panic!("{config:?}");
    };
    let GrpcTarget::Cluster { name, .. } = &service.target else {
        panic!("{service:?}");
    };
    assert_eq!(name, "y");
}

#[test]
fn overrides_are_of_one_processor() {
    let two = [ext_proc("y"), ext_proc("z")];
    for text in [
        bootstrap(
            &composite("c", &[ext_proc("x")]),
            &overrides("request_body_mode: BUFFERED"),
            &on_route(&two),
        ),
        bootstrap(
            &composite("c", &two),
            "",
            &overrides("request_body_mode: BUFFERED"),
        ),
        bootstrap(
            &format!(
                "{{name: c, typed_config: {}}}\n          - {{name: c, typed_config: {}}}",
                two[0], two[1]
            ),
            "",
            &overrides("request_body_mode: BUFFERED"),
        ),
    ] {
        let error = parse("envoy.yaml", &text).unwrap_err().to_string();
        assert!(error.contains("several ext_proc filters"), "{error}");
    }
}

#[test]
fn trees_for_filters_of_a_cluster_execute_what_a_cluster_may() {
    let chain = |filters: &[String]| {
        let composite = composite("c", filters);
        format!(
            "type: STATIC\n    typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{\"@type\": {MATCHING}.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http_protocol_options: {{}}}}, http_filters: [{composite}, {{name: codec, typed_config: {{\"@type\": {MATCHING}.filters.http.upstream_codec.v3.UpstreamCodec}}}}]}}}}"
        )
    };
    let text = |route: &[String]| {
        BASE.replace("type: STATIC", &chain(&[ext_proc("x")]))
            .replace(
                "route: {cluster: upstream}",
                &format!(
                    "route: {{cluster: upstream}}\n                {}",
                    on_route(route)
                ),
            )
    };
    parse("envoy.yaml", &text(&[ext_proc("y")])).unwrap();
    let error = parse("envoy.yaml", &text(&[cors()]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("Cors"), "{error}");
}
