//! Upgrades and switches of protocols.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use super::{connect, exchange, gateway, has_line, plain, read_until, scripted, upstream};

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
