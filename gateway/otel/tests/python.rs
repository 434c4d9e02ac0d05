//! A processor in Python with OpenTelemetry's own instrumentation of gRPC: its spans join those of the gateway.
//!
//! Its packages come from PyPI. Where they cannot be had the test says so and ends; with `EXTPROC_PEERS=require` it fails.

#[allow(dead_code, unused_imports, reason = "shared by several tests")]
mod common;

use std::process::Stdio;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use self::common::{Traced, collector, send, serve, text};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn spans_of_a_python_processor_join() {
    let part = match tests::provision::traced_processor() {
        Ok(part) => part,
        Err(missing) => {
            assert!(missing.completion().is_ok(), "{missing}");
            eprintln!("not tried: {missing}");
            return;
        }
    };
    let (collector, mut spans) = collector().await;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/peers/traced_processor.py"
    );
    let mut python = Command::new(part.python())
        .args([script, &format!("http://{collector}")])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut port = String::new();
    let mut stdout = BufReader::new(python.stdout.take().unwrap());
    stdout.read_line(&mut port).await.unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let upstream = serve(|_: Request<Incoming>| async { text(StatusCode::OK, "hello") }).await;
    let (_running, gateway) = Traced {
        upstream,
        collector,
        provider: "grpc_service: {envoy_grpc: {cluster_name: otlp_grpc}}\n                service_name: shop",
        tracing: "",
        route: "name: home, route: {cluster: upstream}",
        processor: Some(([127, 0, 0, 1], port).into()),
        ext_proc: "message_timeout: 60s",
    }
    .start();
    let answer = send(gateway, "/", &[("traceparent", CALLER)]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // The gateway's server and client span; the processor's server span and a span of its own for each of two messages.
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(spans.next().await);
    }
    let of = |service: &str, kind: SpanKind| {
        let mut found = all
            .iter()
            .filter(|(from, span)| from == service && span.kind() == kind)
            .map(|(_, span)| span);
        let span = found
            .next()
            .unwrap_or_else(|| panic!("{service} {kind:?}: {all:?}"));
        assert!(found.next().is_none(), "{service} {kind:?}: {all:?}");
        span
    };
    let server = of("shop", SpanKind::Server);
    let client = of("shop", SpanKind::Client);
    let process = of("python-processor", SpanKind::Server);
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(process.parent_span_id, client.span_id);
    assert!(
        process.name.ends_with("ExternalProcessor/Process"),
        "{}",
        process.name
    );
    for (_, span) in all.iter().filter(|(_, span)| span.name == "work") {
        assert_eq!(span.parent_span_id, process.span_id);
    }
    let trace: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&CALLER[3 + 2 * at..5 + 2 * at], 16).unwrap())
        .collect();
    assert!(all.iter().all(|(_, span)| span.trace_id == trace));
}
