//! One suite for the gRPC transports: the pool over TCP, a service in the process, and a `Channel`,
//! each against the same processor behind tonic's server.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, ProcessingRequest, ProcessingResponse,
    external_processor_server::{ExternalProcessor, ExternalProcessorServer},
    processing_request::Request as Kind,
    processing_response::Response as Answer,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use bytes::Bytes;

use super::*;
use crate::types::pieces::Pieces;
use crate::{
    config::{GrpcService, GrpcTarget},
    wire::{GRPC_PREFIX, Part},
};

/// A processor that does what the metadata `x-script` says.
#[derive(Clone)]
struct Scripted {
    /// End of the request stream, per call.
    ends: mpsc::UnboundedSender<Result<usize, Status>>,
}

type Replies = Pin<Box<dyn futures_util::Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ExternalProcessor for Scripted {
    type ProcessStream = Replies;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let script = request
            .metadata()
            .get("x-script")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        if script == "refuse" {
            return Err(Status::permission_denied("not you: 100%"));
        }
        let mut messages = request.into_inner();
        let (replies, stream) = mpsc::unbounded_channel();
        let ends = self.ends.clone();
        tokio::spawn(async move {
            let mut count = 0;
            if script == "silent" {
                // Neither reads nor answers until the caller gives up.
                replies.closed().await;
            }
            let end = loop {
                match messages.message().await {
                    Ok(Some(message)) => {
                        count += 1;
                        let _ = replies.send(Ok(reply(&message)));
                    }
                    Ok(None) => break Ok(count),
                    Err(status) => break Err(status),
                }
                match script.as_str() {
                    "fail" => {
                        let _ = replies.send(Err(Status::internal("boom")));
                        return;
                    }
                    "stop" => return,
                    _ => {}
                }
            };
            if script == "more" {
                let _ = replies.send(Ok(ProcessingResponse::default()));
            }
            let _ = ends.send(end);
        });
        let stream = futures_util::stream::unfold(stream, |mut stream| async {
            let item = stream.recv().await?;
            Some((item, stream))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Answers a body with one of the same size, anything else with an empty reply of its kind.
fn reply(message: &ProcessingRequest) -> ProcessingResponse {
    use envoy_types::pb::envoy::service::ext_proc::v3::{
        BodyMutation, BodyResponse, CommonResponse, HeadersResponse, body_mutation::Mutation,
    };
    let response = match &message.request {
        Some(Kind::RequestBody(body)) => Answer::RequestBody(BodyResponse {
            response: Some(CommonResponse {
                body_mutation: Some(BodyMutation {
                    mutation: Some(Mutation::Body(body.body.clone())),
                }),
                ..CommonResponse::default()
            }),
        }),
        _ => Answer::RequestHeaders(HeadersResponse::default()),
    };
    ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    }
}

fn server() -> (
    ExternalProcessorServer<Scripted>,
    mpsc::UnboundedReceiver<Result<usize, Status>>,
) {
    let (ends, receiver) = mpsc::unbounded_channel();
    let server = ExternalProcessorServer::new(Scripted { ends })
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    (server, receiver)
}

async fn listen(server: ExternalProcessorServer<Scripted>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(server, incoming));
    address
}

fn encoded(message: &ProcessingRequest) -> Message {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    framed.extend(message.encode_to_vec());
    Message {
        framed_head: framed.into(),
        body: Pieces::default(),
    }
}

fn headers() -> Message {
    encoded(&ProcessingRequest {
        request: Some(Kind::RequestHeaders(Default::default())),
        ..ProcessingRequest::default()
    })
}

/// A body message with its chunk kept apart.
fn body(size: usize) -> Message {
    let chunk = Bytes::from(vec![b'x'; size]);
    let whole = encoded(&ProcessingRequest {
        request: Some(Kind::RequestBody(HttpBody {
            body: chunk.to_vec(),
            ..HttpBody::default()
        })),
        ..ProcessingRequest::default()
    });
    let head = whole.framed_head.len() - size;
    Message {
        framed_head: whole.framed_head.slice(..head),
        body: chunk.into(),
    }
}

/// A service that reads only while its answer is polled gets what came right before the reset.
#[tokio::test]
async fn what_was_sent_reaches_a_service_in_the_process_before_the_reset() {
    use http_body_util::{BodyExt, StreamBody};
    let (taken, mut takes) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: ::http::Request<tonic::body::Body>| {
        let state = (request.into_body(), taken.clone());
        let frames = futures_util::stream::unfold(state, |(mut body, taken)| async {
            let frame = body.frame().await?.ok()?;
            taken.send(frame.into_data().ok()?).ok()?;
            let reply = http_body::Frame::data(Bytes::from_static(&[0; GRPC_PREFIX]));
            Some((Ok::<_, Status>(reply), (body, taken)))
        });
        let response = ::http::Response::new(StreamBody::new(frames));
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    let target = Service::Grpc(GrpcService::cluster("processor"));
    let call = Call {
        service: &target,
        metadata: HeaderMap::new(),
        buffers: None,
    };
    let mut stream = GrpcTransport::new(service).open(call).unwrap();
    stream.send(headers());
    poll_fn(|cx| stream.poll_recv(cx)).await.unwrap();
    stream.send(body(1));
    stream.close_flushed();
    let mut bytes = 0;
    let all = headers().framed_len() + body(1).framed_len();
    while bytes < all {
        let part = tokio::time::timeout(Duration::from_secs(10), takes.recv()).await;
        bytes += part.unwrap().expect("the stream was reset first").len();
    }
}

fn open_with<T: Transport>(
    transport: &T,
    script: &'static str,
    limit: Option<u32>,
) -> T::Sidestream {
    let mut service = GrpcService::cluster("processor");
    if let GrpcTarget::Cluster {
        max_receive_message_length,
        ..
    } = &mut service.target
    {
        *max_receive_message_length = limit;
    }
    let metadata = [("x-script".parse().unwrap(), script.parse().unwrap())];
    transport
        .open(Call {
            service: &Service::Grpc(service),
            metadata: metadata.into_iter().collect(),
            buffers: None,
        })
        .unwrap()
}

fn open<T: Transport>(transport: &T, script: &'static str) -> T::Sidestream {
    open_with(transport, script, None)
}

async fn recv(stream: &mut impl Sidestream) -> Result<Reply, Close> {
    let reply = poll_fn(|cx| stream.poll_recv(cx));
    tokio::time::timeout(Duration::from_secs(10), reply)
        .await
        .expect("no reply within 10 s")
}

async fn send(stream: &mut impl Sidestream, message: Message) {
    poll_fn(|cx| stream.poll_ready(cx)).await;
    stream.send(message);
}

/// Waits until the processor's request stream is over. tonic's server shows a cancelled one as an
/// end or as an error.
async fn told(ends: &mut mpsc::UnboundedReceiver<Result<usize, Status>>) {
    let end = tokio::time::timeout(Duration::from_secs(10), ends.recv());
    assert!(end.await.expect("the processor was not told").is_some());
}

/// Everything that any gRPC transport has to do.
async fn suite<T: Transport>(
    transport: T,
    mut ends: mpsc::UnboundedReceiver<Result<usize, Status>>,
) {
    // Messages and replies in turn, a half-close, the processor's OK.
    let mut stream = open(&transport, "echo");
    send(&mut stream, headers()).await;
    let reply = recv(&mut stream).await.unwrap();
    assert!(matches!(reply.part, Some(Part::RequestHeaders(_))));
    for size in [1, 300, 20_000, 3 << 20] {
        send(&mut stream, body(size)).await;
        let Some(Part::RequestBody(reply)) = recv(&mut stream).await.unwrap().part else {
            panic!("not a body reply");
        };
        let mutation = reply.response.unwrap().body_mutation.unwrap().mutation;
        let Some(crate::wire::BodyMutation::Body(body)) = mutation else {
            panic!("not a body");
        };
        assert_eq!(body.len(), size);
    }
    stream.finish();
    assert!(recv(&mut stream).await.unwrap_err().is_ok());
    assert_eq!(ends.recv().await.unwrap().unwrap(), 5);
    drop(stream);

    // A reply after the half-close.
    let mut stream = open(&transport, "more");
    stream.send(headers());
    stream.finish();
    recv(&mut stream).await.unwrap();
    assert!(recv(&mut stream).await.unwrap().part.is_none());
    assert!(recv(&mut stream).await.unwrap_err().is_ok());
    assert_eq!(ends.recv().await.unwrap().unwrap(), 1);

    // Refused before anything is read, with the message decoded.
    let mut stream = open(&transport, "refuse");
    stream.send(headers());
    let close = recv(&mut stream).await.unwrap_err();
    assert_eq!((close.code(), close.message.as_str()), (7, "not you: 100%"));
    assert_eq!(close.details, "via_upstream");

    // An error after a reply.
    let mut stream = open(&transport, "fail");
    stream.send(headers());
    recv(&mut stream).await.unwrap();
    let close = recv(&mut stream).await.unwrap_err();
    assert_eq!((close.code(), close.message.as_str()), (13, "boom"));

    // A clean end while this side is still sending.
    let mut stream = open(&transport, "stop");
    stream.send(headers());
    recv(&mut stream).await.unwrap();
    assert!(recv(&mut stream).await.unwrap_err().is_ok());

    // A reply over the configured limit.
    let mut stream = open_with(&transport, "echo", Some(1000));
    stream.send(body(2000));
    assert_eq!(recv(&mut stream).await.unwrap_err().code(), 8);
    drop(stream);
    told(&mut ends).await;

    // Dropped in the middle: the processor is told.
    let mut stream = open(&transport, "echo");
    stream.send(headers());
    recv(&mut stream).await.unwrap();
    drop(stream);
    told(&mut ends).await;

    // A processor that does not read is back-pressure.
    let mut stream = open(&transport, "silent");
    let mut sent = 0;
    let full = poll_fn(|cx| {
        assert!(stream.poll_recv(cx).is_pending());
        while sent < 1000 && stream.poll_ready(cx).is_ready() {
            stream.send(body(100_000));
            sent += 1;
        }
        Poll::Ready(sent < 1000)
    });
    assert!(full.await, "100 MB were taken");

    // Many at a time.
    let calls: Vec<_> = (0..150)
        .map(|_| {
            let mut stream = open(&transport, "echo");
            stream.send(headers());
            async move {
                recv(&mut stream).await.unwrap();
                stream.finish();
                recv(&mut stream).await.unwrap_err().is_ok()
            }
        })
        .collect();
    assert!(
        futures_util::future::join_all(calls)
            .await
            .into_iter()
            .all(|ok| ok)
    );
}

#[tokio::test]
async fn pool() {
    let (server, ends) = server();
    let address = listen(server).await;
    suite(
        Pool::builder(TcpConnector::new(address.to_string())).build(),
        ends,
    )
    .await;
}

#[tokio::test]
async fn service_in_process() {
    let (server, ends) = server();
    suite(GrpcTransport::new(server), ends).await;
}

#[tokio::test]
async fn channel() {
    let (server, ends) = server();
    let address = listen(server).await;
    let channel = tonic::transport::Endpoint::try_from(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    suite(GrpcTransport::new(channel), ends).await;
}

/// Messages sent between the loss of a call's body and the news that the call is lost go out with
/// the repeated call.
#[tokio::test]
async fn messages_while_a_call_is_lost() {
    use tower_service::Service as _;
    let (server, _ends) = server();
    let news = Arc::new(tokio::sync::Notify::new());
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let service = tower::service_fn({
        let news = news.clone();
        move |request: ::http::Request<tonic::body::Body>| {
            let first = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            let (news, mut server) = (news.clone(), server.clone());
            async move {
                if first {
                    drop(request);
                    news.notified().await;
                    return Err(std::io::Error::other("operation was canceled"));
                }
                server.call(request).await.map_err(|never| match never {})
            }
        }
    });
    let mut stream = open(&GrpcTransport::new(service), "echo");
    stream.send(headers());
    assert!(poll_fn(|cx| Poll::Ready(stream.poll_recv(cx).is_pending())).await);
    send(&mut stream, body(100)).await;
    news.notify_one();
    let first = recv(&mut stream).await.unwrap();
    assert!(matches!(first.part, Some(Part::RequestHeaders(_))));
    let second = recv(&mut stream).await.unwrap();
    assert!(matches!(second.part, Some(Part::RequestBody(_))));
}

/// A service that answers without reading: what is sent goes nowhere and nobody waits for room.
#[tokio::test]
async fn answer_without_reading() {
    let service = tower::service_fn(|_: ::http::Request<tonic::body::Body>| async {
        let body = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<http_body::Frame<Bytes>, std::io::Error>,
        >());
        Ok::<_, std::io::Error>(::http::Response::new(body))
    });
    let mut stream = open(&GrpcTransport::new(service), "echo");
    for _ in 0..4 {
        stream.send(body(100_000));
        assert!(poll_fn(|cx| Poll::Ready(stream.poll_recv(cx).is_pending())).await);
        let room = poll_fn(|cx| stream.poll_ready(cx));
        let room = tokio::time::timeout(Duration::from_secs(10), room).await;
        room.expect("nobody reads, nobody waits");
    }
}

/// A service that fails its first calls without looking at them.
#[derive(Clone)]
struct Failing {
    inner: ExternalProcessorServer<Scripted>,
    failures: Arc<Mutex<VecDeque<bool>>>,
}

impl tower_service::Service<::http::Request<tonic::body::Body>> for Failing {
    type Response = ::http::Response<tonic::body::Body>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: ::http::Request<tonic::body::Body>) -> Self::Future {
        let take = self.failures.lock().unwrap().pop_front();
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let lost = || std::io::Error::other("operation was canceled");
            match take {
                Some(false) => Err(lost()),
                Some(true) => {
                    use http_body_util::BodyExt;
                    let _ = request.into_body().frame().await;
                    Err(lost())
                }
                None => match inner.call(request).await {
                    Ok(response) => Ok(response),
                    Err(never) => match never {},
                },
            }
        })
    }
}

/// The call is made again once, and only if nothing of it was taken.
#[tokio::test]
async fn lost_calls() {
    for (failures, survives) in [
        (vec![false], true),
        (vec![false, false], false),
        (vec![true], false),
    ] {
        let transport = GrpcTransport::new(Failing {
            inner: server().0,
            failures: Arc::new(Mutex::new(failures.clone().into())),
        });
        let mut stream = open(&transport, "echo");
        stream.send(headers());
        match recv(&mut stream).await {
            Ok(_) => assert!(survives, "{failures:?}"),
            Err(close) => {
                assert!(!survives, "{failures:?}");
                assert_eq!(
                    (close.code(), close.message.as_str()),
                    (14, "operation was canceled")
                );
            }
        }
    }
}

#[test]
fn messages_without_framing() {
    let message = body(10);
    let bytes = message.to_bytes();
    assert_eq!(bytes.len() + GRPC_PREFIX, message.framed_head.len() + 10);
    let decoded = ProcessingRequest::decode(bytes).unwrap();
    assert!(matches!(decoded.request, Some(Kind::RequestBody(body)) if body.body.len() == 10));
}
