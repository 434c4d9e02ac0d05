//! An observer of one's own: prints what a processor was told and what came of it, for an axum application.
//!
//! `cargo run --example observer -- --listen 127.0.0.1:3000`
//!
//! The layer is the one of the example `axum`, with the processor in the same process. The observer is `Told`, which the examples
//! `tonic` and `hyper_client` have, too.

use std::{process::ExitCode, sync::Arc};

use axum::{Router, routing::get};
use clap::Parser;
use examples::{signer::Signer, told::Told};
use extproc_client::{
    ExtProcLayer, FilterConfig,
    config::{GrpcService, Service},
    observer::Stats,
    transport::GrpcTransport,
};
use extproc_sdk::ProcessorService;
use quickstart::cli::{self, ListenAddr};

/// A shop that tells what its processor does.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:3000")]
    listen: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let listener = cli::bind(&args.listen, "--listen").await?;
    let stop = cli::stop_signal()?;
    let config =
        FilterConfig::builder(Service::Grpc(GrpcService::cluster("in-process"))).build()?;
    let processor = GrpcTransport::new(ProcessorService::new(Signer::demo()));
    // Two observers in a tuple are one: counters under Envoy's names beside the lines.
    let stats = Arc::new(Stats::default());
    let app = Router::new()
        .route("/prices", get(|| async { "apple 0.4, banana 0.3\n" }))
        .layer(ExtProcLayer::new(config, processor).observer(Arc::new((stats.clone(), Told))));

    println!("curl -i http://{}/prices", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    println!("messages sent: {}", stats.stream_msgs_sent.get());
    Ok(())
}
