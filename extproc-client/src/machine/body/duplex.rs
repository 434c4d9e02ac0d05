//! FULL_DUPLEX_STREAMED: chunks are sent and not kept; replies are independent of them in number and
//! size, and the processor says when the body ends.

use std::time::Instant;

use bytes::Bytes;

use super::{
    super::{Callback, Exchange, Side, failure::Failure, half::Reading, progress::Shown},
    Mode,
};
use crate::{
    config::FilterConfig,
    types::{phase::Effect, pieces::Pieces},
    wire::{BodyMutation, CommonReply, StreamedBody, encode::BodyFlags},
};

const PLAIN_REPLY: &str = "spurious_message:_Normal_body_mutation_response_is_received_while_body_mode__is_FULL_DUPLEX_STREAMED";

pub(super) struct FullDuplexStreamed;

impl Mode for FullDuplexStreamed {
    fn data(&self, exchange: &mut Exchange, side: Side, data: Bytes, end: bool, now: Instant) {
        send(exchange, side, data, end, now);
    }

    fn trailers(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        trailers(exchange, side, now);
    }

    fn headers_answered(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        let direction = exchange.direction(side);
        // Full duplex by an override in this very reply, of a message that is here as a whole.
        let is_whole = direction.came.is_ended()
            && (direction.trailers.is_none() || !direction.held.is_empty())
            && !direction.shown.has_body();
        match is_whole {
            true => send_whole(exchange, side, now),
            false => headers_answered(exchange, side, now),
        }
    }

    fn reply(&self, exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
        reply(exchange, side, common, now);
    }

    /// The first piece of the new body of a message that was here as a whole.
    fn reply_to_whole(
        &self,
        exchange: &mut Exchange,
        side: Side,
        common: CommonReply,
        now: Instant,
    ) {
        reply(exchange, side, common, now);
        if exchange.complete || exchange.direction(side).gone.is_ended() {
            return;
        }
        if exchange.trailers_are_due(side) {
            exchange.send_trailers(side, now);
        } else {
            trailers_pass_by(exchange, side);
        }
    }

    fn shows_early(&self, _: &FilterConfig) -> bool {
        true
    }

    fn changes_length(&self, _: bool) -> bool {
        true
    }

    fn takes_local_body(&self) -> bool {
        true
    }

    fn sends_held(&self, _: bool) -> bool {
        false
    }

    fn holds_whole(&self) -> bool {
        true
    }
}

/// Sends a chunk.
fn send(exchange: &mut Exchange, side: Side, data: impl Into<Pieces>, end: bool, now: Instant) {
    let data = data.into();
    if data.is_empty() && !end {
        return;
    }
    let callback = callback(exchange, side);
    exchange.send_body(side, data, Exchange::flags(end), callback, now);
}

/// Reply that the direction waits for after a chunk: still the one to the headers, if that is out.
pub(super) fn callback(exchange: &Exchange, side: Side) -> Callback {
    match exchange.direction(side).callback {
        Callback::Headers => Callback::Headers,
        _ => Callback::StreamedBody,
    }
}

/// The reply to the headers: they go on, bodies are waited for. If the whole message is here already
/// (with trailers, those are the processor's to see), the headers wait for the reply to the first of
/// body and trailers, as in Envoy: until then the exchange can still be answered.
pub(super) fn headers_answered(exchange: &mut Exchange, side: Side, now: Instant) {
    let direction = exchange.direction(side);
    let waits = super::of(direction.mode.body).holds_whole()
        && (direction.is_sent_whole() || direction.mode.trailers && direction.trailers.is_some());
    if !waits {
        exchange.release_head(side);
    }
    let direction = exchange.direction_mut(side);
    // A reply to a body fits once a body message was sent.
    if direction.shown.has_body() {
        direction.callback = Callback::StreamedBody;
    }
    // Held only if the direction became full duplex by an override in this very reply.
    if !direction.held.is_empty()
        || direction.came.is_ended()
            && direction.trailers.is_none()
            && direction.shown != Shown::Whole
    {
        super::flush_held(exchange, side, now);
    }
    if exchange.complete {
        return;
    }
    let direction = exchange.direction(side);
    if direction.trailers.is_some()
        && !direction.shown.has_trailers()
        && !direction.deframer.waits()
    {
        trailers(exchange, side, now);
    }
}

