//! Forms of text: those of ProtoJSON and gRPC, and patterns.

pub mod grpc;
pub(crate) mod pattern;
pub(crate) mod protojson;
