//! Connections to upstreams: reused, closed, silent, and tried again.

use std::{
    io::{Read, Write},
    sync::{Mutex, mpsc},
    time::Duration,
};

use super::{connect, exchange, gateway, has_line, plain, read_until, scripted, upstream};

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
