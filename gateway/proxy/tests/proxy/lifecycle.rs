//! Lifecycle of a gateway: its start, its shutdown, and the log that is complete after it.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    thread,
};

use gateway_config as config;
use gateway_proxy::{Gateway, Options};

use super::{
    common::{PATIENCE, until},
    connect, exchange, gateway, has_line, read_until, scripted, upstream,
};

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
    let (running, gateway) = gateway(address, "timeout: 600s", "drain_timeout: 600s");
    let idle = connect(gateway);
    let mut client = connect(gateway);
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .unwrap();
    arrival.recv().unwrap();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        running.shutdown();
        ended.send(()).unwrap();
    });
    let refuses = || TcpStream::connect(gateway).is_err();
    until(refuses, "it still accepts");
    assert!(end.try_recv().is_err(), "a request is under way");
    release.send(()).unwrap();
    // Not the drain time, which is longer.
    end.recv_timeout(PATIENCE).unwrap();
    let answer = read_until(&mut client, "ok");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(has_line(&answer, "connection: close"), "{answer}");
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
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until(|| read().lines().count() == 2, "two lines in the log");
    let log = read();
    let _ = std::fs::remove_file(&path);
    let wanted = format!(
        r#"{{"cluster":"upstream","code":200,"host":"{address}","none":null,"path":"/a","why":"via_upstream"}}"#
    );
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some(wanted.as_str()), "{log}");
    let direct = lines.next().unwrap_or_default();
    assert!(direct.contains(r#""why":"direct_response""#), "{log}");
}
