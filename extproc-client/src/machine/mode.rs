//! `mode_override`: which one is honoured, and what it merges to.

use std::time::Instant;

use super::{
    Callback, Exchange, Side, body,
    progress::{Came, Shown},
};
use crate::{
    observer::{Event, ModeIgnored, ModeOrigin},
    types::mode::{BodyMode, ProcessingMode, SendMode},
    wire::ModeReply,
};

impl Exchange {
    /// An override beside a reply to headers. One that does not fit is ignored.
    pub(super) fn override_mode(&mut self, message: &ModeReply) {
        let waiting = [&self.request, &self.response]
            .iter()
            .any(|direction| direction.callback == Callback::Headers);
        let ignored = match (self.may_override(), waiting) {
            (Err(reason), _) => reason,
            (Ok(()), false) => ModeIgnored::NotNow,
            (Ok(()), true) => match self.merged_mode(message) {
                Some(mode) => return self.apply_mode(&mode, ModeOrigin::Reply),
                None => ModeIgnored::NotListed,
            },
        };
        self.show(&Event::ModeIgnored { reason: ignored });
    }

    /// A reply with nothing but an override, while request headers are with the processor: the body
    /// becomes full duplex before they are answered. Gives whether it was accepted.
    pub(super) fn standalone_override(&mut self, message: &ModeReply, now: Instant) -> bool {
        let from = self.config.mode.request_body_mode;
        if self.may_override().is_err()
            || self.request.callback != Callback::Headers
            || self.request.standalone_override
            || !matches!(from, BodyMode::None | BodyMode::Streamed)
        {
            return false;
        }
        let Some(mode) = self.merged_mode(message) else {
            return false;
        };
        let request = mode.request();
        if request.body != BodyMode::FullDuplexStreamed || !request.trailers {
            return false;
        }
        self.apply_mode(&mode, ModeOrigin::Standalone);
        let direction = &mut self.request;
        direction.standalone_override = true;
        direction.stop_timer();
        let ended =
            matches!(direction.came, Came::Whole | Came::Empty) && direction.trailers.is_none();
        if !direction.held.is_empty() || ended {
            body::flush_held(self, Side::Request, now);
        }
        if self.request.trailers.is_some() {
            self.send_trailers(Side::Request, now);
        }
        true
    }

    fn may_override(&self) -> Result<(), ModeIgnored> {
        // As in Envoy, the filter's own mode counts, whatever that of the route.
        let mode = &self.config.filter_mode;
        if !self.config.allow_mode_override {
            return Err(ModeIgnored::NotAllowed);
        }
        let is_fixed = self.config.send_body_without_waiting
            || mode.request_body_mode == BodyMode::FullDuplexStreamed
            || mode.response_body_mode == BodyMode::FullDuplexStreamed;
        match is_fixed {
            true => Err(ModeIgnored::Configured),
            false => Ok(()),
        }
    }

    /// Header and trailer modes that the message leaves at their default keep the configured value;
    /// body modes are taken as they are. `None` if the allow-list does not have the result.
    fn merged_mode(&self, message: &ModeReply) -> Option<ProcessingMode> {
        let base = &self.config.filter_mode;
        let send = |number: i32, configured: SendMode| match SendMode::from_number(number) {
            Some(SendMode::Default) | None => configured,
            Some(given) => given,
        };
        let body = |number: i32| BodyMode::from_number(number).unwrap_or_default();
        let merged = ProcessingMode {
            request_header_mode: base.request_header_mode,
            response_header_mode: send(message.response_header_mode, base.response_header_mode),
            request_body_mode: body(message.request_body_mode),
            response_body_mode: body(message.response_body_mode),
            request_trailer_mode: send(message.request_trailer_mode, base.request_trailer_mode),
            response_trailer_mode: send(message.response_trailer_mode, base.response_trailer_mode),
        };
        let allowed = &self.config.allowed_override_modes;
        let is_allowed = allowed.is_empty()
            || allowed.iter().any(|entry| {
                ProcessingMode {
                    request_header_mode: merged.request_header_mode,
                    ..*entry
                } == merged
            });
        is_allowed.then_some(merged)
    }

    fn apply_mode(&mut self, mode: &ProcessingMode, origin: ModeOrigin) {
        // A direction whose headers were answered keeps the mode it is in, and so does one of which more is with the processor.
        for (direction, mode) in [
            (&mut self.request, mode.request()),
            (&mut self.response, mode.response()),
        ] {
            let waits = direction.callback == Callback::Headers
                && matches!(direction.shown, Shown::Nothing | Shown::Head);
            if !direction.has_head() || waits {
                direction.mode = mode;
            }
        }
        self.event(&Event::ModeOverridden {
            request_body: mode.request_body_mode,
            response_body: mode.response_body_mode,
            mode,
            origin,
        });
    }
}
