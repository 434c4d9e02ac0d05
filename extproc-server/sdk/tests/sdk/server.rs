//! The server kit over real sockets.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    external_processor_client::ExternalProcessorClient, processing_request::Request,
    processing_response::Response,
};
use extproc_sdk::{
    DRAIN, ProcessorService, ServeError, Server, TlsConfig, serve_metrics,
    testing::{FakeProxy, Message},
};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tonic::{
    Code, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::Pass;

const PATIENCE: Duration = Duration::from_secs(10);

type Served = JoinHandle<Result<(), ServeError>>;

async fn connect(listener: &TcpListener) -> Channel {
    let address = listener.local_addr().unwrap();
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}

fn headers() -> ProcessingRequest {
    message(Request::RequestHeaders(HttpHeaders::default()))
}

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        ..ProcessingRequest::default()
    }
}

#[tokio::test]
async fn answers_over_grpc_and_reports_its_health() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener).await;
    tokio::spawn(Server::new(Pass).serve(listener, pending()));

    let mut health = HealthClient::new(channel.clone());
    for service in ["", "envoy.service.ext_proc.v3.ExternalProcessor"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.get_ref().status, 1);
    }

    let mut client = ExternalProcessorClient::new(channel);
    let mut replies = client
        .process(tokio_stream::iter([headers()]))
        .await
        .unwrap()
        .into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    assert!(matches!(reply.response, Some(Response::RequestHeaders(_))));
    assert!(replies.message().await.unwrap().is_none());
}

#[tokio::test]
async fn takes_messages_beyond_the_default_of_the_transport() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener).await;
    tokio::spawn(Server::new(Pass).serve(listener, pending()));
    let body = HttpBody {
        body: vec![0; 5 * 1024 * 1024],
        end_of_stream: true,
        ..HttpBody::default()
    };
    let mut replies = ExternalProcessorClient::new(channel)
        .process(tokio_stream::iter([message(Request::RequestBody(body))]))
        .await
        .unwrap()
        .into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    assert!(matches!(reply.response, Some(Response::RequestBody(_))));
}

#[tokio::test]
async fn what_it_does_not_know_it_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener).await;
    tokio::spawn(Server::new(Pass).serve(listener, pending()));
    let mut replies = ExternalProcessorClient::new(channel)
        .process(tokio_stream::iter([ProcessingRequest::default()]))
        .await
        .unwrap()
        .into_inner();
    let status = replies.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// An exchange that goes on: what it is sent by, and its replies. The first one has come.
async fn open(
    channel: Channel,
) -> (
    mpsc::Sender<ProcessingRequest>,
    Streaming<ProcessingResponse>,
) {
    let (requests, inbound) = mpsc::channel(4);
    requests.send(headers()).await.unwrap();
    let inbound = tokio_stream::wrappers::ReceiverStream::new(inbound);
    let mut replies = ExternalProcessorClient::new(channel)
        .process(inbound)
        .await
        .unwrap()
        .into_inner();
    replies.message().await.unwrap().unwrap();
    (requests, replies)
}

/// A server that runs until the sender is used.
fn serve(server: Server<Pass>, listener: TcpListener) -> (oneshot::Sender<()>, Served) {
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(listener, async {
        let _ = stopped.await;
    }));
    (stop, serving)
}

#[tokio::test]
async fn stops_when_open_exchanges_have_finished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let channel = connect(&listener).await;
    let (stop, serving) = serve(Server::new(Pass), listener);
    let (requests, mut replies) = open(channel).await;

    stop.send(()).unwrap();
    let refuses = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refuses).await.unwrap();
    assert!(!serving.is_finished());
    requests
        .send(message(Request::RequestBody(HttpBody::default())))
        .await
        .unwrap();
    replies.message().await.unwrap().unwrap();
    drop(requests);
    assert!(replies.message().await.unwrap().is_none());
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn stops_when_the_drain_time_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener).await;
    let server = Server::new(Pass).drain(Duration::from_millis(100));
    let (stop, serving) = serve(server, listener);
    let _open = open(channel).await;
    stop.send(()).unwrap();
    // The time that it would have unset is twice as long.
    timeout(DRAIN / 2, serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn announces_its_end_while_it_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener).await;
    let fresh = connect(&listener).await;
    let server = Server::new(Pass).announce(Duration::from_secs(3600));
    let (stop, serving) = serve(server, listener);
    let mut health = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let told = timeout(PATIENCE, health.message()).await.unwrap();
    assert_eq!(told.unwrap().unwrap().status(), ServingStatus::Serving);
    stop.send(()).unwrap();
    let told = timeout(PATIENCE, health.message()).await.unwrap();
    assert_eq!(told.unwrap().unwrap().status(), ServingStatus::NotServing);
    // On a connection that is new.
    open(fresh).await;
    assert!(!serving.is_finished());
}

