//! The gateway as a plain proxy, byte for byte over HTTP/1: raw clients, raw upstreams, no processor.

#[path = "proxy/clients.rs"]
mod clients;
#[allow(dead_code, reason = "shared by several tests")]
mod common;
#[path = "proxy/connections.rs"]
mod connections;
#[path = "proxy/lifecycle.rs"]
mod lifecycle;
#[path = "proxy/messages.rs"]
mod messages;
#[path = "proxy/upgrades.rs"]
mod upgrades;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use gateway_proxy::Running;

/// An upstream that does what `serve` says with each connection.
fn upstream(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = std::sync::Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

/// An upstream that reads a head (and what came with it) and writes `answer`; what it read is sent
/// on. Connections stay open until the peer closes them.
fn scripted(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let (sender, seen) = mpsc::channel();
    let sender = Mutex::new(sender);
    let address = upstream(move |mut stream| {
        loop {
            let request = read_until(&mut stream, "\r\n\r\n");
            if request.is_empty() {
                return;
            }
            stream.write_all(answer.as_bytes()).unwrap();
            let _ = sender.lock().unwrap().send(request);
        }
    });
    (address, seen)
}

/// Reads until `end` was seen or the peer closed.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end.as_bytes()) {
        match stream.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8(text).unwrap()
}

fn gateway(upstream: SocketAddr, route: &str, manager: &str) -> (Running, SocketAddr) {
    let own_id = match manager.contains("generate_request_id") {
        true => "",
        false => "generate_request_id: false",
    };
    common::start(
        &[
            own_id,
            "server_header_transformation: PASS_THROUGH",
            "http_protocol_options: {enable_trailers: true}",
            manager,
        ],
        &[
            "{match: {path: /direct}, direct_response: {status: 201, body: {inline_string: here}}}",
            "{match: {prefix: /old}, redirect: {prefix_rewrite: /new}}",
            &format!("{{match: {{prefix: /}}, route: {{cluster: upstream, {route}}}}}"),
        ],
        upstream,
        "explicit_http_config: {http_protocol_options: {enable_trailers: true}}",
    )
}

fn plain(upstream: SocketAddr) -> (Running, SocketAddr) {
    gateway(upstream, "timeout: 5s", "")
}

fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).unwrap()
}

/// Sends and reads until the gateway closes.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    read_until(&mut stream, "\u{0}never")
}

fn has_line(text: &str, line: &str) -> bool {
    text.split("\r\n")
        .any(|known| known.eq_ignore_ascii_case(line))
}
