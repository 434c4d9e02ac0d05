//! Outputs of an exchange: to the processor, to upstream and client; and the rules about waiting for what comes next.

use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, processing_request};
use prost::Message as _;

use super::{
    event::{Event, letters},
    spec::{Broken, Local, Shown, Stream},
    way::Way,
    world::World,
};
use crate::{
    machine::{
        Action, Outbound,
        Side::{self, Request, Response},
    },
    types::{mode::BodyMode, phase::Phase},
    wire::message::Message,
};

impl World {
    /// Takes everything that one input led to.
    pub(super) fn drain(&mut self, event: Event) -> Result<(), Broken> {
        if event == Event::Taken {
            self.take()?;
        }
        loop {
            if self.subject.closes_next() {
                self.waiting = None;
            }
            if self.waiting.is_some() {
                if self.class.slow && self.spec.stream != Stream::Ended {
                    break;
                }
                self.take()?;
            }
            match self.subject.poll_outbound() {
                None => break,
                Some(Outbound::Open) => {
                    self.note(|| "    -> processor: open".into());
                    self.spec.opened()?;
                    if self.class.refused {
                        self.note(|| "    (refused)".into());
                        return self.apply(Event::Refused);
                    }
                    self.subject.exchange.opened();
                }
                Some(Outbound::Close(closing)) => {
                    self.note(|| format!("    -> processor: close {closing:?}"));
                    self.spec.closed()?;
                }
                Some(Outbound::Message(phase, message)) => self.waiting = Some((phase, message)),
            }
        }
        let heads = [Request, Response].map(|side| self.spec.way(side).head_sent);
        let mut cancelled = false;
        while let Some(action) = self.subject.poll_action() {
            cancelled |= matches!(action, Action::CancelRequest);
            self.act(action)?;
        }
        for (side, had) in [Request, Response].into_iter().zip(heads) {
            if !had && self.spec.way(side).head_sent {
                self.give_away(side)?;
            }
        }
        if self.class.slow {
            self.hand_over();
        }
        // A request that is too large is answered with a response that is processed as one of an upstream.
        if cancelled && !self.spec.is_over() && self.subject.exchange.response.has_head() {
            let way = &mut self.spec.response;
            (way.has_head, way.has_ended) = (true, true);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<(), Broken> {
        let Some((phase, message)) = self.waiting.take() else {
            return Ok(());
        };
        let shown = shown(&message);
        self.note(|| format!("    -> processor: {:?} {shown:?}", side_of(phase)));
        self.spec.shown(side_of(phase), &shown)
    }

    fn act(&mut self, action: Action) -> Result<(), Broken> {
        match action {
            Action::RequestHead { end, .. } => self.send_head(Request, end),
            Action::ResponseHead { end, .. } => self.send_head(Response, end),
            Action::CancelRequest => {
                self.note(|| "    -> upstream: cancel".into());
                self.spec.cancelled();
                Ok(())
            }
            Action::Data(side, data) => {
                let bytes = letters(&data);
                self.note(|| format!("    -> {}: {bytes:?}", peer(side)));
                self.spec.data_sent(side, &bytes)
            }
            Action::Trailers(side, _) => {
                self.note(|| format!("    -> {}: trailers", peer(side)));
                self.spec.trailers_sent(side)
            }
            Action::End(side) => {
                self.note(|| format!("    -> {}: end", peer(side)));
                self.spec.end_sent(side)
            }
            Action::Abort(_) => {
                self.note(|| "    -> client: cut".into());
                self.spec.aborted()
            }
        }
    }

    fn send_head(&mut self, side: Side, end: bool) -> Result<(), Broken> {
        let ending = if end { ", end" } else { "" };
        self.note(|| format!("    -> {}: head{ending}", peer(side)));
        if side == Response && (self.spec.cancelled || !self.spec.response.has_head) {
            self.spec.answered |= !self.spec.response.has_head || self.spec.stream != Stream::Open;
        }
        self.spec.head_sent(side, end)
    }

    /// Gives a body away as the driver does, once it has a head and all that came with it.
    fn give_away(&mut self, side: Side) -> Result<(), Broken> {
        if self.passes_by(side) {
            self.note(|| format!("    -> {}: the rest of the body, unseen", peer(side)));
            self.spec.given_away(side)?;
            if side == Response {
                // Nobody is left to whom the exchange matters.
                self.spec.gone = true;
            }
        }
        Ok(())
    }

    /// As `take_passing_request` and `take_passing_response` of the driver.
    fn passes_by(&self, side: Side) -> bool {
        let open = !self.spec.way(side).end_sent && !self.spec.answered;
        let alone = match side {
            Request => true,
            Response => {
                let request = &self.spec.request;
                self.subject.exchange.is_finished() && (request.taken || request.end_sent)
            }
        };
        open && alone && self.spec.local == Local::None && self.subject.passes_by(side)
    }

    /// Bytes of full duplex bodies that are on their way to the processor are its own.
    fn hand_over(&mut self) {
        let queued = self.subject.exchange.outbound.iter();
        let queued = queued.filter_map(|outbound| match outbound {
            Outbound::Message(phase, message) => Some((*phase, message)),
            _ => None,
        });
        let waiting = self
            .waiting
            .as_ref()
            .map(|(phase, message)| (*phase, message));
        let mut given = [Request, Response].map(|side| (side, self.spec.way(side).shown.clone()));
        for (phase, message) in waiting.into_iter().chain(queued) {
            if let Shown::Body { bytes, .. } = shown(message) {
                given[usize::from(side_of(phase) == Response)]
                    .1
                    .push_str(&bytes);
            }
        }
        for (side, given) in given {
            let way = self.spec.way_mut(side);
            if way.mode.body.is_duplex() {
                way.hand_over(&given);
            }
        }
    }

    // === rules about waiting ===

    /// Each call has a timer.
    pub(super) fn check_timers(&self) -> Result<(), Broken> {
        if self.spec.stream != Stream::Open
            || self.spec.is_over()
            || self.class.config.observability_mode
        {
            return Ok(());
        }
        for side in [Request, Response] {
            let way = self.spec.way(side);
            // As in Envoy, where a full duplex processor takes all the time it wants.
            if way.mode.body.is_duplex()
                || !way.is_asked()
                || self.is_pipelined(way)
                || way.end_sent
            {
                continue;
            }
            if self.subject.next_timeout().is_none() {
                return Err(format!(
                    "no timer runs for what the processor has of the {side:?}"
                ));
            }
        }
        Ok(())
    }

    /// The exchange is over, or something must come that moves it.
    pub(super) fn check_progress(&self) -> Result<(), Broken> {
        let spec = &self.spec;
        let must_come = spec.is_over()
            || self.waiting.is_some()
            || self.subject.next_timeout().is_some()
            || self.may_read(Request)
            || self.may_read(Response)
            || self.upstream_owes()
            || spec.stream == Stream::Open && self.processor_owes();
        match must_come {
            true => Ok(()),
            false => Err("everything has come, and the exchange is not over".into()),
        }
    }

    /// A request that is upstream as a whole is answered.
    fn upstream_owes(&self) -> bool {
        let request = &self.spec.request;
        let whole = request.end_sent || request.taken;
        whole && self.upstream_may_answer() && !self.spec.response.has_head
    }

    /// As in Envoy, no timer runs for a processor that has got a body in full duplex, that streams the response itself, or
    /// that has answered one of several chunks: those exchanges end by the timeouts of routes and streams.
    fn processor_owes(&self) -> bool {
        let owes =
            |way: &Way| way.is_asked() && (way.mode.body.is_duplex() || self.is_pipelined(way));
        owes(&self.spec.request) || owes(&self.spec.response) || self.spec.local == Local::Begun
    }

    /// As in Envoy, in STREAMED a reply stops the timer, which the next message starts again. Which one that is depends on what
    /// waits for a slow connection.
    fn is_pipelined(&self, way: &Way) -> bool {
        let waits = self.class.slow && way.mode.body == BodyMode::Streamed;
        way.is_pipelined() || waits && !way.bodies.is_empty()
    }
}

fn peer(side: Side) -> &'static str {
    match side {
        Request => "upstream",
        Response => "client",
    }
}

fn side_of(phase: Phase) -> Side {
    match phase {
        Phase::RequestHeaders | Phase::RequestBody | Phase::RequestTrailers => Request,
        Phase::ResponseHeaders | Phase::ResponseBody | Phase::ResponseTrailers => Response,
    }
}

fn shown(message: &Message) -> Shown {
    use processing_request::Request::*;
    let message = ProcessingRequest::decode(message.to_bytes()).unwrap();
    match message.request.unwrap() {
        RequestHeaders(headers) | ResponseHeaders(headers) => Shown::Headers {
            end: headers.end_of_stream,
        },
        RequestBody(body) | ResponseBody(body) => Shown::Body {
            bytes: letters(&body.body),
            end: body.end_of_stream,
            drains: body.drain_complete,
        },
        RequestTrailers(_) | ResponseTrailers(_) => Shown::Trailers,
    }
}
