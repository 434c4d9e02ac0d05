//! The SDK through its public API.

mod conversation;
mod engine;
mod sample;
mod server;
