//! What is known of an exchange beside its messages, and how its response came about.

pub(crate) mod buffers;
pub(crate) mod error;
pub(crate) mod facts;
pub(crate) mod outcome;
