//! The protocol as tables: what goes in, what comes out. Time is a number, sockets are none.

mod bodies;
mod failures;
mod fuzz;
mod grpc;
mod headers;
mod immediate;
mod model;
mod modes;
mod observed;
mod play;
mod properties;
