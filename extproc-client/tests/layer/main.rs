//! The layer in a tower stack, through the public API alone, with a processor that is a closure.

mod framing;
mod held;
mod memory;

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HeadersResponse, ImmediateResponse, processing_request::Request as Seen,
    processing_response::Response as Answer,
};
use extproc_client::{
    BodyMode, ExtProcLayer, FilterConfig,
    config::{GrpcService, Service as Target},
    observer::Stats,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full, StreamBody};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use self::memory::*;

#[tokio::test]
async fn headers_are_mutated_both_ways() {
    let memory = Memory::new(|seen| match seen {
        Seen::RequestHeaders(_) => vec![Answer::RequestHeaders(HeadersResponse {
            response: Some(set_header("x-request", "1")),
        })],
        Seen::ResponseHeaders(_) => vec![Answer::ResponseHeaders(HeadersResponse {
            response: Some(set_header("x-response", "2")),
        })],
        other => echo(other),
    });
    let config = FilterConfig::builder(Target::Grpc(GrpcService::cluster("p")))
        .build()
        .unwrap();
    let stats = Arc::new(Stats::default());
    let layer = ExtProcLayer::new(config, memory.clone()).observer(stats.clone());
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(upstream));

    let response = service.oneshot(post("hello")).await.unwrap();
    assert_eq!(response.headers()["x-request"], "1");
    assert_eq!(response.headers()["x-response"], "2");
    assert_eq!(
        memory.open.load(Ordering::SeqCst),
        0,
        "closed before the body was read"
    );
    assert_eq!(response.collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(stats.streams_started.get(), 1);
    assert_eq!(stats.streams_closed.get(), 1);
    assert_eq!(memory.seen(), ["request headers", "response headers"]);
}

