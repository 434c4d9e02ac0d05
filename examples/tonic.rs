//! The layer around a tonic server: a processor decides who may call a gRPC service.
//!
//! `cargo run --example tonic` serves the standard health service behind the layer and calls it twice, without a token and
//! with one. The processor turns the first call away with a gRPC status, so that the client sees a gRPC error and not an
//! HTTP one.

use anyhow::Context as _;
use extproc_client::{
    ExtProcLayer, FilterConfig,
    config::{GrpcService, Service},
    transport::{Pool, TcpConnector},
};
use extproc_server::{BoxError, Call, Headers, HeadersReply, Immediate, Processor};
use http::StatusCode;
use tokio::net::TcpListener;
use tonic::{
    Code, Request,
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Lets calls with a token pass, and keeps the token from the service.
struct Guard;

impl Processor for Guard {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        if headers.get_str("authorization") == Some("Bearer let-me-in") {
            return Ok(HeadersReply::new()
                .remove("authorization")
                .set("x-user", "alice"));
        }
        let refusal = Immediate::new(StatusCode::UNAUTHORIZED)
            .grpc_status(Code::Unauthenticated)
            .body("a bearer token is needed");
        Ok(refusal.into())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let processor = listen().await?;
    let address = processor.local_addr()?.to_string();
    tokio::spawn(extproc_server::Server::new(Guard).serve(processor, std::future::pending()));

    let config = FilterConfig::builder(Service::Grpc(GrpcService::uri(&address))).build()?;
    let pool = Pool::builder(TcpConnector::new(&address)).build();
    let (_health, health_service) = tonic_health::server::health_reporter();
    let listener = listen().await?;
    let target = listener.local_addr()?;
    tokio::spawn(
        Server::builder()
            .layer(ExtProcLayer::new(config, pool))
            .add_service(health_service)
            .serve_with_incoming(TcpIncoming::from(listener)),
    );

    let channel = Channel::from_shared(format!("http://{target}"))?
        .connect()
        .await?;
    let mut client = HealthClient::new(channel);
    let refused = client.check(HealthCheckRequest::default()).await;
    match refused {
        Ok(_) => anyhow::bail!("a call without a token has passed"),
        Err(status) => println!("without a token: {:?}, {}", status.code(), status.message()),
    }
    let mut request = Request::new(HealthCheckRequest::default());
    request
        .metadata_mut()
        .insert("authorization", "Bearer let-me-in".parse()?);
    let reply = client.check(request).await?.into_inner();
    println!("with a token: {:?}", reply.status());
    Ok(())
}

async fn listen() -> anyhow::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0")
        .await
        .context("no free port")
}
