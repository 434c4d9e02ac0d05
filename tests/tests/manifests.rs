//! The guide's manifests, unchanged, as files: real curl, real httpbin, the sample processor.
//!
//! Parts that cannot be provisioned make their tests *ignored* with the reason; with `EXTPROC_PEERS=require` they fail.

#[path = "manifests/isolation.rs"]
mod isolation;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Arguments;
use serde_json::json;
use tests::provision;
use tests::support::curl::{Answer, curl};
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::process::Process;
use tests::support::trial::flow;

const INSTRUCTIONS: &str = r#"instructions: {"addHeaders":{"extproc":"true"}}"#;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        flow("guide/files", guide()),
        flow("guide/without-policy", without_policy()),
        flow("guide/endpoints-are-asked-for", endpoints_asked_for()),
        flow("backend/no-response-in-time", no_response_in_time()),
        flow("route/cors", cors()),
    ];
    trials.extend(isolation::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The folder with the guide's YAML.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/guide")
}

/// The gateway on these manifests.
async fn gateway(config: &str, httpbin: &Peer, processor: &Peer) -> anyhow::Result<Peer> {
    let program = provision::workspace_binary("gateway", "gateway")?;
    let upstream = format!("httpbin/httpbin:8000={}", httpbin.address);
    let grpc = format!(
        "agentgateway-system/ext-proc-grpc:4444={}",
        processor.address
    );
    peers::start(
        "gateway-manifests",
        program,
        |at| {
            let port = format!("80={}", at.port());
            [
                "--config",
                config,
                "--namespace",
                "agentgateway-system",
                "--listen-port",
                &port,
                "--endpoints",
                &upstream,
                "--endpoints",
                &grpc,
            ]
            .map(str::to_owned)
            .to_vec()
        },
        &[],
    )
    .await
}

/// The curl line of the guide, with another port.
async fn guide_line(gateway: &Peer, host: &str) -> anyhow::Result<Answer> {
    let url = format!("http://localhost:{}/headers", gateway.address.port());
    curl(&["-4", &url, "-H", host, "-H", INSTRUCTIONS]).await
}

async fn guide() -> anyhow::Result<()> {
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let processor = peers::sample_processor().await?;
    let gateway = gateway(&folder().display().to_string(), &httpbin, &processor).await?;
    let answer = guide_line(&gateway, "host: www.example.com").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let headers = &answer.json()?["headers"];
    ensure!(headers["Extproc"] == json!(["true"]), "{headers}");
    ensure!(headers["Host"] == json!(["www.example.com"]), "{headers}");
    let other = guide_line(&gateway, "host: other.example.com").await?;
    ensure!(other.status == 404, "{other:?}");
    Ok(())
}

/// The route serves without the policy, and nothing is added.
async fn without_policy() -> anyhow::Result<()> {
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let processor = peers::sample_processor().await?;
    let mut manifests = String::new();
    for file in ["1-gateway.yaml", "2-httpbin.yaml"] {
        manifests.push_str(&std::fs::read_to_string(folder().join(file))?);
        manifests.push_str("---\n");
    }
    let file = peers::log_file("manifests", ports::free()?).with_extension("yaml");
    std::fs::create_dir_all(file.parent().context("no folder")?)?;
    std::fs::write(&file, manifests)?;
    let gateway = gateway(&file.display().to_string(), &httpbin, &processor).await?;
    let answer = guide_line(&gateway, "host: www.example.com").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let headers = &answer.json()?["headers"];
    ensure!(headers.get("Extproc").is_none(), "{headers}");
    Ok(())
}

/// The gateway on one route to `backend`, an AgentgatewayBackend's spec; `rule` is what else the rule says.
async fn one_route(backend: &str, rule: &str) -> anyhow::Result<Peer> {
    let manifests = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gw}}
spec:
  gatewayClassName: agentgateway
  listeners: [{{name: http, protocol: HTTP, port: 80}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: route}}
