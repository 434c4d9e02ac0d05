//! NONE: the processor gets nothing of the body.

use std::time::Instant;

use bytes::Bytes;

use super::{
    super::{Exchange, Side},
    Mode,
};
pub(super) struct None;

impl Mode for None {
    fn data(&self, exchange: &mut Exchange, side: Side, data: Bytes, end: bool, _: Instant) {
        exchange.pass(side, data, end);
    }

    fn headers_answered(&self, exchange: &mut Exchange, side: Side, now: Instant) {
        super::finish(exchange, side, now);
    }

    fn changes_length(&self, _: bool) -> bool {
        false
    }

    fn takes_local_body(&self) -> bool {
        true
    }

    fn sends_held(&self, _: bool) -> bool {
        false
    }
}
