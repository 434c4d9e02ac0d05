//! Clusters with `auto_config`, whose endpoints say in TLS which protocol they speak, and those that are told what to speak.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use gateway_proxy::Running;
use http::Response;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use self::common::{Bootstrap, PATIENCE, admin, cluster, protocol, serve, until};

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

fn file(name: &str) -> String {
    format!("{}/../tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An endpoint, as far as it was seen.
struct Endpoint {
    accepted: AtomicUsize,
    /// It speaks HTTP/1, whatever it agreed on.
    misleads: AtomicBool,
    /// Requests for `/held` that came.
    held: AtomicUsize,
    /// Each permit lets one connection begin with TLS.
    handshakes: Semaphore,
    /// Each permit lets a request for `/held` be answered.
    answers: Semaphore,
}

/// An endpoint whose connection of each number offers one protocol, and allows so many streams. It answers with its name.
fn endpoint(
    streams: u32,
    handshakes: usize,
    offers: fn(usize) -> &'static [u8],
) -> (SocketAddr, Arc<Endpoint>) {
    let endpoint = Arc::new(Endpoint {
        accepted: AtomicUsize::new(0),
        misleads: AtomicBool::new(false),
        held: AtomicUsize::new(0),
        handshakes: Semaphore::new(handshakes),
        answers: Semaphore::new(0),
    });
    let shared = endpoint.clone();
    let address = serve(async move |listener| {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let endpoint = shared.clone();
            tokio::spawn(async move {
                let number = endpoint.accepted.fetch_add(1, Ordering::SeqCst);
                let protocol = offers(number);
                endpoint.handshakes.acquire().await.unwrap().forget();
                let Ok(stream) = acceptor(protocol).accept(socket).await else {
                    return;
                };
                match protocol == H2 && !endpoint.misleads.load(Ordering::SeqCst) {
                    true => serve_h2(stream, streams, &endpoint).await,
                    false => serve_http1(stream).await,
                }
            });
        }
    });
    (address, endpoint)
}

fn acceptor(protocol: &[u8]) -> TlsAcceptor {
    let chain = CertificateDer::from_pem_file(file("a.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("a.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve_h2(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    streams: u32,
    endpoint: &Arc<Endpoint>,
) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            if request.uri().path() == "/held" {
                endpoint.held.fetch_add(1, Ordering::SeqCst);
                endpoint.answers.acquire().await.unwrap().forget();
            }
            let head = Response::builder().header("content-length", H2.len());
            let mut body = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            body.send_data(Bytes::from_static(H2), true).unwrap();
        });
    }
}

/// Answers requests without a body; what is none ends the connection.
async fn serve_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut request).await {
        if !request.starts_with(b"GET ") {
            return;
        }
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhttp/1.1";
            stream.write_all(answer).await.unwrap();
        }
    }
}

/// A gateway in front of the endpoint, whose protocol TLS finds out.
fn gateway(upstream: SocketAddr) -> (Running, SocketAddr) {
    gateway_with(upstream, "auto_config: {}", "", &[])
}

/// With this protocol, another field of the common TLS context, and filters.
fn gateway_with(
    upstream: SocketAddr,
    speaks: &str,
    common: &str,
    filters: &[&str],
) -> (Running, SocketAddr) {
    let tls = format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
         sni: a.example, common_tls_context: {{{common} validation_context: {{trusted_ca: {{filename: {}}}}}}}}}}}",
        file("ca.pem")
    );
    let options = protocol(speaks);
    let upstream = cluster(
        "upstream",
        upstream,
        &["connect_timeout: 20s", &options, &tls],
    );
    Bootstrap {
        routes: &["{match: {prefix: /}, route: {cluster: upstream}}"],
        clusters: &[upstream],
        filters,
        rest: &[&admin()],
        ..Bootstrap::default()
    }
    .start()
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn is_answered_over(answer: &str, protocol: &[u8]) -> bool {
    let protocol = str::from_utf8(protocol).unwrap();
    answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n\r\n{protocol}"))
}

/// A connection is spoken to as it says itself, whatever others have said: there may be several servers behind one address.
#[test]
fn a_further_connection_may_speak_another_protocol() {
    let (upstream, endpoint) = endpoint(1, 2, |number| match number {
        0 => H2,
        _ => HTTP1,
    });
    let (_running, address) = gateway(upstream);
    // The gateway knows how many streams there may be once there is an answer.
    let first = get(address, "/");
    assert!(is_answered_over(&first, H2), "{first}");
    let held = thread::spawn(move || get(address, "/held"));
    until(
        || endpoint.held.load(Ordering::SeqCst) == 1,
        "nothing is held",
    );
    let other = get(address, "/");
    assert!(is_answered_over(&other, HTTP1), "{other}");
    endpoint.answers.add_permits(1);
    let held = held.join().unwrap();
    assert!(is_answered_over(&held, H2), "{held}");
    assert_eq!(endpoint.accepted.load(Ordering::SeqCst), 2);
}

/// Sends requests at the same time, before anything is known of the endpoint. Gives its connections.
fn connections_for(requests: usize, protocol: fn(usize) -> &'static [u8]) -> usize {
    let (upstream, endpoint) = endpoint(100, 0, protocol);
    let (running, address) = gateway(upstream);
    let clients: Vec<_> = (0..requests)
        .map(|_| thread::spawn(move || get(address, "/")))
        .collect();
    let wait = format!("cluster.upstream.upstream_rq_pending_total: {requests}\n");
    let admin = running.admin_addr().unwrap();
    until(
        || get(admin, "/stats").contains(&wait),
        "requests do not wait",
    );
    endpoint.handshakes.add_permits(requests);
    for client in clients {
        let answer = client.join().unwrap();
        assert!(is_answered_over(&answer, protocol(0)), "{answer}");
    }
    endpoint.accepted.load(Ordering::SeqCst)
}

/// Requests that come at the same time wait for one connection to say what is spoken.
#[test]
fn one_connection_finds_out_for_all() {
    assert_eq!(connections_for(20, |_| H2), 1);
    assert!(connections_for(20, |_| HTTP1) <= 20);
}

/// A processor with which TLS agrees on HTTP/1 cannot be spoken to: that is known at once, and not when its reply is late.
#[test]
fn a_processor_without_http2_is_an_error_at_once() {
    let (upstream, _endpoint) = endpoint(1, 10, |_| HTTP1);
    let filter = r#"{name: ext_proc, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor, message_timeout: 20s, grpc_service: {envoy_grpc: {cluster_name: upstream}}}}"#;
    let (_running, address) = gateway_with(upstream, "auto_config: {}", "", &[filter]);
    let answer = get(address, "/");
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
}

/// A cluster that says what it speaks speaks that, whatever TLS agrees on; as in Envoy.
#[test]
fn an_explicit_protocol_is_spoken_whatever_tls_agrees_on() {
    let (upstream, endpoint) = endpoint(1, 1, |_| H2);
    endpoint.misleads.store(true, Ordering::SeqCst);
    let explicit = "explicit_http_config: {http_protocol_options: {}}";
    let (_running, address) = gateway_with(upstream, explicit, "alpn_protocols: [h2],", &[]);
    let answer = get(address, "/");
    assert!(is_answered_over(&answer, HTTP1), "{answer}");
}
