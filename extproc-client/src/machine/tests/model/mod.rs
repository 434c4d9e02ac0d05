//! A model check of the machine: everything that can happen to an exchange, in every order, and the rules that hold for it.
//!
//! The machine is sans-IO, so an exchange with its peers, its driver and its processor is a value that can be copied. A walk
//! starts with a new one, tries every event that may come next, and goes on from each state that it has not seen, breadth
//! first. After each event the rules are judged by what went in and what came out. A rule that is broken is shown with a
//! shortest sequence of events that breaks it, as a transcript.
//!
//! # Rules
//!
//! - Nothing of a direction goes on before the processor was shown it and has replied, unless its mode does not ask for it,
//!   the processor gave it up, the processor ended the stream, or it failed and `failure_mode_allow` is set.
//! - Bytes go on once and in order, as the processor left them. A direction has one head and one end, and no end that
//!   nobody told.
//! - A failure fails the exchange or opens it, as configured. A reply that fits is accepted, one that does not is a failure.
//! - A processor is shown each byte once and in order, nothing after the end of a direction, and nothing after the close.
//! - Each call has a timer. In every state the exchange is over, or something must come: from a peer, from the processor,
//!   or by a timer.
//! - An exchange that is over has closed its stream. The machine never panics.
//!
//! A rule that Envoy 1.40 breaks, and the machine on purpose as well, is narrowed, with a comment that says so.
//!
//! # What is enumerated
//!
//! Events: heads with and without an end; two pieces of a body in each direction, each with or without the end; the end
//! alone; trailers; a peer that is gone; every kind of reply, fitting or not; the end of the stream by the processor, with
//! and without an error, also when the machine has closed it just before; a stream that cannot be had; the timer; a
//! connection to the processor that takes a message late; the end of the exchange at any moment. Two inputs of one moment
//! are two events in either order, and both orders are walked.
//!
//! Classes of configurations: the tests below. Sequences have eight events, `EXTPROC_MODEL_DEPTH=12` makes them longer. All
//! modes of one direction with all of the other one are left to a test that is ignored for its length:
//!
//! ```text
//! EXTPROC_MODEL_DEPTH=10 cargo test --release -p extproc-client --lib model -- --include-ignored --nocapture
//! ```
//!
//! Not enumerated: the content of header mutations, attributes and metadata; `content-length`; clearing a body, which is a
//! replacement; more than two pieces; the HTTP service; chains of filters; the driver, whose part is played here. Those have
//! tables, random tests (`fuzz`, `properties`) and scenarios.
//!
//! | file | holds |
//! |---|---|
//! | `event` | the events |
//! | `spec`, `way` | the rules, and one direction as they see it |
//! | `fit` | which reply fits, and what it says |
//! | `world` | one exchange with everything around it: what may come, what it leads to |
//! | `outputs` | what comes out, and the rules about waiting |
//! | `search` | the walk |
//! | `fault` | faults that the check has to find |

mod event;
mod fault;
mod fit;
mod outputs;
mod search;
mod spec;
mod way;
mod world;

use std::sync::Arc;

