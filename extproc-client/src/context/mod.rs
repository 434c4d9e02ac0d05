//! Facts of an exchange beside its messages, and the way in which its response came about.

#![warn(clippy::exhaustive_structs)]

pub(crate) mod error;
pub(crate) mod facts;
pub(crate) mod outcome;
