//! Our header maps and byte strings to and from ext_proc messages.
//!
//! Requests are encoded by hand, straight from a [`HeaderMap`](http::HeaderMap) (`encode`); replies
//! are decoded by `prost` into lean structs of ours whose byte fields are `Bytes`, so that a body
//! chunk is never copied. Field numbers are those of
//! `envoy/service/ext_proc/v3/external_processor.proto`.

pub(crate) mod encode;
mod reply;

pub use self::reply::Reply;
pub(crate) use self::reply::{
    BodyMutation, BodyReply, CommonReply, HeaderList, HeaderMutation, HeaderOption, HeadersReply,
    ImmediateReply, LocalHeaders, LocalPart, LocalReply, ModeReply, Part, StreamedBody,
    TrailersReply,
};
#[cfg(test)]
pub(crate) use self::reply::{BodyMutationMessage, GrpcStatus, HeaderEntry, HttpStatus};

/// The gRPC status of an answer that has none of its own ("HTTP to gRPC Status Code Mapping" of the gRPC documentation); Envoy's
/// local replies to gRPC requests have the same.
pub fn grpc_code(status: http::StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Bytes of the gRPC length prefix before each message.
pub const GRPC_PREFIX: usize = 5;

/// The path of the one method of the service.
pub const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
