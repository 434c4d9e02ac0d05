//! The SDK as a processor sees it: through its public API, mostly behind the fake proxy.

mod conversation;
mod engine;
mod pressure;
mod sample;
mod server;
mod shared;
mod spans;

use extproc_server::BodyMode;

/// Every body mode.
const MODES: [BodyMode; 6] = [
    BodyMode::None,
    BodyMode::Streamed,
    BodyMode::Buffered,
    BodyMode::BufferedPartial,
    BodyMode::FullDuplexStreamed,
    BodyMode::Grpc,
];
