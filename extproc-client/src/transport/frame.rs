//! gRPC over HTTP/2: taking messages out of DATA frames, and reading how a call ended.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::Close;
use crate::{
    text::grpc::grpc_code,
    wire::{DecodeError, GRPC_PREFIX, Reply, message::Message},
};

/// Details of the end of a call that the peer reported itself.
pub(super) const VIA_UPSTREAM: &str = "via_upstream";

/// Bytes of a message that is still coming are gathered in chunks of this size, until it is clear that it comes.
const CHUNK: usize = 1024 * 1024;

/// Share of a message that is here when room is reserved for all of it. So the word of the peer reserves a small multiple of what
/// it has sent, and little is moved: memory that is given back counts as used until the allocator lets go of it.
const TRUSTED: usize = 8;

/// A piece of a body shorter than this is joined to what goes before it: a frame of its own costs more than
/// the copy, and receivers ration DATA frames below 256 bytes.
const SMALL_PIECE: usize = 1024;

/// Splits a byte stream into replies. A message within one DATA frame is not copied.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Bytes not looked at yet, all of one frame.
    rest: Bytes,
    /// Full chunks of a message that began in an earlier frame.
    chunks: Vec<BytesMut>,
    /// The end of that message, as far as it is here.
    partial: BytesMut,
    /// Bytes that `partial` may have: a chunk's, or the whole message's once there is room for that.
    room: usize,
    /// Bytes of that message in all, prefix included, once it has said so.
    whole: usize,
    limit: usize,
}

impl Decoder {
    /// `limit` is the largest message accepted, in bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            rest: Bytes::new(),
            chunks: Vec::new(),
            partial: BytesMut::new(),
            room: CHUNK,
            whole: 0,
            limit,
        }
    }

    /// Adds a frame; only after [`next`](Self::next) gave `None`.
    pub(super) fn push(&mut self, data: Bytes) {
        if self.rest.is_empty() {
            self.rest = data;
        } else {
            let rest = std::mem::replace(&mut self.rest, data);
            self.gather(&rest, rest.len());
        }
    }

    /// The next whole reply.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, Close> {
        if self.partial.is_empty() {
            let Some(length) = self.length(&self.rest)? else {
                return Ok(None);
            };
            if self.rest.len() < GRPC_PREFIX + length {
                self.whole = GRPC_PREFIX + length;
                // Copied once: into a buffer of its own, beside the frames to come.
                self.fill(GRPC_PREFIX + length);
                return Ok(None);
            }
            self.rest.advance(GRPC_PREFIX);
            let message = self.rest.split_to(length);
            return decode(message);
        }
        if self.here() < GRPC_PREFIX {
            self.fill(GRPC_PREFIX);
        }
        let first = self.chunks.first().unwrap_or(&self.partial);
        let Some(length) = self.length(first)? else {
            return Ok(None);
        };
        self.whole = GRPC_PREFIX + length;
        self.join(GRPC_PREFIX + length);
        self.fill(GRPC_PREFIX + length);
        if self.here() < GRPC_PREFIX + length {
            return Ok(None);
        }
        let mut message = self.take();
        message.advance(GRPC_PREFIX);
        decode(message.freeze())
    }

    /// Bytes that a message that has begun and is not complete is counted with: all that it says it will have. Counted as it grows, many
    /// large ones would take all that may be held together, and then each end with what it has, which an allocator keeps for a while.
    pub(super) fn buffered(&self) -> usize {
        self.here().max(self.whole)
    }

    /// Bytes of that message that are here.
    fn here(&self) -> usize {
        self.chunks.len() * CHUNK + self.partial.len()
    }

    /// Moves bytes over until the partial message has `wanted`.
    fn fill(&mut self, wanted: usize) {
        let missing = wanted.saturating_sub(self.here());
        let taken = self.rest.split_to(missing.min(self.rest.len()));
        self.gather(&taken, missing);
    }

    /// Adds bytes to the partial message, for which so many are still `missing`.
    fn gather(&mut self, mut bytes: &[u8], mut missing: usize) {
        while !bytes.is_empty() {
            if self.partial.len() == self.room {
                self.chunks.push(std::mem::take(&mut self.partial));
                self.room = CHUNK;
            }
            let room = self.room - self.partial.len();
            self.partial.reserve(missing.min(room));
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.partial.extend_from_slice(now);
            missing -= now.len();
            bytes = later;
        }
    }

    /// Moves the chunks into room for the whole message, if enough of it is here.
    fn join(&mut self, whole: usize) {
        if !self.chunks.is_empty() && self.here() >= whole / TRUSTED {
            self.partial = self.joined(whole);
            self.room = whole;
        }
    }

    /// Takes the partial message, which is complete.
    fn take(&mut self) -> BytesMut {
        self.room = CHUNK;
        self.whole = 0;
        match self.chunks.is_empty() {
            true => std::mem::take(&mut self.partial),
            false => self.joined(self.here()),
        }
    }

    /// Takes what is there, with so much room.
    fn joined(&mut self, room: usize) -> BytesMut {
        let mut joined = BytesMut::with_capacity(room);
        for chunk in self.chunks.drain(..) {
            joined.extend_from_slice(&chunk);
        }
        joined.extend_from_slice(&std::mem::take(&mut self.partial));
        joined
    }

    /// The length that the prefix announces, once the prefix is whole.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Close> {
        let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<GRPC_PREFIX>() else {
            return Ok(None);
        };
        // 1 says that the message is compressed. None can be, as no encoding was offered: as in
        // Envoy the message is read as it is.
        if flag > 1 {
            return Err(Close::status(13, "").with_details(VIA_UPSTREAM));
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(Close::status(8, "").with_details(VIA_UPSTREAM));
        }
        Ok(Some(length))
    }
}

