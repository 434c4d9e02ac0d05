//! A cluster of copies that does not answer takes nothing from others.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use self::common::{Bootstrap, cluster, until};

/// An upstream that counts the requests that come, and answers each or none.
fn upstream(answers: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<AtomicUsize>::default();
    let count = seen.clone();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            if !answers {
                count.fetch_add(1, Ordering::SeqCst);
                kept.push(socket);
                continue;
            }
            let count = count.clone();
            thread::spawn(move || {
                let mut head = [0; 4096];
                while socket.read(&mut head).is_ok_and(|read| read > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if socket.write_all(answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, seen)
}

#[test]
fn a_silent_mirror_takes_no_place_of_others() {
    let (upstream_at, _) = upstream(true);
    let (silent_at, silent) = upstream(false);
    let (other_at, other) = upstream(true);
    let few = "circuit_breakers: {thresholds: [{max_connections: 40, max_pending_requests: 2000, max_requests: 40}]}";
    let (_running, gateway) = Bootstrap {
        routes: &[
            "{match: {prefix: /silent}, route: {cluster: upstream, timeout: 60s, request_mirror_policies: [{cluster: silent}]}}",
            "{match: {prefix: /}, route: {cluster: upstream, request_mirror_policies: [{cluster: other}]}}",
        ],
        clusters: &[
            cluster("upstream", upstream_at, &[]),
            cluster("silent", silent_at, &[few]),
            cluster("other", other_at, &[]),
        ],
        ..Bootstrap::default()
    }
    .start();
    let mut client = TcpStream::connect(gateway).unwrap();
    let limit = Some(Duration::from_secs(10));
    client.set_read_timeout(limit).unwrap();
    let mut ask = |path: &str, times: usize| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
        let mut answer = [0; 4096];
        for _ in 0..times {
            client.write_all(request.as_bytes()).unwrap();
            let read = client.read(&mut answer).unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        }
    };
    // More than all copies of a process could once be; one of them waits for each connection and each place in the queue.
    ask("/silent", 2500);
    until(|| silent.load(Ordering::SeqCst) == 40, "no copies");
    ask("/other", 50);
    until(
        || other.load(Ordering::SeqCst) == 50,
        "the other mirror got no copies",
    );
    assert_eq!(silent.load(Ordering::SeqCst), 40);
}
