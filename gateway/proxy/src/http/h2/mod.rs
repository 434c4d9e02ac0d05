//! HTTP/2 beside `h2`: bodies over its streams, what waits to be written, and the socket below.

pub(crate) mod backlog;
pub(crate) mod body;
pub(crate) mod cork;
