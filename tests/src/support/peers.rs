//! The whole programs of a flow: processors, httpbins, gateways, each on a port of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::provision;
use crate::support::ports;
use crate::support::process::Process;

/// Programs in debug builds on a busy machine, interpreters that load much.
const START: Duration = Duration::from_secs(30);

/// A program that listens.
#[derive(Debug)]
pub struct Peer {
    /// Address on which it listens.
    pub address: SocketAddr,
    /// The program.
    pub process: Process,
}

impl Peer {
    /// `http://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Starts a program that listens on the address which `arguments` is given.
///
/// # Errors
/// When it does not come up.
pub async fn start(
    name: &str,
    program: PathBuf,
    arguments: impl Fn(SocketAddr) -> Vec<String>,
    env: &[(&str, &str)],
) -> anyhow::Result<Peer> {
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let log = log_file(name, address.port());
    let process = Process::spawn_with(program, arguments(address), env, &log)?;
    Ok(Peer {
        address,
        process: process.listening(address, START).await?,
    })
}

/// Starts a program that reads files of the folder `folder` and knows by itself that it has to listen on `address`.
///
/// # Errors
/// When it does not come up.
pub async fn start_in(
    folder: &Path,
    address: SocketAddr,
    program: &Path,
    arguments: &[&str],
    env: &[(&str, &str)],
) -> anyhow::Result<Peer> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let log = log_file(&name, address.port());
    let process = Process::spawn_in(folder, program, arguments, env, &log)?;
    Ok(Peer {
        address,
        process: process.listening(address, START).await?,
    })
}

/// Starts a program with `--listen` on this address.
///
/// # Errors
/// When it does not come up.
pub async fn start_at(address: SocketAddr, name: &str, program: PathBuf) -> anyhow::Result<Peer> {
    let log = log_file(name, address.port());
    let process = Process::spawn(program, ["--listen", &address.to_string()], &log)?;
    Ok(Peer {
        address,
        process: process.listening(address, START).await?,
    })
}

/// The file for a program's output.
#[must_use]
pub fn log_file(name: &str, port: u16) -> PathBuf {
    let directory = provision::target_directory().join("flow");
    directory.join(format!("{name}-{port}.log"))
}

/// Our sample processor.
///
/// # Errors
/// When it does not come up.
pub async fn sample_processor() -> anyhow::Result<Peer> {
    let program = provision::workspace_binary("extproc-server", "extproc-server")?;
    let arguments = |at: SocketAddr| vec!["--listen".into(), at.to_string()];
    start("extproc-server", program, arguments, &[]).await
}

/// The processor on somebody else's SDK.
///
/// # Errors
/// When it does not come up.
pub async fn third_party_processor(part: &provision::PythonPart) -> anyhow::Result<Peer> {
    let arguments = |at: SocketAddr| {
        let port = at.port().to_string();
        let words = [
            "-m",
            "envoy_extproc_sdk",
            "-s",
            "peer_processor.PeerProcessor",
            "-p",
            &port,
        ];
        words.map(str::to_owned).to_vec()
    };
    let env = [
        ("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/peers")),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("DD_TRACE_ENABLED", "false"),
        ("DD_INSTRUMENTATION_TELEMETRY_ENABLED", "false"),
    ];
    start("third-party-processor", part.python(), arguments, &env).await
}

/// go-httpbin.
///
/// # Errors
/// When it does not come up.
pub async fn go_httpbin(program: PathBuf) -> anyhow::Result<Peer> {
    let arguments = |at: SocketAddr| {
        let port = at.port().to_string();
        ["-host", "127.0.0.1", "-port", &port]
            .map(str::to_owned)
            .to_vec()
    };
    start("go-httpbin", program, arguments, &[]).await
}

/// PyPI httpbin.
///
/// # Errors
/// When it does not come up.
pub async fn python_httpbin(part: &provision::PythonPart) -> anyhow::Result<Peer> {
    let arguments = |at: SocketAddr| {
        let listen = format!("--listen={at}");
        ["-m", "waitress", &listen, "httpbin:app"]
            .map(str::to_owned)
            .to_vec()
    };
    start("python-httpbin", part.python(), arguments, &[]).await
}

/// The httpbin of the examples.
///
/// # Errors
/// When it does not come up.
pub async fn embedded_httpbin() -> anyhow::Result<Peer> {
    let program = provision::workspace_example("httpbin")?;
    let arguments = |at: SocketAddr| vec!["--listen".into(), at.to_string()];
    start("embedded-httpbin", program, arguments, &[]).await
}

/// Our gateway, configured by flags.
///
/// # Errors
/// When it does not come up.
pub async fn gateway(upstream: &str, processor: &str) -> anyhow::Result<Peer> {
    let program = provision::workspace_binary("gateway", "gateway")?;
    let arguments = |at: SocketAddr| {
        let at = at.to_string();
        let words = [
            "--listen",
            &at,
            "--upstream",
            upstream,
            "--ext-proc",
            processor,
        ];
        words.map(str::to_owned).to_vec()
    };
    start("gateway", program, arguments, &[]).await
}
