//! A message to the processor.

use bytes::Bytes;

use crate::types::pieces::Pieces;

/// An encoded `ProcessingRequest`.
///
/// Bytes of a body are kept apart, so that they can be sent without a copy: the message is the head followed
/// by the body.
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) framed_head: Bytes,
    pub(crate) body: Pieces,
}

impl Message {
    /// The encoded message without gRPC framing, as one buffer.
    pub fn to_bytes(&self) -> Bytes {
        let head = self.framed_head.slice(super::GRPC_PREFIX..);
        let mut whole = Pieces::from(head);
        whole.append(self.body.clone());
        whole.join()
    }

    /// Bytes of its part of the HTTP body.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Its length in bytes, gRPC length prefix included.
    pub fn framed_len(&self) -> usize {
        self.framed_head.len() + self.body.len()
    }

    /// The message with its gRPC length prefix, as the parts that go out one after the other.
    pub fn framed(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.framed_head).chain(self.body)
    }
}