fn decode(message: Bytes) -> Result<Option<Reply>, Close> {
    match Reply::decode(message) {
        Ok(reply) => Ok(Some(reply)),
        Err(DecodeError::Malformed(_)) => Err(Close::status(13, "").with_details(VIA_UPSTREAM)),
        // RESOURCE_EXHAUSTED, as of a message that is too large.
        Err(error) => Err(Close::status(8, error.to_string())),
    }
}

/// Appends a message to the parts of a body, of which so many have left. What is small joins the part before it: thousands of
/// small messages in frames of their own would exhaust what servers allow a connection.
pub(super) fn push(parts: &mut VecDeque<Bytes>, left: usize, message: Message) {
    let Message { framed_head, body } = message;
    let mut joined = match take_small_tail(parts, left) {
        None => BytesMut::from(framed_head),
        Some(mut tail) => {
            tail.extend_from_slice(&framed_head);
            tail
        }
    };
    for piece in body {
        if piece.len() < SMALL_PIECE {
            joined.extend_from_slice(&piece);
            continue;
        }
        if !joined.is_empty() {
            parts.push_back(joined.split().freeze());
        }
        parts.push_back(piece);
    }
    if !joined.is_empty() {
        parts.push_back(joined.freeze());
    }
}

/// The last part, if it has not left and is so short that more may join it.
fn take_small_tail(parts: &mut VecDeque<Bytes>, left: usize) -> Option<BytesMut> {
    if parts.len() == left || parts.back()?.len() >= SMALL_PIECE {
        return None;
    }
    let tail = parts.pop_back()?;
    Some(
        tail.try_into_mut()
            .unwrap_or_else(|shared| shared[..].into()),
    )
}

/// Reads the end of a call from trailers, or from headers that are also the end. Without a `grpc-status` it is an error,
/// whose code follows from the HTTP status.
pub(super) fn end(status: StatusCode, trailers: &HeaderMap) -> Close {
    let message = trailers
        .get("grpc-message")
        .map(|value| percent_decode(value.as_bytes()))
        .unwrap_or_default();
    let code = match trailers.get("grpc-status") {
        // As in Envoy, a number outside the enum shows as -1.
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse::<i32>().ok())
            .filter(|code| (0..=16).contains(code))
            .unwrap_or(-1),
        None => grpc_code(status).into(),
    };
    let close = Close::status(code, message);
    match code {
        0 => close,
        _ => close.with_details(VIA_UPSTREAM),
    }
}

