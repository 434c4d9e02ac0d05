//! Takes e-mail addresses and card numbers out of responses while they stream, also where one lies across two pieces.
//!
//! `cargo run --example redact`
//!
//! Needs `response_body_mode: FULL_DUPLEX_STREAMED`, and with it `response_trailer_mode: SEND`: there a processor may send
//! fewer bytes than it got and the rest later. See `examples/README.md` for the proxy's side.

use std::process::ExitCode;

use clap::Parser;
use extproc_sdk::{
    Body, BodyMode, BodyReply, BoxError, Call, Headers, HeadersReply, Immediate, Modes, Processor,
    Trailers, TrailersReply,
};
use http::StatusCode;
use quickstart::cli::{self, ListenAddr};
use regex::bytes::Regex;

/// Pattern of what is taken out: e-mail addresses, and numbers of 13 to 19 digits with or without separators.
const PATTERN: &str = r"(?-u)[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,120}\.[A-Za-z]{2,20}|\b[0-9](?:[ -]?[0-9]){12,18}\b";

/// No match is longer, so this many bytes have to be held back until more is known: 64 + 1 + 120 + 1 + 20, rounded up.
const LONGEST: usize = 256;

const REPLACEMENT: &[u8] = b"[redacted]";

struct Redact {
    pattern: Regex,
}

/// End of a body as far as it is held back.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Redact {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            pattern: Regex::new(PATTERN)?,
        })
    }

    /// Takes in a piece; returns what can go on. A match that begins before the last [`LONGEST`] bytes is settled.
    fn push(&self, tail: &mut Tail, piece: &[u8], last: bool) -> Vec<u8> {
        let Tail(held) = tail;
        held.extend_from_slice(piece);
        let mut settled = if last {
            held.len()
        } else {
            held.len().saturating_sub(LONGEST)
        };
        let mut clean = Vec::with_capacity(settled);
        let mut copied = 0;
        for found in self.pattern.find_iter(held) {
            if found.start() >= settled {
                break;
            }
            clean.extend_from_slice(&held[copied..found.start()]);
            clean.extend_from_slice(REPLACEMENT);
            copied = found.end();
            settled = settled.max(copied);
        }
        clean.extend_from_slice(&held[copied..settled]);
        held.drain(..settled);
        clean
    }
}

impl Processor for Redact {
    type State = Tail;

    fn check_modes(&self, modes: Modes) -> Result<(), BoxError> {
        match modes.response_body {
            BodyMode::FullDuplexStreamed => Ok(()),
            other => {
                Err(format!("response_body_mode is {other}, FULL_DUPLEX_STREAMED is needed").into())
            }
        }
    }

    /// Asks for a response that is not compressed, which could not be searched.
    async fn request_headers(
        &self,
        _: &mut Call<Tail>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("accept-encoding", "identity"))
    }

    async fn response_headers(
        &self,
        _: &mut Call<Tail>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let media = headers.get_str("content-type").unwrap_or("text/plain");
        if !(media.starts_with("text/") || media.starts_with("application/json")) {
            return Ok(HeadersReply::new().skip_rest());
        }
        let coding = headers.get_str("content-encoding").unwrap_or("identity");
        if !coding.eq_ignore_ascii_case("identity") {
            let refusal = Immediate::new(StatusCode::BAD_GATEWAY)
                .body("the response is compressed, though that was not asked for\n");
            return Ok(refusal.into());
        }
        // Its length is going to change; the proxy may have taken the field away already.
        Ok(HeadersReply::new().remove("content-length"))
    }

    async fn response_body(
        &self,
        call: &mut Call<Tail>,
        body: &Body,
    ) -> Result<BodyReply, BoxError> {
        let clean = self.push(&mut call.state, &body.data, body.end_of_stream);
        Ok(BodyReply::replace(clean))
    }

    async fn response_trailers(
        &self,
        call: &mut Call<Tail>,
        _: &Trailers,
    ) -> Result<TrailersReply, BoxError> {
        // A body with trailers has no last piece.
        let rest = self.push(&mut call.state, &[], true);
        if rest.is_empty() {
            return Ok(TrailersReply::new());
        }
        Ok(TrailersReply::new().body(rest))
    }
}

/// A processor that takes e-mail addresses and card numbers out of responses.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    cli::serve(Redact::new()?, &args.listen).await
}

#[cfg(test)]
mod tests {
    use extproc_sdk::testing::{FakeProxy, Message};

    use super::*;

    const SECRETS: &str = "To: Alice <alice.b+shop@mail.example.com>, card 4111-1111-1111-1111. \
        Order 12345, call 555 0199 or write to bob@example.org";
    const CLEAN: &str = "To: Alice <[redacted]>, card [redacted]. \
        Order 12345, call 555 0199 or write to [redacted]";

    async fn respond(response: Message) -> Message {
        let proxy = FakeProxy::new(Redact::new().expect("a pattern"))
            .response_body(BodyMode::FullDuplexStreamed)
            .response_trailers(true);
        let mut exchange = proxy.exchange();
        let request = exchange.request(Message::request("GET", "/")).await;
        let request = request.expect("an outcome").forwarded().expect("a request");
        assert_eq!(request.get("accept-encoding"), Some("identity"));
        let outcome = exchange.response(response).await.expect("an outcome");
        exchange.finish().await.expect("an end");
        match outcome {
            extproc_sdk::testing::Outcome::Forwarded(message)
            | extproc_sdk::testing::Outcome::Responded(message) => message,
        }
    }

    fn pieces(text: &str, size: usize) -> Vec<Vec<u8>> {
        text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect()
    }

    #[tokio::test]
    async fn nothing_gets_through_however_the_body_is_cut() {
        for size in 1..=SECRETS.len() {
            for trailers in [false, true] {
                let mut response = Message::response(200)
                    .header("content-type", "text/plain")
                    .pieces(pieces(SECRETS, size));
                if trailers {
                    response = response.trailer("x-end", "1");
                }
                let response = respond(response).await;
                assert_eq!(response.text(), CLEAN, "{size} {trailers}");
                assert_eq!(response.get_trailer("x-end").is_some(), trailers);
            }
        }
    }

    #[tokio::test]
    async fn a_long_body_flows_on_while_it_arrives() {
        let line = format!("{SECRETS}\n");
        let body = line.repeat(100);
        let redact = Redact::new().expect("a pattern");
        let (mut tail, mut clean) = (Tail::default(), Vec::new());
        for piece in pieces(&body, 1000) {
            clean.extend(redact.push(&mut tail, &piece, false));
            assert!(tail.0.len() <= LONGEST, "{}", tail.0.len());
        }
        clean.extend(redact.push(&mut tail, &[], true));
        assert_eq!(clean, format!("{CLEAN}\n").repeat(100).as_bytes());
    }

    #[tokio::test]
    async fn other_media_pass_and_compressed_text_does_not() {
        let image = Message::response(200)
            .header("content-type", "image/png")
            .body(SECRETS);
        assert_eq!(respond(image).await.text(), SECRETS);
        let zipped = Message::response(200)
            .header("content-encoding", "gzip")
            .body("zip");
        assert_eq!(respond(zipped).await.status(), 502);
    }
}
