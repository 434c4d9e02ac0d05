//! The two processors of the Gateway API Inference Extension, in Go.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::provision::{self, InferenceExtension};
use tests::support::apiserver::{self, kubectl};
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::wait::until;

use super::both::{Bodies, Bootstrap, Both, body_file};
use super::{JSON, only_live};

const PATIENCE: Duration = Duration::from_secs(60);

/// The body-based router, as its own chart configures it: full duplex over TLS without validation, and a route that is
/// selected again by the model named in the body.
pub(in super::super) async fn body_based_router() -> anyhow::Result<()> {
    only_live()?;
    let envoy = provision::envoy()?;
    let part = provision::inference_extension()?;
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let processor = start_router(&part.body_based_router).await?;
    let bootstrap = Bootstrap::of_peers("body-based-router")?
        .port("10002", httpbin.address.port())
        .port("10003", processor.address.port());
    let both = Both::start(&envoy, &bootstrap).await?;
    let large = prompt("small", 100_000);
    let large = body_file("large-prompt", large.as_bytes())?;
    let (small, to_large) = (prompt("small", 2), prompt("large", 2));
    let to_large = ["/anything", "-H", JSON, "-d", &to_large];
    let requests: [&[&str]; 8] = [
        &["/anything", "-H", JSON, "-d", &small],
        &to_large,
        &["/anything", "-H", JSON, "-d", r#"{"prompt": "no model"}"#],
        &["/anything", "-H", JSON, "-d", "no json"],
        &["/anything", "-H", JSON, "-d", ""],
        &["/headers"],
        &["/status/204"],
        &["/anything", "-H", JSON, "--data-binary", &large],
    ];
    both.ask_all(&requests).await?;
    both.same_counters(Bodies::Streamed).await?;
    let chosen = both.ask(&to_large).await?;
    ensure!(
        chosen.header("x-pool") == Some("large"),
        "not routed by the model: {chosen:?}"
    );
    Ok(())
}

fn prompt(model: &str, length: usize) -> String {
    format!(
        r#"{{"model": "{model}", "prompt": "{}"}}"#,
        "x".repeat(length)
    )
}

/// It wants a cluster's address before it serves, and asks that cluster nothing.
async fn start_router(program: &Path) -> anyhow::Result<Peer> {
    let kubeconfig = body_file(
        "no-cluster",
        b"apiVersion: v1\nkind: Config\ncurrent-context: none\n\
          clusters: [{name: none, cluster: {server: 'http://127.0.0.1:1'}}]\n\
          contexts: [{name: none, context: {cluster: none, user: none}}]\n\
          users: [{name: none, user: {}}]\n",
    )?;
    let kubeconfig = kubeconfig.trim_start_matches('@');
    start(program, &["--streaming"], kubeconfig).await
}

/// Either of them; they take the same ports.
async fn start(program: &Path, more: &[&str], kubeconfig: &str) -> anyhow::Result<Peer> {
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let [grpc, health, metrics] =
        [address.port(), ports::free()?, ports::free()?].map(|port| port.to_string());
    let mut words = vec![
        "--grpc-port",
        &grpc,
        "--grpc-health-port",
        &health,
        "--metrics-port",
        &metrics,
    ];
    words.extend(more);
    let env = [("KUBECONFIG", kubeconfig)];
    peers::start_in(Path::new("."), address, program, &words, &env).await
}

/// The endpoint picker, with the pool and the plugins of its documentation, and the bootstrap of its own end-to-end tests: full
/// duplex in both directions, and a cluster whose endpoint the processor names in a header. It takes its endpoints from a
/// real API server.
pub(in super::super) async fn endpoint_picker() -> anyhow::Result<()> {
    only_live()?;
    let envoy = provision::envoy()?;
    let part = provision::inference_extension()?;
    let parts = provision::kubernetes()?;
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let port = apiserver::free_ports()?;
    let folder = provision::target_directory().join(format!("endpoint-picker-{port}"));
    std::fs::create_dir_all(&folder)?;
    let _server = apiserver::serve(&parts, &folder, port).await?;
    let definitions = part.module.join("config/crd/bases").display().to_string();
    kubectl(&parts, &folder, &["apply", "-f", &definitions]).await?;
    let objects = folder.join("objects.yaml");
    std::fs::write(&objects, objects_of(httpbin.address))?;
    let objects = objects.display().to_string();
    // A custom resource is known a moment after its definition.
    let apply = ["apply", "-f", &*objects];
    until("the pool", PATIENCE, || kubectl(&parts, &folder, &apply)).await?;
    let status = format!("-p={}", status_of(httpbin.address));
    let patch = ["patch", "pod", "model", "--subresource=status", &status];
    kubectl(&parts, &folder, &patch).await?;

    let plugins = body_file("endpoint-picker", PLUGINS.as_bytes())?;
    let words = [
        "--pool-name",
        "pool",
        "--pool-namespace",
        "default",
        "--config-file",
        plugins.trim_start_matches('@'),
    ];
    let kubeconfig = folder.join("kubeconfig").display().to_string();
    let picker = start(&part.endpoint_picker, &words, &kubeconfig).await?;
    let bootstrap = bootstrap(&part, &picker)?;
    // It knows its endpoints a moment after it listens. What is counted until then is nobody's.
    let waiting = Both::start(&envoy, &bootstrap).await?;
    until("the picker's endpoints", PATIENCE, || served(&waiting)).await?;
    drop(waiting);
    // On loopback, Envoy takes its own address for the client's.
    let both = Both::start(&envoy, &bootstrap)
        .await?
        .with_random(&["X-Forwarded-For"]);

    let large = body_file("large-prompt", prompt("small", 200_000).as_bytes())?;
    let small = prompt("small", 2);
    let chat =
        r#"{"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": true}"#;
    let requests: [&[&str]; 17] = [
        &["/headers"],
        &["/anything", "-H", JSON, "-d", &small],
        &["/anything", "-H", JSON, "-d", chat],
        &[
            "/anything",
            "-H",
            JSON,
            "-H",
            "x-two: 1",
            "-H",
            "x-two: 2",
            "-d",
            &small,
        ],
        &["/anything", "-H", JSON, "-d", r#"{"prompt": "no model"}"#],
        &["/anything", "-H", JSON, "-d", r#"{"model": "no prompt"}"#],
        &["/anything", "-H", JSON, "-d", "no json"],
        &["/anything", "-H", JSON, "-d", ""],
        &["/anything", "-H", JSON, "--data-binary", &large],
        &["/status/404"],
        &["/status/204"],
        &["/bytes/100000?seed=1"],
        &["/html"],
        &["/stream-bytes/3000?seed=1&chunk_size=1000"],
        &["/drip?numbytes=6&duration=1&delay=0"],
        &["/base64/ZGF0YTogW0RPTkVdCgo=?content-type=text/event-stream"],
        &["/a%2Fb"],
    ];
    both.ask_all(&requests).await?;
    both.same_counters(Bodies::Streamed).await
}

async fn served(both: &Both) -> anyhow::Result<()> {
    let answer = both.ask(&["/headers"]).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// The bootstrap inside the module's own ConfigMap, with the addresses of this machine.
fn bootstrap(part: &InferenceExtension, picker: &Peer) -> anyhow::Result<Bootstrap> {
    let file = part.module.join("test/testdata/envoy.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let (_, text) = text
        .split_once("envoy.yaml: |\n")
        .context("no envoy.yaml")?;
    let (text, _) = text.split_once("\n---").context("no end of it")?;
    let lines = text
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line));
    let text = lines.collect::<Vec<_>>().join("\n");
    Bootstrap::new("endpoint-picker", text, "8081", "19000")
        .own_port("19001")
        .port("9002", picker.address.port())
        .put("address: 0.0.0.0", "address: 127.0.0.1")?
        .put(
            "address: vllm-llama3-8b-instruct-epp.$E2E_NS",
            "address: 127.0.0.1",
        )?
        .put("$E2E_NS", "default")
}

/// A pool with one pod.
fn objects_of(endpoint: SocketAddr) -> String {
    format!(
        "apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: pool, namespace: default}}
spec:
  targetPorts: [{{number: {port}}}]
  selector: {{matchLabels: {{app: model}}}}
  endpointPickerRef: {{name: picker, kind: Service, port: {{number: 9002}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: model, namespace: default, labels: {{app: model}}}}
spec: {{containers: [{{name: model, image: model}}]}}
",
        port = endpoint.port(),
    )
}

fn status_of(endpoint: SocketAddr) -> String {
    let ip = endpoint.ip();
    format!(
        r#"{{"status": {{"phase": "Running", "podIP": "{ip}", "podIPs": [{{"ip": "{ip}"}}],
            "conditions": [{{"type": "Ready", "status": "True"}}]}}}}"#
    )
}

/// Content of the documentation's ConfigMap.
const PLUGINS: &str = "apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
  - pluginRef: kv-cache-utilization-scorer
  - pluginRef: prefix-cache-scorer
";
