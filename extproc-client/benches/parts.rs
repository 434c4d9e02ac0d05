//! The parts alone: messages, an exchange without a network, a call on the pool.

use std::{
    convert::Infallible,
    hint::black_box,
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use extproc_client::{
    ExtProcLayer, FilterConfig,
    transport::{Call, Close, Connector, Message, Pool, Sidestream, Transport},
    wire::Reply,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::{
    io::{DuplexStream, duplex},
    runtime::Runtime,
};
use tower::{Layer, Service, service_fn};

/// `request_headers {}`, `response_headers {}`.
const AGREED: [&[u8]; 2] = [&[0x0a, 0x00], &[0x12, 0x00]];

/// `request_headers` with three fields set.
const SET: &[u8] = b"\x0a\x3f\x0a\x3d\x12\x3b\
    \x0a\x12\x0a\x10\x0a\x03x-a\x1a\x09the first\
    \x0a\x11\x0a\x0f\x0a\x03x-b\x1a\x08a second\
    \x0a\x12\x0a\x10\x0a\x03x-c\x1a\x09the third";

/// A processor that has agreed before it is asked.
#[derive(Clone)]
struct Agreeing;

struct Replies(usize, usize);

impl Transport for Agreeing {
    type Sidestream = Replies;

    fn open(&self, _: Call<'_>) -> Result<Replies, Close> {
        Ok(Replies(0, 0))
    }
}

impl Sidestream for Replies {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send(&mut self, message: Message) {
        black_box(message);
        self.0 += 1;
    }

    fn poll_recv(&mut self, _: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        if self.1 == self.0 {
            return Poll::Pending;
        }
        let reply = AGREED.get(self.1).copied().unwrap_or_default();
        self.1 += 1;
        Poll::Ready(Reply::decode(Bytes::from_static(reply)).map_err(|_| Close::status(13, "")))
    }

    fn finish(&mut self) {}
}

fn config() -> FilterConfig {
    serde_json::from_str(r#"{"grpc_service": {"envoy_grpc": {"cluster_name": "processor"}}}"#)
        .expect("the configuration is good")
}

fn request() -> Request<Empty<Bytes>> {
    let mut builder = Request::get("http://www.example.com/some/path?query=1");
    for (name, value) in [
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "en"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "e6cfb9e1-3d7a-4d6a-9a5c-000000000000"),
    ] {
        builder = builder.header(name, value);
    }
    builder.body(Empty::new()).expect("the request is good")
}

fn exchange(c: &mut Criterion) {
    let runtime = runtime();
    let layer = ExtProcLayer::new(config(), Agreeing);
    let mut service = layer.layer(service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    }));
    c.bench_function("exchange/headers", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let response = service.call(request()).await;
                response.map(|response| response.status())
            })
        });
    });
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.bench_function("agreed", |b| {
        b.iter(|| Reply::decode(Bytes::from_static(AGREED[0])));
    });
    group.bench_function("three-headers", |b| {
        b.iter(|| Reply::decode(Bytes::from_static(SET)));
    });
    // response_body { response { body_mutation { streamed_response { body } } } }
    let mut body = vec![b'x'; 16 * 1024];
    for tag in [0x0a, 0x1a, 0x1a, 0x0a, 0x22] {
        let mut outer = vec![tag];
        prost::encoding::encode_varint(body.len() as u64, &mut outer);
        outer.append(&mut body);
        body = outer;
    }
    let body = Bytes::from(body);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("body-16k", |b| b.iter(|| Reply::decode(body.clone())));
    group.finish();
}

/// Connects to a server in the same runtime.
struct Pipes;

impl Connector for Pipes {
    type Io = DuplexStream;

    async fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = duplex(256 * 1024);
        tokio::spawn(serve(far));
        Ok(near)
    }
}

/// Agrees to the headers of every request and response.
async fn serve(stream: DuplexStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        tokio::spawn(async move {
            let mut head = Response::new(());
            let grpc = HeaderValue::from_static("application/grpc");
            head.headers_mut().insert("content-type", grpc);
            let mut send = respond.send_response(head, false)?;
            let mut body = request.into_body();
            // Each message comes in a frame of its own.
            for reply in AGREED {
                let Some(Ok(data)) = body.data().await else {
                    return Ok(());
                };
                body.flow_control().release_capacity(data.len())?;
                let framed = [&[0, 0, 0, 0, 2], reply].concat();
                send.send_data(framed.into(), false)?;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            send.send_trailers(trailers)
        });
    }
    Ok(())
}

fn pool(c: &mut Criterion) {
    let runtime = runtime();
    let layer = ExtProcLayer::new(config(), Pool::builder(Pipes).connections(1).build());
    let mut service = layer.layer(service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    }));
    c.bench_function("pool/headers", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let response = match service.call(request()).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.map(drop)
            })
        });
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be had")
}

criterion_group!(benches, decode, exchange, pool);
criterion_main!(benches);
