//! Parts that more than one of the example programs needs.
//!
//! The programs themselves are cargo examples of this crate (`cargo run --example NAME`). It is not published and promises no
//! stable API.

pub mod hs256;
pub mod signer;
pub mod told;
