//! Lifecycle of a gateway: its start, its shutdown, and the log that is complete after it.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use gateway_config as config;
use gateway_proxy::{Gateway, Options};

use super::{connect, exchange, gateway, has_line, plain, read_until, scripted, upstream};

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
