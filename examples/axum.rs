//! The layer around an axum application, with the processor in the same process and no socket between them.
//!
//! `cargo run --example axum -- --listen 127.0.0.1:3000` serves a shop whose prices need a key. The application knows
//! nothing of keys: the processor checks them, tells the application who is calling, and signs every answer.

use std::process::ExitCode;

use axum::{Json, Router, http::HeaderMap, routing::get};
use clap::Parser;
use examples::cli::{self, ListenAddr};
use extproc_client::{
    ExtProcLayer, FilterConfig,
    config::{GrpcService, Service},
    transport::GrpcTransport,
};
use extproc_server::{
    BoxError, Call, Headers, HeadersReply, Immediate, Processor, ProcessorService,
};
use http::StatusCode;
use serde_json::{Value, json};

/// Who may pass, by key.
struct Keys;

impl Processor for Keys {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let customer = match headers.get_str("x-api-key") {
            Some("apples") => "alice",
            Some("bananas") => "bob",
            _ => {
                let refusal = Immediate::new(StatusCode::UNAUTHORIZED)
                    .body("x-api-key is missing or unknown\n");
                return Ok(refusal.into());
            }
        };
        Ok(HeadersReply::new()
            .remove("x-api-key")
            .set("x-customer", customer))
    }

    async fn response_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-checked-by", "the processor"))
    }
}

/// A shop whose prices need an API key.
#[derive(Parser)]
struct Args {
    /// Where to listen: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
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
    let transport = GrpcTransport::new(ProcessorService::new(Keys));
    let app = Router::new()
        .route("/prices", get(prices))
        .layer(ExtProcLayer::new(config, transport));

    println!(
        "curl -i http://{}/prices -H 'x-api-key: apples'",
        listener.local_addr()?
    );
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    Ok(())
}

async fn prices(headers: HeaderMap) -> Json<Value> {
    let customer = headers
        .get("x-customer")
        .and_then(|name| name.to_str().ok());
    Json(json!({ "for": customer, "apple": 0.4, "banana": 0.3 }))
}
