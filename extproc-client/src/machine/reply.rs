//! Replies of the processor, and what they change.

use std::time::{Duration, Instant};

use super::{Callback, Exchange, Side, body, failure::Failure, fit::Fit, metadata, progress::Came};
use crate::{
    config::RouteCacheAction,
    headers::{self, Mutated, Mutation},
    observer::Event,
    types::{
        header_change::HeaderChange,
        phase::{Effect, Phase},
        pieces::Pieces,
    },
    wire::{BodyMutation, CommonReply, HeaderMutation, HeadersReply, Part, Reply, TrailersReply},
};

impl Exchange {
    /// A reply arrived.
    pub(crate) fn handle_reply(&mut self, mut reply: Reply, now: Instant) {
        let heeded = !self.complete && !self.config.observability_mode;
        self.show(&Event::ReplyArrived {
            reply: &reply,
            heeded,
        });
        if !heeded {
            return;
        }
        if self.config.message_timeout.is_zero() && self.next_timeout().is_some() {
            // No time was given: it comes too late, however soon.
            return;
        }
        if let Some(timeout) = reply.override_message_timeout.take() {
            return self.override_timeout(timeout, now);
        }
        if reply.part.is_none()
            && let Some(message) = &reply.mode_override
            && self.standalone_override(message, now)
        {
            return;
        }
        metadata::receive(
            &self.config.metadata,
            &mut reply,
            &self.context.metadata,
            self.context.buffers.as_ref(),
        );
        let mut drains = false;
        if reply.request_drain_requests || reply.request_drain {
            drains |= body::start_drain(self, Side::Request, now);
        }
        if reply.request_drain_responses {
            drains |= body::start_drain(self, Side::Response, now);
        }
        if let Some(message) = reply.mode_override.take() {
            self.override_mode(&message);
        }
        let fit = reply.part.as_ref().map(|part| self.fit(part));
        if fit == Some(Fit::Spurious) {
            return self.fail(Failure::Spurious("spurious_message"));
        }
        match reply.part {
            Some(Part::RequestHeaders(part)) => self.headers_reply(Side::Request, part, now),
            Some(Part::ResponseHeaders(part)) => self.headers_reply(Side::Response, part, now),
            Some(Part::RequestBody(part)) => {
                body::reply(self, Side::Request, part.response.unwrap_or_default(), now);
            }
            Some(Part::ResponseBody(part)) => {
                body::reply(self, Side::Response, part.response.unwrap_or_default(), now);
            }
            Some(Part::RequestTrailers(part)) => self.trailers_reply(Side::Request, part, now),
            Some(Part::ResponseTrailers(part)) => self.trailers_reply(Side::Response, part, now),
            Some(Part::Immediate(part)) => self.immediate_reply(part, now),
            Some(Part::Local(part)) => self.local_reply(part, now),
            None if drains => {}
            None => self.fail(Failure::Spurious("unhandled_message")),
        }
    }

    fn headers_reply(&mut self, side: Side, part: HeadersReply, now: Instant) {
        let common = part.response.unwrap_or_default();
        let Some(effect) = self.mutate_head(side, &common) else {
            return;
        };
        self.accept(side, side.headers(), effect, Callback::Idle, now);
        self.clear_route_cache(side, &common);
        if common.is_replace() {
            self.replace(side, common, now);
        } else {
            self.continue_after_headers(side, now);
        }
        if !self.complete {
            self.close_after_headers(side);
        }
    }

    fn continue_after_headers(&mut self, side: Side, now: Instant) {
        let direction = self.direction(side);
        if direction.gone.is_ended() {
            // The end went on, or what is left of the message is for nobody. Replies to pieces that the processor has are awaited
            // as before.
            if direction.awaits_pieces() {
                self.direction_mut(side).callback = Callback::StreamedBody;
            }
        } else if direction.came == Came::HeadAlone {
            self.release(side);
        } else {
            body::of(direction.mode.body).headers_answered(self, side, now);
        }
    }

