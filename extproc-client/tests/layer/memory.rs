//! A processor that is a closure.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        service::ext_proc::v3::{
            BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse,
            ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
            body_mutation::Mutation, processing_request::Request as Seen,
            processing_response::Response as Answer,
        },
    },
    google::protobuf::{Any, Struct},
};
use extproc_client::{
    BodyMode, FilterConfig, ProcessingMode, SendMode,
    config::{GrpcService, Service as Target},
    transport::{Call, Close, Message, Sidestream, Transport},
    wire::Reply,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message as _;

pub(crate) type Handler = dyn Fn(Seen) -> Vec<Answer> + Send + Sync;

/// A transport whose side streams are answered by a closure.
#[derive(Clone)]
pub(crate) struct Memory {
    handler: Arc<Handler>,
    pub(crate) open: Arc<AtomicUsize>,
    /// Replies that were taken.
    pub(crate) taken: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
    added: Added,
}

/// Dynamic metadata that each reply brings.
#[derive(Clone, Default)]
pub(crate) struct Added {
    pub(crate) untyped: Option<Struct>,
    pub(crate) typed: HashMap<String, Any>,
}

impl Memory {
    pub(crate) fn new(handler: impl Fn(Seen) -> Vec<Answer> + Send + Sync + 'static) -> Self {
        Self::adding(Added::default(), handler)
    }

    pub(crate) fn adding(
        added: Added,
        handler: impl Fn(Seen) -> Vec<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self {
            handler: Arc::new(handler),
            open: Arc::default(),
            taken: Arc::default(),
            seen: Arc::default(),
            added,
        }
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

pub(crate) struct Stream {
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
                dynamic_metadata: self.memory.added.untyped.clone(),
                typed_dynamic_metadata: self.memory.added.typed.clone(),
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
            Some(reply) => {
                self.memory.taken.fetch_add(1, Ordering::SeqCst);
                Poll::Ready(Ok(reply))
            }
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

pub(crate) fn name(seen: &Seen) -> String {
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
pub(crate) fn echo(seen: Seen) -> Vec<Answer> {
    vec![match seen {
        Seen::RequestHeaders(_) => Answer::RequestHeaders(HeadersResponse::default()),
        Seen::ResponseHeaders(_) => Answer::ResponseHeaders(HeadersResponse::default()),
        Seen::RequestBody(_) => Answer::RequestBody(BodyResponse::default()),
        Seen::ResponseBody(_) => Answer::ResponseBody(BodyResponse::default()),
        Seen::RequestTrailers(_) => Answer::RequestTrailers(TrailersResponse::default()),
        Seen::ResponseTrailers(_) => Answer::ResponseTrailers(TrailersResponse::default()),
    }]
}

/// A piece of a full duplex body.
pub(crate) fn streamed(body: Vec<u8>, end_of_stream: bool) -> BodyResponse {
    BodyResponse {
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
    }
}

/// The same for full duplex bodies.
pub(crate) fn duplex_echo(seen: Seen) -> Vec<Answer> {
    match seen {
        Seen::RequestBody(b) => vec![Answer::RequestBody(streamed(b.body, b.end_of_stream))],
        Seen::ResponseBody(b) => vec![Answer::ResponseBody(streamed(b.body, b.end_of_stream))],
        other => echo(other),
    }
}

pub(crate) fn set_header(name: &str, value: &str) -> CommonResponse {
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

pub(crate) fn config(body: BodyMode) -> FilterConfig {
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

pub(crate) type Incoming = extproc_client::RequestBody<Full<Bytes>>;

/// Answers with what it got: the request's body and `x-` headers.
pub(crate) async fn upstream(
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
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

pub(crate) fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://test.local/p")
        .body(Full::from(body))
        .unwrap()
}
