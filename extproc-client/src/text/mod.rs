//! Forms of text: those of ProtoJSON and gRPC, Envoy's words for failures and retries, and patterns.

pub mod failures;
pub mod grpc;
pub(crate) mod pattern;
pub mod protojson;
pub mod retry_on;
