//! Fitting replies: the one place that says which they are, for handling a reply and for looking ahead.

use super::{Callback, Exchange, Side, half::Reading};
use crate::wire::{Part, Reply};

/// Relation of a reply to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It answers what was asked, or it says nothing that would have to fit.
    Fits,
    /// It ends the stream, whatever was asked.
    Ends,
    /// Nothing was asked that it answers.
    Spurious,
}

impl Exchange {
    /// Tells whether the stream ends with this reply.
    pub(crate) fn is_last(&self, reply: &Reply) -> bool {
        let is_heeded = !self.config.observability_mode && reply.override_message_timeout.is_none();
        let fit = reply.part.as_ref().map(|part| self.fit(part));
        is_heeded && matches!(fit, Some(Fit::Ends | Fit::Spurious))
    }

    pub(super) fn fit(&self, part: &Part) -> Fit {
        let fits = match part {
            Part::RequestHeaders(_) => self.awaits_headers(Side::Request),
            Part::ResponseHeaders(_) => self.awaits_headers(Side::Response),
            Part::RequestBody(_) => self.awaits_body(Side::Request),
            Part::ResponseBody(_) => self.awaits_body(Side::Response),
            Part::RequestTrailers(_) => self.awaits_trailers(Side::Request),
            Part::ResponseTrailers(_) => self.awaits_trailers(Side::Response),
            Part::Immediate(_) => return Fit::Ends,
            // What fits of a response that a processor streams goes by that response.
            Part::Local(_) => return Fit::Fits,
        };
        match fits && !self.local.is_active() {
            true => Fit::Fits,
            false => Fit::Spurious,
        }
    }

    fn awaits_headers(&self, side: Side) -> bool {
        self.direction(side).callback == Callback::Headers
    }

    fn awaits_body(&self, side: Side) -> bool {
        matches!(
            self.direction(side).callback,
            Callback::BufferedBody | Callback::StreamedBody | Callback::PartialBody
        )
    }

    /// As in Envoy, which takes a reply to trailers at any time in full duplex. It does not have drains.
    fn awaits_trailers(&self, side: Side) -> bool {
        let direction = self.direction(side);
        let at_any_time = direction.mode.body.is_duplex() && direction.reading != Reading::Draining;
        at_any_time || direction.callback == Callback::Trailers
    }
}
