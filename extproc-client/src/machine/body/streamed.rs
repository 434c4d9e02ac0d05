//! STREAMED: chunk by chunk, pipelined, one reply a chunk in order.

use std::time::Instant;

use bytes::Bytes;

use super::{
    super::{Callback, Exchange, Side, failure::Failure},
    Mode,
};
use crate::{
    config::FilterConfig,
    types::pieces::Pieces,
    wire::{BodyMutation, CommonReply},
};

const DUPLEX_REPLY: &str =
    "spurious_message:_streamed_response_is_received_while_body_mode__is_not_FULL_DUPLEX_STREAMED";

pub(super) struct Streamed;

impl Mode for Streamed {
    fn data(&self, exchange: &mut Exchange, side: Side, data: Bytes, end: bool, now: Instant) {
        send(exchange, side, data, end, now);
    }

    /// They go on, and what was held is the first chunk. If the whole message is here already and chunks of it were sent, they
    /// wait for the reply to the first chunk, as in Envoy: until then the exchange can still be answered.
    fn headers_answered(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        let direction = exchange.direction(side);
        let is_sent = !direction.queue.is_empty();
        if !is_sent && super::send_whole(exchange, side, now) {
            return;
        }
        if !is_sent || !exchange.direction(side).came.is_ended() {
            exchange.release_head(side);
        }
        let direction = exchange.direction_mut(side);
        if is_sent {
            direction.callback = Callback::StreamedBody;
        } else if !direction.held.is_empty() {
            let held = std::mem::take(&mut direction.held);
            send(exchange, side, held, false, now);
        }
    }

    fn shows_early(&self, config: &FilterConfig) -> bool {
        config.send_body_without_waiting
    }

    fn changes_length(&self, _: bool) -> bool {
        true
    }

    fn is_copied(&self) -> bool {
        true
    }

    fn sends_held(&self, _: bool) -> bool {
        true
    }
}

/// Sends a chunk and keeps it until its reply.
fn send(exchange: &mut Exchange, side: Side, data: impl Into<Pieces>, end: bool, now: Instant) {
    let mut data = data.into();
    if data.is_empty() && !end {
        return;
    }
    let callback = match exchange.direction(side).callback {
        // Only with send_body_without_waiting_for_header_response.
        Callback::Headers => Callback::Headers,
        _ => Callback::StreamedBody,
    };
    exchange.direction_mut(side).enqueue(data.share(), end);
    exchange.send_body(side, data, Exchange::flags(end), callback, now);
}

/// The reply to the oldest chunk.
pub(super) fn reply(exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
    let mutation = common
        .body_mutation
        .as_ref()
        .and_then(|message| message.mutation.clone());
    if matches!(mutation, Some(BodyMutation::Streamed(_))) {
        return exchange.fail(Failure::Spurious(DUPLEX_REPLY));
    }
    let Some(chunk) = exchange.direction_mut(side).dequeue() else {
        return exchange.fail(Failure::Spurious("spurious_message"));
    };
    let next = match exchange.direction(side).queue.is_empty() {
        true => Callback::Idle,
        false => Callback::StreamedBody,
    };
    exchange.accept(side, side.body(), super::effect(&mutation), next, now);
    exchange.clear_route_cache(side, &common);
    let data = match mutation {
        Some(BodyMutation::Body(body)) => body.into(),
        Some(BodyMutation::Clear(true)) => Pieces::default(),
        Some(BodyMutation::Clear(false) | BodyMutation::Streamed(_)) | None => chunk.data,
    };
    exchange.release_head(side);
    exchange.emit_pieces(side, data);
    if chunk.end {
        exchange.emit_end(side);
        exchange.close_after_last(side);
    } else if next == Callback::Idle && exchange.direction(side).trailers.is_some() {
        if exchange.trailers_are_due(side) {
            exchange.send_trailers(side, now);
        } else {
            exchange.release_after_body(side);
        }
    }
}
