//! Bytes that an exchange holds, as its account is told.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, processing_request::Request as Seen, processing_response::Response as Answer,
};
use extproc_client::{
    BodyMode, ExtProcLayer, FilterConfig,
    config::{GrpcService, Service as Target},
    host::{BufferAccount, ExchangeContext},
    metadata::DynamicMetadata,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
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
