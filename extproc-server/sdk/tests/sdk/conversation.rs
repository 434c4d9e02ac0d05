//! Processors that lead the conversation.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use extproc_sdk::{
    BodyMode, BodyReply, BoxError, Conversation, ConversationError, Event, HeadersReply, Immediate,
    OnFailure, ProcessorService, Side, StreamProcessor, TrailersReply,
    testing::{FakeProxy, Message, ProxyError},
};
use http::{HeaderMap, StatusCode, header};
use tokio::{sync::mpsc, time::timeout};

use crate::MODES;

/// Leads the exchange as the path of the request says.
struct Leader;

impl StreamProcessor for Leader {
    async fn process(&self, mut exchange: Conversation) -> Result<(), BoxError> {
        let Some(Event::Headers(Side::Request, head)) = exchange.next().await else {
            return Err("no request headers".into());
        };
        match head.path().unwrap_or_default() {
            "/return" => Ok(()),
            "/error" => Err("no".into()),
            "/panic" => panic!("gone mad"),
            "/deny" => {
                let denied = Immediate::new(StatusCode::FORBIDDEN).body("denied");
                Ok(exchange.respond(denied).await?)
            }
            "/deny-and-go-on" => {
                let denied = || Immediate::new(StatusCode::FORBIDDEN).body("denied");
                exchange.respond(denied()).await?;
                let event = Event::Headers(Side::Request, head);
                for said in [exchange.pass(event).await, exchange.respond(denied()).await] {
                    if !matches!(said, Err(ConversationError::Over)) {
                        return Err(format!("{said:?}").into());
                    }
                }
                Err("an error of the end".into())
            }
            "/shout" => shout(exchange, head).await,
            "/count" => count(exchange).await,
            "/stream" => stream(exchange).await,
            "/stream-unfinished" => {
                exchange
                    .begin_response(StatusCode::OK, &HeaderMap::new())
                    .await?;
                Ok(exchange.response_data("half").await?)
            }
            "/stream-broken" => {
                exchange
                    .begin_response(StatusCode::OK, &HeaderMap::new())
                    .await?;
                exchange.response_data("half").await?;
                Err("the source is gone".into())
            }
            "/impatient" => impatient(exchange, head).await,
            "/echo" => echo(exchange).await,
            "/turns" => turns(exchange).await,
            "/elsewhere" => elsewhere(exchange, head).await,
            _ => {
                exchange.pass(Event::Headers(Side::Request, head)).await?;
                while let Some(event) = exchange.next().await {
                    exchange.pass(event).await?;
                }
                Ok(())
            }
        }
    }
}

/// Sends every byte on in upper case, in whatever mode.
async fn shout(mut exchange: Conversation, head: extproc_sdk::Headers) -> Result<(), BoxError> {
    exchange.pass(Event::Headers(Side::Request, head)).await?;
    while let Some(event) = exchange.next().await {
        match event {
            Event::Body(side, body) => {
                let louder = body.data.to_ascii_uppercase();
                if !exchange.modes().of(side).is_duplex() {
                    exchange.body(side, BodyReply::replace(louder)).await?;
                    continue;
                }
                exchange.send(side, louder).await?;
                if body.end_of_stream {
                    exchange.end(side).await?;
                }
            }
            other => exchange.pass(other).await?,
        }
    }
    Ok(())
}

/// Reads the whole request body before it answers even the headers, and tells its length in a header.
async fn count(mut exchange: Conversation) -> Result<(), BoxError> {
    let mut bytes = Vec::new();
    let mut trailers = false;
    while let Some(event) = exchange.next().await {
        match event {
            Event::Body(Side::Request, body) => {
                bytes.extend_from_slice(&body.data);
                if body.end_of_stream {
                    break;
                }
            }
            Event::Trailers(Side::Request, _) => {
                trailers = true;
                break;
            }
            _ => return Err("an early response".into()),
        }
    }
    let reply = HeadersReply::new().set("x-length", bytes.len().to_string());
    exchange.headers(Side::Request, reply).await?;
    for piece in bytes.chunks(3) {
        exchange.send(Side::Request, piece.to_vec()).await?;
    }
    if trailers {
        exchange
            .trailers(Side::Request, TrailersReply::new().set("x-done", "1"))
            .await?;
    } else {
        exchange.end(Side::Request).await?;
    }
    Ok(())
}

