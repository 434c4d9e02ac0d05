//! The signing processor at home behind a client: it signs what goes out.
//!
//! `cargo run --example hyper_client -- http://example.com/`
//!
//! sends a GET request with hyper's client and prints the answer. The caller knows no key; the processor, the one of the
//! example `signer`, is in the same process, with no socket in between. `--header` shows that a request which brings a
//! signature along does not leave. `Told`, an observer, prints what the processor was told and what came of it on standard
//! error.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::Parser;
use examples::{signer::Signer, told::Told};
use extproc_client::{
    ExtProcLayer, FilterConfig, ProcessingMode, SendMode,
    config::{GrpcService, Service},
    transport::GrpcTransport,
};
use extproc_sdk::ProcessorService;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use quickstart::cli;
use tower::{Layer as _, ServiceExt as _};

/// A client whose requests are signed.
#[derive(Parser)]
struct Args {
    /// URL to send a GET request to.
    url: Uri,
    /// A header of the request.
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Speak HTTP/2 with prior knowledge.
    #[arg(long)]
    http2: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let config = FilterConfig::builder(Service::Grpc(GrpcService::cluster("in-process")))
        .processing_mode(ProcessingMode {
            response_trailer_mode: SendMode::Send,
            ..ProcessingMode::default()
        })
        .build()?;
    let processor = GrpcTransport::new(ProcessorService::new(Signer::demo()));
    let client = Client::builder(TokioExecutor::new())
        .http2_only(args.http2)
        .build_http();
    // The layer wraps hyper's client as it would wrap any tower service.
    let client = ExtProcLayer::new(config, processor)
        .observer(Arc::new(Told))
        .layer(client);

    let mut request = Request::get(args.url).body(Empty::<Bytes>::new())?;
    request.headers_mut().extend(args.header);
    let response = client
        .oneshot(request)
        .await
        .context("the request failed")?;
    println!("{}", response.status());
    print(response.headers());
    let body = response.into_body().collect().await;
    let body = body.map_err(anyhow::Error::from_boxed)?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    println!("\n{}", String::from_utf8_lossy(&body.to_bytes()));
    print(&trailers);
    Ok(())
}

fn print(fields: &HeaderMap) {
    for (name, value) in fields {
        println!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
}

fn parse_header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| anyhow!("expected NAME: VALUE"))?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}
