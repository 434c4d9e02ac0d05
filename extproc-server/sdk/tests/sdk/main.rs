//! The SDK as a processor sees it: through its public API, mostly behind the fake proxy.

mod conversation;
mod engine;
mod pressure;
mod server;
mod shared;

use extproc_sdk::{BodyMode, Processor};

/// Passes everything through.
#[derive(Clone, Copy)]
struct Pass;

impl Processor for Pass {
    type State = ();
}

/// Every body mode.
const MODES: [BodyMode; 6] = [
    BodyMode::None,
    BodyMode::Streamed,
    BodyMode::Buffered,
    BodyMode::BufferedPartial,
    BodyMode::FullDuplexStreamed,
    BodyMode::Grpc,
];
