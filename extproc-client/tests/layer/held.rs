//! Bytes that an exchange holds, as its account is told.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::service::ext_proc::v3::{
        BodyResponse, processing_request::Request as Seen, processing_response::Response as Answer,
    },
    google::protobuf::{Any, Struct, Value, value::Kind},
};
use extproc_client::{
    BodyMode, ExtProcLayer, FilterConfig, RequestBody,
    config::{GrpcService, MetadataOptions, Service as Target},
    host::{BufferAccount, ExchangeContext},
    metadata::DynamicMetadata,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Channel, Full};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::memory::*;

const MIB: usize = 1024 * 1024;

/// Bytes that are held, and the most that there ever were.
#[derive(Debug, Default)]
struct Account {
    held: AtomicUsize,
    most: AtomicUsize,
}

impl BufferAccount for Account {
    fn hold(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most.fetch_max(held, Ordering::SeqCst);
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
    }
}

impl Account {
    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Waits until so much is held; other tasks run meanwhile.
    async fn holds(&self, bytes: usize) {
        let holds = async {
            while self.held() != bytes {
                tokio::task::yield_now().await;
            }
        };
        let held = tokio::time::timeout(Duration::from_secs(10), holds).await;
        assert!(held.is_ok(), "{} held, not {bytes}", self.held());
    }
}

/// A request whose exchange has this account and these metadata.
fn counted(account: &Arc<Account>, metadata: &DynamicMetadata) -> Request<Full<Bytes>> {
    let mut context = ExchangeContext::default();
    context.buffers = Some(account.clone());
    context.metadata = metadata.clone();
    let (mut head, body) = post("hello").into_parts();
    context.attach(&mut head);
    Request::from_parts(head, body)
}

/// Three pieces of a body of 1 MiB each.
fn three(answer: fn(BodyResponse) -> Answer) -> Vec<Answer> {
    (1..=3)
        .map(|n| answer(streamed(vec![0; MIB], n == 3)))
        .collect()
}

/// A piece that was taken is counted by whoever has it: twice, it could be more than all may be.
#[tokio::test]
async fn a_piece_of_a_response_that_was_taken_is_no_longer_held() {
    let memory = Memory::new(|seen| match seen {
        Seen::ResponseBody(_) => three(Answer::ResponseBody),
        other => duplex_echo(other),
    });
    let account = Arc::<Account>::default();
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(
            config_of_response(BodyMode::FullDuplexStreamed),
            memory,
        ))
        .service(service_fn(upstream));
    let request = counted(&account, &DynamicMetadata::default());
    let mut body = service.oneshot(request).await.unwrap().into_body();
    for left in [2, 1, 0] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().map(Bytes::len), Some(MIB));
        let held = account.held();
        assert!(held <= left * MIB, "{held} with {left} pieces to come");
    }
    assert!(account.most.load(Ordering::SeqCst) >= MIB);
}

/// The same for a body on its way to another task, where it is counted until it is taken there.
#[tokio::test]
async fn a_piece_of_a_request_is_held_once_until_it_is_taken() {
    let memory = Memory::new(|seen| match seen {
        Seen::RequestBody(_) => three(Answer::RequestBody),
        other => duplex_echo(other),
    });
    let account = Arc::<Account>::default();
    let counts = account.clone();
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(
            config(BodyMode::FullDuplexStreamed),
            memory,
        ))
        .service(service_fn(move |request: Request<Incoming>| {
            let account = counts.clone();
            async move {
                let mut body = request.into_body();
                for left in [2, 1, 0] {
                    account.holds((left + 1) * MIB).await;
                    let frame = body.frame().await.unwrap().unwrap();
                    assert_eq!(frame.data_ref().map(Bytes::len), Some(MIB));
                }
                account.holds(0).await;
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }));
    let request = counted(&account, &DynamicMetadata::default());
    let response = service.oneshot(request).await.unwrap();
    response.collect().await.unwrap();
    assert_eq!(account.most.load(Ordering::SeqCst), 3 * MIB);
}

