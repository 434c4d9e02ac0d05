//! Support for the suites that run whole flows with real parts.
//!
//! [`support`] has scripted peers and child processes, [`provision`] fetches the real parts (Envoy, httpbin, a processor
//! in another language), [`conformance`] compares the gateway with Envoy, scenario by scenario, [`differential`] makes the scenarios up,
//! [`mod@bench`] measures both. The suites themselves are in `tests/tests/`. This crate is not a library for others.

pub mod bench;
pub mod conformance;
pub mod differential;
pub mod provision;
pub mod support;
pub mod wire;