/// With a graceful close the processor gets a half-close and time to end its side; the exchange does
/// not wait for it.
#[tokio::test(start_paused = true)]
async fn graceful_close() {
    let memory = Memory::new(echo);
    let config = FilterConfig::builder(Target::Grpc(GrpcService::cluster("p")))
        .graceful_close(Duration::from_secs(1))
        .build()
        .unwrap();
    let layer = ExtProcLayer::new(config, memory.clone());
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(upstream));
    let start = tokio::time::Instant::now();
    let response = service.clone().oneshot(post("hello")).await.unwrap();
    assert_eq!(response.collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(start.elapsed(), Duration::ZERO);
    let seen = ["request headers", "response headers", "half-close"];
    assert_eq!(memory.seen(), seen);
    assert_eq!(memory.open.load(Ordering::SeqCst), 1);
    // The time for a graceful close.
    tokio::time::sleep(Duration::from_millis(1001)).await;
    assert_eq!(memory.open.load(Ordering::SeqCst), 0);

    // Cancelled by the client.
    drop(service.oneshot(post("hello")));
    // The time for a graceful close.
    tokio::time::sleep(Duration::from_millis(1001)).await;
    assert_eq!(memory.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn every_body_mode_carries_a_body_both_ways() {
    for body in [
        BodyMode::None,
        BodyMode::Streamed,
        BodyMode::Buffered,
        BodyMode::BufferedPartial,
        BodyMode::FullDuplexStreamed,
    ] {
        let memory = match body {
            BodyMode::FullDuplexStreamed => Memory::new(duplex_echo),
            _ => Memory::new(echo),
        };
        let service = ServiceBuilder::new()
            .layer(ExtProcLayer::new(config(body), memory.clone()))
            .service(service_fn(upstream));
        let response = service.oneshot(post("hello")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{body:?}");
        let collected = response.collect().await.unwrap().to_bytes();
        assert_eq!(collected, "hello", "{body:?}: {:?}", memory.seen());
        tokio::task::yield_now().await;
        assert_eq!(memory.open.load(Ordering::SeqCst), 0, "{body:?}");
    }
}

#[tokio::test]
async fn an_immediate_response_keeps_the_request_from_the_service() {
    let memory = Memory::new(|_| {
        vec![Answer::ImmediateResponse(ImmediateResponse {
            status: Some(envoy_types::pb::envoy::r#type::v3::HttpStatus { code: 403 }),
            body: b"denied".to_vec(),
            ..ImmediateResponse::default()
        })]
    });
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config(BodyMode::None), memory))
        .service(service_fn(|_: Request<Incoming>| async {
            panic!("the service was called");
            #[allow(unreachable_code)]
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    let response = service.oneshot(post("hello")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.collect().await.unwrap().to_bytes(), "denied");
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_504_after_the_message_timeout() {
    let memory = Memory::new(|_| Vec::new());
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config(BodyMode::None), memory.clone()))
        .service(service_fn(upstream));
    let before = tokio::time::Instant::now();
    let response = service.oneshot(post("hello")).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(before.elapsed().as_millis() / 10, 20, "200 ms");
    assert_eq!(memory.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn dropping_the_response_future_ends_the_side_stream() {
    let memory = Memory::new(|_| Vec::new());
    let mut service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config(BodyMode::None), memory.clone()))
        .service(service_fn(upstream));
    use tower::Service;
    let mut future = Box::pin(service.call(post("hello")));
    assert!(futures_poll(&mut future).await.is_pending());
    assert_eq!(memory.open.load(Ordering::SeqCst), 1);
    drop(future);
    assert_eq!(memory.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn dropping_a_streamed_response_ends_the_task_and_the_upload() {
    let memory = Memory::new(duplex_echo);
    let (mut upload, body) = Channel::<Bytes, Infallible>::new(1);
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(
            config(BodyMode::FullDuplexStreamed),
            memory.clone(),
        ))
        .service(service_fn(
            |request: Request<extproc_client::RequestBody<_>>| async {
                // Answers at once and hands the request's body back as the response's.
                Ok::<_, Infallible>(Response::new(request.into_body()))
            },
        ));
    let request = Request::post("http://test.local/").body(body).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let mut body = response.into_body();
    upload.send_data(Bytes::from_static(b"one")).await.unwrap();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(
        frame.into_data().unwrap(),
        "one",
        "bidirectional, one piece at a time"
    );
    drop(body);
    // The task notices and drops the body it reads: the sender is refused.
    let refused = async {
        while upload.send_data(Bytes::from_static(b"two")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .unwrap();
    assert_eq!(memory.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_slow_service_stops_the_upload() {
    let memory = Memory::new(duplex_echo);
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let chunks = async_chunks(10_000, counter);
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(
            config(BodyMode::FullDuplexStreamed),
            memory,
        ))
        .service(service_fn(|request: Request<_>| async move {
            let (_, body) = request.into_parts();
            // What comes behind a complete response would be for nobody.
            let endless =
                futures_util::stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
            let response = Response::new(StreamBody::new(endless));
            // Keeps the body without reading it.
            KEPT.lock().unwrap().push(Box::new(body));
            Ok::<_, Infallible>(response)
        }));
    let request = Request::post("http://test.local/").body(chunks).unwrap();
    let response = service.oneshot(request).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(
        sent.load(Ordering::SeqCst) < 10,
        "{} chunks were read",
        sent.load(Ordering::SeqCst)
    );
    drop(response);
}

static KEPT: Mutex<Vec<Box<dyn std::any::Any + Send>>> = Mutex::new(Vec::new());

fn async_chunks(
    count: usize,
    sent: Arc<AtomicUsize>,
) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    struct Chunks(usize, Arc<AtomicUsize>);
    impl http_body::Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            if self.0 == 0 {
                return Poll::Ready(None);
            }
            self.0 -= 1;
            self.1.fetch_add(1, Ordering::SeqCst);
            Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(
                &[0; 1024],
            )))))
        }
    }
    Chunks(count, sent)
}

/// Small messages are many: other tasks run between them.
#[tokio::test]
async fn a_body_of_many_messages_lets_others_run() {
    const MESSAGES: usize = 5000;
    let memory = Memory::new(|seen| match seen {
        Seen::RequestBody(_) => Vec::new(),
        other => echo(other),
    });
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config(BodyMode::Grpc), memory.clone()))
        .service(service_fn(upstream));
    let request = Request::post("http://test.local/p")
        .body(Full::from(vec![0; 5 * MESSAGES]))
        .unwrap();
    let exchange = tokio::spawn(service.oneshot(request));
    let most = most_at_once(MESSAGES, move || memory.seen().len()).await;
    assert!(most <= AT_ONCE, "{most} were sent at once");
    exchange.abort();
}