    /// CONTINUE_AND_REPLACE: the body becomes what the reply says, and this direction is done.
    fn replace(&mut self, side: Side, common: CommonReply, now: Instant) {
        let direction = self.direction_mut(side);
        direction.deframer.take();
        direction.clear_queue();
        direction.mode.show_no_more();
        if let Some(message) = common.body_mutation {
            direction.gone.replace();
            match message.mutation {
                Some(BodyMutation::Body(body)) => direction.held = body.into(),
                Some(BodyMutation::Clear(true)) => direction.held = Pieces::default(),
                // As in Envoy, what is here already is the whole body then.
                Some(BodyMutation::Clear(false) | BodyMutation::Streamed(_)) | None => {}
            }
            if let Some(mut block) = direction.block() {
                headers::remove_content_length(&mut block);
            }
            // As in Envoy, where a body that takes the place of another one goes on without being buffered.
            if direction.came == Came::HeadAlone && !self.check_buffer(side, now) {
                return;
            }
        }
        self.release(side);
    }

    fn trailers_reply(&mut self, side: Side, part: TrailersReply, now: Instant) {
        let direction = self.direction_mut(side);
        if !direction.shown.has_trailers() {
            // Full duplex: there is nothing to change yet, and the processor is done with this direction. What it was told the
            // end of is complete.
            self.accept(side, side.trailers(), Effect::None, Callback::Idle, now);
            self.release(side);
            if self.direction(side).is_forwarded() {
                self.close_after_last(side);
            }
            return;
        }
        let mut trailers = direction.trailers.take();
        let mut effect = Effect::None;
        if let (Some(trailers), Some(message)) = (&mut trailers, &part.header_mutation) {
            let limits = direction.header_limits;
            let tell = |change: &HeaderChange<'_>| self.show_change(Some(side.trailers()), change);
            let mutated = Mutation {
                message,
                rules: &self.config.mutation_rules,
                limits: Some(limits),
                replacing: false,
                drop_content_length: false,
                guards_framing: self.guards_framing,
                tell: self.is_watched().then_some(&tell),
            }
            .apply(&mut Self::trailer_block(side, trailers));
            if !self.judge(side, side.trailers(), mutated) {
                return;
            }
            effect = mutated.effect();
        }
        self.accept(side, side.trailers(), effect, Callback::Idle, now);
        self.direction_mut(side).trailers = trailers;
        self.release(side);
        self.close_after_last(side);
    }

    // === header mutation ===

    /// Applies the header mutation of a headers or body reply to a head that is still held. `None` if
    /// that failed the exchange.
    pub(super) fn mutate_head(&mut self, side: Side, common: &CommonReply) -> Option<Effect> {
        let Some(message) = &common.header_mutation else {
            return Some(Effect::None);
        };
        let phase = match self.direction(side).callback {
            Callback::Headers => side.headers(),
            _ => side.body(),
        };
        let mutated = self.apply_to_head(side, phase, message, common.is_replace());
        self.judge(side, phase, mutated).then(|| mutated.effect())
    }

