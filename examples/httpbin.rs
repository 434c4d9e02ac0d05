//! The embedded httpbin on its own: `cargo run --example httpbin -- --listen 127.0.0.1:8000`.
//!
//! It answers with what it was asked, over HTTP/1.1 and h2c. `/` lists the endpoints.

use std::process::ExitCode;

use clap::Parser;
use quickstart::{
    cli::{self, ListenAddr},
    httpbin,
};

/// An HTTP server that answers with what it was asked.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    listen: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let listener = cli::bind(&args.listen, "--listen").await?;
    let stop = cli::stop_signal()?;
    println!("httpbin listens on http://{}", listener.local_addr()?);
    Ok(httpbin::serve(listener, stop).await?)
}
