//! BUFFERED_PARTIAL: what fits the buffer limit in one message; the rest passes by.

use std::time::Instant;

use bytes::Bytes;

use super::{
    super::{Callback, Direction, Exchange, Side},
    Mode,
};
use crate::{
    types::{phase::Effect, pieces::Pieces},
    wire::{BodyMutation, CommonReply},
};

pub(super) struct BufferedPartial;

impl Mode for BufferedPartial {
    /// Keeps data until the end or until there is more than the limit, then sends what is there.
    fn data(&self, exchange: &mut Exchange, side: Side, data: Bytes, end: bool, now: Instant) {
        let direction = exchange.direction_mut(side);
        if is_answered(direction) {
            return exchange.pass(side, data, end);
        }
        if !data.is_empty() || end {
            direction.gather(data.into(), end);
        }
        if direction.callback == Callback::PartialBody {
            return;
        }
        if end || direction.queued > direction.buffer_limit {
            send(exchange, side, now);
        }
    }

    fn trailers(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        let direction = exchange.direction(side);
        match is_answered(direction) || direction.queue.is_empty() {
            true => super::finish(exchange, side, now),
            false => send(exchange, side, now),
        }
    }

    /// They wait for the body.
    fn headers_answered(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        if super::send_whole(exchange, side, now) {
            return;
        }
        let direction = exchange.direction_mut(side);
        if direction.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut direction.held);
        direction.enqueue(held, false);
        if direction.queued > direction.buffer_limit {
            send(exchange, side, now);
        }
    }

    fn changes_length(&self, _: bool) -> bool {
        true
    }
}

/// Tells whether the one message was answered.
fn is_answered(direction: &Direction) -> bool {
    direction.shown.has_body() && direction.callback == Callback::Idle
}

/// Sends what is there, joined, and keeps it until the reply.
fn send(exchange: &mut Exchange, side: Side, now: Instant) {
    let direction = exchange.direction_mut(side);
    let mut joined = direction.join_queue();
    let end = joined.end;
    let data = joined.data.share();
    direction.enqueue(joined.data, end);
    exchange.send_body(side, data, Exchange::flags(end), Callback::PartialBody, now);
}

/// The reply to the one message. What was queued behind it follows unseen.
pub(super) fn reply(exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
    let Some(head_effect) = exchange.mutate_head(side, &common) else {
        return;
    };
    let mutation = common
        .body_mutation
        .as_ref()
        .and_then(|message| message.mutation.clone());
    let effect = match super::effect(&mutation) {
        Effect::None => head_effect,
        applied => applied,
    };
    exchange.accept(side, side.body(), effect, Callback::Idle, now);
    exchange.clear_route_cache(side, &common);
    exchange.release_head(side);
    let direction = exchange.direction_mut(side);
    let Some(first) = direction.dequeue() else {
        return;
    };
    let rest = direction.join_queue();
    let data = match mutation {
        Some(BodyMutation::Body(body)) => body.into(),
        Some(BodyMutation::Clear(true)) => Pieces::default(),
        Some(BodyMutation::Clear(false) | BodyMutation::Streamed(_)) | None => first.data,
    };
    exchange.emit_pieces(side, data);
    exchange.emit_pieces(side, rest.data);
    if first.end || rest.end {
        exchange.emit_end(side);
    } else if exchange.trailers_are_due(side) {
        exchange.send_trailers(side, now);
    } else if exchange.direction(side).trailers.is_some() {
        exchange.release_after_body(side);
    }
}
