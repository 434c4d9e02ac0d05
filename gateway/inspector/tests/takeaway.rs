//! What is taken away works as it is: tests with `FakeProxy` compile and hold for the processor that they were recorded of.
//!
//! `tests/taken` has what the inspector gives; `INSPECTOR_TAKEN=write` writes it anew.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::path::Path;

use extproc_client::transport::GrpcTransport;
use extproc_sdk::{
    Body, BodyReply, BoxError, Call, Headers, HeadersReply, Immediate, Processor, ProcessorService,
};
use gateway_inspector::Settings;

use self::common::*;

mod headers {
    include!("taken/headers.rs");

    pub(super) async fn played(
        processor: impl Processor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        exchange_1(processor).await
    }
}

mod body {
    include!("taken/body.rs");

    pub(super) async fn played(
        processor: impl Processor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        exchange_2(processor).await
    }
}

mod answer {
    include!("taken/answer.rs");

    pub(super) async fn played(
        processor: impl Processor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        exchange_3(processor).await
    }
}

/// Changes headers of both directions.
struct Stamp;

impl Processor for Stamp {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-user", "\"7\"").remove("x-gone"))
    }

    async fn response_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-back", "1"))
    }
}

/// Replaces bodies.
struct Shout;

impl Processor for Shout {
    type State = ();

    async fn request_body(&self, _: &mut Call<()>, body: &Body) -> Result<BodyReply, BoxError> {
        Ok(BodyReply::replace(body.data.to_ascii_uppercase()))
    }
}

/// Lets nobody in.
struct Closed;

impl Processor for Closed {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let refusal = Immediate::new(http::StatusCode::FORBIDDEN).body("no entry");
        Ok(refusal.into())
    }
}

#[tokio::test]
async fn tests_that_were_taken_away_hold() {
    let mut settings = Settings::default();
    settings.bodies = 1024;
    let inspector = inspector(settings);
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let hostile = "/a?b='c'&d=%0a";
    let request = get(hostile)
        .header("x-gone", "1")
        .header("x-quoted", "a\"b\\c");
    let stamp = GrpcTransport::new(ProcessorService::new(Stamp));
    send(&inspector, config(""), stamp, request).await;
    let buffered = config(r#""processing_mode": {"request_body_mode": "BUFFERED"}"#);
    let shout = GrpcTransport::new(ProcessorService::new(Shout));
    send(&inspector, buffered, shout, get("/shout")).await;
    let closed = GrpcTransport::new(ProcessorService::new(Closed));
    send(&inspector, config(""), closed, get("/closed")).await;
    for (id, name) in [(1, "headers"), (2, "body"), (3, "answer")] {
        let line = format!("GET /exchanges/{id}?format=fake-proxy");
        let answer = ask(address, &line, &[]).await;
        let path = format!("{}/tests/taken/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let path = Path::new(&path);
        if std::env::var_os("INSPECTOR_TAKEN").is_some() {
            std::fs::write(path, body(&answer)).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap();
        assert_eq!(body(&answer), kept, "{name}");
    }
    headers::played(Stamp).await.unwrap();
    body::played(Shout).await.unwrap();
    answer::played(Closed).await.unwrap();
    // Another processor does something else.
    answer::played(Stamp).await.unwrap_err();
}
