//! One file per body mode: what data does on its way to the processor, and what a reply does.

pub(super) mod buffered;
pub(super) mod duplex;
pub(super) mod grpc;
pub(super) mod partial;
pub(super) mod streamed;

use crate::{types::phase::Effect, wire::BodyMutation};

/// What a body mutation does, for the observer.
fn effect(mutation: &Option<BodyMutation>) -> Effect {
    match mutation {
        Some(BodyMutation::Body(_) | BodyMutation::Clear(true)) => Effect::Applied,
        _ => Effect::None,
    }
}
