//! A trace that goes on in a processor of somebody else.

#[path = "../../../gateway/otel/tests/common/collector.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the gateway's own traces"
)]
mod collector;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tests::provision;
use tests::support::curl::curl;
use tests::support::peers;

use self::collector::{attribute, collector};

/// A processor in Python with OpenTelemetry's own instrumentation of gRPC: its spans are below the gateway's of the side stream.
pub(super) async fn python_processor() -> anyhow::Result<()> {
    let part = provision::traced_processor()?;
    let (otlp, mut spans) = collector().await;
    let endpoint = format!("http://{otlp}");
    let processor = peers::traced_processor(&part, &endpoint).await?;
    let httpbin = peers::embedded_httpbin().await?;
    let program = provision::workspace_binary("gateway", "gateway")?;
    let (upstream, asked) = (httpbin.url(), processor.url());
    let arguments = |at: SocketAddr| {
        let at = at.to_string();
        let flags = [
            "--listen",
            &at,
            "--upstream",
            &upstream,
            "--ext-proc",
            &asked,
        ];
        flags.map(str::to_owned).to_vec()
    };
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_SERVICE_NAME", "gateway"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let gateway = peers::start("gateway", program, arguments, &environment).await?;
    let url = format!("{}/headers", gateway.url());
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let caller = format!("traceparent: {parent}");
    let answer = curl(&[&url, "-H", &caller, "-H", "baggage: user=7"]).await?;
    ensure!(answer.status == 200, "{answer:?}");

    let mut seen = BTreeMap::new();
    let process = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
    let side = loop {
        let (service, span) = spans.next().await;
        seen.insert(span.name.clone(), (service, span));
        let wanted = [process, "request_headers", "response_headers"];
        let side = seen.keys().find(|name| name.starts_with("async "));
        if let (true, Some(side)) = (wanted.iter().all(|name| seen.contains_key(*name)), side) {
            break seen
                .get(side)
                .context("no span of the side stream")?
                .1
                .clone();
        }
    };
    let (service, called) = &seen[process];
    ensure!(service == "processor", "{service}");
    ensure!(called.trace_id == side.trace_id, "another trace: {seen:?}");
    ensure!(
        called.parent_span_id == side.span_id,
        "not below the side stream: {seen:?}"
    );
    for phase in ["request_headers", "response_headers"] {
        let own = &seen[phase].1;
        ensure!(own.parent_span_id == called.span_id, "{phase}: {seen:?}");
        ensure!(attribute(own, "user") == "7", "no baggage: {seen:?}");
    }
    Ok(())
}
