//! Starts a gateway, swaps what it serves, and ends it.

mod accept;
pub(crate) mod admin;
pub(crate) mod gateway;
pub(crate) mod serving;
mod tracers;
pub(crate) mod worker;
