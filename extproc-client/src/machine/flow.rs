//! Events of the HTTP side, and what is sent on.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header, request, response};

use super::{
    Action, Callback, Exchange, Side, body,
    half::Head,
    progress::{Came, Gone},
};
use crate::{
    context::outcome::{Answer, Origin, Outcome, RefusedRequest, UpstreamFailure},
    headers::{self, Block},
    host::{ExchangeContext, ReplyForm},
    observer::{Event, HttpPart},
    types::{limits::HeaderLimits, pieces::Pieces},
    wire::encode::BodyFlags,
};

impl Exchange {
    /// The request's head arrived; `end` if nothing follows it.
    pub(crate) fn request_head(&mut self, mut head: request::Parts, end: bool, now: Instant) {
        self.show_request(&head, end);
        headers::settle_host(&mut head);
        self.settle_form(&head);
        self.context.awaits_continue |= head.headers.contains_key(header::EXPECT);
        self.remember_request(&head);
        self.head(Side::Request, Head::Request(Box::new(head)), end, now);
    }

    /// The request was answered before it came here: only the response is processed.
    pub(crate) fn skip_request(&mut self, head: &request::Parts) {
        self.show_request(head, true);
        self.settle_form(head);
        self.remember_request(head);
        self.request.head = Head::Forwarded;
        self.request.came.end();
        self.request.gone.end();
    }

    fn show_request(&self, head: &request::Parts, end: bool) {
        self.show(&Event::Arrived {
            side: Side::Request,
            part: HttpPart::Request(head),
            end,
        });
    }

    /// Decides what local replies look like, once: a processor may change what the request asked for.
    fn settle_form(&mut self, head: &request::Parts) {
        self.form = self.context.reply_form.unwrap_or_else(|| ReplyForm {
            grpc: is_grpc(&head.headers),
            head: head.method == Method::HEAD,
        });
    }

    /// The response's head arrived; `end` if nothing follows it.
    pub(crate) fn response_head(&mut self, head: response::Parts, end: bool, now: Instant) {
        if self.response.has_head() {
            return;
        }
        self.show(&Event::Arrived {
            side: Side::Response,
            part: HttpPart::Response(&head),
            end,
        });
        let outcome = Outcome::of_head(&head);
        if matches!(outcome.origin, Origin::Final | Origin::Lost) {
            match self.config.observability_mode {
                // The stream of an observed exchange is closed some time after it.
                true => self.complete = true,
                false => self.close_stream(),
            }
        }
        let upstream = outcome.upstream.as_ref();
        if let Some(limits) = upstream.and_then(|info| info.response_headers) {
            self.response.header_limits = limits;
        }
        if outcome.local.is_some() {
            self.drop_request();
            // As in Envoy, the limits are those of what an upstream may send.
            self.response.header_limits = HeaderLimits::NONE;
        }
        self.remember_response(&head);
        self.head(Side::Response, Head::Response(Box::new(head)), end, now);
    }

    /// The head of a request that was answered in front while the processor has it. It goes on for the answer to come back.
    pub(crate) fn take_answered(&mut self) -> Option<request::Parts> {
        let host = self.context.host.as_ref();
        // A head that stays behind an answer of this very layer goes nowhere.
        if self.response.has_head() || !host.is_some_and(|host| host.is_answered()) {
            return None;
        }
        let head = self.request.take_request()?;
        self.drop_request();
        Some(*head)
    }

    /// Everything of that side is here. What still comes of a request whose response is complete is for nobody, as in Envoy.
    fn receive_end(&mut self, side: Side) {
        self.direction_mut(side).came.end();
        if side == Side::Response && !self.request.came.is_ended() && !self.complete {
            if let Some(host) = &self.context.host {
                host.end_request();
            }
            self.drop_request();
        }
    }

    /// The same for a response that a filter behind has.
    fn heed_end(&mut self, side: Side) {
        let host = self.context.host.as_ref();
        if side == Side::Request
            && !self.complete
            && host.is_some_and(|host| host.is_request_over())
        {
            self.drop_request();
        }
    }

    /// Reads the rest of the request and shows it to nobody, as in Envoy. Replies to messages that the processor has are
    /// awaited as before, and trailers that are here follow the body that it has.
    fn drop_request(&mut self) {
        let request = &mut self.request;
        request.gone = Gone::Dropped;
        request.mode.trailers &= request.trailers.is_some() && request.callback != Callback::Idle;
        request.drop_unsent();
        if request.callback == Callback::Idle {
            request.clear_queue();
        }
    }

