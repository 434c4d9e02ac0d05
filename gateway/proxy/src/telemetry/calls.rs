//! Notes the calls of processors for `%FILTER_STATE(..)%`, where a log or a header shows it.

use std::time::Instant;

use extproc_client::{
    config::{BodyMode, GrpcTarget, Service},
    host::ExchangeContext,
    observer::{Detail, Event, FailureRow, Observer, Phase, Watched},
};

use crate::exchange::{Exchange, calls::Calls};

/// An observer beside the statistics.
#[derive(Debug)]
pub(crate) struct CallNotes;

/// gRPC status codes.
mod status {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const ABORTED: i32 = 10;
    pub(super) const INTERNAL: i32 = 13;
}

impl Observer for CallNotes {
    fn detail(&self, _context: &ExchangeContext) -> Detail {
        Detail::Full
    }

    fn event(&self, watched: &Watched<'_>, event: &Event<'_>) {
        let own = watched.context.host.as_ref().and_then(|host| host.own());
        if let Some(exchange) = own.and_then(|own| own.downcast_ref::<Exchange>()) {
            exchange.with_calls(watched.filter, |calls| note(calls, watched, event));
        }
    }
}

fn note(calls: &mut Calls, watched: &Watched<'_>, event: &Event<'_>) {
    let now = Instant::now;
    // As in Envoy, bytes and the name are those of a cluster that speaks gRPC.
    let cluster = match watched.config.service() {
        Service::Grpc(service) => match &service.target {
            GrpcTarget::Cluster { name, .. } => Some(name),
            _ => None,
        },
        _ => None,
    };
    match event {
        Event::StreamStarted => {
            calls.destination = cluster.cloned().unwrap_or_default();
        }
        Event::MessageSent {
            phase,
            message,
            left,
        } => {
            if *left && cluster.is_some() {
                calls.bytes_sent += message.framed_len() as u64;
            }
            if !watched.config.observability_mode() {
                calls.sent(*phase, now());
            }
        }
        Event::ReplyArrived { reply, .. } if cluster.is_some() => {
            calls.bytes_received += reply.framed_len() as u64;
        }
        Event::MessageReceived {
            phase: Some(phase),
            latency,
            effect,
        } => {
            // Calls of a full duplex body have no timer, and are timed all the same.
            let mode = watched.config.processing_mode();
            let is_duplex = match phase {
                Phase::RequestBody => mode.request_body_mode == BodyMode::FullDuplexStreamed,
                Phase::ResponseBody => mode.response_body_mode == BodyMode::FullDuplexStreamed,
                _ => false,
            };
            let waited = || is_duplex.then(|| calls.waited(*phase, now())).flatten();
            calls.received(*phase, latency.or_else(waited), *effect);
        }
        Event::MessageReceived { phase: None, .. } => {
            calls.immediate = true;
            calls.end_waiting(0, now());
        }
        Event::MessageTimeout { .. } => calls.end_waiting(status::DEADLINE_EXCEEDED, now()),
        Event::SpuriousMessage { .. } => calls.end_waiting(status::FAILED_PRECONDITION, now()),
        Event::StreamFailed { close } => calls.failed(close.code(), now()),
        // Ended by the processor without an error, or it would not wait any more.
        Event::ServerHalfClosed => calls.end_waiting(status::ABORTED, now()),
        Event::Failed { row, .. } => match row {
            FailureRow::Mutation => calls.end_waiting(status::INVALID_ARGUMENT, now()),
            FailureRow::ContentLength => calls.end_waiting(status::INTERNAL, now()),
            _ => {}
        },
        Event::FailureModeAllowed => calls.fail_open(),
        _ => {}
    }
}
