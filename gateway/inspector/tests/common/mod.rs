//! A layer with a processor that follows a script, observed by an inspector that serves.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use extproc_client::{
    ExtProcLayer, FilterConfig, RequestBody,
    bytes::Bytes,
    envoy_types::pb::envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        service::ext_proc::v3::{
            BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ProcessingRequest,
            ProcessingResponse, processing_response,
        },
    },
    http::{Request, Response, StatusCode},
    transport::{Call, Close, Message, Sidestream, Transport},
    wire::Reply,
};
use gateway_inspector::{Inspector, Server, Settings};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::{Layer as _, ServiceExt as _, service_fn};

type Script = dyn Fn(ProcessingRequest) -> Vec<ProcessingResponse> + Send + Sync;

/// A processor without a socket.
#[derive(Clone)]
pub(crate) struct Scripted(Arc<Script>);

impl Scripted {
    pub(crate) fn new(
        script: impl Fn(ProcessingRequest) -> Vec<ProcessingResponse> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(script))
    }
}

impl Transport for Scripted {
    type Sidestream = Stream;

    fn open(&self, _call: Call<'_>) -> Result<Stream, Close> {
        Ok(Stream {
            script: self.0.clone(),
            replies: VecDeque::new(),
        })
    }
}

pub(crate) struct Stream {
    script: Arc<Script>,
    replies: VecDeque<Reply>,
}

impl Sidestream for Stream {
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send(&mut self, message: Message) {
        let request = ProcessingRequest::decode(message.to_bytes()).unwrap();
        for reply in (self.script)(request) {
            let bytes = Bytes::from(reply.encode_to_vec());
            self.replies.push_back(Reply::decode(bytes).unwrap());
        }
    }

    fn poll_recv(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        match self.replies.pop_front() {
            Some(reply) => Poll::Ready(Ok(reply)),
            None => Poll::Pending,
        }
    }

    fn finish(&mut self) {}
}

pub(crate) fn config(json: &str) -> FilterConfig {
    let comma = if json.is_empty() { "" } else { ", " };
    let text =
        format!(r#"{{"grpc_service": {{"envoy_grpc": {{"cluster_name": "c"}}}}{comma}{json}}}"#);
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn headers_reply(fields: &[(&str, &str)]) -> HeadersResponse {
    let set_headers = fields.iter().map(|(name, value)| HeaderValueOption {
        header: Some(HeaderValue {
            key: (*name).to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    });
    HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: set_headers.collect(),
                ..HeaderMutation::default()
            }),
            ..CommonResponse::default()
        }),
    }
}

pub(crate) fn request_headers(fields: &[(&str, &str)]) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(processing_response::Response::RequestHeaders(
            headers_reply(fields),
        )),
        ..ProcessingResponse::default()
    }
}

pub(crate) fn response_headers(fields: &[(&str, &str)]) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(processing_response::Response::ResponseHeaders(
            headers_reply(fields),
        )),
        ..ProcessingResponse::default()
    }
}

/// Adds a header to requests and changes nothing else.
pub(crate) fn obliging() -> Scripted {
    use extproc_client::envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
    Scripted::new(|request| match request.request {
        Some(Request::RequestHeaders(_)) => vec![request_headers(&[("x-added", "1")])],
        Some(Request::ResponseHeaders(_)) => vec![response_headers(&[])],
        Some(Request::RequestBody(_)) => vec![ProcessingResponse {
            response: Some(processing_response::Response::RequestBody(
                BodyResponse::default(),
            )),
            ..ProcessingResponse::default()
        }],
        _ => Vec::new(),
    })
}

/// Sends a request through a layer with this inspector, to an upstream that says hello.
pub(crate) async fn send<T: Transport>(
    inspector: &Arc<Inspector>,
    config: FilterConfig,
    processor: T,
    request: http::request::Builder,
) -> StatusCode {
    let upstream = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    });
    let layer = ExtProcLayer::new(config, processor)
        .named("authz")
        .observer(inspector.clone());
    let request = request.body(Full::from("question")).unwrap();
    let Ok(response) = layer.layer(upstream).oneshot(request).await;
    let status = response.status();
    // A cut is an error.
    let _ = response.into_body().collect().await;
    status
}

pub(crate) fn get(path: &str) -> http::request::Builder {
    Request::builder().uri(path).header("host", "shop.test")
}

pub(crate) fn inspector(settings: Settings) -> Arc<Inspector> {
    Arc::new(Inspector::new(settings))
}

/// Serves an inspector; gives the address and the URL.
pub(crate) async fn serve(inspector: &Arc<Inspector>, address: &str) -> (SocketAddr, String) {
    let listener = TcpListener::bind(address).await.unwrap();
    let local = listener.local_addr().unwrap();
    let server = Server::new(inspector.clone(), local);
    let url = server.url();
    tokio::spawn(server.serve(listener));
    (local, url)
}

/// Asks for something, with these headers beside `host`; gives the whole answer.
pub(crate) async fn ask(address: SocketAddr, line: &str, headers: &[&str]) -> String {
    let mut socket = asked(address, line, headers).await;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Asks for something; gives the socket that the answer comes on.
pub(crate) async fn asked(address: SocketAddr, line: &str, headers: &[&str]) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", address.port()))
        .await
        .unwrap();
    let mut head = format!("{line} HTTP/1.0\r\n");
    if !headers.iter().any(|header| header.starts_with("host:")) {
        head += &format!("host: 127.0.0.1:{}\r\n", address.port());
    }
    for header in headers {
        head += &format!("{header}\r\n");
    }
    socket
        .write_all(format!("{head}\r\n").as_bytes())
        .await
        .unwrap();
    socket
}

/// The body of an answer.
pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}