use self::{
    event::{Answer, Change, answers},
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
    /// Of replies that do not fit, one of each kind is enough.
    few_wrong: bool,
    /// Messages wait until the processor's connection takes them.
    slow: bool,
    /// The side stream cannot be had.
    refused: bool,
    /// The request was answered before it came here.
    response_only: bool,
    /// The response is a local reply of another filter.
    answered_elsewhere: bool,
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
            few_wrong: false,
            slow: false,
            refused: false,
            response_only: false,
            answered_elsewhere: false,
        }
    }

    fn pieces(&self, side: Side) -> usize {
        match side {
            Request => self.pieces[0],
            Response => self.pieces[1],
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Adds replies to those of [`answers`].
    fn answering(self, more: impl IntoIterator<Item = Answer>) -> Self {
        self.with(|class| class.answers.extend(more))
    }
}

/// Modes of a direction with this body: headers and trailers are sent, or not.
fn all_modes() -> impl Iterator<Item = Modes> {
    let switches = [(true, true), (true, false), (false, true), (false, false)];
    let all = BODIES
        .iter()
        .flat_map(move |body| switches.map(|(headers, trailers)| (headers, *body, trailers)));
    // A configuration needs trailers with full duplex.
    all.filter(|(_, body, trailers)| *trailers || *body != "FULL_DUPLEX_STREAMED")
}

/// A direction with headers, this body and trailers.
fn full(body: &'static str) -> Modes {
    (true, body, true)
}

const ALLOW: &str = r#""failure_mode_allow": true"#;

/// Events of one sequence. The longest ones there are have about twenty.
fn depth() -> usize {
    let asked = std::env::var("EXTPROC_MODEL_DEPTH").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Walks all classes and says how much that was.
fn check(name: &str, classes: impl IntoIterator<Item = Class>) {
    let start = std::time::Instant::now();
    let mut counts = Counts::default();
    let mut violations = Vec::new();
    for class in classes {
        let (more, broken) = walk(&Arc::new(class), None, depth());
        counts.add(more);
        violations.extend(broken.iter().map(ToString::to_string));
    }
    println!("{name}: {counts}, {:?}", start.elapsed());
    assert!(
        violations.is_empty(),
        "{} rules are broken:\n\n{}",
        violations.len(),
        violations.join("\n\n")
    );
}

// === what is enumerated ===

/// One direction in all its modes, the other one off.
#[test]
fn one_direction() {
    let classes = all_modes().flat_map(|modes| {
        let others: [&[&str]; 2] = [&[], &[ALLOW]];
        others.into_iter().flat_map(move |others| {
            [
                Class::new(modes, OFF, others),
                Class::new(OFF, modes, others),
            ]
        })
    });
    check("one direction", classes);
}

/// Both directions, each pair of body modes. GRPC is left out, whose calls and replies are those of full duplex.
#[test]
fn both_directions() {
    let bodies = || BODIES.into_iter().filter(|body| *body != "GRPC");
    let pairs = bodies().flat_map(|request| bodies().map(move |response| (request, response)));
    let classes = pairs.map(|(request, response)| {
        Class::new(full(request), full(response), &[]).with(|class| class.few_wrong = true)
    });
    check("both directions", classes);
}

/// All modes of both directions, with every switch beside them.
#[test]
#[ignore = "968 classes"]
fn everything() {
    let pairs =
        all_modes().flat_map(|request| all_modes().map(move |response| (request, response)));
    let classes = pairs.flat_map(|(request, response)| {
        let others: [&[&str]; 2] = [&[], &[ALLOW]];
        others.map(|others| Class::new(request, response, others))
    });
    check("everything", classes);
}

/// Overrides of the mode, in the reply to request headers and before it.
#[test]
fn overrides() {
    let allow = r#""allow_mode_override": true"#;
    let answers = [
        Answer::Override(0, 0, 2),
        Answer::Override(1, 2, 1),
        Answer::Override(2, 3, 0),
        Answer::Override(4, 4, 1),
        Answer::Switch,
    ];
    let classes = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL"].map(|body| {
        Class::new((true, body, false), (true, "NONE", false), &[allow])
            .with(|class| {
                class.few_wrong = true;
                class.pieces = [2, 1];
            })
            .answering(answers)
    });
    check("overrides", classes);
}

/// Responses that the processor streams itself.
#[test]
fn local_responses() {
    let classes = ["NONE", "STREAMED", "FULL_DUPLEX_STREAMED"].map(|body| {
        Class::new(full(body), full("STREAMED"), &[ALLOW]).answering([
            Answer::LocalHead(false),
            Answer::LocalHead(true),
            Answer::LocalBody(false),
            Answer::LocalBody(true),
            Answer::LocalTrailers,
        ])
    });
    check("local responses", classes);
}

/// Full duplex bodies of which the processor wants no more.
#[test]
fn drains() {
    let classes = ["FULL_DUPLEX_STREAMED", "GRPC"]
        .into_iter()
        .flat_map(|body| {
            [(full(body), OFF, Request), (OFF, full(body), Response)].map(
                |(request, response, side)| {
                    Class::new(request, response, &[])
                        .answering([Answer::Drain(side), Answer::Body(side, Change::Drained)])
                },
            )
        });
    check("drains", classes);
}

/// A processor whose connection takes messages late.
#[test]
fn slow_processors() {
    let classes = BODIES.map(|body| {
        Class::new(full(body), full(body), &[ALLOW]).with(|class| {
            class.slow = true;
            class.pieces = [1, 1];
        })
    });
    check("slow processors", classes);
}