/// Trailers, behind all that the processor gets of the body. Those that it does not get follow the last piece of the new one.
pub(super) fn trailers(exchange: &mut Exchange, side: Side, now: Instant) {
    match exchange.direction(side).mode.trailers {
        true => exchange.send_trailers(side, now),
        false => trailers_pass_by(exchange, side),
    }
}

/// Sends what was held as a chunk.
pub(super) fn flush_held(exchange: &mut Exchange, side: Side, now: Instant) {
    let (held, end) = take_held(exchange, side);
    send(exchange, side, held, end, now);
}

/// Takes the held bytes; the flag says whether the body ends with them.
pub(super) fn take_held(exchange: &mut Exchange, side: Side) -> (Pieces, bool) {
    let direction = exchange.direction_mut(side);
    let end = direction.came.is_ended() && direction.trailers.is_none();
    (std::mem::take(&mut direction.held), end)
}

/// Trailers that the processor does not want are sent on at once, as in Envoy; body replies that
/// come after them are dropped.
fn trailers_pass_by(exchange: &mut Exchange, side: Side) {
    let direction = exchange.direction_mut(side);
    if direction.is_held() {
        return;
    }
    if let Some(trailers) = direction.trailers.take() {
        exchange.emit_trailers(side, trailers);
    }
}

/// A piece of the new body.
fn reply(exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
    let Some(streamed) = streamed(exchange, side, &common) else {
        return;
    };
    finish_reply(exchange, side, streamed.body.clone(), &streamed, now);
    exchange.clear_route_cache(side, &common);
}

/// Sends a message that was here as a whole when an override in the reply to its headers made the direction full duplex: as
/// in BUFFERED, head and trailers wait for the reply, but the body is not kept.
fn send_whole(exchange: &mut Exchange, side: Side, now: Instant) {
    let direction = exchange.direction_mut(side);
    let whole = std::mem::take(&mut direction.held);
    let flags = Exchange::flags(direction.trailers.is_none());
    exchange.send_body(side, whole, flags, Callback::BufferedBody, now);
}

/// The `streamed_response` of a reply; anything else is spurious in this mode.
pub(super) fn streamed(
    exchange: &mut Exchange,
    side: Side,
    common: &CommonReply,
) -> Option<StreamedBody> {
    let mutation = common
        .body_mutation
        .as_ref()
        .and_then(|message| message.mutation.clone());
    let Some(BodyMutation::Streamed(streamed)) = mutation else {
        exchange.fail(Failure::Spurious(PLAIN_REPLY));
        return None;
    };
    let direction = exchange.direction(side);
    if streamed.drain_complete && direction.reading != Reading::Draining {
        exchange.fail(Failure::UnaskedDrain);
        return None;
    }
    Some(streamed)
}

/// Sends `data` on and ends the body if the reply says so.
pub(super) fn finish_reply(
    exchange: &mut Exchange,
    side: Side,
    data: Bytes,
    streamed: &StreamedBody,
    now: Instant,
) {
    let drained = streamed.drain_complete;
    let next = match streamed.end_of_stream || drained {
        true => Callback::Idle,
        false => Callback::StreamedBody,
    };
    exchange.accept(side, side.body(), Effect::Applied, next, now);
    exchange.release_head(side);
    exchange.emit_data(side, data);
    if streamed.end_of_stream {
        let direction = exchange.direction(side);
        if direction.trailers.is_some() && super::of(direction.mode.body).keeps_trailers(side) {
            // They end the message once they are answered.
            return;
        }
        exchange.emit_end(side);
        exchange.close_after_last(side);
    } else if drained {
        let direction = exchange.direction_mut(side);
        direction.reading = Reading::Drained;
        direction.mode.show_no_more();
        let partial = direction.deframer.take();
        exchange.emit_data(side, partial);
    }
}

/// `request_drain_requests` and `request_drain_responses`: the processor needs no more of this body.
/// Reading pauses until it has answered what it has. Ignored once the end was sent. Gives whether this
/// direction can be drained at all.
pub(in super::super) fn start_drain(exchange: &mut Exchange, side: Side, now: Instant) -> bool {
    let direction = exchange.direction_mut(side);
    if !direction.mode.body.is_duplex() {
        return false;
    }
    if direction.came.is_ended() || direction.reading != Reading::Open || !direction.has_head() {
        return true;
    }
    direction.reading = Reading::Draining;
    let flags = BodyFlags {
        drain_complete: true,
        ..BodyFlags::default()
    };
    let callback = callback(exchange, side);
    exchange.send_body(side, Bytes::new(), flags, callback, now);
    true
}
