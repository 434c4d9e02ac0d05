//! Counts the tokens of answers that a language model streams as server-sent events.
//!
//! `cargo run --example token_counter`
//!
//! Needs `response_body_mode: STREAMED`. The events pass unchanged and without delay. The count goes into the log, and as
//! dynamic metadata (`llm`) to the proxy's access log; see `examples/README.md` for the proxy's side.

use std::process::ExitCode;

use clap::Parser;
use extproc_sdk::{
    Body, BodyMode, BodyReply, BoxError, Call, Headers, HeadersReply, Modes, Processor,
    bodies::{SseEvent, SseParser},
};
use quickstart::cli::{self, ListenAddr};
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

/// The largest event that is looked at, in bytes.
const LARGEST_EVENT: usize = 256 * 1024;

struct TokenCounter;

/// One answer.
#[derive(Default)]
struct Answer {
    events: Option<SseParser>,
    model: String,
    /// Pieces of text so far; models send about one token in each.
    pieces: u64,
    /// Number that the model tells itself, in its last event.
    counted: Option<u64>,
}

/// An event of the stream, as far as it matters here.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    model: String,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u64,
}

impl Answer {
    /// True at the end of the answer.
    fn take_in(&mut self, event: &SseEvent) -> bool {
        if event.data == "[DONE]" {
            return true;
        }
        let Ok(chunk) = serde_json::from_str::<Chunk>(&event.data) else {
            return false;
        };
        if !chunk.model.is_empty() {
            self.model = chunk.model;
        }
        let texts = chunk
            .choices
            .iter()
            .filter_map(|choice| choice.delta.content.as_deref());
        self.pieces += texts
            .filter(|text| !text.is_empty())
            .map(|_| 1)
            .sum::<u64>();
        self.counted = chunk
            .usage
            .map(|usage| usage.completion_tokens)
            .or(self.counted);
        false
    }

    fn tokens(&self) -> u64 {
        self.counted.unwrap_or(self.pieces)
    }
}

/// An answer that the client did not wait for costs as well: the state goes when the exchange does.
impl Drop for Answer {
    fn drop(&mut self) {
        if self.tokens() > 0 {
            info!(model = self.model, tokens = self.tokens(), "answer");
        }
    }
}

impl Processor for TokenCounter {
    type State = Answer;

    fn check_modes(&self, modes: Modes) -> Result<(), BoxError> {
        match modes.response_body {
            BodyMode::Streamed | BodyMode::FullDuplexStreamed => Ok(()),
            other => Err(format!("response_body_mode is {other}, STREAMED is needed").into()),
        }
    }

    async fn response_headers(
        &self,
        call: &mut Call<Answer>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let media = headers.get_str("content-type").unwrap_or_default();
        if !media.starts_with("text/event-stream") {
            return Ok(HeadersReply::new().skip_rest());
        }
        call.state.events = Some(SseParser::new(LARGEST_EVENT));
        Ok(HeadersReply::new())
    }

    async fn response_body(
        &self,
        call: &mut Call<Answer>,
        body: &Body,
    ) -> Result<BodyReply, BoxError> {
        let reply = BodyReply::new();
        let answer = &mut call.state;
        let Some(events) = &mut answer.events else {
            return Ok(reply);
        };
        let events = match events.push(&body.data) {
            Ok(events) => events,
            Err(error) => {
                warn!(%error, "an event is too large, the rest of the answer is not counted");
                answer.events = None;
                return Ok(reply);
            }
        };
        let mut done = false;
        for event in events {
            done |= answer.take_in(&event);
        }
        if done {
            let usage = json!({"model": answer.model, "completion_tokens": answer.tokens()});
            return Ok(reply.metadata("llm", usage));
        }
        Ok(reply)
    }
}

/// A processor that counts the tokens of streamed answers.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: ListenAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::exit(cli::serve(TokenCounter, &Args::parse().listen).await)
}

#[cfg(test)]
mod tests {
    use extproc_sdk::testing::{FakeProxy, Message};
    use serde_json::Value;

    use super::*;

    const ANSWER: &str = concat!(
        "data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n",
        "data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"content\":\"Gr\u{fc}\"}}]}\n\n",
        ": keep-alive\n\n",
        "data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"content\":\"\u{df} Gott\"}}]}\n\n",
    );
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":7}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    async fn count(media: &str, body: &str, size: usize) -> Option<Value> {
        let proxy = FakeProxy::new(TokenCounter).response_body(BodyMode::Streamed);
        let mut exchange = proxy.exchange();
        let request = exchange.request(Message::request("POST", "/v1/chat")).await;
        request.expect("an outcome").forwarded().expect("a request");
        let pieces = body.as_bytes().chunks(size).map(<[u8]>::to_vec);
        let response = Message::response(200)
            .header("content-type", media)
            .pieces(pieces);
        let response = exchange.response(response).await.expect("an outcome");
        let response = response.forwarded().expect("a response");
        assert_eq!(response.text(), body);
        exchange.written_metadata().get("llm").cloned()
    }

    #[tokio::test]
    async fn tokens_are_counted_however_the_stream_is_cut() {
        for (body, tokens) in [
            (format!("{ANSWER}{DONE}"), 2.0),
            (format!("{ANSWER}{USAGE}{DONE}"), 7.0),
        ] {
            for size in [1, 2, 3, 16, 1000] {
                let counted = count("text/event-stream", &body, size).await;
                let expected = json!({"model": "small", "completion_tokens": tokens});
                assert_eq!(counted, Some(expected), "{size}");
            }
        }
    }

    #[tokio::test]
    async fn other_responses_are_left_alone() {
        let body = format!("{ANSWER}{DONE}");
        assert_eq!(count("text/plain", &body, 10).await, None);
        let huge = format!("data: {}\n\n{DONE}", "x".repeat(LARGEST_EVENT));
        assert_eq!(count("text/event-stream", &huge, 1000).await, None);
    }
}
