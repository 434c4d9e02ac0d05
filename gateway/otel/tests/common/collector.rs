//! A collector that takes spans in both forms of OTLP.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, time::Duration};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value, trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};

pub(crate) type Reply = Response<BoxBody<Bytes, Infallible>>;

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response
}

/// Serves HTTP/1 and HTTP/2.
pub(crate) async fn serve<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// Spans as they came, with the service that they are of.
#[derive(Debug)]
pub(crate) struct Collected(mpsc::UnboundedReceiver<(String, Span)>);

impl Collected {
    /// The next `count` spans, by name.
    pub(crate) async fn take(&mut self, count: usize) -> BTreeMap<String, Span> {
        let mut spans = BTreeMap::new();
        for _ in 0..count {
            let (_, span) = self.next().await;
            let name = span.name.clone();
            let other = spans.insert(name.clone(), span);
            assert!(other.is_none(), "{name} twice");
        }
        spans
    }

    /// The next span, and its service.
    pub(crate) async fn next(&mut self) -> (String, Span) {
        let next = tokio::time::timeout(Duration::from_secs(60), self.0.recv());
        next.await.expect("no span came").unwrap()
    }

    /// Spans that came and were not asked for yet.
    pub(crate) fn more(&mut self) -> Option<Span> {
        self.0.try_recv().ok().map(|(_, span)| span)
    }
}

/// A collector that takes both forms of OTLP.
pub(crate) async fn collector() -> (SocketAddr, Collected) {
    let (sender, spans) = mpsc::unbounded_channel();
    let address = serve(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (parts, body) = request.into_parts();
            let mut body = body.collect().await.unwrap().to_bytes();
            let grpc = parts.headers["content-type"] == "application/grpc";
            if grpc {
                let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
                assert_eq!(parts.uri.path(), path);
                assert_eq!(body.get_u8(), 0);
                assert_eq!(body.get_u32() as usize, body.len());
            } else {
                assert_eq!(parts.uri.path(), "/v1/traces");
            }
            let export = ExportTraceServiceRequest::decode(body).unwrap();
            for resource in export.resource_spans {
                let attributes = resource.resource.unwrap().attributes;
                let service = attributes.iter().find(|pair| pair.key == "service.name");
                let service = string(service.unwrap().value.as_ref().unwrap());
                for span in resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans)
                {
                    let _ = sender.send((service.clone(), span));
                }
            }
            match grpc {
                false => text(StatusCode::OK, ""),
                true => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    let frames = [
                        Ok(Frame::data(Bytes::from_static(&[0; 5]))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    Response::new(BoxBody::new(Frames(frames.into())))
                }
            }
        }
    })
    .await;
    (address, Collected(spans))
}

struct Frames(std::collections::VecDeque<Result<Frame<Bytes>, Infallible>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

fn string(value: &opentelemetry_proto::tonic::common::v1::AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// An attribute of a span; empty if there is none.
pub(crate) fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == name);
    found.map_or_else(String::new, |pair| string(pair.value.as_ref().unwrap()))
}

/// Names and one attribute of the span's events.
pub(crate) fn events(span: &Span, tag: &str) -> Vec<String> {
    let told = span.events.iter().map(|event| {
        let found = event.attributes.iter().find(|pair| pair.key == tag);
        found.map_or_else(String::new, |pair| string(pair.value.as_ref().unwrap()))
    });
    told.collect()
}
