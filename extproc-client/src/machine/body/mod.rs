//! One file per body mode: what data does on its way to the processor, and what a reply does.

mod buffered;
mod duplex;
pub(super) mod grpc;
mod none;
mod partial;
mod streamed;

use std::time::Instant;

use bytes::Bytes;

pub(super) use self::duplex::start_drain;
use super::{Callback, Exchange, Side};
use crate::{
    config::FilterConfig,
    types::{mode::BodyMode, phase::Effect},
    wire::{BodyMutation, CommonReply},
};

/// Handling of a body in a mode. A direction whose mode is changed on the way goes on with what it has of the body then.
pub(super) trait Mode: Sync {
    /// Data arrived, `end` with it if nothing follows.
    fn data(&self, exchange: &mut Exchange, side: Side, data: Bytes, end: bool, now: Instant);

    /// Data arrived while the reply to the headers is waited for.
    fn keep(&self, exchange: &mut Exchange, side: Side, data: Bytes, _: Instant) {
        exchange.direction_mut(side).held.push(data);
    }

    /// Trailers arrived, which are kept already.
    fn trailers(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        finish(exchange, side, now);
    }

    /// The headers of a message with a body were answered.
    fn headers_answered(&self, exchange: &mut Exchange, side: Side, now: Instant);

    /// A reply to a piece of the body. In modes without pieces it is one to what was shown before an override.
    fn reply(&self, exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
        streamed::reply(exchange, side, common, now);
    }

    /// A reply to the body as a whole, which in most modes may be here before the reply to the headers is.
    fn reply_to_whole(
        &self,
        exchange: &mut Exchange,
        side: Side,
        common: CommonReply,
        now: Instant,
    ) {
        buffered::reply(exchange, side, common, now);
    }

    /// Tells whether data is shown while the reply to the headers is waited for.
    fn shows_early(&self, _: &FilterConfig) -> bool {
        false
    }

    /// Tells whether the body may change its length on the way, so that `content-length` is removed from its head; `held` if that
    /// waits for the reply to the body.
    fn changes_length(&self, held: bool) -> bool;

    /// Tells whether a body larger than the buffer limit is a failure, and not read more slowly.
    fn fails_beyond_limit(&self) -> bool {
        false
    }

    /// Observability mode: tells whether the body is copied to the processor.
    fn is_copied(&self) -> bool {
        false
    }

    /// Tells whether a request with such a body may be answered with a streamed response that has a body.
    fn takes_local_body(&self) -> bool {
        false
    }

    /// Tells whether the reply to the headers has what is held sent; `whole` if that is the body.
    fn sends_held(&self, whole: bool) -> bool {
        whole
    }

    /// Sends what was held before the direction became full duplex.
    fn flush_held(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        duplex::flush_held(exchange, side, now);
    }

    /// Full duplex: tells whether the head of a message that the processor has whole waits for the reply to what follows it.
    fn holds_whole(&self) -> bool {
        false
    }

    /// Full duplex: tells whether trailers that are here outlive the end of the new body. As in Envoy, those of a response do not.
    fn keeps_trailers(&self, side: Side) -> bool {
        side == Side::Request
    }
}

/// Behaviour of this mode.
pub(super) fn of(mode: BodyMode) -> &'static dyn Mode {
    match mode {
        BodyMode::None => &none::None,
        BodyMode::Streamed => &streamed::Streamed,
        BodyMode::Buffered => &buffered::Buffered,
        BodyMode::BufferedPartial => &partial::BufferedPartial,
        BodyMode::FullDuplexStreamed => &duplex::FullDuplexStreamed,
        BodyMode::Grpc => &grpc::Grpc,
    }
}

/// Sends what was held before the direction became full duplex.
pub(super) fn flush_held(exchange: &mut Exchange, side: Side, now: Instant) {
    of(exchange.direction(side).mode.body).flush_held(exchange, side, now);
}

/// A reply to a body that fits. Which message it answers goes by what is waited for, whatever the mode has become.
pub(super) fn reply(exchange: &mut Exchange, side: Side, common: CommonReply, now: Instant) {
    let direction = exchange.direction(side);
    let mode = of(direction.mode.body);
    match direction.callback {
        Callback::BufferedBody => mode.reply_to_whole(exchange, side, common, now),
        Callback::PartialBody => partial::reply(exchange, side, common, now),
        _ => mode.reply(exchange, side, common, now),
    }
}

/// The trailers that are here, or the end, where the body is with nobody.
fn finish(exchange: &mut Exchange, side: Side, now: Instant) {
    if exchange.trailers_are_due(side) {
        exchange.send_trailers(side, now);
    } else {
        exchange.release(side);
    }
}

/// Sends a body that was here as a whole when its headers were answered: in one message, and the head waits for the reply to
/// that, whatever the mode. Gives whether it was.
fn send_whole(exchange: &mut Exchange, side: Side, now: Instant) -> bool {
    let direction = exchange.direction(side);
    if !direction.came.is_ended() {
        return false;
    }
    let with_end = direction.trailers.is_none();
    if direction.came.has_data() || with_end {
        buffered::send(exchange, side, with_end, now);
    } else {
        finish(exchange, side, now);
    }
    true
}

/// Effect of a body mutation, for the observer.
fn effect(mutation: &Option<BodyMutation>) -> Effect {
    match mutation {
        Some(BodyMutation::Body(_) | BodyMutation::Clear(true)) => Effect::Applied,
        _ => Effect::None,
    }
}
