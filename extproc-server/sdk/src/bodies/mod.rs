//! Helpers for the bytes of bodies: to gather them, and to read and write what they carry.
//!
//! They know bytes, not the protocol. Each works piece by piece, as a body arrives, and has a limit where input decides
//! how much is kept.
//!
//! | helper | for |
//! | --- | --- |
//! | [`Collect`] | a body that is needed whole |
//! | [`Body::json`](crate::Body::json), [`BodyReply::json`](crate::BodyReply::json) | JSON in and out |
//! | `Decoder`, `Encoder` | `content-encoding` gzip, deflate and br (feature `compression`) |
//! | `Recode` | changing the plain bytes of a body that may be encoded (feature `compression`) |
//! | [`SseParser`], [`SseEvent`] | server-sent events |
//! | [`GrpcParser`], [`grpc_message`] | gRPC messages, where the body mode is not [`Grpc`](crate::BodyMode::Grpc) |

#[cfg(feature = "compression")]
mod coding;
mod collect;
mod grpc;
#[cfg(feature = "compression")]
mod recode;
mod sse;

#[cfg(feature = "compression")]
pub use self::{
    coding::{Coding, CodingError, Decoder, Encoder},
    recode::Recode,
};
pub use self::{
    collect::Collect,
    grpc::{GrpcMessage, GrpcParser, grpc_message},
    sse::{SseEvent, SseParser},
};

/// More bytes than a helper was to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} bytes")]
pub struct TooLarge {
    /// The most that was to be kept.
    pub limit: usize,
}
