//! Messages to the processor.

use std::time::Instant;

use http::{HeaderMap, request, response};

use super::{Callback, Exchange, Outbound, Side, Stream, metadata, progress::Shown};
use crate::{
    attributes::{self, View},
    context::outcome::Outcome,
    headers::Forwarded,
    metadata::Metadata,
    types::{phase::Phase, pieces::Pieces},
    wire::{
        encode::{self, BodyFlags, Envelope, Fields, ProtocolConfig},
        message::Message,
    },
};

/// Parts of a message that attributes may ask for after they were sent on.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Seen {
    pub(super) request: Option<Box<request::Parts>>,
    pub(super) response: Option<Box<response::Parts>>,
}

impl Exchange {
    /// Sends a header block.
    pub(super) fn send_headers(
        &mut self,
        side: Side,
        fields: &impl Fields,
        end: bool,
        now: Instant,
    ) {
        let phase = side.headers();
        let message = self.envelope(side, phase, now, |exchange, envelope| {
            let fields = Forwarded::new(fields, &exchange.config.forward_rules);
            encode::headers(phase, envelope, &fields, end)
        });
        self.direction_mut(side).shown.head();
        self.call(side, phase, message, Callback::Headers, now);
    }

    /// Sends body bytes.
    pub(super) fn send_body(
        &mut self,
        side: Side,
        data: impl Into<Pieces>,
        flags: BodyFlags,
        callback: Callback,
        now: Instant,
    ) {
        let phase = side.body();
        let message = self.envelope(side, phase, now, |_, envelope| {
            encode::body(phase, envelope, data.into(), flags)
        });
        let direction = self.direction_mut(side);
        direction.shown.body(flags.end_of_stream);
        direction.answered = false;
        self.call(side, phase, message, callback, now);
    }

    /// Sends the trailers that were received. They are kept, and in full duplex the direction goes on
    /// waiting for what it waited for.
    pub(super) fn send_trailers(&mut self, side: Side, now: Instant) {
        let phase = side.trailers();
        if self.direction(side).trailers.is_none() {
            return;
        }
        let message = self.envelope(side, phase, now, |exchange, envelope| {
            let none = HeaderMap::new();
            let trailers = exchange.direction(side).trailers.as_ref();
            let fields = Forwarded::new(trailers.unwrap_or(&none), &exchange.config.forward_rules);
            encode::trailers(phase, envelope, &fields)
        });
        let direction = self.direction_mut(side);
        direction.shown.trailers();
        direction.answered = false;
        let callback = match (direction.mode.body.is_duplex(), direction.callback) {
            (true, waiting @ (Callback::Headers | Callback::StreamedBody)) => waiting,
            _ => Callback::Trailers,
        };
        self.call(side, phase, message, callback, now);
    }

    /// Puts what every message carries around `build`.
    fn envelope(
        &mut self,
        side: Side,
        phase: Phase,
        now: Instant,
        build: impl FnOnce(&Self, Envelope<'_>) -> Message,
    ) -> Message {
        let mut context = Vec::new();
        let options = &self.config.metadata;
        let route = options
            .forwards_of_cluster()
            .then(|| self.context.route_facts());
        let none = Metadata::default();
        metadata::encode_context(
            options,
            &self.context.metadata,
            route
                .as_ref()
                .map_or(&none, |route| &route.cluster_metadata),
            &mut context,
        );
        let attributes = self.attributes(side, phase, now);
        let protocol =
            (!self.first_message_sent && !self.config.observability_mode).then(|| ProtocolConfig {
                request_body_mode: self.config.mode.request_body_mode.number(),
                response_body_mode: self.config.mode.response_body_mode.number(),
                send_body_without_waiting: self.config.send_body_without_waiting,
            });
        self.first_message_sent = true;
        build(
            self,
            Envelope {
                metadata: &context,
                attributes: attributes.as_deref(),
                protocol,
                observability: self.config.observability_mode,
            },
        )
    }

    /// The attributes of a direction, in its first message only.
    fn attributes(&self, side: Side, phase: Phase, now: Instant) -> Option<Vec<u8>> {
        let set = match side {
            Side::Request => &self.config.request_attributes,
            Side::Response => &self.config.response_attributes,
        };
        if set.entries.is_empty() || self.direction(side).shown != Shown::Nothing {
            return None;
        }
        let upstream = self
            .seen
            .response
            .as_ref()
            .and_then(|parts| Outcome::of_head(parts).upstream.as_ref());
        let begun = upstream.and_then(|info| info.begun);
        let encoded = attributes::evaluate(
            set,
            &View {
                request: upstream
                    .and_then(|info| info.sent.as_deref())
                    .or(self.seen.request.as_deref()),
                response: self.seen.response.as_deref(),
                // As in Envoy, a head that is only copied is not there to be asked for.
                response_head_sent: self.response.mode.headers && !self.config.observability_mode,
                response_trailers: self.response.trailers.as_ref(),
                request_size: match &self.context.received {
                    Some(received) => received.body_bytes(),
                    None => self.request.size,
                },
                // What went on to the client: nothing yet where the first message is one of the body.
                response_size: match phase {
                    Phase::ResponseBody => 0,
                    _ => self.response.size,
                },
                backend_latency: begun
                    .filter(|_| self.response.came.is_ended())
                    .map(|begun| now.saturating_duration_since(begun)),
                duration: None,
                facts: &self.context.facts,
                route: self.context.route_facts(),
                upstream,
                attempts: self.context.attempts(),
                endpoint: self.context.endpoint.as_deref(),
                metadata: &self.context.metadata,
            },
        );
        Some(encoded)
    }

    /// Queues a message, behind the opening of the stream if it is the first.
    fn call(
        &mut self,
        side: Side,
        phase: Phase,
        message: Message,
        callback: Callback,
        now: Instant,
    ) {
        if self.stream == Stream::Unopened {
            self.stream = Stream::Open;
            self.outbound.push_back(Outbound::Open);
        }
        if self.config.observability_mode {
            self.copied += message.framed_len();
            self.outbound.push_back(Outbound::Message(phase, message));
            return;
        }
        self.outbound.push_back(Outbound::Message(phase, message));
        let timeout = self.config.message_timeout;
        self.direction_mut(side).start_call(callback, now, timeout);
    }

    /// Remembers a head if attributes may ask for it.
    pub(super) fn remember_request(&mut self, head: &request::Parts) {
        if !self.config.request_attributes.entries.is_empty()
            || !self.config.response_attributes.entries.is_empty()
        {
            self.seen.request = Some(Box::new(head.clone()));
        }
    }

    /// As [`remember_request`](Self::remember_request).
    pub(super) fn remember_response(&mut self, head: &response::Parts) {
        if !self.config.response_attributes.entries.is_empty() {
            self.seen.response = Some(Box::new(head.clone()));
        }
    }
}
