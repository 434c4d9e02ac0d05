//! The layer in a tower stack, through the public API alone, with a processor that is a closure.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption},
    service::ext_proc::v3::{
        BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse,
        ImmediateResponse, ProcessingRequest, ProcessingResponse, StreamedBodyResponse,
        TrailersResponse, body_mutation::Mutation, processing_request::Request as Seen,
        processing_response::Response as Answer,
    },
};
use extproc_client::{
    BodyMode, ExtProcLayer, FilterConfig, ProcessingMode, SendMode,
    config::{GrpcService, MutationRules, Service as Target},
    observer::Stats,
    transport::{Call, Close, Message, Sidestream, Transport},
    wire::Reply,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full, StreamBody};
use prost::Message as _;
use tower::{ServiceBuilder, ServiceExt, service_fn};

// === a processor in memory ===

type Handler = dyn Fn(Seen) -> Vec<Answer> + Send + Sync;

/// A transport whose side streams are answered by a closure.
#[derive(Clone)]
struct Memory {
    handler: Arc<Handler>,
    open: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Memory {
    fn new(handler: impl Fn(Seen) -> Vec<Answer> + Send + Sync + 'static) -> Self {
        Self {
            handler: Arc::new(handler),
            open: Arc::default(),
            seen: Arc::default(),
        }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

struct Stream {
    memory: Memory,
    replies: VecDeque<Reply>,
    waker: Option<Waker>,
}

impl Transport for Memory {
    type Sidestream = Stream;

    fn open(&self, _: Call<'_>) -> Result<Stream, Close> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(Stream {
            memory: self.clone(),
            replies: VecDeque::new(),
            waker: None,
        })
    }
}

impl Sidestream for Stream {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send(&mut self, message: Message) {
        let message = ProcessingRequest::decode(message.to_bytes()).unwrap();
        let seen = message.request.unwrap();
        self.memory.seen.lock().unwrap().push(name(&seen));
        for answer in (self.memory.handler)(seen) {
            let message = ProcessingResponse {
                response: Some(answer),
                ..ProcessingResponse::default()
            };
            let reply = Reply::decode(message.encode_to_vec().into()).unwrap();
            self.replies.push_back(reply);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        match self.replies.pop_front() {
            Some(reply) => Poll::Ready(Ok(reply)),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn finish(&mut self) {
        self.memory.seen.lock().unwrap().push("half-close".into());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.memory.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn name(seen: &Seen) -> String {
    match seen {
        Seen::RequestHeaders(_) => "request headers".into(),
        Seen::ResponseHeaders(_) => "response headers".into(),
        Seen::RequestBody(b) => format!("request body {}", b.body.len()),
        Seen::ResponseBody(b) => format!("response body {}", b.body.len()),
        Seen::RequestTrailers(_) => "request trailers".into(),
        Seen::ResponseTrailers(_) => "response trailers".into(),
    }
}

/// Lets everything pass as it is.
fn echo(seen: Seen) -> Vec<Answer> {
    vec![match seen {
        Seen::RequestHeaders(_) => Answer::RequestHeaders(HeadersResponse::default()),
        Seen::ResponseHeaders(_) => Answer::ResponseHeaders(HeadersResponse::default()),
        Seen::RequestBody(_) => Answer::RequestBody(BodyResponse::default()),
        Seen::ResponseBody(_) => Answer::ResponseBody(BodyResponse::default()),
        Seen::RequestTrailers(_) => Answer::RequestTrailers(TrailersResponse::default()),
        Seen::ResponseTrailers(_) => Answer::ResponseTrailers(TrailersResponse::default()),
    }]
}

/// The same for full duplex bodies.
fn duplex_echo(seen: Seen) -> Vec<Answer> {
    let streamed = |body: Vec<u8>, end_of_stream| BodyResponse {
        response: Some(CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(StreamedBodyResponse {
                    body,
                    end_of_stream,
                    ..StreamedBodyResponse::default()
                })),
            }),
            ..CommonResponse::default()
        }),
    };
    match seen {
        Seen::RequestBody(b) => vec![Answer::RequestBody(streamed(b.body, b.end_of_stream))],
        Seen::ResponseBody(b) => vec![Answer::ResponseBody(streamed(b.body, b.end_of_stream))],
        other => echo(other),
    }
}

fn set_header(name: &str, value: &str) -> CommonResponse {
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![HeaderValueOption {
                header: Some(HeaderValue {
                    key: name.into(),
                    raw_value: value.into(),
                    ..HeaderValue::default()
                }),
                ..HeaderValueOption::default()
            }],
            ..HeaderMutation::default()
        }),
        ..CommonResponse::default()
    }
}

fn config(body: BodyMode) -> FilterConfig {
    FilterConfig::builder(Target::Grpc(GrpcService::cluster("processor")))
        .processing_mode(ProcessingMode {
            request_body_mode: body,
            response_body_mode: body,
            request_trailer_mode: SendMode::Send,
            response_trailer_mode: SendMode::Send,
            ..ProcessingMode::default()
        })
        .build()
        .unwrap()
}

type Incoming = extproc_client::RequestBody<Full<Bytes>>;

