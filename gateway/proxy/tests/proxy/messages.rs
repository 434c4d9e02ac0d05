//! Messages: bodies, trailers, interim responses, and replies of the gateway itself.

use std::{
    io::Write,
    sync::{Mutex, mpsc},
};

use super::{connect, exchange, gateway, has_line, plain, read_until, scripted, upstream};

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
    let (_running, gateway) = gateway(address, "timeout: 5s", "proxy_100_continue: true");
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

#[test]
fn local_replies() {
    // Bound and not listened on: nobody else gets the port, and connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (_running, gateway) = plain(nobody.local_addr().unwrap());
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
