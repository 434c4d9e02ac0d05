//! Length-prefixed gRPC messages, read across the borders of pieces.

use bytes::{BufMut, Bytes, BytesMut};

use super::TooLarge;

/// The flag and the length before each message.
const PREFIX: usize = 5;

/// A gRPC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMessage {
    /// It is compressed, as `grpc-encoding` says.
    pub compressed: bool,
    /// The message without its prefix.
    pub data: Bytes,
}

/// Reads messages from the pieces of a body.
#[derive(Clone, Debug)]
pub struct GrpcParser {
    bytes: BytesMut,
    limit: usize,
}

impl GrpcParser {
    /// Reads messages of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            limit,
        }
    }

    /// Adds a piece; returns the messages that are complete with it.
    ///
    /// # Errors
    /// A message announces more bytes than the limit.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<GrpcMessage>, TooLarge> {
        self.bytes.extend_from_slice(piece);
        let mut messages = Vec::new();
        while let Some([flag, length @ ..]) = self.bytes.first_chunk::<PREFIX>() {
            let compressed = *flag & 1 == 1;
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > self.limit {
                return Err(TooLarge { limit: self.limit });
            }
            if self.bytes.len() - PREFIX < length {
                break;
            }
            let mut data = self.bytes.split_to(PREFIX + length).freeze();
            messages.push(GrpcMessage {
                compressed,
                data: data.split_off(PREFIX),
            });
        }
        Ok(messages)
    }

    /// True if no message has begun without being complete.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A message with its prefix.
///
/// # Errors
/// The message is larger than a prefix can say (4 GiB).
pub fn grpc_message(message: &GrpcMessage) -> Result<Bytes, TooLarge> {
    let length = u32::try_from(message.data.len()).map_err(|_| TooLarge {
        limit: usize::try_from(u32::MAX).unwrap_or(usize::MAX),
    })?;
    let mut bytes = BytesMut::with_capacity(PREFIX + message.data.len());
    bytes.put_u8(message.compressed.into());
    bytes.put_u32(length);
    bytes.extend_from_slice(&message.data);
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_same_however_they_are_cut() {
        let messages =
            [(false, "hello"), (true, ""), (false, "world")].map(|(compressed, data)| {
                GrpcMessage {
                    compressed,
                    data: data.into(),
                }
            });
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|message| grpc_message(message).unwrap())
            .collect();
        for size in 1..=stream.len() {
            let mut parser = GrpcParser::new(5);
            let mut read = Vec::new();
            for piece in stream.chunks(size) {
                read.extend(parser.push(piece).unwrap());
            }
            assert_eq!(read, messages);
            assert!(parser.is_empty());
        }
    }

    #[test]
    fn a_large_message_is_refused_by_its_prefix() {
        let mut parser = GrpcParser::new(5);
        assert_eq!(parser.push(&[0, 0, 0, 0, 6]), Err(TooLarge { limit: 5 }));
        let mut parser = GrpcParser::new(5);
        assert_eq!(
            parser.push(&[0, 0xff, 0xff, 0xff, 0xff]),
            Err(TooLarge { limit: 5 })
        );
    }
}
