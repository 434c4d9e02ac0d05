//! Work that the SDK does by itself: form of the replies, failures, deadlines, counters.

use std::{sync::Arc, time::Duration};

use extproc_sdk::{
    Body, BodyMode, BodyReply, BoxError, Call, Headers, HeadersReply, Immediate, ModeOverride,
    Modes, OnFailure, Phase, Processor, ProcessorService, Trailers, TrailersReply,
    testing::{FakeProxy, Message, ProxyError},
};
use http::StatusCode;
use serde_json::json;
use tonic::{Code, Status};

use crate::{MODES, Pass};

/// Does on request headers what the path says.
struct Scripted;

impl Processor for Scripted {
    type State = Vec<u8>;

    async fn request_headers(
        &self,
        call: &mut Call<Vec<u8>>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let reply = HeadersReply::new();
        match headers.path().unwrap_or_default() {
            "/error" => Err("it went wrong".into()),
            "/status" => Err(Status::permission_denied("not you").into()),
            "/panic" => panic!("handler gone mad"),
            "/hang" => std::future::pending().await,
            "/name" => Ok(reply.set("bad name", "1")),
            "/value" => Ok(reply.set("a", "x\r\ny: z")),
            "/slow" => {
                call.more_time(Duration::from_secs(3));
                // Longer than the proxy waits by itself. Time stands still but for this.
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(reply.set("x-slow", "yes"))
            }
            "/metadata" => Ok(reply
                .metadata("mine", json!({"user": "alice"}))
                .set(
                    "x-sub",
                    call.metadata().text("jwt", &["sub"]).unwrap_or("?"),
                )
                .set(
                    "x-source",
                    call.attributes().text("source.address").unwrap_or("?"),
                )),
            "/skip" => Ok(reply.set("x-seen", "1").skip_rest()),
            "/buffer" => Ok(reply.mode(ModeOverride::new().request_body(BodyMode::Buffered))),
            "/reroute" => Ok(reply.clear_route_cache()),
            "/informational" => Ok(Immediate::new(StatusCode::CONTINUE).into()),
            _ => Ok(reply),
        }
    }

    /// Holds everything back until the end, in whatever pieces it comes.
    async fn request_body(
        &self,
        call: &mut Call<Vec<u8>>,
        body: &Body,
    ) -> Result<BodyReply, BoxError> {
        call.state.extend_from_slice(&body.data);
        if call.request().and_then(Headers::path) == Some("/late-error") {
            return Err("in the body".into());
        }
        if !body.end_of_stream {
            return Ok(BodyReply::clear());
        }
        Ok(BodyReply::replace(call.state.to_ascii_uppercase()))
    }

    async fn request_trailers(
        &self,
        call: &mut Call<Vec<u8>>,
        _: &Trailers,
    ) -> Result<TrailersReply, BoxError> {
        let reply = TrailersReply::new().set("x-bytes", call.state.len().to_string());
        if call.modes().request_body.is_duplex() {
            return Ok(reply.body(call.state.to_ascii_uppercase()));
        }
        Ok(reply)
    }

    async fn response_headers(
        &self,
        call: &mut Call<Vec<u8>>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let path = call.request().and_then(Headers::path).unwrap_or("none");
        Ok(HeadersReply::new().set("x-path", path))
    }
}

fn post(path: &str) -> Message {
    Message::request("POST", path)
}

