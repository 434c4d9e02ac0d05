//! Parts of the quickstart: an embedded httpbin and a small command line kit.
//!
//! The other examples use them too, and the project's tests borrow the httpbin as an upstream. The package is not published
//! and promises no stable API.

pub mod cli;
pub mod httpbin;
