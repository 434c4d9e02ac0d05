//! A proxy that does not read its replies slows the processor down: nothing is received ahead of what it takes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::ext_proc::v3::{
        HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration,
        processing_request::Request,
    },
};
use extproc_sdk::{
    BoxError, Conversation, Event, ProcessorService, StreamProcessor,
    bodies::{GrpcMessage, grpc_message},
};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::Message as _;
use tonic::codegen::Service;

use crate::Pass;

/// More than tonic gathers before it lets a frame go, so that each reply is one.
const PIECE: usize = 48 * 1024;
const PIECES: usize = 200;

/// Passes on what comes.
struct Relay;

impl StreamProcessor for Relay {
    async fn process(&self, mut exchange: Conversation) -> Result<(), BoxError> {
        while let Some(event) = exchange.next().await {
            exchange.pass(event).await?;
        }
        Ok(())
    }
}

/// Sends three pieces for each that comes.
struct Triple;

impl StreamProcessor for Triple {
    async fn process(&self, mut exchange: Conversation) -> Result<(), BoxError> {
        while let Some(event) = exchange.next().await {
            match event {
                Event::Body(side, body) => {
                    for _ in 0..3 {
                        exchange.send(side, body.data.clone()).await?;
                    }
                    if body.end_of_stream {
                        exchange.end(side).await?;
                    }
                }
                other => exchange.pass(other).await?,
            }
        }
        Ok(())
    }
}

/// The messages of an exchange with a long body in full duplex.
fn messages() -> Vec<ProcessingRequest> {
    let message = |request| ProcessingRequest {
        request: Some(request),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: BodySendMode::FullDuplexStreamed.into(),
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    };
    let head = message(Request::RequestHeaders(HttpHeaders::default()));
    let pieces = (1..=PIECES).map(|number| {
        message(Request::RequestBody(HttpBody {
            body: vec![b'x'; PIECE],
            end_of_stream: number == PIECES,
            ..HttpBody::default()
        }))
    });
    std::iter::once(head).chain(pieces).collect()
}

/// Reads the replies one frame at a time; returns for each how many messages had been received by then.
async fn received<S, B>(mut service: S) -> Vec<usize>
where
    S: Service<http::Request<Messages>, Response = http::Response<B>>,
    S::Error: std::fmt::Debug,
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let frames = messages().into_iter().map(move |message| {
        count.fetch_add(1, Ordering::Relaxed);
        let framed = grpc_message(&GrpcMessage {
            compressed: false,
            data: message.encode_to_vec().into(),
        });
        Ok(Frame::data(framed.unwrap()))
    });
    let body: Messages = StreamBody::new(Box::new(stream::iter(frames)));
    let request = http::Request::post("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let mut replies = service.call(request).await.unwrap().into_body();
    let mut seen = Vec::new();
    while let Some(frame) = replies.frame().await {
        if frame.unwrap().is_data() {
            seen.push(taken.load(Ordering::Relaxed));
        }
    }
    seen
}

type Frames = Box<dyn futures_core::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + Unpin>;
type Messages = StreamBody<Frames>;

#[tokio::test]
async fn a_processor_receives_no_further_than_its_replies_are_read() {
    let seen = received(ProcessorService::new(Pass)).await;
    assert_eq!(seen.len(), PIECES);
    for (read, received) in seen.into_iter().enumerate() {
        // The headers came first, and their reply went along with the first piece.
        assert!(received <= read + 2, "{received} received, {read} read");
    }
}

#[tokio::test]
async fn a_conversation_receives_no_further_either() {
    let seen = received(ProcessorService::streaming(Relay)).await;
    assert_eq!(seen.len(), PIECES);
    for (read, received) in seen.into_iter().enumerate() {
        assert!(received <= read + 3, "{received} received, {read} read");
    }
}

#[tokio::test]
async fn what_a_conversation_sends_ahead_is_bounded() {
    let seen = received(ProcessorService::streaming(Triple)).await;
    // And the end.
    assert_eq!(seen.len(), 3 * PIECES + 1);
    for (read, received) in seen.into_iter().enumerate() {
        // At most 16 replies wait, beside those of the message in hand.
        assert!(received <= read / 3 + 8, "{received} received, {read} read");
    }
}
