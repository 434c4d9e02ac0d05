//! GRPC: as full duplex, one gRPC message at a time.
//!
//! Envoy 1.40 accepts this mode and does not implement it; here it works as its proto describes.
//! Messages are taken out of their frames (gRPC over HTTP/2, "Length-Prefixed-Message") on the way to
//! the processor and put into frames on the way back. The compressed flag travels beside the message.

use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::StatusCode;

use super::{
    super::{Exchange, Side, failure::Failure, half::Reading},
    Mode, duplex,
};
use crate::{
    config::FilterConfig,
    wire::{CommonReply, encode::BodyFlags},
};

/// Takes messages out of their frames.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(in super::super) struct Deframer {
    buffer: BytesMut,
    /// Whole messages are left for want of room; the time of the data that they came with.
    waits: Option<Instant>,
}

const PREFIX: usize = 5;

/// Messages that may wait for the side stream: each takes memory beside its bytes.
const WAITING: usize = 256;

/// A message larger than the buffer limit.
struct TooLarge;

impl Deframer {
    /// Takes the bytes that were not sent, for a body that passes by from now on.
    pub(in super::super) fn take(&mut self) -> Bytes {
        self.waits = None;
        self.buffer.split().freeze()
    }

    /// Returns whether whole messages wait for room.
    pub(in super::super) fn waits(&self) -> bool {
        self.waits.is_some()
    }

    /// Bytes that are kept.
    pub(in super::super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message and whether it is compressed.
    fn next(&mut self, limit: usize) -> Result<Option<(Bytes, bool)>, TooLarge> {
        let Some((&[flag, a, b, c, d], rest)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| TooLarge)?;
        if len > limit {
            return Err(TooLarge);
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some((self.buffer.split_to(len).freeze(), flag != 0)))
    }
}

pub(super) struct Grpc;

impl Mode for Grpc {
    /// Sends the messages that are whole now. The end goes by itself, without a message, and only behind a whole one.
    fn data(&self, exchange: &mut Exchange, side: Side, data: Bytes, end: bool, now: Instant) {
        let deframer = &mut exchange.direction_mut(side).deframer;
        deframer.buffer.extend_from_slice(&data);
        if unpack(exchange, side, now) && end {
            send_end(exchange, side, now);
        }
    }

    fn trailers(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        let waits = exchange.direction(side).deframer.waits();
        if !waits && ends_whole(exchange, side) {
            duplex::trailers(exchange, side, now);
        }
    }

    fn headers_answered(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        duplex::headers_answered(exchange, side, now);
    }

    fn reply(&self, exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
        reply(exchange, side, common, now);
    }

    fn shows_early(&self, _: &FilterConfig) -> bool {
        true
    }

    fn changes_length(&self, _: bool) -> bool {
        // A message may grow or shrink. Envoy does not have this mode.
        true
    }

    fn sends_held(&self, _: bool) -> bool {
        false
    }

    fn flush_held(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        let (held, end) = duplex::take_held(exchange, side);
        self.data(exchange, side, held.join(), end, now);
        let direction = exchange.direction(side);
        if direction.trailers.is_some() && !direction.deframer.waits() {
            ends_whole(exchange, side);
        }
    }

    /// Those of a response hold its status.
    fn keeps_trailers(&self, _: Side) -> bool {
        true
    }
}

/// Sends more of what waits, now that there is room, and then what follows the body.
pub(in super::super) fn resume(exchange: &mut Exchange, side: Side) {
    let direction = exchange.direction_mut(side);
    if matches!(direction.reading, Reading::Draining | Reading::Drained) {
        // The processor needs no more of them.
        return;
    }
    let Some(now) = direction.deframer.waits.take() else {
        return;
    };
    if !unpack(exchange, side, now) || !exchange.direction(side).came.is_ended() {
        return;
    }
    match exchange.direction(side).trailers.is_some() {
        true if ends_whole(exchange, side) => duplex::trailers(exchange, side, now),
        true => {}
        false => send_end(exchange, side, now),
    }
}

/// Sends whole messages as long as there is room. Gives whether none is left.
fn unpack(exchange: &mut Exchange, side: Side, now: Instant) -> bool {
    let limit = exchange.direction(side).buffer_limit;
    loop {
        let full = exchange.outbound.len() >= WAITING;
        let deframer = &mut exchange.direction_mut(side).deframer;
        deframer.waits = full.then_some(now);
        if full {
            return false;
        }
        match deframer.next(limit) {
            Ok(Some(message)) => {
                send(exchange, side, message, BodyFlags::default(), now);
            }
            Ok(None) => return true,
            Err(TooLarge) => {
                exchange.overflow(side, now);
                return false;
            }
        }
    }
}

fn send_end(exchange: &mut Exchange, side: Side, now: Instant) {
    if ends_whole(exchange, side) {
        let flags = BodyFlags {
            end_of_stream: true,
            end_of_stream_without_message: true,
            ..BodyFlags::default()
        };
        send(exchange, side, (Bytes::new(), false), flags, now);
    }
}

/// Returns whether a body that has ended did so behind a whole message. One that did not was cut short, and must not look
/// complete when the processor has put new frames around the others: the exchange ends.
fn ends_whole(exchange: &mut Exchange, side: Side) -> bool {
    if exchange.direction(side).deframer.buffer.is_empty() {
        return true;
    }
    let status = match side {
        Side::Request => StatusCode::BAD_REQUEST,
        Side::Response => StatusCode::BAD_GATEWAY,
    };
    exchange.close_stream_flushed();
    let text = Bytes::from_static(b"the body ends within a gRPC message");
    exchange.respond(status, text, "incomplete_grpc_message".into());
    false
}

fn send(
    exchange: &mut Exchange,
    side: Side,
    (message, compressed): (Bytes, bool),
    flags: BodyFlags,
    now: Instant,
) {
    let callback = duplex::callback(exchange, side);
    let flags = BodyFlags {
        grpc_message_compressed: compressed,
        ..flags
    };
    exchange.send_body(side, message, flags, callback, now);
}

/// A message of the new body: put into its frame.
fn reply(exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
    let Some(streamed) = duplex::streamed(exchange, side, &common) else {
        return;
    };
    let without_message = streamed.end_of_stream_without_message && streamed.body.is_empty()
        || streamed.drain_complete && streamed.body.is_empty();
    let framed = match (without_message, u32::try_from(streamed.body.len())) {
        (true, _) => Bytes::new(),
        (false, Ok(len)) => {
            let mut framed = BytesMut::with_capacity(PREFIX + streamed.body.len());
            framed.put_u8(u8::from(streamed.grpc_message_compressed));
            framed.put_u32(len);
            framed.extend_from_slice(&streamed.body);
            framed.freeze()
        }
        (false, Err(_)) => return exchange.fail(Failure::Spurious("spurious_message")),
    };
    duplex::finish_reply(exchange, side, framed, &streamed, now);
    exchange.clear_route_cache(side, &common);
}
