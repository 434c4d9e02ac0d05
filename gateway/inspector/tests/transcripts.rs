//! A person with a failing processor finds the cause in the transcript, in words.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    net::TcpListener,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use extproc_client::{
    envoy_types::pb::envoy::{
        extensions::filters::http::ext_proc::v3::ProcessingMode,
        service::ext_proc::v3::{ImmediateResponse, ProcessingResponse, processing_response},
    },
    transport::{Call, Close, Message, Pool, Sidestream, TcpConnector, Transport},
    wire::Reply,
};
use gateway_inspector::{Inspector, Settings};

use self::common::*;

/// The transcript of the only exchange.
async fn transcript(inspector: &std::sync::Arc<Inspector>) -> String {
    let (address, _) = serve(inspector, "127.0.0.1:0").await;
    let list: serde_json::Value =
        serde_json::from_str(body(&ask(address, "GET /exchanges", &[]).await)).unwrap();
    let id = &list["exchanges"][0]["id"];
    ask(address, &format!("GET /exchanges/{id}?format=text"), &[]).await
}

fn says(transcript: &str, words: &str) {
    assert!(transcript.contains(words), "{words}\n{transcript}");
}

#[tokio::test]
async fn wrong_phase_answered() {
    let inspector = inspector(Settings::default());
    let processor = Scripted::new(|_| vec![response_headers(&[])]);
    send(&inspector, config(""), processor, get("/")).await;
    let text = transcript(&inspector).await;
    says(&text, "<- processor  response_headers");
    says(
        &text,
        "verdict: the reply fits no message that waits for one: the processor answered response_headers, which was not sent to \
         it; request_headers waits for an answer; failure_mode_allow is not set, so the client gets 500",
    );
}

#[tokio::test]
async fn mutation_refused() {
    let inspector = inspector(Settings::default());
    let processor = Scripted::new(|_| vec![request_headers(&[("x-envoy-a", "1"), ("x-b", "2")])]);
    let config = config(r#""processing_mode": {"response_header_mode": "SKIP"}"#);
    send(&inspector, config, processor, get("/")).await;
    let text = transcript(&inspector).await;
    says(
        &text,
        "set x-envoy-a: 1: refused, x-envoy headers need mutation_rules.allow_envoy",
    );
    says(&text, "set x-b: 2\n");
}

#[tokio::test(start_paused = true)]
async fn timeout() {
    let inspector = inspector(Settings::default());
    let processor = Scripted::new(|_| Vec::new());
    let config = config(r#""failure_mode_allow": true, "message_timeout": "0.2s""#);
    send(&inspector, config, processor, get("/")).await;
    tokio::time::resume();
    let text = transcript(&inspector).await;
    says(
        &text,
        "no reply to request_headers in time (message_timeout is 200ms)",
    );
    says(
        &text,
        "verdict: no reply came within message_timeout: no reply to request_headers in time (message_timeout is 200ms); \
         failure_mode_allow is set, so the exchange goes on without the processor",
    );
}

/// One who speaks TLS to a processor without, or the other way round, gets bytes that are no HTTP/2.
#[tokio::test]
async fn bad_tls() {
    let inspector = inspector(Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read(&mut [0; 64]);
        // An alert: handshake_failure.
        let _ = socket.write_all(&[21, 3, 1, 0, 2, 2, 40]);
    });
    let pool = Pool::builder(TcpConnector::new(address.to_string()))
        .connect_timeout(Duration::from_secs(5))
        .build();
    send(
        &inspector,
        config(r#""message_timeout": "10s""#),
        pool,
        get("/"),
    )
    .await;
    let text = transcript(&inspector).await;
    says(&text, "side stream failed: gRPC status 14");
    says(
        &text,
        "verdict: the side stream could not be opened, or ended with an error",
    );
}

#[tokio::test]
async fn wrong_mode() {
    let inspector = inspector(Settings::default());
    let processor = Scripted::new(|_| {
        vec![ProcessingResponse {
            mode_override: Some(ProcessingMode {
                request_body_mode: 2,
                ..ProcessingMode::default()
            }),
            ..request_headers(&[])
        }]
    });
    let config = config(r#""processing_mode": {"response_header_mode": "SKIP"}"#);
    send(&inspector, config, processor, get("/")).await;
    says(
        &transcript(&inspector).await,
        "mode_override ignored: allow_mode_override is not set",
    );
}

/// A processor that answers at once, after 300 ms.
#[derive(Clone)]
struct Slow;

struct SlowStream(Option<Pin<Box<tokio::time::Sleep>>>);

impl Transport for Slow {
    type Sidestream = SlowStream;

    fn open(&self, _call: Call<'_>) -> Result<SlowStream, Close> {
        Ok(SlowStream(None))
    }
}

impl Sidestream for SlowStream {
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send(&mut self, _message: Message) {
        let time = Duration::from_millis(300);
        // How slow it is, is what the test looks at.
        self.0 = Some(Box::pin(tokio::time::sleep(time)));
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        let Some(time) = &mut self.0 else {
            return Poll::Pending;
        };
        ready!(time.as_mut().poll(cx));
        self.0 = None;
        let answer = ProcessingResponse {
            response: Some(processing_response::Response::ImmediateResponse(
                ImmediateResponse::default(),
            )),
            ..ProcessingResponse::default()
        };
        let bytes = prost::Message::encode_to_vec(&answer);
        Poll::Ready(Ok(prost::Message::decode(bytes.as_slice()).unwrap()))
    }

    fn finish(&mut self) {}
}

/// The time until an immediate response counts as waiting for the processor.
#[tokio::test]
async fn an_immediate_response_was_waited_for() {
    let inspector = inspector(Settings::default());
    let config = config(r#""message_timeout": "10s""#);
    send(&inspector, config, Slow, get("/")).await;
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let list = ask(address, "GET /exchanges", &[]).await;
    let list: serde_json::Value = serde_json::from_str(body(&list)).unwrap();
    let processor = &list["exchanges"][0]["processors"][0];
    assert_eq!(processor["phases"][0], "answered");
    assert!(
        processor["wait_us"].as_u64().unwrap() >= 300_000,
        "{processor}"
    );
}
