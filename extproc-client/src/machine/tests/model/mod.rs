//! A model check of the machine: everything that can happen to an exchange, in every order, and the rules that hold for it.
//!
//! The machine is sans-IO, so an exchange with its peers, its driver and its processor is a value that can be copied. A
//! walk starts with a new one, tries every event that may come next, and goes on from each state that it did not see
//! before. After each event the rules of `spec` are judged by what went in and what came out.
//!
//! | file | holds |
//! |---|---|
//! | `event` | the events |
//! | `spec` | the rules |
//! | `world` | one exchange with everything around it |
//! | `search` | the walk |
//! | `fault` | faults that the check has to find |

mod event;
mod fault;
mod search;
mod spec;
mod world;

use std::sync::Arc;

use self::{
    event::{Answer, Change, Status, answers},
    fault::Fault,
    search::{Counts, walk},
};
use super::play::config;
use crate::{
    FilterConfig,
    machine::Side::{self, Request, Response},
};

/// A configuration, and how much happens with it.
pub(super) struct Class {
    name: String,
    config: Arc<FilterConfig>,
    /// Buffer limit of both directions, in bytes. A piece has one.
    buffer: usize,
    /// Pieces of the request's and the response's body.
    pieces: [usize; 2],
    trailers: bool,
    empty_pieces: bool,
    answers: Vec<Answer>,
    /// Messages wait until the processor's connection takes them.
    slow: bool,
    /// The side stream cannot be had.
    refused: bool,
    /// The request was answered before it came here.
    response_only: bool,
}

/// Modes of one direction: headers, body, trailers.
type Modes = (bool, &'static str, bool);

const BODIES: [&str; 6] = [
    "NONE",
    "STREAMED",
    "BUFFERED",
    "BUFFERED_PARTIAL",
    "FULL_DUPLEX_STREAMED",
    "GRPC",
];

/// Nothing of a direction.
const OFF: Modes = (false, "NONE", false);

impl Class {
    fn new(request: Modes, response: Modes, others: &[&str]) -> Self {
        let send = |on: bool| if on { "SEND" } else { "SKIP" };
        let others: String = others.iter().map(|field| format!(", {field}")).collect();
        let name = format!(
            r#""processing_mode": {{"request_header_mode": "{}", "request_body_mode": "{}", "request_trailer_mode": "{}", "response_header_mode": "{}", "response_body_mode": "{}", "response_trailer_mode": "{}"}}{others}"#,
            send(request.0),
            request.1,
            send(request.2),
            send(response.0),
            response.1,
            send(response.2),
        );
        Self {
            config: Arc::new(config(&name)),
            name,
            buffer: 1024,
            pieces: [2, 2],
            trailers: true,
            empty_pieces: false,
            answers: answers(),
            slow: false,
            refused: false,
            response_only: false,
        }
    }

    fn pieces(&self, side: Side) -> usize {
        match side {
            Request => self.pieces[0],
            Response => self.pieces[1],
        }
    }
}

fn measure(name: &str, class: Class, depth: usize) {
    let start = std::time::Instant::now();
    match walk(&Arc::new(class), None, depth) {
        Ok(c) => println!("{name}: states {} events {} depth {} {:?}", c.states, c.events, c.depth, start.elapsed()),
        Err(v) => println!("{name}: {v}\n {:?}", start.elapsed()),
    }
}

#[test]
fn first() {
    for body in BODIES {
        for trailers in [true, false] {
        if body == "FULL_DUPLEX_STREAMED" && !trailers { continue }
        measure(&format!("{body} off {trailers}"), Class::new((true, body, trailers), OFF, &[]), 8);
        measure(&format!("off {body} {trailers}"), Class::new(OFF, (true, body, trailers), &[]), 8);
        measure(&format!("{body} {body} {trailers}"), Class::new((true, body, trailers), (true, body, trailers), &[]), 8);
        }
    }
}