#[tokio::test]
async fn metrics_are_served() {
    let service = ProcessorService::new(Pass);
    let mut exchange = FakeProxy::with_service(service.clone()).exchange();
    exchange
        .request(Message::request("GET", "/"))
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_metrics(listener, service.stats()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    for line in [
        "extproc_exchanges_total 1\n",
        "extproc_open_exchanges 1\n",
        "extproc_messages_total{phase=\"request_headers\"} 1\n",
        "extproc_failures_total{kind=\"panic\"} 0\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// Connections that nobody uses take no descriptors from the exchanges, and nobody's place.
#[tokio::test]
async fn metrics_have_few_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_metrics(listener, ProcessorService::new(Pass).stats()));
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n")
            .await
            .unwrap();
        silent.push(stream);
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let mut first = silent.remove(0);
    let closed = timeout(PATIENCE, first.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn connections_finish_at_their_age() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(Pass).max_connection_age(Duration::from_millis(50));
    tokio::spawn(server.serve(listener, pending()));
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    timeout(PATIENCE, connection).await.unwrap().unwrap();
    drop(client);
}

#[tokio::test]
async fn a_bad_certificate_is_an_error_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = TlsConfig::new("no", "pem");
    let served = Server::new(Pass).tls(tls).serve(listener, pending()).await;
    assert!(matches!(served, Err(ServeError::Tls(_))), "{served:?}");
}

/// A file of the gateway's test certificates.
macro_rules! certificate {
    ($name:literal) => {
        include_str!(concat!("../../../../gateway/tests/tls/", $name))
    };
}

#[tokio::test]
async fn clients_show_their_certificates() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Certificate::from_pem(certificate!("ca.pem"));
    let tls = TlsConfig::new(certificate!("a.pem"), certificate!("a.key"))
        .client_authority(certificate!("ca.pem"));
    tokio::spawn(Server::new(Pass).tls(tls).serve(listener, pending()));
    let own = Identity::from_pem(certificate!("client.pem"), certificate!("client.key"));
    for (identity, served) in [(Some(own), true), (None, false)] {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(authority.clone())
            .domain_name("a.example");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let channel = Channel::from_shared(format!("https://{address}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_lazy();
        let answer = ExternalProcessorClient::new(channel)
            .process(tokio_stream::iter([headers()]))
            .await;
        assert_eq!(answer.is_ok(), served, "{answer:?}");
    }
}

/// Calls a processor with empty DATA frames before each message, far more than `h2` takes in the life of a connection.
async fn many_empty_frames(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (mut sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..5 {
        let request =
            http::Request::post("http://a/envoy.service.ext_proc.v3.ExternalProcessor/Process")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        for _ in 0..100 {
            stream.send_data(Bytes::new(), false).unwrap();
        }
        let mut message = vec![0; 5];
        headers().encode(&mut message).unwrap();
        message[4] = u8::try_from(message.len() - 5).unwrap();
        stream.send_data(message.into(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert!(!body.data().await.unwrap().unwrap().is_empty());
    }
}

#[tokio::test]
async fn empty_frames_end_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::new(Pass).serve(listener, pending()));
    many_empty_frames(TcpStream::connect(address).await.unwrap()).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = TlsConfig::new(certificate!("a.pem"), certificate!("a.key"));
    tokio::spawn(Server::new(Pass).tls(tls).serve(listener, pending()));
    // One that begins no handshake holds up no other.
    let _silent = TcpStream::connect(address).await.unwrap();
    let tls = connect_tls(address, certificate!("ca.pem")).await;
    many_empty_frames(tls).await;
}

/// A TLS connection to `a.example`.
async fn connect_tls(address: SocketAddr, authority: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols.push(b"h2".to_vec());
    let tcp = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("a.example").unwrap(), tcp)
        .await
        .unwrap()
}
