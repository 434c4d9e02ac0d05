//! Our header maps and byte strings to and from ext_proc messages.
//!
//! Requests are encoded by hand, straight from a [`HeaderMap`](http::HeaderMap) (`encode`); replies
//! are decoded by `prost` into lean structs of ours whose byte fields are `Bytes`, so that a body
//! chunk is never copied. Field numbers are those of
//! `envoy/service/ext_proc/v3/external_processor.proto`.

pub(crate) mod encode;
mod entries;
pub(crate) mod fields;
pub(crate) mod message;
mod reply;

pub(crate) use self::reply::{
    BodyMutation, CommonReply, HeaderList, HeaderMutation, HeaderOption, HeadersReply,
    ImmediateReply, LocalHeaders, LocalPart, LocalReply, ModeReply, Part, StreamedBody,
    TrailersReply,
};
#[cfg(test)]
pub(crate) use self::reply::{BodyMutationMessage, BodyReply, GrpcStatus, HeaderEntry, HttpStatus};
pub use self::reply::{DecodeError, Reply};

/// Bytes of the gRPC length prefix before each message.
pub const GRPC_PREFIX: usize = 5;

/// The path of the one method of the service.
pub const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
