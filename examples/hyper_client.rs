//! The layer on the way out: an HTTP client whose requests a processor sees first.
//!
//! `cargo run --example hyper_client` starts an upstream and a processor on free ports and sends two requests with hyper's
//! client. The processor keeps what belongs inside from leaving, adds a credential that the caller never holds, and
//! refuses one path before a byte of it goes out.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use examples::httpbin;
use extproc_client::{
    ExtProcLayer, FilterConfig,
    config::{GrpcService, Service},
    transport::{Pool, TcpConnector},
};
use extproc_server::{BoxError, Call, Headers, HeadersReply, Immediate, Processor, Server};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _};

/// What may leave, and with which credential.
struct Egress;

impl Processor for Egress {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        if headers.path().is_some_and(|path| path.starts_with("/deny")) {
            let refusal = Immediate::new(StatusCode::FORBIDDEN).body("this path is not for us\n");
            return Ok(refusal.into());
        }
        Ok(HeadersReply::new()
            .set("authorization", "Bearer known-to-the-processor-only")
            .remove("x-internal-user"))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let upstream = listen().await?;
    let target = upstream.local_addr()?;
    tokio::spawn(httpbin::serve(upstream, std::future::pending()));
    let processor = listen().await?;
    let address = processor.local_addr()?;
    tokio::spawn(Server::new(Egress).serve(processor, std::future::pending()));

    // The layer wraps hyper's client as it would wrap any tower service.
    let config =
        FilterConfig::builder(Service::Grpc(GrpcService::uri(address.to_string()))).build()?;
    let pool = Pool::builder(TcpConnector::new(address.to_string())).build();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let client = ExtProcLayer::new(config, pool).layer(client);

    for path in ["/headers", "/deny"] {
        let request = Request::get(url(target, path))
            .header("x-internal-user", "alice")
            .body(Empty::<Bytes>::new())?;
        let response = client
            .clone()
            .oneshot(request)
            .await
            .context("the request failed")?;
        println!("GET {path} -> {}", response.status());
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(anyhow::Error::from_boxed)?
            .to_bytes();
        println!("{}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

async fn listen() -> anyhow::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0")
        .await
        .context("no free port")
}

fn url(target: SocketAddr, path: &str) -> String {
    format!("http://{target}{path}")
}
