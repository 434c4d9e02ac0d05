//! Words: values without behaviour that every room may use.

pub(crate) mod buffers;
pub(crate) mod header_change;
pub(crate) mod limits;
pub(crate) mod mode;
pub(crate) mod phase;
pub(crate) mod pieces;
pub(crate) mod stream;