/// Answers with what it got: the request's body and `x-` headers.
async fn upstream(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut response = Response::new(Full::new(body));
    for (name, value) in &head.headers {
        if name.as_str().starts_with("x-") {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://test.local/p")
        .body(Full::from(body))
        .unwrap()
}

// === tests ===

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
    tokio::time::sleep(Duration::from_millis(1001)).await;
    assert_eq!(memory.open.load(Ordering::SeqCst), 0);

    // Cancelled by the client.
    drop(service.oneshot(post("hello")));
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
            let response = Response::new(Full::<Bytes>::default());
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
    std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))).await
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

/// A client of hyper's writes the fields as they are: what a processor sets must not frame a message otherwise than it is.
#[tokio::test]
async fn a_processor_does_not_frame_messages() {
    let fields = [
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("x-set", "1"),
    ];
    let set = move |()| {
        let mut all = CommonResponse::default();
        let mutation = all.header_mutation.get_or_insert_default();
        for (name, value) in fields {
            let one = set_header(name, value).header_mutation.unwrap();
            mutation.set_headers.extend(one.set_headers);
        }
        HeadersResponse {
            response: Some(all),
        }
    };
    let memory = Memory::new(move |seen| match seen {
        Seen::RequestHeaders(_) => vec![Answer::RequestHeaders(set(()))],
        Seen::ResponseHeaders(_) => vec![Answer::ResponseHeaders(set(()))],
        other => echo(other),
    });
    for guarded in [true, false] {
        let kept = Arc::new(Mutex::new(HeaderMap::new()));
        let seen = kept.clone();
        let stats = Arc::new(Stats::default());
        let layer = ExtProcLayer::new(config(BodyMode::None), memory.clone())
            .observer(stats.clone())
            .guards_framing(guarded);
        let service = ServiceBuilder::new().layer(layer).service(service_fn(
            move |request: Request<Incoming>| {
                *seen.lock().unwrap() = request.headers().clone();
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
            },
        ));
        let request = Request::get("http://test.local/")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = service.oneshot(request).await.unwrap();
        let request = kept.lock().unwrap().clone();
        for headers in [&request, response.headers()] {
            for (name, value) in fields {
                let expected = (!guarded || name == "x-set").then_some(value);
                let got = headers.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(got, expected, "{name}, guarded: {guarded}");
            }
        }
        let rejected = if guarded { 8 } else { 0 };
        assert_eq!(stats.rejected_header_mutations.get(), rejected);
    }
}

/// What a HEAD request would get is announced, and not sent.
#[tokio::test]
async fn the_length_of_a_response_to_head_stays() {
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config(BodyMode::None), Memory::new(echo)))
        .service(service_fn(|_: Request<Incoming>| {
            let response = Response::builder().header("content-length", "5");
            std::future::ready(Ok::<_, Infallible>(
                response.body(Full::<Bytes>::default()).unwrap(),
            ))
        }));
    let request = Request::head("http://test.local/")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
}

/// The processor and the service see one host, whichever of the two places it stands in.
#[tokio::test]
async fn one_host_for_processor_and_service() {
    let hosts = Arc::new(Mutex::new(Vec::new()));
    let told = hosts.clone();
    let memory = Memory::new(move |seen| match seen {
        Seen::RequestHeaders(message) => {
            let headers = message.headers.unwrap().headers;
            let value = |name: &str| {
                let header = headers.iter().find(|header| header.key == name)?;
                Some(String::from_utf8(header.raw_value.clone()).unwrap())
            };
            assert_eq!(value("host"), None);
            told.lock().unwrap().push(value(":authority").unwrap());
            let response = match value("x-move").is_some() {
                true => set_header(":authority", "moved:81"),
                false => CommonResponse::default(),
            };
            vec![Answer::RequestHeaders(HeadersResponse {
                response: Some(response),
            })]
        }
        other => echo(other),
    });
    let config = FilterConfig::builder(Target::Grpc(GrpcService::cluster("p")))
        .mutation_rules(MutationRules {
            allow_all_routing: true,
            ..MutationRules::default()
        })
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config, memory))
        .service(service_fn(|request: Request<Incoming>| {
            let host = request.headers().get("host").cloned();
            let authority = request.uri().authority().map(ToString::to_string);
            let text = format!("{host:?} {authority:?}");
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                text,
            ))))
        }));
    for (uri, host, moves, shown, got) in [
        (
            "http://public/",
            Some("admin"),
            false,
            "public",
            r#"Some("public") Some("public")"#,
        ),
        (
            "http://public/",
            None,
            false,
            "public",
            r#"None Some("public")"#,
        ),
        (
            "http://me@public/",
            Some("admin"),
            false,
            "me@public",
            r#"Some("public") Some("me@public")"#,
        ),
        (
            "/",
            Some("public"),
            false,
            "public",
            r#"Some("public") None"#,
        ),
        (
            "http://public/",
            Some("admin"),
            true,
            "public",
            r#"Some("moved:81") Some("moved:81")"#,
        ),
        (
            "/",
            Some("public"),
            true,
            "public",
            r#"Some("moved:81") None"#,
        ),
    ] {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        if moves {
            request = request.header("x-move", "1");
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        let body = response.collect().await.unwrap().to_bytes();
        assert_eq!(body, got, "{uri} {host:?}");
        assert_eq!(hosts.lock().unwrap().pop().as_deref(), Some(shown));
    }
}