async fn fail(service: ProcessorService<Scripted>, path: &str) -> Status {
    let mut exchange = FakeProxy::with_service(service).exchange();
    match exchange.request(post(path)).await {
        Err(ProxyError::Stream(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_processor_without_handlers_passes_everything_through() {
    for mode in MODES {
        let proxy = FakeProxy::new(Pass)
            .request_body(mode)
            .response_body(mode)
            .request_trailers(true)
            .response_trailers(true);
        let mut exchange = proxy.exchange();
        let request = post("/").pieces(["a", "b"]).trailer("t", "1");
        let got = exchange
            .request(request.clone())
            .await
            .unwrap()
            .forwarded()
            .unwrap();
        assert_eq!(
            (got.text(), got.get_trailer("t")),
            ("ab".to_owned(), Some("1"))
        );
        let got = exchange
            .response(Message::response(200).body("x"))
            .await
            .unwrap();
        assert_eq!(got.forwarded().unwrap().text(), "x");
        exchange.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_body_held_back_comes_out_whole_in_every_mode_that_shows_it() {
    for mode in [
        BodyMode::Streamed,
        BodyMode::Buffered,
        BodyMode::BufferedPartial,
        BodyMode::FullDuplexStreamed,
    ] {
        for request in [
            post("/").body("hello world"),
            post("/").pieces(["hello", " ", "world"]),
        ] {
            let proxy = FakeProxy::new(Scripted).request_body(mode);
            let mut exchange = proxy.exchange();
            let got = exchange
                .request(request)
                .await
                .unwrap()
                .forwarded()
                .unwrap();
            assert_eq!(got.text(), "HELLO WORLD", "{mode:?}");
            exchange.finish().await.unwrap();
        }
    }
}

#[tokio::test]
async fn in_full_duplex_the_end_of_a_body_can_wait_for_the_trailers() {
    let proxy = FakeProxy::new(Scripted).request_body(BodyMode::FullDuplexStreamed);
    let mut exchange = proxy.exchange();
    let request = post("/")
        .pieces(["a".repeat(100_000), "b".to_owned()])
        .trailer("t", "1");
    let got = exchange
        .request(request)
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!(got.text(), "A".repeat(100_000) + "B");
    assert_eq!(got.get_trailer("x-bytes"), Some("100001"));
    exchange.finish().await.unwrap();
}

#[tokio::test]
async fn failures_end_the_stream_and_are_counted() {
    let service = ProcessorService::new(Scripted).deadline(Duration::from_millis(50));
    let stats = service.stats();
    let status = fail(service.clone(), "/error").await;
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status.message(), "handler failed: it went wrong");
    assert_eq!(stats.handler_errors(), 1);

    assert_eq!(
        fail(service.clone(), "/status").await.code(),
        Code::PermissionDenied
    );

    let status = fail(service.clone(), "/panic").await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "handler panicked")
    );
    assert_eq!(stats.handler_panics(), 1);

    assert_eq!(
        fail(service.clone(), "/hang").await.code(),
        Code::DeadlineExceeded
    );
    assert_eq!(stats.missed_deadlines(), 1);

    for path in ["/name", "/value", "/informational"] {
        let status = fail(service.clone(), path).await;
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with("reply refused: "), "{status}");
    }
    assert_eq!(stats.invalid_replies(), 3);
    assert_eq!(stats.exchanges(), 7);
    assert_eq!(stats.open_exchanges(), 0);
    assert_eq!(stats.messages(Phase::RequestHeaders), 7);
}

#[tokio::test]
async fn failures_pass_through_where_that_is_asked() {
    let service = ProcessorService::new(Scripted)
        .deadline(Duration::from_millis(50))
        .on_failure(OnFailure::PassThrough);
    for mode in [
        BodyMode::None,
        BodyMode::Streamed,
        BodyMode::Buffered,
        BodyMode::FullDuplexStreamed,
    ] {
        for path in ["/error", "/panic", "/hang", "/name"] {
            let proxy = FakeProxy::with_service(service.clone()).request_body(mode);
            let mut exchange = proxy.exchange();
            let got = exchange.request(post(path).body("hello")).await.unwrap();
            assert_eq!(got.forwarded().unwrap().text(), "hello", "{mode:?} {path}");
            let got = exchange.response(Message::response(204)).await.unwrap();
            assert_eq!(got.forwarded().unwrap().get("x-path"), None);
            exchange.finish().await.unwrap();
        }
    }
    let proxy = FakeProxy::with_service(service).request_body(BodyMode::FullDuplexStreamed);
    let mut exchange = proxy.exchange();
    let got = exchange
        .request(post("/late-error").pieces(["a", "b"]))
        .await
        .unwrap();
    assert_eq!(got.forwarded().unwrap().text(), "ab");
}

#[tokio::test(start_paused = true)]
async fn more_time_is_asked_for_while_the_handler_waits() {
    let mut exchange = FakeProxy::new(Scripted).exchange();
    let got = exchange
        .request(post("/slow"))
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!(got.get("x-slow"), Some("yes"));
    assert_eq!(exchange.timeouts(), [Duration::from_secs(3)]);
    exchange.finish().await.unwrap();
}

#[tokio::test]
async fn metadata_and_attributes_go_both_ways() {
    let attributes = json!({"source.address": "10.0.0.1:80"});
    let proxy = FakeProxy::new(Scripted)
        .attributes(attributes.as_object().unwrap().clone())
        .metadata("jwt", json!({"sub": "bob"}));
    let mut exchange = proxy.exchange();
    let got = exchange
        .request(post("/metadata"))
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!(got.get("x-sub"), Some("bob"));
    assert_eq!(got.get("x-source"), Some("10.0.0.1:80"));
    assert_eq!(
        exchange.written_metadata().get("mine"),
        Some(&json!({"user": "alice"}))
    );
}

#[tokio::test]
async fn the_rest_can_be_skipped() {
    for mode in [
        BodyMode::None,
        BodyMode::Streamed,
        BodyMode::Buffered,
        BodyMode::FullDuplexStreamed,
    ] {
        let service = ProcessorService::new(Scripted);
        let proxy = FakeProxy::with_service(service).request_body(mode);
        let mut exchange = proxy.exchange();
        let got = exchange.request(post("/skip").body("hello")).await.unwrap();
        let got = got.forwarded().unwrap();
        assert_eq!(
            (got.get("x-seen"), got.text()),
            (Some("1"), "hello".to_owned())
        );
        let got = exchange.response(Message::response(200)).await.unwrap();
        assert_eq!(got.forwarded().unwrap().get("x-path"), None);
    }
}

#[tokio::test]
async fn the_mode_can_be_overridden() {
    let proxy = FakeProxy::new(Scripted).allow_mode_override();
    let mut exchange = proxy.exchange();
    let got = exchange
        .request(post("/buffer").body("hello"))
        .await
        .unwrap();
    assert_eq!(got.forwarded().unwrap().text(), "HELLO");
    let got = exchange.response(Message::response(200)).await.unwrap();
    assert_eq!(got.forwarded().unwrap().get("x-path"), Some("/buffer"));
    exchange.finish().await.unwrap();
}

#[tokio::test]
async fn the_route_is_chosen_again_even_if_no_header_changes() {
    for (path, cleared) in [("/reroute", true), ("/", false)] {
        let mut exchange = FakeProxy::new(Scripted).exchange();
        exchange.request(post(path)).await.unwrap();
        assert_eq!(exchange.route_cleared(), cleared, "{path}");
    }
}

/// Needs to see the whole request body.
struct Whole;

impl Processor for Whole {
    type State = ();

    fn check_modes(&self, modes: Modes) -> Result<(), BoxError> {
        match modes.request_body {
            BodyMode::Buffered => Ok(()),
            BodyMode::Grpc => Err(Status::unimplemented("no gRPC").into()),
            BodyMode::FullDuplexStreamed => panic!("did not think of that"),
            other => Err(format!("request_body_mode is {other}").into()),
        }
    }

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-seen", "1"))
    }
}

#[tokio::test]
async fn modes_that_a_processor_cannot_serve_are_refused() {
    let service = ProcessorService::new(Whole);
    let with = |mode| FakeProxy::with_service(service.clone()).request_body(mode);
    for (mode, code, message) in [
        (
            BodyMode::None,
            Code::FailedPrecondition,
            "the processor cannot work with the proxy's configuration: request_body_mode is NONE",
        ),
        (BodyMode::Grpc, Code::Unimplemented, "no gRPC"),
        (
            BodyMode::FullDuplexStreamed,
            Code::Internal,
            "handler panicked",
        ),
    ] {
        let refused = with(mode).exchange().request(post("/")).await;
        let Err(ProxyError::Stream(status)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((status.code(), status.message()), (code, message));
    }
    let stats = service.stats();
    assert_eq!((stats.refused_modes(), stats.handler_panics()), (2, 1));

    let got = with(BodyMode::Buffered).exchange().request(post("/")).await;
    assert_eq!(got.unwrap().forwarded().unwrap().get("x-seen"), Some("1"));
    // Who only observes is not told the modes.
    let got = with(BodyMode::None)
        .observe_only()
        .exchange()
        .request(post("/"))
        .await;
    got.unwrap().forwarded().unwrap();
    assert_eq!(stats.refused_modes(), 2);

    let service = ProcessorService::new(Whole).on_failure(OnFailure::PassThrough);
    let mut exchange = FakeProxy::with_service(service).exchange();
    let got = exchange
        .request(post("/").body("x"))
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!((got.get("x-seen"), got.text()), (None, "x".to_owned()));
    exchange.finish().await.unwrap();
}

#[tokio::test]
async fn dropping_an_exchange_drops_its_handler() {
    struct Held(Arc<()>);
    impl Processor for Held {
        type State = ();
        async fn request_headers(
            &self,
            _: &mut Call<()>,
            _: &Headers,
        ) -> Result<HeadersReply, BoxError> {
            let _held = self.0.clone();
            std::future::pending().await
        }
    }
    let held = Arc::new(());
    let service = ProcessorService::new(Held(held.clone()));
    let stats = service.stats();
    let mut exchange = FakeProxy::with_service(service)
        .message_timeout(Duration::from_millis(50))
        .exchange();
    let outcome = exchange.request(post("/")).await;
    assert!(matches!(
        outcome,
        Err(ProxyError::Timeout(Phase::RequestHeaders))
    ));
    assert_eq!(Arc::strong_count(&held), 3);
    assert_eq!(stats.open_exchanges(), 1);
    drop(exchange);
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(stats.open_exchanges(), 0);
}
