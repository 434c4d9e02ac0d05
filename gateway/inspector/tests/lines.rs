//! Line breaks, escapes of terminals and marks of direction in each place that a peer fills: no output has a line or a colour
//! that the gateway did not write.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use extproc_client::{
    envoy_types::pb::envoy::service::ext_proc::v3::{
        ImmediateResponse, ProcessingResponse, processing_response::Response as Answer,
    },
    http::Request,
    transport::{Call, Close, Message, Sidestream, Transport},
    wire::Reply,
};
use gateway_inspector::Settings;
use std::task::{Context, Poll};

use self::common::*;

/// A line that looks like a verdict of the gateway, in each way to begin one.
const FORGED: &str = "a\n  verdict: FORGED\r\n  !! FORGED\u{2028}FORGED\u{85}FORGED\x0bFORGED\x1b[31mFORGED\u{9b}31m\
                      \u{202e}DEGROF\u{2066}\u{200f}\u{7f}\x08\0";

/// The same without what a header may not hold.
const IN_HEADERS: &str = "a\u{2028}FORGED\u{85}\u{9b}31m\u{202e}DEGROF\u{2066}\u{200f}";

/// A stream that fails at once, in a peer's words.
#[derive(Clone)]
struct Failing;

impl Transport for Failing {
    type Sidestream = Self;

    fn open(&self, _call: Call<'_>) -> Result<Self, Close> {
        Ok(Self)
    }
}

impl Sidestream for Failing {
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send(&mut self, _message: Message) {}

    fn poll_recv(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        Poll::Ready(Err(Close::status(13, FORGED)))
    }

    fn finish(&mut self) {}
}

/// Characters that move a cursor, colour a line or turn it, line breaks of the format aside.
fn is_order(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[tokio::test]
async fn no_peer_writes_a_line_of_its_own() {
    let mut settings = Settings::default();
    settings.bodies = 4096;
    let inspector = inspector(settings);
    let request = || {
        Request::builder()
            .uri("/a/\u{202e}DEGROF/\u{2066}?b=\u{200f}")
            .header("host", "shop.test")
            .header("x-a", IN_HEADERS.as_bytes())
            .header("user-agent", IN_HEADERS.as_bytes())
    };
    // Headers, their names too, and metadata.
    let processor = Scripted::new(|_| {
        vec![request_headers(&[
            ("x-b", FORGED),
            (FORGED, "1"),
            ("x-c", IN_HEADERS),
            ("x-envoy-d", IN_HEADERS),
        ])]
    });
    let skip = r#""processing_mode": {"response_header_mode": "SKIP"}"#;
    send(&inspector, config(skip), processor, request()).await;
    // An answer, with its details and body.
    let processor = Scripted::new(|_| {
        vec![ProcessingResponse {
            response: Some(Answer::ImmediateResponse(ImmediateResponse {
                details: FORGED.into(),
                body: FORGED.into(),
                headers: headers_reply(&[("x-b", IN_HEADERS), (FORGED, FORGED)])
                    .response
                    .unwrap()
                    .header_mutation,
                ..ImmediateResponse::default()
            })),
            ..ProcessingResponse::default()
        }]
    });
    send(&inspector, config(""), processor, request()).await;
    send(&inspector, config(""), Failing, request()).await;
    send(&inspector, config(""), obliging(), get("/last")).await;

    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let list = ask(address, "GET /exchanges", &[]).await;
    let list: serde_json::Value = serde_json::from_str(body(&list)).unwrap();
    assert!(
        list["exchanges"][0]["path"]
            .as_str()
            .unwrap()
            .contains('\u{202e}')
    );
    let mut outputs = vec!["/".to_owned(), "/exchanges".into()];
    for x in list["exchanges"].as_array().unwrap() {
        for format in ["json", "text", "curl", "fake-proxy", "scenario"] {
            outputs.push(format!("/exchanges/{}?format={format}", x["id"]));
        }
    }
    for format in ["sse", "ndjson", "text"] {
        outputs.push(format!("/exchanges/stream?after=0&format={format}"));
    }
    for output in outputs {
        let mut socket = asked(address, &format!("GET {output}"), &[]).await;
        let mut bytes = Vec::new();
        let is_stream = output.contains("stream");
        while !is_stream || !String::from_utf8_lossy(&bytes).contains("/last") {
            let mut piece = [0; 4096];
            let len = tokio::io::AsyncReadExt::read(&mut socket, &mut piece)
                .await
                .unwrap();
            if len == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..len]);
        }
        let text = String::from_utf8(bytes).unwrap();
        let text = body(&text);
        // The page's own text has no such characters either.
        assert_eq!(
            text.chars().find(|c| is_order(*c)),
            None,
            "{output}: {text:?}"
        );
        for line in text.lines() {
            let line = line.trim_start();
            let forged = ["verdict: FORGED", "!! FORGED", "FORGED"];
            assert!(
                !forged.iter().any(|words| line.starts_with(words)),
                "{output}: {text}"
            );
        }
        if output.contains("ndjson") {
            let lines: Vec<&str> = text.lines().collect();
            let whole = lines
                .iter()
                .filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
            assert!(whole.count() >= 3, "{text}");
        }
    }
}
