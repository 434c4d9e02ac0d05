//! The documented flow in one process: `cargo run --release --example quickstart`.
//!
//! It starts an upstream (the embedded httpbin), the sample processor, and the gateway with the processor between client and
//! upstream, and prints the curl lines to try. Ctrl-C or SIGTERM stops it. The three speak over real sockets, as separate
//! programs would.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use gateway_config::{bootstrap::Flags, from_flags};
use gateway_inspector::{Inspector, Settings};
use gateway_proxy::{Gateway, Options, Running};
use quickstart::{
    cli::{self, ListenAddr},
    httpbin,
};
use tokio::{sync::watch, time::timeout};
use tracing_subscriber::EnvFilter;

/// Time that requests under way have after Ctrl-C, and then the servers behind the gateway.
const GRACE: Duration = Duration::from_secs(3);

/// A gateway, a processor and an upstream to try external processing with.
///
/// Addresses are HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one. RUST_LOG sets what is logged.
#[derive(Parser)]
struct Args {
    /// Address of the gateway.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    gateway: ListenAddr,
    /// Address of the sample processor.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    processor: ListenAddr,
    /// Address of the page of exchanges.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15001")]
    inspect: ListenAddr,
    /// Address of the embedded httpbin.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    httpbin: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    cli::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let stop = cli::stop_signal()?;
    let httpbin = cli::bind(&args.httpbin, "--httpbin").await?;
    let processor = cli::bind(&args.processor, "--processor").await?;
    let upstream_url = url(httpbin.local_addr()?);
    let processor_url = url(processor.local_addr()?);
    let inspect = args.inspect.resolve("--inspect").await?;
    let (inspector, page) = gateway_inspector::start(inspect, Settings::default())
        .map_err(|error| cli::refused(inspect, "--inspect", &error))?;
    let gateway = start_gateway(&args.gateway, &upstream_url, &processor_url, inspector).await?;
    let (_, address) = gateway
        .local_addrs()
        .into_iter()
        .next()
        .context("the gateway has no listener")?;

    let (finish, finishing) = watch::channel(());
    let told = |mut finishing: watch::Receiver<()>| async move {
        // The sender says nothing; it goes away when it is time.
        while finishing.changed().await.is_ok() {}
    };
    let mut upstream = tokio::spawn(httpbin::serve(httpbin, told(finishing.clone())));
    let mut processor = tokio::spawn(extproc_server::serve(processor, told(finishing)));

    print!(
        "{}",
        guide(&url(address), &processor_url, &upstream_url, &page)
    );
    tokio::select! {
        () = stop => {}
        ended = &mut upstream => return ended?.context("httpbin has ended"),
        ended = &mut processor => return ended?.context("the processor has ended"),
    }

    // From the client inwards, so that requests under way still find what they need.
    println!("\nstopping");
    if timeout(GRACE, gateway.drain()).await.is_err() {
        println!("some requests were not finished");
    }
    // Ends the gateway's threads, which blocks.
    tokio::task::spawn_blocking(move || drop(gateway)).await?;
    drop(finish);
    let behind = async { tokio::join!(upstream, processor) };
    if let Ok((upstream, processor)) = timeout(GRACE, behind).await {
        upstream??;
        processor??;
    }
    Ok(())
}

/// The gateway as its own flags would start it.
async fn start_gateway(
    listen: &ListenAddr,
    upstream: &str,
    processor: &str,
    inspector: Arc<Inspector>,
) -> anyhow::Result<Running> {
    let address = listen.resolve("--gateway").await?;
    let snapshot = from_flags(&Flags {
        listen: Some(&address.to_string()),
        upstream: Some(upstream),
        ext_proc: Some(processor),
        ..Flags::default()
    })?;
    inspector.set_processors(snapshot.processors());
    let options = Options::default().observer(inspector);
    Gateway::start(snapshot, options).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => cli::refused(address, "--gateway", &error),
        _ => anyhow::Error::new(error)
            .context("the gateway cannot start (--gateway chooses its address)"),
    })
}

/// Returns the URL of a server that listens on `address`.
fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// Tells what runs where, and what to try.
fn guide(gateway: &str, processor: &str, httpbin: &str, page: &str) -> String {
    // By name, as people type it.
    let gw = gateway.replace("127.0.0.1", "localhost");
    format!(
        r#"
  httpbin    {httpbin}   answers with what it was asked
  processor  {processor}   the sample ExtProc server (gRPC)
  gateway    {gateway}   httpbin, with the processor in between
  inspector  {page}   every exchange: what the processor was told, what it answered, what came of it

Try in another terminal:

  # add a request header: httpbin sees "Extproc"
  curl -vi {gw}/headers -H "host: www.example.com" -H 'instructions: {{"addHeaders":{{"extproc":"true"}}}}'

  # remove request headers: httpbin sees neither
  curl -i {gw}/headers -H 'x-secret: 42' -H 'instructions: {{"removeHeaders":["x-secret","user-agent"]}}'

  # change a response: httpbin answers with an instructions header, the processor obeys it
  curl -iG {gw}/response-headers --data-urlencode 'instructions={{"addHeaders":{{"x-from":"the processor"}}}}'

  # replace a request body: httpbin shows the new one as "data"
  curl -i {gw}/anything -d 'the original' -H 'instructions: {{"setBody":"hello from the processor"}}'

  # answer at once: httpbin sees nothing
  curl -i {gw}/get -H 'instructions: {{"respond":{{"status":403,"body":"not today\n"}}}}'

Ctrl-C stops all three. The gateway's access log follows.

"#
    )
}
