//! The signing processor at home in an axum application: in the same process, with no socket in between.
//!
//! `cargo run --example axum -- --listen 127.0.0.1:3000`
//!
//! Every request that reaches the application has been signed by the processor, and one that brings a signature along is
//! turned away before. The processor is the one of the example `signer`.

use std::process::ExitCode;

use axum::{Json, Router, extract::Request, routing::get};
use clap::Parser;
use examples::signer::Signer;
use extproc_client::{
    ExtProcLayer, FilterConfig,
    config::{GrpcService, Service},
    transport::GrpcTransport,
};
use extproc_sdk::ProcessorService;
use quickstart::cli::{self, ListenAddr};
use serde_json::{Value, json};

/// A shop that knows whether a request came in through the front door.
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
    // The name is only shown in logs and statistics: the transport has the service in hand.
    let config =
        FilterConfig::builder(Service::Grpc(GrpcService::cluster("in-process"))).build()?;
    let processor = GrpcTransport::new(ProcessorService::new(Signer::demo()));
    let app = Router::new()
        .route("/prices", get(prices))
        .layer(ExtProcLayer::new(config, processor));

    println!("curl -i http://{}/prices", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    Ok(())
}

async fn prices(request: Request) -> Json<Value> {
    let signed = Signer::demo().has_signed(&request);
    Json(json!({ "signed": signed, "apple": 0.4, "banana": 0.3 }))
}