    fn apply_to_head(
        &mut self,
        side: Side,
        phase: Phase,
        message: &HeaderMutation,
        replacing: bool,
    ) -> Mutated {
        let drop_content_length = self.drops_length(side);
        let is_watched = self.is_watched();
        let direction = match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        };
        let limits = direction.header_limits;
        let Some(mut block) = direction.block() else {
            return Mutated::default();
        };
        let tell = |change: &HeaderChange<'_>| {
            let phase = Some(phase);
            if let Some(watch) = &self.watch {
                watch.event(
                    &self.config,
                    &self.context,
                    &Event::Header { phase, change },
                );
            }
        };
        Mutation {
            message,
            rules: &self.config.mutation_rules,
            limits: Some(limits),
            replacing,
            drop_content_length,
            guards_framing: self.guards_framing,
            tell: is_watched.then_some(&tell),
        }
        .apply(&mut block)
    }

    /// Counts refused changes; a mutation refused as a whole fails the exchange. Gives whether to go on.
    fn judge(&mut self, side: Side, phase: Phase, mutated: Mutated) -> bool {
        for _ in 0..mutated.rejected {
            self.event(&Event::RejectedHeaderMutation);
        }
        let Some(rejection) = mutated.error else {
            return true;
        };
        self.direction_mut(side).stop_timer();
        self.received(phase, None, rejection.effect);
        self.fail(Failure::Rejected(rejection));
        false
    }

    /// Tells of one change of a header.
    pub(super) fn show_change(&self, phase: Option<Phase>, change: &HeaderChange<'_>) {
        self.show(&Event::Header { phase, change });
    }

    // === bookkeeping ===

    /// A reply fits: it is counted, the timer stops, and `next` is what is waited for.
    pub(super) fn accept(
        &mut self,
        side: Side,
        phase: Phase,
        effect: Effect,
        next: Callback,
        now: Instant,
    ) {
        let sent = self.direction_mut(side).finish_call(next);
        let latency = sent.map(|sent| now.saturating_duration_since(sent));
        self.received(phase, latency, effect);
    }

    pub(super) fn received(&self, phase: Phase, latency: Option<Duration>, effect: Effect) {
        self.event(&Event::MessageReceived {
            phase: Some(phase),
            latency,
            effect,
        });
    }

    /// Returns whether trailers are here, wanted, and not with the processor yet.
    pub(super) fn trailers_are_due(&self, side: Side) -> bool {
        let direction = self.direction(side);
        direction.mode.trailers && direction.trailers.is_some() && !direction.shown.has_trailers()
    }

    /// Clears the selected route if reply and configuration say so; needs a header mutation, which may be
    /// empty. Has an effect only while the request is held.
    pub(super) fn clear_route_cache(&mut self, side: Side, common: &CommonReply) {
        if side == Side::Response {
            return;
        }
        let action = self.config.route_cache_action;
        if !common.clear_route_cache && action != RouteCacheAction::Clear {
            return;
        }
        if common.header_mutation.is_none() {
            if common.clear_route_cache {
                self.event(&Event::ClearRouteCacheIgnored);
            }
            return;
        }
        if action == RouteCacheAction::Retain {
            return self.event(&Event::ClearRouteCacheDisabled);
        }
        if let Some(host) = &self.context.host {
            host.clear_route();
            self.show(&Event::RouteCleared);
        }
    }

    fn override_timeout(&mut self, timeout: prost_types::Duration, now: Instant) {
        let timeout = u64::try_from(timeout.seconds)
            .ok()
            .zip(u32::try_from(timeout.nanos).ok())
            .map(|(seconds, nanos)| {
                Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()))
            })
            .filter(|timeout| *timeout >= Duration::from_millis(1))
            .filter(|timeout| {
                self.config
                    .max_message_timeout
                    .is_some_and(|max| *timeout <= max)
            });
        let accepted = timeout.is_some_and(|timeout| {
            self.request.override_timeout(now, timeout)
                || self.response.override_timeout(now, timeout)
        });
        self.event(match accepted {
            true => &Event::OverrideTimeoutReceived,
            false => &Event::OverrideTimeoutIgnored,
        });
    }

    // === early close: no direction can produce another message ===

    fn close_after_headers(&mut self, side: Side) {
        let direction = self.direction(side);
        if direction.came == Came::HeadAlone || direction.mode.shows_headers_alone() {
            self.close_after_last(side);
        }
    }

    /// Sends on the rest after the reply to a body. Trailers that the processor does not want are the last of a request:
    /// it has nothing more to answer.
    pub(super) fn release_after_body(&mut self, side: Side) {
        let trailers = self.direction(side).trailers.is_some();
        self.release(side);
        if trailers && side == Side::Request {
            self.close_after_last(side);
        }
    }

    /// The last of this direction was answered. The stream is closed if the other one has nothing left to show either,
    /// which is more than that no reply is due in it.
    pub(super) fn close_after_last(&mut self, side: Side) {
        self.direction_mut(side).answered = true;
        if [&self.request, &self.response]
            .iter()
            .all(|direction| direction.is_done())
        {
            self.close_stream();
        }
    }
}