spec:
  parentRefs: [{{name: gw}}]
  rules:
  - backendRefs: [{{group: agentgateway.dev, kind: AgentgatewayBackend, name: backend}}]
    {rule}
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayBackend
metadata: {{name: backend}}
spec: {backend}
"
    );
    let program = provision::workspace_binary("gateway", "gateway")?;
    let file = peers::log_file("one-route", ports::free()?).with_extension("yaml");
    std::fs::create_dir_all(file.parent().context("no folder")?)?;
    std::fs::write(&file, manifests)?;
    let config = file.display().to_string();
    let arguments = |at: SocketAddr| {
        let port = format!("80={}", at.port());
        [
            "--config",
            &config,
            "--listen-port",
            &port,
            "--local-backends",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    peers::start("gateway-one-route", program, arguments, &[]).await
}

/// `requestTimeout` is for the head of the response: a backend that says nothing, and one that answers.
async fn no_response_in_time() -> anyhow::Result<()> {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = silent.local_addr()?.port();
    let limit = "policies: {http: {requestTimeout: 300ms}}";
    let backend = format!("{{static: {{host: 127.0.0.1, port: {port}}}, {limit}}}");
    let gateway = one_route(&backend, "").await?;
    let answer = curl(&[&gateway.url()]).await?;
    ensure!(answer.status == 504, "{answer:?}");
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let port = httpbin.address.port();
    let backend = format!("{{static: {{host: 127.0.0.1, port: {port}}}, {limit}}}");
    let gateway = one_route(&backend, "").await?;
    // The body takes longer than the limit.
    let url = format!("{}/drip?numbytes=3&duration=1&delay=0", gateway.url());
    let answer = curl(&[&url]).await?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(answer.text().len() == 3, "{answer:?}");
    Ok(())
}

/// A preflight is answered for an allowed origin, with what it asks for where the list is a star.
async fn cors() -> anyhow::Result<()> {
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let port = httpbin.address.port();
    let filter = "filters: [{type: CORS, cors: {allowOrigins: ['https://*.example'], allowMethods: ['*'], \
                  allowHeaders: [x-a, x-b], allowCredentials: true, maxAge: 60}}]";
    let backend = format!("{{static: {{host: 127.0.0.1, port: {port}}}}}");
    let gateway = one_route(&backend, filter).await?;
    let ask = async |origin: &str| {
        let origin = format!("origin: {origin}");
        let url = format!("{}/headers", gateway.url());
        curl(&[
            "-X",
            "OPTIONS",
            &url,
            "-H",
            &origin,
            "-H",
            "access-control-request-method: PUT",
        ])
        .await
    };
    let answer = ask("https://a.example").await?;
    ensure!(answer.status == 200, "{answer:?}");
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-a, x-b"),
        ("access-control-max-age", "60"),
    ] {
        ensure!(answer.header(name) == Some(value), "{name}: {answer:?}");
    }
    let answer = ask("https://a.example.org").await?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(
        answer.header("access-control-allow-origin").is_none(),
        "{answer:?}"
    );
    Ok(())
}

async fn endpoints_asked_for() -> anyhow::Result<()> {
    let program = provision::workspace_binary("gateway", "gateway")?;
    let config = folder().display().to_string();
    let log = peers::log_file("gateway-asks", ports::free()?);
    let arguments = ["--config", &config, "--namespace", "agentgateway-system"];
    let mut process = Process::spawn(program, arguments, &log)?;
    let status = process.wait(Duration::from_secs(10)).await?;
    let said = process.log();
    ensure!(status.code() == Some(1), "{status}: {said}");
    for flag in [
        "--endpoints httpbin/httpbin:8000=HOST:PORT",
        "--endpoints agentgateway-system/ext-proc-grpc:4444=HOST:PORT",
    ] {
        ensure!(said.contains(flag), "{said}");
    }
    Ok(())
}
