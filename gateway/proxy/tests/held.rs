//! Large pieces of bodies that a processor makes, and what counts as held of them.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use gateway_proxy::Running;
use http::{HeaderMap, HeaderValue, Request, Response};

use self::common::{Bootstrap, cluster, serve};

/// Limit for what takes a moment, on a busy machine too: it keeps a test from hanging.
const PATIENCE: Duration = Duration::from_secs(60);

const LARGE: usize = 40 * 1024 * 1024;

/// Fields of `ProcessingRequest`.
const REQUEST_HEADERS: u64 = 2;
const RESPONSE_HEADERS: u64 = 3;
const REQUEST_BODY: u64 = 4;
const RESPONSE_BODY: u64 = 5;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of a message, whose content has a length.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    varint(number << 3 | 2, &mut out);
    varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// The field of a message that says which part it is about.
fn phase(message: &[u8]) -> u64 {
    let mut bytes = message.iter();
    let mut varint = move || {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = *bytes.next()?;
            value |= u64::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return Some((value, bytes.len()));
            }
        }
    };
    let Some((tag, _)) = varint() else { return 0 };
    let (length, left) = varint().unwrap_or_default();
    match (tag >> 3, tag & 7) {
        (number @ REQUEST_HEADERS..=7, _) => number,
        (_, 2) => {
            let rest = message.len() - left + length as usize;
            phase(message.get(rest..).unwrap_or_default())
        }
        _ => phase(message.get(message.len() - left..).unwrap_or_default()),
    }
}

/// Replies with a large piece for each body; streamed, with a small one behind it.
fn replies(phase: u64, streamed: bool) -> Vec<Vec<u8>> {
    let body = |number, mutation: &[u8]| field(number, &field(1, &field(3, mutation)));
    let large = field(1, &vec![b'x'; LARGE]);
    match phase {
        REQUEST_HEADERS => vec![field(1, b"")],
        RESPONSE_HEADERS => vec![field(2, b"")],
        REQUEST_BODY => vec![body(3, &large)],
        RESPONSE_BODY if streamed => {
            let mut last = field(1, b"y");
            last.extend([2 << 3, 1]);
            vec![body(4, &field(3, &large)), body(4, &field(3, &last))]
        }
        _ => Vec::new(),
    }
}

fn processor(streamed: bool) -> SocketAddr {
    serve(async move |listener| {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(process(request.into_body(), respond, streamed));
                }
            });
        }
    })
}

async fn process(
    mut messages: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    streamed: bool,
) {
    let head = Response::builder().header("content-type", "application/grpc");
    let mut stream = respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    let mut read = Vec::new();
    while let Some(Ok(data)) = messages.data().await {
        messages
            .flow_control()
            .release_capacity(data.len())
            .unwrap();
        read.extend_from_slice(&data);
        while let Some((&[_, a, b, c, d], rest)) = read.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some(message) = rest.get(..length) else {
                break;
            };
            for reply in replies(phase(message), streamed) {
                let mut framed = vec![0];
                framed.extend((reply.len() as u32).to_be_bytes());
                framed.extend(reply);
                // Who ended the stream wants no more.
                let _ = stream.send_data(framed.into(), false);
            }
            read.drain(..5 + length);
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = stream.send_trailers(trailers);
}

/// A gateway with this much memory, half of it for bodies, and these modes of its processor.
fn gateway(
    memory: &str,
    modes: &str,
    upstream: SocketAddr,
    processor: SocketAddr,
) -> (Running, SocketAddr) {
    let processor = cluster("processor", processor, &["http2_protocol_options: {}"]);
    Bootstrap {
        routes: &["{match: {prefix: /}, route: {cluster: upstream, timeout: 0s}}"],
        filters: &[&format!(
            "{{name: processor, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor, \
             grpc_service: {{envoy_grpc: {{cluster_name: processor}}}}, message_timeout: 60s, processing_mode: {{{modes}}}}}}}"
        )],
        clusters: &[cluster("upstream", upstream, &[]), processor],
        rest: &[&format!(
            "overload_manager: {{resource_monitors: [{{name: heap, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: {memory}}}}}]}}"
        )],
        ..Bootstrap::default()
    }
    .start()
}

/// The piece counts until the connection has it: twice, it would be more than one client may have held (64 MiB).
#[test]
fn a_large_piece_of_a_response_is_held_once() {
    let upstream = serve(async |listener| {
        let (mut socket, _) = listener.accept().await.unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            socket.read_buf(&mut request).await.unwrap();
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        socket.write_all(answer).await.unwrap();
        std::future::pending().await
    });
    let modes = "response_body_mode: FULL_DUPLEX_STREAMED, response_trailer_mode: SEND";
    let (_running, address) = gateway("1000000000", modes, upstream, processor(true));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let read = async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = Request::get("http://a.example/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let length = data.expect("the response is whole").len();
            body.flow_control().release_capacity(length).unwrap();
            bytes += length;
        }
        bytes
    };
    let read = async { tokio::time::timeout(PATIENCE, read).await };
    assert_eq!(
        runtime.block_on(read).expect("the response ends"),
        LARGE + 1
    );
}

/// An upstream that reads nothing leaves the piece here, where there is a limit to all of them.
#[test]
fn a_large_piece_of_a_request_is_held_until_the_upstream_takes_it() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let modes = "request_body_mode: STREAMED, response_header_mode: SKIP";
    let at = upstream.local_addr().unwrap();
    // There is room for one of the two.
    let (_running, address) = gateway("120000000", modes, at, processor(false));
    let (answers, answered) = mpsc::channel();
    let ask = || {
        let answers = answers.clone();
        thread::spawn(move || {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = b"POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 1\r\n\r\nx";
            client.write_all(request).unwrap();
            let mut answer = vec![0; 12];
            let read = client.read_exact(&mut answer);
            let _ = answers.send(read.map(|()| String::from_utf8_lossy(&answer).into_owned()));
        });
    };
    ask();
    let (mut first, _) = upstream.accept().unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    // The whole piece is here by now.
    first.read_exact(&mut vec![0; 1024 * 1024]).unwrap();
    ask();
    let answer = answered.recv_timeout(PATIENCE).unwrap();
    assert_eq!(answer.expect("an exchange is ended"), "HTTP/1.1 503");
}
