//! Counters and access logs.

pub(crate) mod access_log;
pub(crate) mod stats;
pub(crate) mod writer;
