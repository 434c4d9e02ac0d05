//! Counters and access logs.

pub(crate) mod access_log;
pub(crate) mod histogram;
pub(crate) mod stats;
pub(crate) mod writer;
