//! The gateway beside a real Envoy under scenarios that nobody thought of.
//!
//! [`generate`] makes a scenario of a seed and an index, [`judge`] runs it with both proxies and says how they compare,
//! [`shrink`] takes away what a difference does not need, [`known`] lists the differences on purpose, and [`search`] does
//! all of it for many scenarios. The runner, the peers and the comparison are those of [`crate::conformance`].

pub mod generate;
pub mod judge;
pub mod known;
pub mod random;
pub mod search;
pub mod shrink;
