//! What the example programs share: an embedded httpbin and a small command line kit.
//!
//! The programs themselves are cargo examples of this crate (`cargo run --example NAME`); this library holds what more than
//! one of them needs, and what the project's tests borrow as an upstream. It is not published and promises no stable API.

pub mod cli;
pub mod hs256;
pub mod httpbin;
pub mod signer;
