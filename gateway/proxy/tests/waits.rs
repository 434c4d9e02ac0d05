//! Waits that have to end: connections that nobody uses, peers that take nothing, threads that hang.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use gateway_proxy::Running;
use http::Response;

use self::common::{serve, until};

/// Requests that an upstream over HTTP/2 has seen.
#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// An upstream over HTTP/2 that allows so many streams of a connection and answers 200.
fn upstream(streams: u32) -> (SocketAddr, Arc<Seen>) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    upstream_like(builder)
}

/// An upstream over HTTP/2 that answers a GET with 200, and nothing else.
fn upstream_like(builder: h2::server::Builder) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let shared = seen.clone();
    let address = serve(async move |listener| {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let seen = shared.clone();
            let builder = builder.clone();
            tokio::spawn(async move {
                seen.accepted.fetch_add(1, Ordering::SeqCst);
                seen.open.fetch_add(1, Ordering::SeqCst);
                let mut unanswered = Vec::new();
                if let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await {
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        if request.method() == http::Method::GET {
                            let _ = respond.send_response(Response::new(()), true);
                        } else {
                            unanswered.push((request, respond));
                        }
                    }
                }
                seen.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, seen)
}

/// A gateway in front of an upstream over HTTP/2; `common` is a field of the cluster's options, with a comma.
fn gateway(upstream: SocketAddr, common: &str, manager: &str) -> (Running, SocketAddr) {
    common::start(
        &[manager],
        &[
            "{match: {path: /direct}, direct_response: {status: 200}}",
            "{match: {prefix: /}, route: {cluster: upstream, timeout: 0.3s}}",
        ],
        upstream,
        &format!("{common} explicit_http_config: {{http2_protocol_options: {{}}}}"),
    )
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_idle_connection_to_an_http2_upstream_ends() {
    let (address, seen) = upstream(10);
    let common = "common_http_protocol_options: {idle_timeout: 1.5s},";
    let (_running, gateway) = gateway(address, common, "");
    for _ in 0..3 {
        let answer = get(gateway, "/");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 1);
    assert_eq!(seen.open.load(Ordering::SeqCst), 1);
    until(|| seen.open.load(Ordering::SeqCst) == 0, "it is kept");
    assert!(get(gateway, "/").starts_with("HTTP/1.1 200 "));
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 2);
}

/// A peer that allows no streams gets one connection, not one for each request.
#[test]
fn a_peer_that_allows_no_streams_is_not_connected_to_again() {
    let (address, seen) = upstream(0);
    let (_running, gateway) = gateway(address, "", "");
    for _ in 0..5 {
        // Refused while its settings are on their way, and then never allowed.
        let answer = get(gateway, "/");
        assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    }
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 1);
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// An upstream over HTTP/2 that answers one request of each connection, and allows no streams from then on.
fn shutting() -> (SocketAddr, Arc<AtomicUsize>) {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::<AtomicUsize>::default();
    let count = accepted.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                stream.read_exact(&mut [0; 24]).unwrap();
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
                let mut head = [0; 9];
                while stream.read_exact(&mut head).is_ok() {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                    let mut payload = vec![0; usize::try_from(length).unwrap()];
                    stream.read_exact(&mut payload).unwrap();
                    if head[3] == HEADERS {
                        let number = u32::from_be_bytes(head[5..].try_into().unwrap());
                        // SETTINGS_MAX_CONCURRENT_STREAMS, then `:status: 200` with the end of the stream.
                        let shut = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]);
                        let answer = frame(HEADERS, 5, number, &[0x88]);
                        stream.write_all(&[shut, answer].concat()).unwrap();
                    }
                }
            });
        }
    });
    (address, accepted)
}

/// A connection on which no more is allowed takes nothing from those who come then; how many there are is bounded.
#[test]
fn a_peer_that_shuts_a_connection_gets_another() {
    let (address, accepted) = shutting();
    let (_running, gateway) = gateway(address, "", "");
    for _ in 0..8 {
        let answer = get(gateway, "/");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    for _ in 0..2 {
        let answer = get(gateway, "/");
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 8);
}

/// An upstream over HTTP/1.1 whose connections answer with these, one for each request, and then stand still.
fn answering(answers: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut answers = answers.iter();
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            if let Some(answer) = answers.next() {
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            open.push(stream);
        }
    });
    address
}

/// The time limit of a route holds for all attempts together, and for what is between them.
#[test]
fn a_retry_takes_no_longer_than_its_route_allows() {
    const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let waits = "retry_back_off: {base_interval: 3600s, max_interval: 3600s}";
    let no_wait = "retry_back_off: {base_interval: 0.001s, max_interval: 0.001s}";
    for (answers, back_off) in [(&[BUSY][..], no_wait), (&[BUSY, BUSY], waits)] {
        let route = format!(
            "{{match: {{prefix: /}}, route: {{cluster: upstream, timeout: 0.3s, retry_policy: {{retry_on: 5xx, num_retries: 1, {back_off}}}}}}}"
        );
        let upstream = answering(answers);
        let protocol = "explicit_http_config: {http_protocol_options: {}}";
        let (_running, gateway) = common::start(&[], &[&route], upstream, protocol);
        let answer = get(gateway, "/");
        assert!(answer.starts_with("HTTP/1.1 504 "), "{back_off}: {answer}");
    }
}

/// A connection to a place that takes none is waited for as long as the route allows, however long the cluster would.
#[test]
fn a_connection_is_waited_for_as_long_as_the_route_allows() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(0).unwrap()
    });
    let address = listener.local_addr().unwrap();
    // Its queue has one place.
    let _first = TcpStream::connect(address).unwrap();
    let (_running, gateway) = gateway(address, "", "");
    let answer = get(gateway, "/");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

/// An access log that nobody reads does not keep the gateway from ending.
/// The gateway does not read on as long as the upstream takes nothing, and so cannot see the request's end.
#[test]
fn an_upstream_that_takes_nothing_is_given_up() {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(0);
    let (address, _) = upstream_like(builder);
    let (_running, gateway) = gateway(address, "", "");
    // What the upstream takes is known from then on.
    assert!(get(gateway, "/").starts_with("HTTP/1.1 200 "));
    let mut stream = TcpStream::connect(gateway).unwrap();
    let head =
        "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // The next piece comes when this one is under way, or not at all: its end is not needed.
    stream.write_all(b"5\r\nhello\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

#[test]
fn a_log_that_nobody_reads_is_left_behind() {
    let path = std::env::temp_dir().join(format!("gateway-fifo-{}", std::process::id()));
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    // Open for both, or the gateway would wait for a reader.
    let fifo = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    // Longer than a pipe holds and the writer keeps.
    let line = "x".repeat(300_000);
    let log = format!(
        r#"access_log: [{{name: file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{text_format_source: {{inline_string: "{line}"}}}}}}}}]"#,
        path.display()
    );
    let (address, _) = upstream(10);
    let (running, gateway) = gateway(address, "", &log);
    let _ = std::fs::remove_file(&path);
    assert!(get(gateway, "/direct").starts_with("HTTP/1.1 200 "));
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        drop(running);
        ended.send(())
    });
    end.recv_timeout(Duration::from_secs(15)).unwrap();
    drop(fifo);
}
