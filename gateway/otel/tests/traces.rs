//! Traces of a gateway, as a collector, an upstream and a processor see them.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use extproc_sdk::{BoxError, Call, Headers, HeadersReply, Processor, Server};
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};

use self::common::{Seen, Traced, attribute, collector, events, send, serve, text};

const GRPC: &str =
    "grpc_service: {envoy_grpc: {cluster_name: otlp_grpc}}\n                service_name: shop";
const HTTP: &str =
    "http_service: {http_uri: {uri: http://collector/v1/traces, cluster: otlp_http, timeout: 5s}}";

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The header by which a span is found.
fn parent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

/// An upstream whose first answer is 503, and the heads that came to it.
async fn upstream(fails_first: bool) -> (std::net::SocketAddr, Seen) {
    let seen = Seen::default();
    let failing = Arc::new(AtomicBool::new(fails_first));
    let heads = seen.clone();
    let address = serve(move |request: Request<Incoming>| {
        heads.lock().unwrap().push(request.headers().clone());
        let status = match failing.swap(false, Ordering::Relaxed) {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        };
        async move { text(status, "hello") }
    })
    .await;
    (address, seen)
}

/// A processor that keeps the metadata of its calls.
struct Keeper(Seen);

impl Processor for Keeper {
    type State = ();

    async fn request_headers(
        &self,
        call: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        self.0
            .lock()
            .unwrap()
            .push(call.initial_metadata().clone().into_headers());
        Ok(HeadersReply::new().set("x-seen", "1"))
    }
}

async fn processor() -> (std::net::SocketAddr, Seen) {
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::new(Keeper(seen.clone())).serve(listener, std::future::pending()));
    (address, seen)
}

fn only(seen: &Seen) -> HeaderMap {
    let mut seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    seen.pop().unwrap()
}

