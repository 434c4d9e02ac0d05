//! Processors that others wrote, unchanged, behind Envoy and behind the gateway: the same bootstrap, the same traffic,
//! the same answers.
//!
//! What takes minutes to build runs only with `EXTPROC_CONFORMANCE=live`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::provision;
use tests::support::curl::curl;
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::process::Process;
use tests::support::trial::OnlyWhen;

use super::same_for_the_user;

const START: Duration = Duration::from_secs(30);

/// The body-based router of the Gateway API Inference Extension, as its own chart configures it: full duplex over TLS
/// without validation, and a route that is selected again by the model named in the body.
pub(super) async fn body_based_router() -> anyhow::Result<()> {
    only_live()?;
    let envoy = provision::envoy()?;
    let program = provision::body_based_router()?;
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let processor = start_body_based_router(program).await?;
    let ports = [
        ("10002", httpbin.address.port()),
        ("10003", processor.address.port()),
    ];
    let both = Both::start("body-based-router", &envoy, &ports).await?;
    let json = "content-type: application/json";
    let large = format!(
        r#"{{"model": "small", "prompt": "{}"}}"#,
        "x".repeat(100_000)
    );
    let file = peers::log_file("large-prompt", processor.address.port());
    std::fs::write(&file, large)?;
    let large = format!("@{}", file.display());
    let requests: [(&str, &[&str]); 7] = [
        (
            "/anything",
            &["-H", json, "-d", r#"{"model": "small", "prompt": "hi"}"#],
        ),
        (
            "/anything",
            &["-H", json, "-d", r#"{"model": "large", "prompt": "hi"}"#],
        ),
        (
            "/anything",
            &["-H", json, "-d", r#"{"prompt": "no model"}"#],
        ),
        ("/anything", &["-H", json, "-d", "no json"]),
        ("/anything", &["-H", json, "-d", ""]),
        ("/headers", &[]),
        ("/anything", &["-H", json, "--data-binary", &large]),
    ];
    for (path, more) in requests {
        both.ask(path, more).await?;
    }
    let chosen = both.ask(requests[1].0, requests[1].1).await?;
    ensure!(
        chosen.header("x-pool") == Some("large"),
        "not routed by the model: {chosen:?}"
    );
    Ok(())
}

fn only_live() -> anyhow::Result<()> {
    match std::env::var("EXTPROC_CONFORMANCE").as_deref() {
        Ok("live") => Ok(()),
        _ => Err(OnlyWhen("EXTPROC_CONFORMANCE=live: it takes minutes to build").into()),
    }
}

/// It wants a cluster's address before it serves, and asks that cluster nothing.
async fn start_body_based_router(program: PathBuf) -> anyhow::Result<Peer> {
    let kubeconfig = peers::log_file("no-cluster", 0).with_extension("kubeconfig");
    std::fs::create_dir_all(kubeconfig.parent().context("no directory")?)?;
    std::fs::write(
        &kubeconfig,
        "apiVersion: v1\nkind: Config\ncurrent-context: none\n\
         clusters: [{name: none, cluster: {server: 'http://127.0.0.1:1'}}]\n\
         contexts: [{name: none, context: {cluster: none, user: none}}]\n\
         users: [{name: none, user: {}}]\n",
    )?;
    let health = ports::free()?.to_string();
    let arguments = move |at: SocketAddr| {
        let port = at.port().to_string();
        let words = [
            "--grpc-port",
            &port,
            "--grpc-health-port",
            &health,
            "--metrics-port",
            "0",
            "--streaming",
        ];
        words.map(str::to_owned).to_vec()
    };
    let kubeconfig = kubeconfig.display().to_string();
    let env = [("KUBECONFIG", kubeconfig.as_str())];
    peers::start("body-based-router", program, arguments, &env).await
}

/// Envoy and the gateway with the same bootstrap of `tests/peers`, but for their own ports.
struct Both {
    envoy: Peer,
    gateway: Peer,
}

impl Both {
    async fn start(name: &str, envoy: &Path, ports: &[(&str, u16)]) -> anyhow::Result<Self> {
        let gateway = provision::workspace_binary("gateway", "gateway")?;
        let envoy_only = ["--concurrency", "1", "--disable-hot-restart", "-l", "warn"];
        Ok(Self {
            envoy: Self::one(name, envoy, "-c", &envoy_only, ports).await?,
            gateway: Self::one(name, &gateway, "--config", &[], ports).await?,
        })
    }

    async fn one(
        name: &str,
        program: &Path,
        flag: &str,
        more: &[&str],
        ports: &[(&str, u16)],
    ) -> anyhow::Result<Peer> {
        let source = format!("{}/peers/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let mut text = std::fs::read_to_string(&source).context(source)?;
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
        let own = [("10000", address.port()), ("10001", ports::free()?)];
        for (from, to) in own.iter().chain(ports) {
            let from = format!("port_value: {from}");
            ensure!(text.contains(&from), "no {from} in the bootstrap");
            text = text.replace(&from, &format!("port_value: {to}"));
        }
        let file = peers::log_file(name, address.port()).with_extension("yaml");
        std::fs::create_dir_all(file.parent().context("no directory")?)?;
        std::fs::write(&file, text)?;
        let file = file.display().to_string();
        let mut arguments = vec![flag, &file];
        arguments.extend(more);
        let log = peers::log_file(&format!("{name}-proxy"), address.port());
        let process = Process::spawn(program, arguments, &log)?;
        Ok(Peer {
            address,
            process: process.listening(address, START).await?,
        })
    }

    /// Asks both the same and gives the gateway's answer.
    async fn ask(&self, path: &str, more: &[&str]) -> anyhow::Result<tests::support::curl::Answer> {
        let ask = async |peer: &Peer| {
            let url = format!("{}{path}", peer.url());
            let mut arguments = vec![url.as_str(), "-H", "host: same.local"];
            arguments.extend(more);
            curl(&arguments).await
        };
        let theirs = ask(&self.envoy).await?;
        let ours = ask(&self.gateway).await?;
        same_for_the_user(&theirs, &ours).with_context(|| format!("{path} {more:?}"))?;
        ensure!(
            theirs.header("x-pool") == ours.header("x-pool"),
            "{path}: {theirs:?} {ours:?}"
        );
        Ok(ours)
    }
}