fn config_of_response(body: BodyMode) -> FilterConfig {
    FilterConfig::builder(Target::Grpc(GrpcService::cluster("processor")))
        .processing_mode(extproc_client::ProcessingMode {
            response_body_mode: body,
            response_trailer_mode: extproc_client::SendMode::Send,
            ..Default::default()
        })
        .build()
        .unwrap()
}

/// A processor that adds metadata to each exchange, and a service around `inner`.
fn adding(metadata: Added, mode: BodyMode) -> (Memory, FilterConfig) {
    let memory = Memory::adding(metadata, echo);
    let config = FilterConfig::builder(Target::Grpc(GrpcService::cluster("processor")))
        .processing_mode(extproc_client::ProcessingMode {
            request_body_mode: mode,
            ..Default::default()
        })
        .metadata_options(MetadataOptions {
            receive_untyped: vec!["a".into()],
            receive_typed: vec!["a".into()],
            ..MetadataOptions::default()
        })
        .build()
        .unwrap();
    (memory, config)
}

/// Untyped metadata of this size.
fn text(length: usize) -> Added {
    let object = |name: &str, kind| Struct {
        fields: HashMap::from([(name.to_owned(), Value { kind: Some(kind) })]),
    };
    let inner = object("text", Kind::StringValue("x".repeat(length)));
    Added {
        untyped: Some(object("a", Kind::StructValue(inner))),
        typed: HashMap::new(),
    }
}

/// Metadata end with the exchange, as its log shows them, and not with the filter that got them.
#[tokio::test]
async fn metadata_are_held_as_long_as_they_are_there() {
    let typed = |type_url: String, value: Vec<u8>| Added {
        untyped: None,
        typed: HashMap::from([("a".to_owned(), Any { type_url, value })]),
    };
    for added in [
        text(MIB),
        typed("t".into(), vec![0; MIB]),
        typed("t".repeat(MIB), Vec::new()),
    ] {
        let (memory, config) = adding(added, BodyMode::None);
        let service = ServiceBuilder::new()
            .layer(ExtProcLayer::new(config, memory.clone()))
            .service(service_fn(upstream));
        let account = Arc::<Account>::default();
        let metadata = DynamicMetadata::default();
        // Another filter that puts others in their place adds nothing.
        for _ in 0..2 {
            let request = counted(&account, &metadata);
            let response = service.clone().oneshot(request).await.unwrap();
            response.collect().await.unwrap();
            assert_eq!(memory.open.load(Ordering::SeqCst), 0);
            assert_eq!(account.held(), MIB);
        }
        metadata.remove("a");
        drop(metadata);
        assert_eq!(account.held(), 0);
    }
}

/// Others get their turn often while an exchange holds much of its bodies; metadata are not among that.
#[tokio::test]
async fn metadata_slow_no_body_down() {
    const FRAMES: usize = 600;
    let mut seen = Vec::new();
    for length in [1, MIB] {
        let (memory, config) = adding(text(length), BodyMode::Buffered);
        let service = ServiceBuilder::new()
            .layer(ExtProcLayer::new(config, memory))
            .service(service_fn(|request: Request<RequestBody<_>>| async {
                let body: RequestBody<Channel<Bytes, Infallible>> = request.into_body();
                let body = body.collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(Full::new(body)))
            }));
        let (mut sender, body) = Channel::new(FRAMES);
        for _ in 0..FRAMES {
            sender.send_data(Bytes::from_static(b"x")).await.unwrap();
        }
        drop(sender);
        let request = Request::post("http://test.local/p").body(body).unwrap();
        let mut exchange = pin!(service.oneshot(request));
        let mut turns = 0;
        let response = poll_fn(|cx| {
            turns += 1;
            exchange.as_mut().poll(cx)
        });
        let body = response.await.unwrap().collect().await.unwrap();
        assert_eq!(body.to_bytes().len(), FRAMES);
        seen.push(turns);
    }
    assert!(seen[1] <= 2 * seen[0], "{seen:?} turns");
}
