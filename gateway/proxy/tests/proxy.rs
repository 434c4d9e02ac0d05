//! The gateway as a plain proxy, byte for byte over HTTP/1: raw clients, raw upstreams, no processor.

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use gateway_config as config;
use gateway_proxy::{Gateway, Options, Running};

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

#[test]
fn forwards_and_reuses_connections() {
    let (address, seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\n\r\nok");
    let (_running, gateway) = plain(address);
    let mut client = connect(gateway);
    for _ in 0..3 {
        client
            .write_all(b"GET /a//%2e?b HTTP/1.1\r\nHost: h\r\nConnection: x-gone, keep-alive\r\nX-Gone: 1\r\nX-Kept: 1\r\n\r\n")
            .unwrap();
        let answer = read_until(&mut client, "ok");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(has_line(&answer, "x-a: 1"));
        let request = seen.recv().unwrap();
        assert!(
            request.starts_with("GET /a//%2e?b HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(has_line(&request, "host: h"));
        assert!(has_line(&request, "x-kept: 1"));
        assert!(!request.contains("x-gone"), "{request}");
        assert!(!request.contains("connection"), "{request}");
    }
}

/// The close is noticed by the next request, or by the pool's own look at idle connections before it.
#[test]
fn a_connection_that_the_upstream_has_closed_is_not_waited_on() {
    const LOOK: Duration = Duration::from_millis(1500);
    let (sender, closed) = mpsc::channel();
    let sender = Mutex::new(sender);
    let address = upstream(move |mut stream| {
        if !read_until(&mut stream, "\r\n\r\n").is_empty() {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).unwrap();
            drop(stream);
            let _ = sender.lock().unwrap().send(());
        }
    });
    let (_running, gateway) = plain(address);
    let mut client = connect(gateway);
    for pause in [Duration::ZERO, Duration::ZERO, LOOK, LOOK] {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        let answer = read_until(&mut client, "\r\n\r\nok");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        closed.recv().unwrap();
        assert!(closed.recv_timeout(pause).is_err(), "one more connection");
    }
}

/// To send a request again because its connection turned out to be closed is none of the route's retries.
#[test]
fn a_closed_connection_costs_no_retry() {
    let connections = std::sync::atomic::AtomicUsize::new(0);
    let address = upstream(move |mut stream| {
        let number = connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let status = if number == 1 { 503 } else { 200 };
        let answer = format!("HTTP/1.1 {status} Status\r\ncontent-length: 2\r\n\r\nok");
        read_until(&mut stream, "\r\n\r\n");
        stream.write_all(answer.as_bytes()).unwrap();
        // The first one closes when it is used again.
        read_until(&mut stream, "\r\n\r\n");
    });
    let route = "retry_policy: {retry_on: 5xx, num_retries: 1}";
    let (_running, gateway) = gateway(address, route, "");
    let mut client = connect(gateway);
    for _ in 0..2 {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        let answer = read_until(&mut client, "\r\n\r\nok");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn trailers_pass_unannounced() {
    let (sender, seen) = mpsc::channel();
    let sender = Mutex::new(sender);
    let address = upstream(move |mut stream| {
        let request = read_until(&mut stream, "x-t: 1\r\n\r\n");
        sender.lock().unwrap().send(request).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-rt: 2\r\n\r\n")
            .unwrap();
    });
    let (_running, gateway) = plain(address);
    let mut client = connect(gateway);
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n")
        .unwrap();
    let answer = read_until(&mut client, "x-rt: 2\r\n\r\n");
    assert!(
        answer.ends_with("3\r\nabc\r\n0\r\nx-rt: 2\r\n\r\n"),
        "{answer}"
    );
    let request = seen.recv().unwrap();
    assert!(
        request.ends_with("2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n"),
        "{request}"
    );
    // The connection is in order afterwards.
    client
        .write_all(b"GET /direct HTTP/1.1\r\nhost: h\r\n\r\n")
        .unwrap();
    assert!(read_until(&mut client, "here").starts_with("HTTP/1.1 201"));
}

#[test]
fn interim_responses_pass() {
    let (address, _seen) = scripted(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let (_running, gateway) = plain(address);
    let mut client = connect(gateway);
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .unwrap();
    let answer = read_until(&mut client, "ok");
    assert!(
        answer.starts_with(
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\n"
        ),
        "{answer}"
    );
    let old = exchange(gateway, "GET / HTTP/1.0\r\nhost: h\r\n\r\n");
    assert!(!old.contains("103"), "{old}");
}

#[test]
fn expect_is_answered_when_the_body_is_wanted() {
    let (address, _seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let (_running, gateway) = plain(address);
    let mut client = connect(gateway);
    client
        .write_all(
            b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
        )
        .unwrap();
    let answer = read_until(&mut client, "\r\n\r\n");
    assert_eq!(answer, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hi").unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn websocket_tunnels_both_ways() {
    let address = upstream(|mut stream| {
        let request = read_until(&mut stream, "\r\n\r\n");
        assert!(has_line(&request, "connection: upgrade"), "{request}");
        assert!(has_line(&request, "upgrade: websocket"), "{request}");
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")
            .unwrap();
        let mut bytes = [0; 64];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(n) => stream.write_all(&bytes[..n]).unwrap(),
            }
        }
        stream.write_all(b"bye").unwrap();
    });
    let manager = "upgrade_configs: [{upgrade_type: websocket}]";
    let (_running, gateway) = gateway(address, "timeout: 5s", manager);
    let mut client = connect(gateway);
    client
        .write_all(
            b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .unwrap();
    let answer = read_until(&mut client, "hello");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(has_line(&answer, "upgrade: websocket"), "{answer}");
    client.write_all(b"0\r\n\r\nping").unwrap();
    assert_eq!(read_until(&mut client, "ping"), "0\r\n\r\nping");
    // A direction that is shut down leaves the other one open.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_until(&mut client, "\u{0}never"), "bye");
}

#[test]
fn upgrades_that_are_not_configured_are_refused() {
    let (address, seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let (_running, gateway) = plain(address);
    let mut client = connect(gateway);
    client
        .write_all(
            b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .unwrap();
    let answer = read_until(&mut client, "\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(seen.try_recv().is_err());
}

#[test]
fn an_unasked_switch_is_a_bad_gateway() {
    let (address, _seen) =
        scripted("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n");
    let (_running, gateway) = plain(address);
    let answer = exchange(
        gateway,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[test]
fn a_body_until_close_becomes_chunked() {
    let address = upstream(|mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc")
            .unwrap();
    });
    let (_running, gateway) = plain(address);
    let answer = exchange(
        gateway,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    );
    assert!(has_line(&answer, "transfer-encoding: chunked"), "{answer}");
    assert!(answer.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{answer}");
    let old = exchange(gateway, "GET / HTTP/1.0\r\nhost: h\r\n\r\n");
    assert!(!old.contains("chunked"), "{old}");
    assert!(
        old.starts_with("HTTP/1.0 426") || old.ends_with("\r\n\r\nabc"),
        "{old}"
    );
}

#[test]
fn a_cut_response_is_never_complete() {
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let address = upstream(move |mut stream| {
            read_until(&mut stream, "\r\n\r\n");
            let body = if head.starts_with("content") {
                "abc"
            } else {
                "3\r\nabc\r\n"
            };
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let (_running, gateway) = plain(address);
        let answer = exchange(gateway, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("abc"), "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    }
}

#[test]
fn bodyless_responses_leave_the_connection_in_order() {
    let (address, _seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n");
    let (_running, gateway) = plain(address);
    let mut client = connect(gateway);
    for _ in 0..2 {
        client
            .write_all(b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n")
            .unwrap();
        let answer = read_until(&mut client, "\r\n\r\n");
        assert!(has_line(&answer, "content-length: 10"), "{answer}");
    }
    client
        .write_all(b"GET /direct HTTP/1.1\r\nhost: h\r\n\r\n")
        .unwrap();
    assert!(read_until(&mut client, "here").starts_with("HTTP/1.1 201"));
}

#[test]
fn malformed_requests_are_refused() {
    let (address, seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let (_running, gateway) = plain(address);
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: \r\n y\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = connect(gateway);
        client.write_all(request.as_bytes()).unwrap();
        let answer = read_until(&mut client, "\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 4") || answer.is_empty(),
            "{request}{answer}"
        );
        assert!(!answer.starts_with("HTTP/1.1 404"), "{request}{answer}");
        assert!(seen.try_recv().is_err(), "{request}");
    }
}

/// A client is believed its request id where it is no stranger.
#[test]
fn request_ids_of_clients() {
    for (manager, kept) in [
        ("use_remote_address: false", true),
        ("use_remote_address: true", false),
        (
            "use_remote_address: true\n          preserve_external_request_id: true",
            true,
        ),
    ] {
        let manager = format!("generate_request_id: true\n          {manager}");
        let (upstream, seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let (_running, address) = gateway(upstream, "timeout: 5s", &manager);
        exchange(
            address,
            "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\nconnection: close\r\n\r\n",
        );
        let head = seen.recv().unwrap();
        let mine = has_line(&head, "x-request-id: mine");
        assert_eq!(mine, kept, "{manager}: {head}");
        assert_eq!(head.matches("x-request-id").count(), 1, "{head}");
    }
}

#[test]
fn local_replies() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (_running, gateway) = plain(nobody);
    let answer = exchange(
        gateway,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("reset reason: remote connection failure"),
        "{answer}"
    );
    let answer = exchange(
        gateway,
        "GET /old/a?b HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(has_line(&answer, "location: http://h/new/a?b"), "{answer}");
}

#[test]
fn slow_upstreams_time_out() {
    let address = upstream(|mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        // Silent until the gateway gives up.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (_running, gateway) = gateway(address, "timeout: 0.1s", "");
    let answer = exchange(
        gateway,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.ends_with("upstream request timeout"), "{answer}");
}

#[test]
fn retries_until_an_answer_is_good() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let address = upstream(move |mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        let answer = match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => "HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            1 => "",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let (_running, gateway) = gateway(address, "retry_policy: {retry_on: 5xx, num_retries: 2}", "");
    let answer = exchange(
        gateway,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!(
        r#"{{"static_resources": {{}}, "admin": {{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {}}}}}}}}}"#,
        address.port()
    );
    let snapshot = config::parse_envoy("test.json", &text).unwrap();
    let error = Gateway::start(snapshot, Options::default().concurrency(1)).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn shutdown_finishes_what_is_under_way() {
    let (arrived, arrival) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let address = upstream(move |mut stream| {
        read_until(&mut stream, "\r\n\r\n");
        arrived.send(()).unwrap();
        let _ = released.lock().unwrap().recv();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .unwrap();
    });
    let (running, gateway) = plain(address);
    let idle = connect(gateway);
    let mut client = connect(gateway);
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .unwrap();
    arrival.recv().unwrap();
    let begun = std::time::Instant::now();
    let ending = thread::spawn(move || running.shutdown());
    while TcpStream::connect(gateway).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(3), "still accepts");
        thread::yield_now();
    }
    release.send(()).unwrap();
    ending.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3));
    let answer = read_until(&mut client, "ok");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(has_line(&answer, "connection: close"), "{answer}");
    assert!(TcpStream::connect(gateway).is_err());
    drop(idle);
}

#[test]
fn every_exchange_is_logged() {
    let (address, _seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let path = std::env::temp_dir().join(format!("gateway-log-{}", std::process::id()));
    let manager = format!(
        r#"access_log: [{{name: file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{json_format: {{path: "%REQ(:PATH)%", code: "%RESPONSE_CODE%", why: "%RESPONSE_CODE_DETAILS%", cluster: "%UPSTREAM_CLUSTER%", host: "%UPSTREAM_HOST%", none: "%REQ(x-none)%"}}}}}}}}]"#,
        path.display()
    );
    let (running, gateway) = gateway(address, "timeout: 5s", &manager);
    for target in ["/a", "/direct"] {
        exchange(
            gateway,
            &format!("GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"),
        );
    }
    drop(running);
    let mut log = String::new();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        log = std::fs::read_to_string(&path).unwrap_or_default();
        if log.lines().count() == 2 {
            break;
        }
        thread::yield_now();
    }
    let _ = std::fs::remove_file(&path);
    let wanted = format!(
        r#"{{"path":"/a","code":200,"why":"via_upstream","cluster":"upstream","host":"{address}","none":null}}"#
    );
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some(wanted.as_str()), "{log}");
    let direct = lines.next().unwrap_or_default();
    assert!(direct.contains(r#""why":"direct_response""#), "{log}");
}

#[test]
fn ipv4_clients_of_an_ipv6_listener_are_in_ranges_of_ipv4() {
    let text = r#"
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: "::", port_value: 0, ipv4_compat: true}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          use_remote_address: true
          xff_num_trusted_hops: 1
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: composite
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite
              matcher:
                matcher_list:
                  matchers:
                  - predicate: {single_predicate: {input: {name: input, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput}}, custom_match: {name: ip, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: x, cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}, {address_prefix: 10.0.0.0, prefix_len: 8}]}}}}
                    on_match: {action: {name: run, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.ExecuteFilterAction, typed_config: {name: inner, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {response_mutations: [{append: {header: {key: x-inside, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}}]}}}}}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;
    if TcpListener::bind("[::]:0").is_err() {
        // A machine without IPv6 has no such clients either.
        return;
    }
    let snapshot = config::parse_envoy("test.yaml", text).unwrap();
    let running = Gateway::start(snapshot, Options::default().concurrency(1)).unwrap();
    let port = running.local_addr("main").unwrap().port();
    for (said, inside) in [
        ("", Some("127.0.0.1")),
        ("x-forwarded-for: ::ffff:10.0.0.1\r\n", Some("10.0.0.1")),
        ("x-forwarded-for: ::ffff:11.0.0.1\r\n", None),
    ] {
        let answer = exchange(
            SocketAddr::from(([127, 0, 0, 1], port)),
            &format!("GET / HTTP/1.1\r\nhost: h\r\n{said}connection: close\r\n\r\n"),
        );
        match inside {
            Some(address) => assert!(
                has_line(&answer, &format!("x-inside: {address}")),
                "{answer}"
            ),
            None => assert!(!answer.contains("x-inside"), "{answer}"),
        }
    }
}