#[tokio::test]
async fn a_request_a_side_stream_and_an_attempt() {
    let (upstream, heads) = upstream(false).await;
    let (processor, calls) = processor().await;
    let (collector, mut spans) = collector().await;
    let (running, gateway) = Traced {
        upstream,
        collector,
        provider: GRPC,
        tracing: "spawn_upstream_span: true",
        route: "name: home, route: {cluster: upstream}",
        processor: Some(processor),
        ext_proc: "",
    }
    .start();
    let answer = send(
        gateway,
        "/a?b=c",
        &[
            ("traceparent", CALLER),
            ("tracestate", "vendor=1"),
            ("baggage", "user=7"),
        ],
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let numbers = send(running.admin_addr().unwrap(), "/stats/prometheus", &[]).await;
    for phase in ["request_headers", "response_headers"] {
        let count = format!(
            "envoy_http_ext_proc_message_time_count{{envoy_http_conn_manager_prefix=\"main\",envoy_ext_proc_phase=\"{phase}\"}} 1\n"
        );
        assert!(numbers.contains(&count), "{numbers}");
    }
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let numbers = send(running.admin_addr().unwrap(), "/stats/prometheus", &accept).await;
    assert!(
        numbers.contains("content-type: application/openmetrics-text"),
        "{numbers}"
    );
    for family in [
        "envoy_http_ext_proc_message_time",
        "envoy_http_downstream_rq_time",
        "envoy_cluster_upstream_rq_time",
    ] {
        let mut lines = numbers.lines().filter(|line| line.starts_with(family));
        let exemplar = " # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} ";
        assert!(
            lines.any(|line| line.contains(exemplar)),
            "{family}: {numbers}"
        );
    }
    running.drain().await;

    let spans = spans.take(3).await;
    let server = &spans["ingress"];
    let side = &spans["async processor egress"];
    let attempt = &spans["router upstream egress"];
    assert_eq!(hex(&server.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&server.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(server.kind, SpanKind::Server as i32);
    for below in [side, attempt] {
        assert_eq!(below.trace_id, server.trace_id);
        assert_eq!(below.parent_span_id, server.span_id);
        assert_eq!(below.kind, SpanKind::Client as i32);
        assert_eq!(below.trace_state, "vendor=1");
    }
    for (name, value) in [
        ("http.method", "GET"),
        ("http.url", "http://a.test/a?b=c"),
        ("http.status_code", "200"),
        ("http.response.status_code", "200"),
        ("http.route", "home"),
        ("url.path", "/a"),
        ("component", "proxy"),
        ("upstream_cluster", "upstream"),
        ("response_size", "5"),
        ("response_flags", "-"),
    ] {
        assert_eq!(attribute(server, name), value, "{name}");
    }
    assert_eq!(attribute(attempt, "upstream_address"), upstream.to_string());
    assert_eq!(attribute(side, "upstream_address"), processor.to_string());
    assert_eq!(attribute(side, "rpc.method"), "Process");
    let messages = events(side, "ext_proc.phase");
    assert_eq!(
        messages,
        [
            "request_headers",
            "request_headers",
            "response_headers",
            "response_headers"
        ]
    );
    assert_eq!(
        events(side, "rpc.message.type"),
        ["SENT", "RECEIVED", "SENT", "RECEIVED"]
    );

    // Whoever is called finds the span of the call.
    let head = only(&heads);
    assert_eq!(head["traceparent"], parent(attempt));
    assert_eq!(head["tracestate"], "vendor=1");
    assert_eq!(head["baggage"], "user=7");
    let call = only(&calls);
    assert_eq!(call["traceparent"], parent(side));
    assert_eq!(call["tracestate"], "vendor=1");
    assert_eq!(call["baggage"], "user=7");
}

/// Filters of one name, each with a side stream of its own.
#[tokio::test]
async fn filters_of_one_name_have_spans_of_their_own() {
    let (upstream, _) = upstream(false).await;
    let (processor, _) = processor().await;
    let (collector, mut spans) = collector().await;
    let (running, gateway) = Traced {
        upstream,
        collector,
        provider: GRPC,
        tracing: "",
        route: "route: {cluster: upstream}",
        processor: Some(processor),
        ext_proc: r#"
          - name: guard
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: processor}}"#,
    }
    .start();
    let answer = send(gateway, "/", &[]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    running.drain().await;
    let mut sides = 0;
    for _ in 0..3 {
        let (_, span) = spans.next().await;
        if span.name == "async processor egress" {
            sides += 1;
            let told = events(&span, "rpc.message.type");
            assert_eq!(told, ["SENT", "RECEIVED", "SENT", "RECEIVED"]);
        }
    }
    assert_eq!(sides, 2);
}

#[tokio::test]
async fn each_attempt_has_a_span() {
    let (upstream, heads) = upstream(true).await;
    let (collector, mut spans) = collector().await;
    let (running, gateway) = Traced {
        upstream,
        collector,
        provider: HTTP,
        tracing: r#"spawn_upstream_span: true
            operation: "%REQ(:METHOD)% %ROUTE_NAME%"
            upstream_operation: "attempt %REQ(x-n)%"
            verbose: true
            custom_tags:
            - {tag: fixed, literal: {value: "100%"}}
            - {tag: asked, request_header: {name: x-asked}}
            - {tag: missing, request_header: {name: x-none}}
            - {tag: default, request_header: {name: x-none, default_value: none}}"#,
        route: "name: home, route: {cluster: upstream, retry_policy: {retry_on: 5xx}}",
        processor: None,
        ext_proc: "",
    }
    .start();
    send(gateway, "/", &[("x-asked", "yes"), ("x-n", "here")]).await;
    running.drain().await;
    let mut attempts = Vec::new();
    let mut server = None;
    for _ in 0..3 {
        let (service, span) = spans.next().await;
        assert_eq!(service, "unknown_service:gateway");
        match span.name.as_str() {
            "attempt here" => attempts.push(span),
            "GET home" => server = Some(span),
            other => panic!("{other}"),
        }
    }
    let server = server.unwrap();
    let told = |span: &Span, name| attribute(span, name);
    let statuses: Vec<String> = attempts
        .iter()
        .map(|span| told(span, "http.status_code"))
        .collect();
    assert_eq!(statuses, ["503", "200"]);
    assert_eq!(told(&attempts[0], "error"), "true");
    assert_eq!(told(&attempts[0], "retry.count"), "");
    assert_eq!(told(&attempts[1], "retry.count"), "1");
    assert_eq!(told(&server, "fixed"), "100%");
    assert_eq!(told(&server, "asked"), "yes");
    assert_eq!(told(&server, "missing"), "");
    assert_eq!(told(&server, "default"), "none");
    assert_eq!(server.events.len(), 2);
    let heads = heads.lock().unwrap();
    let parents: Vec<&str> = heads
        .iter()
        .map(|head| head["traceparent"].to_str().unwrap())
        .collect();
    assert_eq!(parents, [parent(&attempts[0]), parent(&attempts[1])]);
    assert_eq!(heads[0]["tracestate"], "");
}

#[tokio::test]
async fn whoever_is_called_is_told_of_a_trace_that_is_not_recorded() {
    for (provider, tracing, caller, flag, recorded) in [
        (GRPC, "random_sampling: {value: 0}", None, "00", 0),
        (GRPC, "random_sampling: {value: 0}", Some(CALLER), "00", 0),
        (GRPC, "", Some(CALLER), "01", 2),
        (GRPC, "", None, "01", 2),
        (
            GRPC,
            "",
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
            "00",
            0,
        ),
        (
            "grpc_service: {envoy_grpc: {cluster_name: otlp_grpc}}\n                sampler: {name: on, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig}}",
            "",
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
            "01",
            2,
        ),
    ] {
        let (upstream, heads) = upstream(false).await;
        let (processor, calls) = processor().await;
        let (collector, mut spans) = collector().await;
        let (running, gateway) = Traced {
            upstream,
            collector,
            provider,
            tracing,
            route: "route: {cluster: upstream}",
            processor: Some(processor),
            ext_proc: "",
        }
        .start();
        let headers: Vec<(&str, &str)> = caller.iter().map(|c| ("traceparent", *c)).collect();
        send(gateway, "/", &headers).await;
        running.drain().await;
        for told in [only(&heads), only(&calls)] {
            let told = told["traceparent"].to_str().unwrap().to_owned();
            assert!(told.ends_with(flag), "{told} with {tracing:?}");
        }
        let came = std::iter::from_fn(|| spans.more()).count();
        assert_eq!(came, recorded, "{tracing:?}");
    }
}

#[tokio::test]
async fn what_tells_of_no_span_is_left_alone() {
    let (upstream, heads) = upstream(false).await;
    let (collector, mut spans) = collector().await;
    let (running, gateway) = Traced {
        upstream,
        collector,
        provider: GRPC,
        tracing: "",
        route: "route: {cluster: upstream}",
        processor: None,
        ext_proc: "",
    }
    .start();
    send(gateway, "/", &[("traceparent", "00-xyz")]).await;
    running.drain().await;
    assert_eq!(only(&heads)["traceparent"], "00-xyz");
    assert!(spans.more().is_none());
}

#[tokio::test]
async fn side_streams_without_a_span_of_their_own() {
    let (upstream, _) = upstream(false).await;
    let (processor, calls) = processor().await;
    let (collector, mut spans) = collector().await;
    let (running, gateway) = Traced {
        upstream,
        collector,
        provider: GRPC,
        tracing: "no_context_propagation: true",
        route: "route: {cluster: upstream}",
        processor: Some(processor),
        ext_proc: "emit_client_span: false",
    }
    .start();
    send(gateway, "/", &[]).await;
    running.drain().await;
    let (service, server) = spans.next().await;
    assert_eq!(service, "shop");
    assert_eq!(only(&calls)["traceparent"], parent(&server));
    assert!(spans.more().is_none());
}

/// A number of the admin server.
async fn stat(running: &gateway_proxy::Running, name: &str) -> u64 {
    let admin = running.admin_addr().unwrap();
    let answer = send(admin, "/stats", &[]).await;
    let name = format!("tracing.opentelemetry.{name}: ");
    let line = answer.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_nothing_but_its_spans() {
    let (upstream, _) = upstream(false).await;
    // It takes connections, and nothing of what comes on them.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (running, gateway) = Traced {
        upstream,
        collector: silent.local_addr().unwrap(),
        provider: "grpc_service: {envoy_grpc: {cluster_name: otlp_grpc}, timeout: 60s}\n                max_cache_size: 4",
        tracing: "",
        route: "route: {cluster: upstream}",
        processor: None,
        ext_proc: "",
    }
    .start();
    for _ in 0..20 {
        let answer = send(gateway, "/", &[]).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(stat(&running, "spans_dropped").await, 16);
    assert_eq!(stat(&running, "spans_sent").await, 0);
}

#[tokio::test]
async fn failures_have_their_reason() {
    let (upstream, _) = upstream(false).await;
    let (collector, mut spans) = collector().await;
    // Bound and not listened on: nobody else gets the port, and connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let processor = nobody.local_addr().unwrap();
    let (running, gateway) = Traced {
        upstream,
        collector,
        provider: GRPC,
        tracing: "",
        route: "decorator: {operation: shop}, route: {cluster: upstream}",
        processor: Some(processor),
        ext_proc: "",
    }
    .start();
    send(gateway, "/", &[]).await;
    running.drain().await;
    let spans = spans.take(2).await;
    let side = &spans["async processor egress"];
    assert_eq!(attribute(side, "grpc.status_code"), "14");
    assert_eq!(side.status.as_ref().unwrap().code, 2);
    let server = &spans["shop"];
    assert_eq!(attribute(server, "http.status_code"), "500");
    assert_eq!(attribute(server, "error"), "true");
    let details = attribute(server, "response_code_details");
    assert!(details.starts_with("ext_proc_error"), "{details}");
}