    /// A chunk of that side's body arrived; `end` if nothing follows it. Empty data with `end` is the
    /// end alone.
    pub(crate) fn data(&mut self, side: Side, data: Bytes, end: bool, now: Instant) {
        let direction = self.direction_mut(side);
        if direction.came.is_ended() {
            return;
        }
        direction.came.piece();
        self.heed_end(side);
        if end {
            self.receive_end(side);
        }
        self.show(&Event::Arrived {
            side,
            part: HttpPart::Data(&data),
            end,
        });
        let direction = self.direction_mut(side);
        direction.size += data.len() as u64;
        if self.local.is_active() {
            return self.local_request_data(data, end, now);
        }
        let direction = self.direction_mut(side);
        if direction.gone.drops_rest() {
            if end {
                self.emit_end(side);
            }
            return;
        }
        if self.complete {
            return self.pass(side, data, end);
        }
        if self.config.observability_mode {
            return self.observe_data(side, data, end, now);
        }
        let direction = self.direction(side);
        let mode = body::of(direction.mode.body);
        if direction.callback == Callback::Headers && !mode.shows_early(&self.config) {
            return mode.keep(self, side, data, now);
        }
        mode.data(self, side, data, end, now);
    }

    /// The trailers of that side arrived, the last that comes.
    pub(crate) fn trailers(&mut self, side: Side, trailers: HeaderMap, now: Instant) {
        let direction = self.direction_mut(side);
        if direction.came.is_ended() {
            return;
        }
        self.heed_end(side);
        self.receive_end(side);
        self.show(&Event::Arrived {
            side,
            part: HttpPart::Trailers(&trailers),
            end: true,
        });
        if self.local.is_active() {
            return self.local_request_trailers(trailers, now);
        }
        let direction = self.direction_mut(side);
        direction.trailers = Some(trailers);
        if self.complete {
            return self.release(side);
        }
        if self.config.observability_mode {
            return self.observe_trailers(side, now);
        }
        let direction = self.direction(side);
        if direction.callback == Callback::Idle || direction.mode.body.is_duplex() {
            body::of(direction.mode.body).trailers(self, side, now);
        }
    }

    /// The request's body failed: the client is gone, or broke its message. One that was refused by a filter nearer to the client is
    /// answered, unless there is a response.
    pub(crate) fn request_failed(&mut self, refused: Option<&RefusedRequest>) {
        let status = refused.map_or(StatusCode::BAD_REQUEST, |refused| refused.status);
        let details = match refused {
            Some(refused) => refused.details.to_string(),
            None => "downstream_remote_disconnect".to_owned(),
        };
        let (head, body) = self.local_response(status, Bytes::new(), None, details);
        match refused {
            Some(_) if !self.committed => {
                self.close_stream_flushed();
                self.answer(head, body);
            }
            _ => self.abort(Answer { head, body }),
        }
    }

    /// The response's body failed, because of the upstream or in a filter nearer to it, which has an answer. The response is cut,
    /// or answered while its head is held: with that answer, with what the failure says, or with 502.
    pub(crate) fn response_failed(
        &mut self,
        failure: Option<&UpstreamFailure>,
        answer: Option<&Answer>,
    ) {
        const DETAILS: &str = "upstream_reset_after_response_started";
        const TEXT: &str = "upstream disconnected before its response was complete";
        let answer = answer.cloned().unwrap_or_else(|| {
            let details = failure.map_or(DETAILS, |failure| &failure.details);
            let status = failure.map_or(StatusCode::BAD_GATEWAY, |failure| failure.status);
            let text = Bytes::from_static(TEXT.as_bytes());
            let (mut head, body) = self.local_response(status, text, None, details.into());
            if let Some(failure) = failure {
                Outcome::of_head_mut(&mut head).flags = failure.flags;
            }
            Answer { head, body }
        });
        if self.committed {
            return self.abort(answer);
        }
        self.close_stream_flushed();
        self.answer(answer.head, answer.body);
    }

    fn head(&mut self, side: Side, head: Head, end: bool, now: Instant) {
        let direction = self.direction_mut(side);
        direction.head = head;
        if end {
            direction.came = Came::HeadAlone;
            self.receive_end(side);
        }
        if self.complete {
            return self.release_head(side);
        }
        if self.config.observability_mode {
            return self.observe_head(side, now);
        }
        if self.direction(side).mode.headers {
            self.send_head(side, end, now);
            self.remove_length(side);
        } else {
            self.remove_length(side);
            self.release_head(side);
        }
    }

    /// Sends the held head to the processor.
    pub(super) fn send_head(&mut self, side: Side, end: bool, now: Instant) {
        let head = std::mem::replace(&mut self.direction_mut(side).head, Head::Awaited);
        match &head {
            Head::Request(parts) => self.send_headers(side, &**parts, end, now),
            Head::Response(parts) => self.send_headers(side, &**parts, end, now),
            Head::Awaited | Head::Forwarded => {}
        }
        self.direction_mut(side).head = head;
    }