/// A processor that always has another reply does not keep other tasks waiting either, when the body is read as long as there
/// is some.
#[tokio::test]
async fn a_body_of_many_replies_lets_others_run() {
    const REPLIES: usize = 5000;
    let memory = Memory::new(|seen| match seen {
        Seen::ResponseBody(_) => (1..=REPLIES)
            .map(|n| Answer::ResponseBody(streamed(b"x".into(), n == REPLIES)))
            .collect(),
        other => duplex_echo(other),
    });
    let taken = memory.taken.clone();
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(
            config(BodyMode::FullDuplexStreamed),
            memory,
        ))
        .service(service_fn(upstream));
    let exchange = tokio::spawn(async move {
        let response = service.oneshot(post("hello")).await.unwrap();
        response.collect().await.unwrap().to_bytes()
    });
    let most = most_at_once(REPLIES, move || taken.load(Ordering::SeqCst)).await;
    assert!(most <= AT_ONCE, "{most} were taken at once");
    assert_eq!(exchange.await.unwrap().len(), REPLIES);
}

/// Tokio lets a task do so much before others run.
const AT_ONCE: usize = 128;

/// The most by which `count` grew between two turns of another task, until it was at `all`.
async fn most_at_once(all: usize, count: impl Fn() -> usize + Send + 'static) -> usize {
    let (mut seen, mut most, mut turns) = (0, 0, 0);
    // A task as the other one is: the scheduler gives each its turn.
    let watch = poll_fn(move |cx| {
        let before = std::mem::replace(&mut seen, count());
        most = most.max(seen - before);
        turns += 1;
        if seen >= all {
            return Poll::Ready(most);
        }
        assert!(turns < 10 * all, "{seen} of {all} in so many turns");
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    tokio::spawn(watch).await.unwrap()
}

#[tokio::test]
async fn trailers_pass_and_are_processed() {
    let memory = Memory::new(echo);
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(
            config(BodyMode::Streamed),
            memory.clone(),
        ))
        .service(service_fn(|_: Request<Incoming>| async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let frames = [
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"abc"))),
                Ok(http_body::Frame::trailers(trailers)),
            ];
            Ok::<_, Infallible>(Response::new(StreamBody::new(tokio_stream_iter(frames))))
        }));
    let response = service.oneshot(post("hello")).await.unwrap();
    let collected = response.collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "abc");
    assert_eq!(memory.seen().last().unwrap(), "response trailers");
}

fn tokio_stream_iter<T>(
    items: impl IntoIterator<Item = T>,
) -> futures_util::stream::Iter<std::vec::IntoIter<T>> {
    futures_util::stream::iter(items.into_iter().collect::<Vec<_>>())
}

async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))).await
}

#[tokio::test]
async fn an_immediate_response_wins_over_a_service_that_fails_with_its_request() {
    // The processor refuses the body while the service reads it: the service's error is a
    // consequence, not the answer.
    let memory = Memory::new(|seen| match seen {
        Seen::RequestBody(_) => vec![Answer::ImmediateResponse(ImmediateResponse {
            status: Some(envoy_types::pb::envoy::r#type::v3::HttpStatus { code: 413 }),
            ..ImmediateResponse::default()
        })],
        other => duplex_echo(other),
    });
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(
            config(BodyMode::FullDuplexStreamed),
            memory,
        ))
        .service(service_fn(|request: Request<Incoming>| async {
            let body = request.into_body().collect().await;
            body.map(|body| Response::new(Full::new(body.to_bytes())))
        }));
    let response = service.oneshot(post("hello")).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
