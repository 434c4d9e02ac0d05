//! The signing processor at home in a server of its own, behind Envoy or this gateway.
//!
//! `cargo run --example signer -- --listen 127.0.0.1:18080`
//!
//! The processor itself is [`examples::signer::Signer`]; the examples `axum`, `tonic` and `hyper_client` run the same one in
//! other homes. See `examples/README.md` for the proxy's side.

use std::process::ExitCode;

use clap::Parser;
use examples::signer::Signer;
use quickstart::cli::{self, ListenAddr};

/// A processor that signs requests.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(cli::serve(Signer::demo(), &Args::parse().listen).await)
}