/// Bodies that are larger than the buffer.
#[test]
fn small_buffers() {
    let classes = BODIES.into_iter().flat_map(|body| {
        [(full(body), full("STREAMED")), (OFF, full(body))].map(|(request, response)| {
            Class::new(request, response, &[]).with(|class| class.buffer = 1)
        })
    });
    check("small buffers", classes);
}

/// Copies for a processor that only looks on.
#[test]
fn observability() {
    let observe = r#""observability_mode": true"#;
    let classes = ["NONE", "STREAMED", "BUFFERED"]
        .into_iter()
        .flat_map(|body| {
            [true, false].map(|headers| {
                let modes = (headers, body, headers);
                Class::new(modes, modes, &[observe])
            })
        });
    check("observability", classes);
}

/// STREAMED bodies that are sent while the headers are with the processor.
#[test]
fn without_waiting() {
    let early = r#""send_body_without_waiting_for_header_response": true"#;
    let classes = [full("STREAMED"), (true, "STREAMED", false)]
        .into_iter()
        .flat_map(|modes| {
            [
                Class::new(modes, OFF, &[early]),
                Class::new(OFF, modes, &[early]),
            ]
        });
    check("without waiting", classes);
}

/// Side streams that cannot be had; requests that were answered before, or by another filter; pieces without a byte; timeouts that the
/// processor changes; immediate responses that are not allowed.
#[test]
fn beside_the_usual() {
    let others: [&[&str]; 2] = [&[], &[ALLOW]];
    let refused = others.into_iter().map(|others| {
        Class::new(full("STREAMED"), full("BUFFERED"), others).with(|class| class.refused = true)
    });
    let answered = BODIES.into_iter().map(|body| {
        Class::new(full(body), full(body), &[]).with(|class| class.response_only = true)
    });
    let elsewhere = BODIES.into_iter().map(|body| {
        Class::new(full(body), full(body), &[]).with(|class| {
            class.answered_elsewhere = true;
            class.few_wrong = true;
            class.pieces = [2, 1];
        })
    });
    let empty = BODIES.into_iter().flat_map(|body| {
        [(full(body), OFF), (OFF, full(body))].map(|(request, response)| {
            Class::new(request, response, &[]).with(|class| class.empty_pieces = true)
        })
    });
    let longer = BODIES.into_iter().map(|body| {
        Class::new(full(body), OFF, &[r#""max_message_timeout": "10s""#])
            .answering([Answer::Longer])
    });
    let disabled = std::iter::once(Class::new(
        full("STREAMED"),
        OFF,
        &[r#""disable_immediate_response": true"#],
    ));
    check(
        "beside the usual",
        refused
            .chain(answered)
            .chain(elsewhere)
            .chain(empty)
            .chain(longer)
            .chain(disabled),
    );
}

// === the check is checked ===

/// Each planted fault is found, as what it is.
#[test]
fn planted_faults() {
    let class = Arc::new(Class::new(full("STREAMED"), full("STREAMED"), &[]));
    let faults = [
        (Fault::PieceUnshown, "goes on unseen"),
        (Fault::RestPasses, "goes on unseen"),
        (Fault::BodyGivenAway, "given away unseen"),
        (Fault::MessageForgotten, "does not fit"),
        (Fault::PieceTwice, "gone on are"),
        (Fault::PieceLost, "gone on are"),
        (Fault::EndTwice, "an end goes on twice"),
        (Fault::EndLost, "everything has come"),
        (Fault::HeadTwice, "a head goes on twice"),
        (Fault::MessageAfterClose, "a message after the close"),
        (Fault::MessageAfterEnd, "a message after the end"),
        (Fault::NoTimer, "no timer runs"),
        (Fault::NothingRead, "everything has come"),
        (Fault::WrongReplyTaken, "neither failed the exchange nor"),
        (Fault::RightReplyRefused, "fits is not accepted"),
        (Fault::AlwaysOpen, "neither failed the exchange nor"),
        (Fault::TimeoutIgnored, "neither failed the exchange nor"),
        (Fault::StreamLeftOpen, "the stream stays open"),
        (Fault::Panic, "panics"),
    ];
    for (fault, rule) in faults {
        let (_, violations) = walk(&class, Some(fault), 6);
        let found = violations
            .iter()
            .find(|violation| violation.rule.contains(rule));
        let Some(found) = found else {
            panic!("{fault:?} is not found");
        };
        println!("{fault:?}: {found}\n");
    }
}
