//! The sample server: a processor that does to a message what its `instructions` header says.

use std::{
    future::poll_fn,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    task::Poll,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::{Parser, ValueEnum};
use extproc_sdk::{ProcessorService, Server, TlsConfig, serve_metrics};
use extproc_server::Instructions;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// A sample ExtProc server (ext_proc v3). It does to a request or a response what the message's `instructions` header
/// says, a JSON object: {"addHeaders":{"name":"value"},"removeHeaders":["name"],"setBody":"text",
/// "setTrailers":{"name":"value"}}, or {"respond":{"status":403,"headers":{},"body":"text"}}.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Address to listen on; port 0 takes any free port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: String,

    /// Form of the log, which goes to standard error. RUST_LOG sets what is logged.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    log_format: LogFormat,

    /// Time that open exchanges have after SIGTERM or SIGINT, such as 10s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    drain_time: Duration,

    /// Address for Prometheus metrics, at /metrics.
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,

    /// File with the server's certificate chain (PEM); serves with TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// File with the private key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// File with the authority (PEM) that clients need a certificate of.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match flags.log_format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
    match run(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let shutdown = shutdown().context("cannot handle signals")?;
    let listener = bind(&flags.listen, "--listen").await?;
    let service = ProcessorService::new(Instructions);
    let metrics = match &flags.metrics {
        None => None,
        Some(address) => Some(bind(address, "--metrics").await?),
    };
    if let Some(listener) = metrics {
        tokio::spawn(serve_metrics(listener, service.stats()));
    }
    let mut server = Server::with_service(service).drain(flags.drain_time);
    if let (Some(cert), Some(key)) = (&flags.tls_cert, &flags.tls_key) {
        let mut tls = TlsConfig::new(read(cert, "--tls-cert")?, read(key, "--tls-key")?);
        if let Some(authority) = &flags.client_ca {
            tls = tls.client_authority(read(authority, "--client-ca")?);
        }
        server = server.tls(tls);
    }
    server.serve(listener, shutdown).await?;
    info!("stopped");
    Ok(())
}

async fn bind(address: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow!("cannot listen on {address}: {error}; choose another address with {flag}")
    })
}

fn read(path: &Path, flag: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {} ({flag})", path.display()))
}

/// Ready with the first SIGTERM or SIGINT; they are caught from now on.
fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(poll_fn(move |cx| {
        if terminate.poll_recv(cx).is_ready() || interrupt.poll_recv(cx).is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "expected a time such as 10s or 500ms".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}
