//! The gateway as a program, and what it says.

use std::{
    io::{BufRead, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

/// Ends the program when it is dropped.
pub(crate) struct Program(pub(crate) Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn gateway(arguments: &[&str]) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Program(child.unwrap())
}

/// Word behind `key` in the first line of the log that has it.
pub(crate) fn logged(log: &mut impl BufRead, key: &str) -> String {
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

/// Waits until somebody follows the inspector: what comes before is not told.
pub(crate) fn followed(inspector: &str) {
    let mut state = String::new();
    while !state.contains("\"following\":1") {
        let mut socket = TcpStream::connect(inspector).unwrap();
        write!(socket, "GET /state HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
        state.clear();
        socket.read_to_string(&mut state).unwrap();
    }
}
