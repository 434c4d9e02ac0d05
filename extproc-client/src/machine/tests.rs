//! The protocol as tables: what goes in, what comes out. Time is a number, sockets are none.

mod buffered;
mod duplex;
mod failures;
mod fuzz;
mod grpc;
mod headers;
mod immediate;
mod model;
mod modes;
mod observed;
mod partial;
mod play;
mod properties;
mod streamed;
