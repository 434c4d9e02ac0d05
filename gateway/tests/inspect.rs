//! `--inspect` and `gateway trace`, as programs.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStderr, Command, Stdio},
};

/// Ends the program when it is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gateway(arguments: &[&str]) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Program(child.unwrap())
}

/// Word behind `key` in the first line of the log that has it.
fn logged(log: &mut BufReader<ChildStderr>, key: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(
            log.read_line(&mut line).unwrap() > 0,
            "the log has no {key}"
        );
        if let Some((_, rest)) = line.split_once(key) {
            return rest.split_whitespace().next().unwrap().to_owned();
        }
    }
}

#[test]
fn an_exchange_with_a_processor_that_is_not_there() {
    // Bound and not listened on: nobody else gets the port, and connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    let mut serving = gateway(&[
        "--listen=127.0.0.1:0",
        &format!("--upstream={url}"),
        &format!("--ext-proc={url}"),
        "--inspect=127.0.0.1:0",
        "--concurrency=1",
    ]);
    let mut log = BufReader::new(serving.0.stderr.take().unwrap());
    let page = logged(&mut log, "url=http://");
    let inspector = page.trim_end_matches('/');
    let address = logged(&mut log, "address=");

    let mut trace = gateway(&[
        "trace",
        "--inspector",
        inspector,
        "--match",
        "/lost",
        "--json",
    ]);
    let mut state = String::new();
    // What comes before anybody follows is not told.
    while !state.contains("\"following\":1") {
        let mut socket = TcpStream::connect(inspector).unwrap();
        write!(socket, "GET /state HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
        state.clear();
        socket.read_to_string(&mut state).unwrap();
    }
    let mut client = TcpStream::connect(address).unwrap();
    write!(
        client,
        "GET /lost HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 5"), "{answer}");

    let mut line = String::new();
    let mut told = BufReader::new(trace.0.stdout.take().unwrap());
    told.read_line(&mut line).unwrap();
    let exchange: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(exchange["path"], "/lost");
    let verdict = exchange["processors"][0]["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("the side stream could not be opened"),
        "{verdict}"
    );
}

#[test]
fn off_by_default() {
    let mut serving = gateway(&[
        "--listen=127.0.0.1:0",
        "--upstream=http://127.0.0.1:9",
        "--ext-proc=http://127.0.0.1:9",
    ]);
    let mut log = BufReader::new(serving.0.stderr.take().unwrap());
    // The first thing that is said, and nothing about an inspector before it.
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
}
