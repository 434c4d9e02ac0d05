//! An observer of one's own: prints what a processor was told and what came of it, for an axum application.
//!
//! `cargo run --example observer -- --listen 127.0.0.1:3000`
//!
//! The layer is the one of the example `axum`, with the processor in the same process. Everything that an observer is given is
//! borrowed, so that it pays for what it keeps, and a layer without one pays nothing.

use std::{process::ExitCode, sync::Arc};

use axum::{Router, routing::get};
use clap::Parser;
use examples::signer::Signer;
use extproc_client::{
    ExtProcLayer, FilterConfig,
    config::{GrpcService, Service},
    http::{HeaderMap, HeaderValue},
    observer::{Event, Observer, Stats, Watched},
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

/// Prints a line for each event that a person would ask about.
struct Told;

impl Observer for Told {
    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        let id = exchange.id;
        match event {
            Event::MessageSent { phase, message, .. } => {
                println!("{id} sent {phase:?}: {}", message.to_json(0));
            }
            Event::ReplyArrived { reply, .. } => println!("{id} reply: {}", reply.to_json(0)),
            Event::MessageReceived {
                latency: Some(latency),
                effect,
                ..
            } => println!("{id} {effect:?} after {latency:?}"),
            Event::Header { change, .. } => match change.refused {
                Some(reason) => println!("{id} {} refused: {reason}", change.name),
                None => println!("{id} {:?} {}", change.operation, change.name),
            },
            Event::Failed { row, verdict, .. } => println!("{id} failed: {row}; {verdict:?}"),
            Event::Ended { summary, .. } => println!("{id} over: {summary}"),
            _ => {}
        }
    }

    /// The processor can find the exchange in its own log.
    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        metadata.insert("x-exchange", HeaderValue::from(exchange.id));
    }
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
