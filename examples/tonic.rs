//! The signing processor at home in a tonic server: gRPC calls, whose responses end with trailers.
//!
//! `cargo run --example tonic -- --listen 127.0.0.1:3001`
//!
//! serves the standard health service, which answers only calls that the processor has signed. It is the processor of the
//! example `signer`; here it is asked for response trailers, too, and a refusal reaches the caller as a gRPC status. `Told`, an
//! observer, prints what the processor was told and what came of it.

use std::{process::ExitCode, sync::Arc};

use axum::{
    extract::Request,
    middleware::{self, Next},
    response::Response,
};
use clap::Parser;
use examples::{signer::Signer, told::Told};
use extproc_client::{
    ExtProcLayer, FilterConfig, ProcessingMode, SendMode,
    config::{GrpcService, Service},
    transport::GrpcTransport,
};
use extproc_sdk::ProcessorService;
use quickstart::cli::{self, ListenAddr};
use tonic::{
    Status,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

/// A gRPC server that answers signed calls.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:3001")]
    listen: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let listener = cli::bind(&args.listen, "--listen").await?;
    let stop = cli::stop_signal()?;
    let config = FilterConfig::builder(Service::Grpc(GrpcService::cluster("in-process")))
        .processing_mode(ProcessingMode {
            response_trailer_mode: SendMode::Send,
            ..ProcessingMode::default()
        })
        .build()?;
    let processor = GrpcTransport::new(ProcessorService::new(Signer::demo()));
    let (_reporter, health) = tonic_health::server::health_reporter();

    println!("gRPC on http://{}", listener.local_addr()?);
    let services = Routes::new(health)
        .into_axum_router()
        .layer(middleware::from_fn(signed_only));
    Server::builder()
        .layer(ExtProcLayer::new(config, processor).observer(Arc::new(Told)))
        .add_routes(services.into())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop)
        .await?;
    Ok(())
}

/// Answers calls that are not signed by itself.
async fn signed_only(call: Request, next: Next) -> Response {
    if Signer::demo().has_signed(&call) {
        return next.run(call).await;
    }
    Status::unauthenticated("the call is not signed").into_http()
}
