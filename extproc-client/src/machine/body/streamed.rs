//! STREAMED: chunk by chunk, pipelined, one reply a chunk in order.

use std::time::Instant;

use super::super::{Callback, Exchange, Side, failure::Failure};
use crate::{
    types::pieces::Pieces,
    wire::{BodyMutation, CommonReply},
};

const DUPLEX_REPLY: &str =
    "spurious_message:_streamed_response_is_received_while_body_mode__is_not_FULL_DUPLEX_STREAMED";

/// Sends a chunk and keeps it until its reply.
pub(in super::super) fn data(
    exchange: &mut Exchange,
    side: Side,
    data: impl Into<Pieces>,
    end: bool,
    now: Instant,
) {
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

/// The reply to the headers: they go on, and what was held is the first chunk. If the whole message is
/// here already and chunks of it were sent, they wait for the reply to the first chunk, as in Envoy:
/// until then the exchange can still be answered.
pub(in super::super) fn after_headers(exchange: &mut Exchange, side: Side, now: Instant) {
    let direction = exchange.direction(side);
    if !direction.received || direction.queue.is_empty() {
        exchange.release_head(side);
    }
    let direction = exchange.direction_mut(side);
    if !direction.queue.is_empty() {
        direction.callback = Callback::StreamedBody;
        return;
    }
    if !direction.held.is_empty() {
        let held = std::mem::take(&mut direction.held);
        data(exchange, side, held, false, now);
    }
}

/// The reply to the oldest chunk.
pub(in super::super) fn reply(
    exchange: &mut Exchange,
    side: Side,
    common: CommonReply,
    now: Instant,
) {
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