async fn stream(mut exchange: Conversation) -> Result<(), BoxError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "text/event-stream".parse()?);
    exchange.begin_response(StatusCode::OK, &headers).await?;
    for number in 0..40 {
        exchange
            .response_data(format!("data: {number}\n\n"))
            .await?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-events", "40".parse()?);
    exchange.end_response(Some(&trailers)).await?;
    Ok(())
}

/// Streams the request body back as the response.
async fn echo(mut exchange: Conversation) -> Result<(), BoxError> {
    exchange
        .begin_response(StatusCode::CREATED, &HeaderMap::new())
        .await?;
    while let Some(event) = exchange.next().await {
        let Event::Body(Side::Request, body) = event else {
            continue;
        };
        exchange.response_data(body.data).await?;
        if body.end_of_stream {
            break;
        }
    }
    exchange.end_response(None).await?;
    Ok(())
}

/// Tries what is not its turn.
async fn turns(mut exchange: Conversation) -> Result<(), BoxError> {
    let refused = |result: Result<(), ConversationError>| match result {
        Err(ConversationError::OutOfTurn(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    refused(exchange.headers(Side::Response, HeadersReply::new()).await)?;
    refused(exchange.body(Side::Request, BodyReply::new()).await)?;
    refused(exchange.trailers(Side::Request, TrailersReply::new()).await)?;
    refused(exchange.response_data("x").await)?;
    let sent = exchange.send(Side::Request, "x").await;
    assert!(matches!(sent, Err(ConversationError::Mode(_))));
    let bad = HeadersReply::new().set("bad name", "");
    let bad = exchange.headers(Side::Request, bad).await;
    assert!(matches!(bad, Err(ConversationError::Invalid(_))));
    exchange
        .headers(Side::Request, HeadersReply::new().set("x-ok", "1"))
        .await?;
    refused(exchange.headers(Side::Request, HeadersReply::new()).await)?;
    Ok(())
}

/// Goes on in a task of its own, once nobody else has anything left to do.
async fn elsewhere(exchange: Conversation, head: extproc_sdk::Headers) -> Result<(), BoxError> {
    tokio::spawn(async move {
        // Time stands still, and moves on when all others wait.
        tokio::time::sleep(Duration::from_millis(20)).await;
        shout(exchange, head).await
    })
    .await?
}

/// Asks for a message and goes before it has come.
async fn impatient(mut exchange: Conversation, head: extproc_sdk::Headers) -> Result<(), BoxError> {
    exchange.pass(Event::Headers(Side::Request, head)).await?;
    poll_fn(|cx| {
        assert!(pin!(exchange.next()).poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Goes on in a task that the end of the exchange does not take along, and tells what that hears.
struct Detached(mpsc::UnboundedSender<String>);

impl StreamProcessor for Detached {
    async fn process(&self, mut exchange: Conversation) -> Result<(), BoxError> {
        let told = self.0.clone();
        let task = async move {
            let Some(Event::Headers(side, head)) = exchange.next().await else {
                return Err("no headers".into());
            };
            if head.path() == Some("/return") {
                return Ok(Some(exchange));
            }
            if head.path() == Some("/read") {
                exchange.pass(Event::Headers(side, head)).await?;
                told.send("begun".to_owned())?;
                let next = exchange.next().await;
                told.send(format!("{next:?}"))?;
            } else {
                let head = HeaderMap::new();
                exchange.begin_response(StatusCode::OK, &head).await?;
                told.send("begun".to_owned())?;
                while let Ok(()) = exchange.response_data("more").await {}
            }
            let said = exchange.headers(side, HeadersReply::new()).await;
            told.send(format!("{said:?}"))?;
            Ok::<_, BoxError>(None)
        };
        if let Some(mut exchange) = tokio::spawn(task).await?? {
            let told = self.0.clone();
            tokio::spawn(async move {
                let next = exchange.next().await;
                told.send(format!("{next:?}")).unwrap();
            });
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_conversation_elsewhere_hears_that_the_proxy_went() {
    let (told, mut hears) = mpsc::unbounded_channel();
    let proxy = FakeProxy::with_service(ProcessorService::streaming(Detached(told)));
    for (path, expected) in [
        ("/read", ["None", "Err(Over)"].as_slice()),
        ("/write", &["Err(Over)"]),
    ] {
        let mut exchange = proxy.exchange();
        let request = async {
            let _ = exchange.request(post(path)).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = request => {}
            told = hears.recv() => assert_eq!(told.as_deref(), Some("begun")),
        }
        drop(exchange);
        for expected in expected {
            let told = timeout(Duration::from_secs(10), hears.recv()).await;
            assert_eq!(told.expect(path).as_deref(), Some(*expected), "{path}");
        }
    }
}

#[tokio::test]
async fn a_conversation_is_over_when_its_function_has_returned() {
    let (told, mut hears) = mpsc::unbounded_channel();
    let service = ProcessorService::streaming(Detached(told));
    let mut exchange = FakeProxy::with_service(service)
        .request_body(BodyMode::FullDuplexStreamed)
        .exchange();
    let request = post("/return").pieces(["a", "b"]);
    let got = exchange.request(request).await.unwrap();
    assert_eq!(got.forwarded().unwrap().text(), "ab");
    let told = timeout(Duration::from_secs(10), hears.recv()).await;
    assert_eq!(told.unwrap().as_deref(), Some("None"));
}

#[tokio::test]
async fn what_the_handler_has_asked_for_and_not_taken_is_passed_through() {
    let proxy = proxy().request_body(BodyMode::FullDuplexStreamed);
    for request in [
        post("/impatient").pieces(["a", "b"]),
        post("/impatient").body("ab"),
        post("/impatient").pieces(["a", "b"]).trailer("t", "1"),
    ] {
        let mut exchange = proxy.exchange();
        let got = exchange.request(request).await.unwrap();
        assert_eq!(got.forwarded().unwrap().text(), "ab");
    }
}

fn post(path: &str) -> Message {
    Message::request("POST", path)
}

fn proxy() -> FakeProxy<extproc_sdk::Streaming<Leader>> {
    FakeProxy::with_service(ProcessorService::streaming(Leader))
}

#[tokio::test]
async fn passes_through_whether_asked_or_left() {
    for mode in MODES {
        for path in ["/", "/return"] {
            let proxy = proxy()
                .request_body(mode)
                .response_body(mode)
                .request_trailers(true)
                .response_trailers(true);
            for request in [
                post(path),
                post(path).body("hello"),
                post(path).pieces(["a", "b"]),
                post(path).pieces(["a", "b"]).trailer("t", "1"),
            ] {
                let mut exchange = proxy.exchange();
                let got = exchange
                    .request(request.clone())
                    .await
                    .unwrap()
                    .forwarded()
                    .unwrap();
                assert_eq!(got.bytes(), request.bytes(), "{mode:?} {path}");
                assert_eq!(
                    got.get_trailer("t"),
                    request.get_trailer("t"),
                    "{mode:?} {path}"
                );
                let response = Message::response(200).body("there");
                let got = exchange
                    .response(response)
                    .await
                    .unwrap()
                    .forwarded()
                    .unwrap();
                assert_eq!(got.text(), "there");
                exchange.finish().await.unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn changes_bodies_in_every_mode() {
    for mode in MODES {
        for path in ["/shout", "/elsewhere"] {
            let mut exchange = proxy().request_body(mode).exchange();
            let request = post(path).body("a".repeat(200_000));
            let got = exchange
                .request(request)
                .await
                .unwrap()
                .forwarded()
                .unwrap();
            let expected = if mode == BodyMode::None { "a" } else { "A" };
            assert_eq!(got.text(), expected.repeat(200_000), "{mode:?}");
            exchange.finish().await.unwrap();
        }
    }
}

#[tokio::test]
async fn answers_when_it_likes_in_full_duplex() {
    let proxy = proxy().request_body(BodyMode::FullDuplexStreamed);
    let mut exchange = proxy.exchange();
    let request = post("/count").pieces(["hello ", "world"]);
    let got = exchange
        .request(request)
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!(
        (got.text().as_str(), got.get("x-length")),
        ("hello world", Some("11"))
    );
    exchange
        .response(Message::response(200))
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    exchange.finish().await.unwrap();

    let mut exchange = proxy.exchange();
    let request = post("/count").pieces(["hello ", "world"]).trailer("t", "1");
    let got = exchange
        .request(request)
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!(
        (got.text().as_str(), got.get_trailer("x-done")),
        ("hello world", Some("1"))
    );
    exchange.finish().await.unwrap();
}

#[tokio::test]
async fn responds_whole_or_in_a_stream() {
    let mut exchange = proxy().exchange();
    let got = exchange
        .request(post("/deny"))
        .await
        .unwrap()
        .responded()
        .unwrap();
    assert_eq!((got.status(), got.text().as_str()), (403, "denied"));
    exchange.finish().await.unwrap();

    // Nothing is said behind a response, and no error either.
    let mut exchange = proxy().exchange();
    let got = exchange
        .request(post("/deny-and-go-on"))
        .await
        .unwrap()
        .responded()
        .unwrap();
    assert_eq!((got.status(), got.text().as_str()), (403, "denied"));
    exchange.finish().await.unwrap();

    let mut exchange = proxy().exchange();
    let got = exchange
        .request(post("/stream").body("x"))
        .await
        .unwrap()
        .responded()
        .unwrap();
    assert_eq!(got.get("content-type"), Some("text/event-stream"));
    assert!(got.text().ends_with("data: 39\n\n"));
    assert_eq!(got.get_trailer("x-events"), Some("40"));
    exchange.finish().await.unwrap();

    let mut exchange = proxy()
        .request_body(BodyMode::FullDuplexStreamed)
        .exchange();
    let request = post("/echo").pieces(["hello ", "world"]);
    let got = exchange
        .request(request)
        .await
        .unwrap()
        .responded()
        .unwrap();
    assert_eq!((got.status(), got.text().as_str()), (201, "hello world"));
    exchange.finish().await.unwrap();

    let mut exchange = proxy().exchange();
    let got = exchange
        .request(post("/stream-unfinished"))
        .await
        .unwrap()
        .responded()
        .unwrap();
    assert_eq!(got.text(), "half");
    exchange.finish().await.unwrap();
}

#[tokio::test]
async fn no_response_is_streamed_where_no_proxy_takes_it() {
    let mut exchange = proxy().request_body(BodyMode::Streamed).exchange();
    let failed = exchange.request(post("/stream").body("x")).await;
    assert!(matches!(failed, Err(ProxyError::Stream(_))), "{failed:?}");
}

#[tokio::test]
async fn what_is_out_of_turn_is_refused_and_harmless() {
    let mut exchange = proxy().request_body(BodyMode::Streamed).exchange();
    let got = exchange
        .request(post("/turns").body("x"))
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!((got.get("x-ok"), got.text().as_str()), (Some("1"), "x"));
    exchange.finish().await.unwrap();
}

#[tokio::test]
async fn failures_end_the_stream_or_pass_through() {
    for path in ["/error", "/panic"] {
        let failed = proxy().exchange().request(post(path).body("x")).await;
        assert!(matches!(failed, Err(ProxyError::Stream(_))), "{failed:?}");

        let service = ProcessorService::streaming(Leader).on_failure(OnFailure::PassThrough);
        let proxy = FakeProxy::with_service(service).request_body(BodyMode::Streamed);
        let mut exchange = proxy.exchange();
        let got = exchange
            .request(post(path).body("x"))
            .await
            .unwrap()
            .forwarded()
            .unwrap();
        assert_eq!(got.text(), "x");
        exchange.finish().await.unwrap();
    }
}

/// Half a response must not look whole, whatever is done about failures.
#[tokio::test]
async fn a_streamed_response_whose_handler_fails_is_not_completed() {
    for on_failure in [OnFailure::Status, OnFailure::PassThrough] {
        let service = ProcessorService::streaming(Leader).on_failure(on_failure);
        let mut exchange = FakeProxy::with_service(service).exchange();
        let failed = exchange.request(post("/stream-broken")).await;
        assert!(matches!(failed, Err(ProxyError::Stream(_))), "{failed:?}");
    }
}
