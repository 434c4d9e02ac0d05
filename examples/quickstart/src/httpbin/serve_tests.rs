//! Tests that need a socket: chunks, trailers and upgrades on the wire, and the end of the server.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::serve;

async fn start(
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (SocketAddr, JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    (address, tokio::spawn(serve(listener, shutdown)))
}

async fn ask(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a request sent");
    stream
}

/// Everything until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut text))
        .await
        .expect("an end in time")
        .expect("text");
    text
}

#[tokio::test]
async fn trailers_are_on_the_wire_for_a_client_that_takes_them() {
    let (address, _server) = start(std::future::pending()).await;
    let request =
        "GET /trailers?x-a=1 HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close\r\n\r\n";
    let response = rest(ask(address, request).await).await;
    assert!(response.contains("\r\ntrailer: x-a\r\n"), "{response}");
    assert!(response.ends_with("\r\n0\r\nx-a: 1\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn a_stream_arrives_in_pieces() {
    let (address, _server) = start(std::future::pending()).await;
    let request = "GET /drip?numbytes=3&duration=10s&delay=0 HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = ask(address, request).await;
    let mut seen = Vec::new();
    // The first byte of the body is there long before the last.
    timeout(Duration::from_secs(3), async {
        while !seen.ends_with(b"\r\n\r\n*") {
            seen.push(stream.read_u8().await.expect("a byte"));
        }
    })
    .await
    .expect("the first piece in time");
}

#[tokio::test]
async fn a_websocket_echoes() {
    let (address, _server) = start(std::future::pending()).await;
    let request = "GET /websocket/echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = ask(address, request).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a byte"));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The example of RFC 6455 §1.3.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");

    // A masked text frame with "hi" (RFC 6455 §5.2), and the same unmasked as the answer.
    stream
        .write_all(&[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2])
        .await
        .expect("a frame sent");
    let mut frame = [0; 4];
    stream.read_exact(&mut frame).await.expect("a frame");
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
}

#[tokio::test]
async fn a_request_in_flight_is_finished_after_shutdown() {
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, server) = start(async { drop(stopped.await) }).await;
    let request =
        "POST /post HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let mut waiting = ask(address, request).await;
    // The request is under way once its body is wanted, and the end has been taken once nobody gets in.
    let mut interim = [0; 25];
    waiting.read_exact(&mut interim).await.expect("a head");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    drop(stop);
    let refuses = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), refuses)
        .await
        .expect("an end in time");
    waiting.write_all(b"hi").await.expect("the body sent");
    assert!(rest(waiting).await.starts_with("HTTP/1.1 200 OK"));
    let ended = timeout(Duration::from_secs(5), server)
        .await
        .expect("an end in time");
    assert!(ended.expect("no panic").is_ok());
}
