//! BUFFERED: the whole body in one message, up to the buffer limit.
//!
//! The same kind of message is used in every mode when the whole body is here before the reply to the
//! headers is: then headers are still held, and the reply may change them.

use std::time::Instant;

use bytes::Bytes;
use http::header;

use super::{
    super::{Callback, Exchange, Side, failure::Failure},
    Mode,
};
use crate::{
    types::{mode::BodyMode, phase::Effect, pieces::Pieces},
    wire::{BodyMutation, CommonReply},
};

pub(super) struct Buffered;

impl Mode for Buffered {
    fn data(&self, exchange: &mut Exchange, side: Side, data: Bytes, end: bool, now: Instant) {
        exchange.direction_mut(side).held.hold(data);
        if exchange.check_buffer(side, now) && end {
            send(exchange, side, true, now);
        }
    }

    fn keep(&self, exchange: &mut Exchange, side: Side, data: Bytes, now: Instant) {
        exchange.direction_mut(side).held.hold(data);
        exchange.check_buffer(side, now);
    }

    fn trailers(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        match exchange.direction(side).held.is_empty() {
            true => super::finish(exchange, side, now),
            false => send(exchange, side, false, now),
        }
    }

    /// They wait for the body.
    fn headers_answered(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        super::send_whole(exchange, side, now);
    }

    fn changes_length(&self, held: bool) -> bool {
        !held
    }

    fn fails_beyond_limit(&self) -> bool {
        true
    }
}

/// Sends what is held as the whole body. It stays held: the reply may leave it as it is.
pub(in super::super) fn send(exchange: &mut Exchange, side: Side, end: bool, now: Instant) {
    let whole = exchange.direction_mut(side).held.share();
    exchange.send_body(
        side,
        whole,
        Exchange::flags(end),
        Callback::BufferedBody,
        now,
    );
}

/// The reply to the whole body.
pub(super) fn reply(exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
    let Some(head_effect) = exchange.mutate_head(side, &common) else {
        return;
    };
    let mutation = common.body_mutation.clone().map(|message| message.mutation);
    if let Some(mutation) = &mutation {
        let size = match mutation {
            Some(BodyMutation::Body(body)) => body.len(),
            _ => 0,
        };
        if announced_length(exchange, side).is_some_and(|announced| announced != size as u64) {
            exchange.received(side.body(), None, head_effect);
            return exchange.fail(Failure::LengthMismatch);
        }
    }
    let mutation = mutation.flatten();
    let effect = match super::effect(&mutation) {
        Effect::None => head_effect,
        effect => effect,
    };
    exchange.accept(side, side.body(), effect, Callback::Idle, now);
    let held = &mut exchange.direction_mut(side).held;
    match mutation {
        Some(BodyMutation::Body(body)) => {
            *held = body.into();
            let buffered = exchange.direction(side).mode.body == BodyMode::Buffered;
            if buffered && !exchange.check_buffer(side, now) {
                return;
            }
        }
        Some(BodyMutation::Clear(true)) => *held = Pieces::default(),
        Some(BodyMutation::Clear(false) | BodyMutation::Streamed(_)) | None => {}
    }
    exchange.clear_route_cache(side, &common);
    if exchange.trailers_are_due(side) {
        exchange.send_trailers(side, now);
    } else {
        exchange.release_after_body(side);
    }
}

/// `content-length` of a head that is still held, if it is a number.
fn announced_length(exchange: &mut Exchange, side: Side) -> Option<u64> {
    exchange
        .direction_mut(side)
        .block()?
        .map()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}