/// Decodes `grpc-message`; what is not a valid escape stays as it is.
fn percent_decode(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let escaped = match (byte, tail) {
            (b'%', &[high, low, ref after @ ..]) => hex(high)
                .zip(hex(low))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        match escaped {
            Some((value, after)) => {
                out.push(value);
                rest = after;
            }
            None => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_share_a_part_that_has_not_left() {
        let mut parts = VecDeque::new();
        let mut add = |left: usize, head: &'static str, body: &Bytes| {
            let framed_head = Bytes::from_static(head.as_bytes());
            let body = body.clone().into();
            push(&mut parts, left, Message { framed_head, body });
            parts.iter().cloned().collect::<Vec<_>>()
        };
        let large = Bytes::from(vec![b'x'; SMALL_PIECE]);
        let small = Bytes::from_static(b"-");
        assert_eq!(add(0, "a", &small), ["a-"]);
        assert_eq!(add(0, "b", &small), ["a-b-"]);
        assert_eq!(add(1, "c", &small), ["a-b-", "c-"], "the first has left");
        assert_eq!(add(1, "d", &large), [&b"a-b-"[..], b"c-d", &large]);
        assert_eq!(add(1, "e", &small)[3], "e-", "a large one is not copied");
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut out = vec![0];
        out.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        out.extend_from_slice(message);
        out
    }

    /// `dynamic_metadata: {}` and `request_trailers: {}`.
    const MESSAGES: [&[u8]; 3] = [&[0x42, 0x00], &[0x2a, 0x00], &[]];

    #[test]
    fn any_split_gives_the_same_messages() {
        let whole: Vec<u8> = MESSAGES.iter().flat_map(|m| framed(m)).collect();
        let told = |reply: Reply| format!("{reply:?}");
        let expected =
            MESSAGES.map(|message| told(Reply::decode(Bytes::from_static(message)).unwrap()));
        for size in 1..=whole.len() {
            let mut decoder = Decoder::new(16);
            let mut replies = Vec::new();
            for chunk in whole.chunks(size) {
                decoder.push(Bytes::copy_from_slice(chunk));
                while let Some(reply) = decoder.next().unwrap() {
                    replies.push(told(reply));
                }
            }
            assert_eq!(replies, expected, "chunks of {size}");
            assert!(decoder.rest.is_empty() && decoder.partial.is_empty());
        }
    }

    #[test]
    fn a_message_counts_with_all_that_it_says_it_will_have() {
        let whole = framed(&[0xff; 3000]);
        let mut decoder = Decoder::new(1 << 20);
        for (here, counted) in [(0..3, 0), (3..6, 3005), (6..3004, 3005)] {
            decoder.push(Bytes::copy_from_slice(&whole[here]));
            assert!(decoder.next().unwrap().is_none());
            assert_eq!(decoder.buffered(), counted);
        }
        decoder.push(Bytes::copy_from_slice(&whole[3004..]));
        // It is no reply, but it is complete.
        assert!(decoder.next().is_err());
        assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn a_large_message_over_many_frames() {
        // request_body { response { body_mutation { body: 3000 bytes } } }
        let body = [b'x'; 3000];
        let mut message = vec![0x0a, 0xb8, 0x17];
        message.extend_from_slice(&body);
        for tag in [0x1a, 0x0a, 0x1a] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(message.len() as u64, &mut outer);
            outer.extend_from_slice(&message);
            message = outer;
        }
        let mut decoder = Decoder::new(4096);
        let mut count = 0;
        for chunk in framed(&message).chunks(100) {
            decoder.push(Bytes::copy_from_slice(chunk));
            count += usize::from(decoder.next().unwrap().is_some());
        }
        assert_eq!(count, 1);
    }

    /// Chunks and room for all of it give the same message, and what the peer announces is not reserved at once.
    #[test]
    fn messages_of_any_size_in_any_frames() {
        for (size, frame) in [
            (CHUNK - 5, 16_384),
            (CHUNK, 16_384),
            (3 * CHUNK, 100_000),
            (20 * CHUNK + 77, 16_384),
            (20 * CHUNK + 77, 5 * CHUNK),
        ] {
            // An unknown field, of any length.
            let mut message = Vec::new();
            prost::encoding::encode_varint(100 << 3 | 2, &mut message);
            prost::encoding::encode_varint(size as u64, &mut message);
            message.extend((0..size).map(|n| (n % 251) as u8));
            let whole = framed(&message);
            let sent = [&whole[..], &whole].concat();
            let mut decoder = Decoder::new(usize::MAX);
            let mut count = 0;
            for chunk in sent.chunks(frame) {
                decoder.push(Bytes::copy_from_slice(chunk));
                let here = decoder.here();
                assert!(decoder.partial.capacity() <= (TRUSTED * here).max(2 * CHUNK));
                while decoder.next().unwrap().is_some() {
                    count += 1;
                }
            }
            assert_eq!(count, 2, "{size} in {frame}");
            assert!(decoder.rest.is_empty() && decoder.buffered() == 0);
        }
        // Byte for byte.
        let content: Vec<u8> = (0..20 * CHUNK).map(|n| (n % 251) as u8).collect();
        let mut decoder = Decoder::new(usize::MAX);
        for piece in content.chunks(10_000) {
            decoder.rest = Bytes::copy_from_slice(piece);
            if !decoder.partial.is_empty() {
                decoder.join(content.len());
            }
            decoder.fill(content.len());
        }
        assert!(decoder.take() == content);
    }

    #[test]
    fn refusals() {
        let code = |bytes: &'static [u8]| {
            let mut decoder = Decoder::new(2);
            decoder.push(Bytes::from_static(bytes));
            decoder.next().unwrap_err().code()
        };
        assert_eq!(code(&[1, 0, 0, 0, 1, 0]), 13);
        assert_eq!(code(&[7, 0, 0, 0, 1, 0]), 13);
        assert_eq!(code(&[0, 0, 0, 0, 3]), 8);
        assert_eq!(code(&[0, 0, 0, 0, 2, 0xff, 0xff]), 13);
    }

    #[test]
    fn ends() {
        let end = |status: u16, pairs: &[(&'static str, &'static str)]| {
            let trailers = pairs
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
                .collect();
            end(StatusCode::from_u16(status).unwrap(), &trailers)
        };
        assert!(end(200, &[("grpc-status", "0")]).is_ok());
        let close = end(
            200,
            &[("grpc-status", "13"), ("grpc-message", "a%20b%zz%C3%A9%")],
        );
        assert_eq!((close.code(), close.message.as_str()), (13, "a b%zzé%"));
        assert_eq!(end(200, &[("grpc-status", "99")]).code(), -1);
        assert_eq!(end(200, &[]).code(), 2);
        for (status, code) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (503, 14),
            (500, 2),
        ] {
            assert_eq!(end(status, &[]).code(), code);
        }
    }
}
