//! Rewrites the JSON body of requests to a language model: resolves model aliases and caps `max_tokens`.
//!
//! `cargo run --example json_rewrite`
//!
//! Needs `request_body_mode: BUFFERED`: the proxy then holds the headers back, so that the body, its `content-length` and
//! a header can change together. See `examples/README.md` for the proxy's side.

use std::process::ExitCode;

use clap::Parser;
use extproc_sdk::{
    Body, BodyMode, BodyReply, BoxError, Call, Headers, HeadersReply, Immediate, Modes, Processor,
};
use http::StatusCode;
use quickstart::cli::{self, ListenAddr};
use serde_json::{Map, Value};

/// Names of a model: the client's, and the upstream's.
const ALIASES: [(&str, &str); 2] = [("fast", "small-2026-03"), ("smart", "large-2026-03")];

/// The most tokens that a client may ask for.
const MAX_TOKENS: u64 = 1024;

struct Rewrite;

impl Processor for Rewrite {
    /// `true` if the body is JSON.
    type State = bool;

    fn check_modes(&self, modes: Modes) -> Result<(), BoxError> {
        match modes.request_body {
            BodyMode::Buffered => Ok(()),
            other => Err(format!("request_body_mode is {other}, BUFFERED is needed").into()),
        }
    }

    async fn request_headers(
        &self,
        call: &mut Call<bool>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let media = headers.get_str("content-type").unwrap_or_default();
        let essence = media.split(';').next().unwrap_or_default().trim();
        call.state = essence.eq_ignore_ascii_case("application/json");
        Ok(HeadersReply::new())
    }

    async fn request_body(
        &self,
        call: &mut Call<bool>,
        body: &Body,
    ) -> Result<BodyReply, BoxError> {
        if !call.state {
            return Ok(BodyReply::new());
        }
        let mut request: Map<String, Value> = match body.json() {
            Ok(request) => request,
            Err(error) => {
                let refusal = Immediate::new(StatusCode::BAD_REQUEST)
                    .body(format!("the body is not a JSON object: {error}\n"));
                return Ok(refusal.into());
            }
        };
        let Some(model) = rewrite(&mut request) else {
            return Ok(BodyReply::new());
        };
        Ok(BodyReply::json(&request)?.set("x-model", model))
    }
}

/// Rewrites in place, and returns the model; nothing if this is no request to a model.
fn rewrite(request: &mut Map<String, Value>) -> Option<String> {
    let asked = request.get("model")?.as_str()?;
    let known = ALIASES.iter().find(|(alias, _)| *alias == asked);
    let model = known.map_or(asked, |(_, model)| *model).to_owned();
    request.insert("model".to_owned(), model.clone().into());
    let asked = request.get("max_tokens").and_then(Value::as_u64);
    let capped = asked.unwrap_or(MAX_TOKENS).min(MAX_TOKENS);
    request.insert("max_tokens".to_owned(), capped.into());
    Some(model)
}

/// A processor that rewrites JSON requests to a language model.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(cli::serve(Rewrite, &Args::parse().listen).await)
}

#[cfg(test)]
mod tests {
    use extproc_sdk::testing::{FakeProxy, Message, Outcome, ProxyError};
    use serde_json::json;

    use super::*;

    async fn ask(media: &str, body: &str) -> Outcome {
        let proxy = FakeProxy::new(Rewrite).request_body(BodyMode::Buffered);
        let request = Message::request("POST", "/v1/chat")
            .header("content-type", media)
            .body(body.to_owned());
        proxy.exchange().request(request).await.expect("an outcome")
    }

    #[tokio::test]
    async fn the_body_its_length_and_a_header_change_together() {
        let body = r#"{"model": "fast", "max_tokens": 100000, "stream": true}"#;
        let outcome = ask("application/json; charset=utf-8", body).await;
        let request = outcome.forwarded().expect("a request");
        let sent: Value = serde_json::from_str(&request.text()).expect("JSON");
        let expected = json!({"model": "small-2026-03", "max_tokens": 1024, "stream": true});
        assert_eq!(sent, expected);
        assert_eq!(request.get("x-model"), Some("small-2026-03"));
        let length = request.bytes().len().to_string();
        assert_eq!(request.get("content-length"), Some(length.as_str()));
    }

    #[tokio::test]
    async fn what_is_not_for_us_stays_as_it_is() {
        for (media, body) in [
            ("text/plain", r#"{"model": "fast"}"#),
            ("application/json", r#"{"messages": []}"#),
        ] {
            let request = ask(media, body).await.forwarded().expect("a request");
            assert_eq!(request.text(), body);
            assert_eq!(request.get("x-model"), None);
        }
    }

    #[tokio::test]
    async fn what_is_not_json_is_refused() {
        for body in [r#"{"model": "fast""#, "[1]", ""] {
            let outcome = ask("application/json", body).await;
            assert_eq!(outcome.responded().expect("a response").status(), 400);
        }
    }

    #[tokio::test]
    async fn a_proxy_that_does_not_show_the_body_is_told() {
        let request = Message::request("POST", "/").body("{}");
        let refused = FakeProxy::new(Rewrite).exchange().request(request).await;
        let Err(ProxyError::Stream(status)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains("BUFFERED is needed"), "{status}");
    }
}
