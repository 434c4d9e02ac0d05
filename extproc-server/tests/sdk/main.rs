//! The SDK through its public API.

mod engine;
mod sample;
mod server;