    pub(super) fn remove_length(&mut self, side: Side) {
        if !self.drops_length(side) {
            return;
        }
        if let Some(mut block) = self.direction_mut(side).block() {
            headers::remove_content_length(&mut block);
        }
    }

    /// Returns whether a `content-length` that a processor sets in this direction is dropped.
    pub(super) fn drops_length(&self, side: Side) -> bool {
        self.direction(side).changes_length() && !self.config.allow_content_length_header
    }

    // === what is sent on ===

    /// Sends the head on, if it was held.
    pub(super) fn release_head(&mut self, side: Side) {
        let direction = self.direction_mut(side);
        if !direction.is_held() || direction.gone.is_ended() {
            return;
        }
        let end = direction.came == Came::HeadAlone && direction.gone == Gone::Open;
        if end {
            direction.gone.end();
        }
        match std::mem::replace(&mut direction.head, Head::Forwarded) {
            Head::Request(mut head) => {
                if self.guards_framing && end {
                    headers::remove_unkept_length(&mut head.headers);
                }
                self.remember_request(&head);
                if !self.config.response_attributes.entries.is_empty() {
                    ExchangeContext::ask_for_head(&mut head);
                }
                self.actions
                    .push_back(Action::RequestHead { head: *head, end });
            }
            Head::Response(mut head) => {
                self.committed = true;
                let bodyless = self.form.head || head.status == StatusCode::NOT_MODIFIED;
                if self.guards_framing && end && !bodyless {
                    headers::remove_unkept_length(&mut head.headers);
                }
                Outcome::of_head_mut(&mut head).processor = Some(self.summary.get());
                self.actions
                    .push_back(Action::ResponseHead { head: *head, end });
            }
            Head::Awaited | Head::Forwarded => {}
        }
    }

    /// Sends everything on that is held, and the end if it was received.
    pub(super) fn release(&mut self, side: Side) {
        self.release_head(side);
        let held = std::mem::take(&mut self.direction_mut(side).held);
        self.emit_pieces(side, held);
        if self.direction(side).came.is_ended() {
            match self.direction_mut(side).trailers.take() {
                Some(trailers) => self.emit_trailers(side, trailers),
                None => self.emit_end(side),
            }
        }
    }

    /// Sends data on as it came.
    pub(super) fn pass(&mut self, side: Side, data: Bytes, end: bool) {
        self.emit_data(side, data);
        if end {
            self.emit_end(side);
        }
    }

    pub(super) fn emit_data(&mut self, side: Side, data: Bytes) {
        if !data.is_empty() && !self.direction(side).gone.is_ended() {
            self.actions.push_back(Action::Data(side, data));
        }
    }

    /// As Envoy does, several pieces are given on as one, in HTTP/1 a chunk; only where that would copy a lot
    /// they go as they came.
    pub(super) fn emit_pieces(&mut self, side: Side, pieces: Pieces) {
        const JOINED: usize = 64 * 1024;
        if pieces.len() <= JOINED {
            return self.emit_data(side, pieces.join());
        }
        for data in pieces {
            self.emit_data(side, data);
        }
    }

    pub(super) fn emit_end(&mut self, side: Side) {
        let direction = self.direction_mut(side);
        if !direction.gone.is_ended() {
            direction.gone.end();
            self.actions.push_back(Action::End(side));
            self.ended(side);
        }
    }

    /// With the end of the response the exchange is over, however long a client takes to read it: what the processor
    /// still says has nothing to be about. So it is in Envoy.
    fn ended(&mut self, side: Side) {
        if side == Side::Response && self.request.gone.is_ended() && !self.config.observability_mode
        {
            self.close_stream();
        }
    }

    pub(super) fn emit_trailers(&mut self, side: Side, trailers: HeaderMap) {
        let direction = self.direction_mut(side);
        if !direction.gone.is_ended() {
            direction.gone.end();
            self.actions.push_back(Action::Trailers(side, trailers));
            self.ended(side);
        }
    }

    /// Body flags with the end set or not.
    pub(super) fn flags(end_of_stream: bool) -> BodyFlags {
        BodyFlags {
            end_of_stream,
            ..BodyFlags::default()
        }
    }

    /// The header block of trailers that were received.
    pub(super) fn trailer_block(side: Side, trailers: &mut HeaderMap) -> Block<'_> {
        match side {
            Side::Request => Block::RequestTrailers(trailers),
            Side::Response => Block::ResponseTrailers(trailers),
        }
    }
}

/// `application/grpc` or `application/grpc+…`.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}
