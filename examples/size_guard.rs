//! Refuses request bodies beyond a size: by `content-length` before a byte goes on, else as soon as too many have come.
//!
//! `cargo run --example size_guard -- --limit 1048576`
//!
//! Needs `request_body_mode: STREAMED`, so that nothing is held back; see `examples/README.md` for the proxy's side. A body
//! that declares a length within the limit is not looked at: its length is the proxy's business.

use std::process::ExitCode;

use clap::Parser;
use extproc_sdk::{
    Body, BodyMode, BodyReply, BoxError, Call, Headers, HeadersReply, Immediate, Modes, Processor,
};
use http::StatusCode;
use quickstart::cli::{self, ListenAddr};

struct SizeGuard {
    /// The most bytes of a request body.
    limit: u64,
}

impl SizeGuard {
    fn refusal(&self) -> Immediate {
        Immediate::new(StatusCode::PAYLOAD_TOO_LARGE)
            .details("request_body_too_large")
            .body(format!("a request may have {} bytes\n", self.limit))
    }
}

impl Processor for SizeGuard {
    /// The bytes seen so far.
    type State = u64;

    fn check_modes(&self, modes: Modes) -> Result<(), BoxError> {
        match modes.request_body {
            BodyMode::Streamed | BodyMode::FullDuplexStreamed => Ok(()),
            other => Err(format!("request_body_mode is {other}, STREAMED is needed").into()),
        }
    }

    async fn request_headers(
        &self,
        _: &mut Call<u64>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let declared = headers.get_str("content-length");
        Ok(
            match declared.and_then(|length| length.parse::<u64>().ok()) {
                Some(length) if length > self.limit => self.refusal().into(),
                Some(_) => HeadersReply::new().skip_rest(),
                None => HeadersReply::new(),
            },
        )
    }

    async fn request_body(&self, call: &mut Call<u64>, body: &Body) -> Result<BodyReply, BoxError> {
        call.state += u64::try_from(body.data.len())?;
        if call.state > self.limit {
            return Ok(self.refusal().into());
        }
        Ok(BodyReply::new())
    }
}

/// A processor that refuses large request bodies.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: ListenAddr,
    /// The most bytes of a request body.
    #[arg(long, value_name = "BYTES", default_value = "1048576")]
    limit: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    cli::exit(cli::serve(SizeGuard { limit: args.limit }, &args.listen).await)
}

#[cfg(test)]
mod tests {
    use extproc_sdk::testing::{FakeProxy, Message, Outcome};

    use super::*;

    async fn ask(mode: BodyMode, request: Message) -> Outcome {
        let proxy = FakeProxy::new(SizeGuard { limit: 10 }).request_body(mode);
        proxy.exchange().request(request).await.expect("an outcome")
    }

    fn post() -> Message {
        Message::request("POST", "/upload")
    }

    #[tokio::test]
    async fn bodies_within_the_limit_pass() {
        for mode in [BodyMode::Streamed, BodyMode::FullDuplexStreamed] {
            for request in [
                post(),
                post().body("0123456789"),
                post().pieces(["01234", "56789"]),
            ] {
                let body = request.bytes();
                let request = ask(mode, request).await.forwarded().expect("a request");
                assert_eq!(request.bytes(), body, "{mode}");
            }
        }
    }

    #[tokio::test]
    async fn larger_ones_are_refused_however_they_come() {
        for mode in [BodyMode::Streamed, BodyMode::FullDuplexStreamed] {
            for request in [
                post().body("0123456789x"),
                post().pieces(["01234", "56789", "x"]),
            ] {
                let response = ask(mode, request).await.responded().expect("a response");
                assert_eq!(response.status(), 413, "{mode}");
            }
        }
    }
}
