//! `streamed_immediate_response`: a response that the processor streams itself.
//!
//! It begins as the answer to request headers; the request goes nowhere. In FULL_DUPLEX_STREAMED the
//! processor still gets the request's body. Once begun, every failure cuts the response. Where Envoy
//! leaves the client waiting for ever because the processor ended the stream cleanly, it is cut too.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{Action, Callback, Exchange, Side, body, failure::Failure, half::Head};
use crate::{
    config::MutationRules,
    context::outcome::{Origin, Outcome},
    headers::{self, Block, Mutation},
    observer::Event,
    types::{header_change::HeaderChange, mode::DirectionMode, phase::Effect, pieces::Pieces},
    wire::{
        HeaderList, HeaderMutation, HeaderOption, LocalHeaders, LocalPart, LocalReply, StreamedBody,
    },
};

/// State of a response that the processor streams.
///
/// ```text
/// None ──headers──▶ Begun ──end of stream or trailers──▶ Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    None,
    Begun,
    Ended,
}

impl Local {
    pub(super) fn is_active(self) -> bool {
        self == Self::Begun
    }
}

const STREAMING: &str =
    "streaming_local_response_body_is_only_supported_in_NONE_or_FULL_DUPLEX_STREAMED_modes";

impl Exchange {
    pub(super) fn local_reply(&mut self, reply: LocalReply, now: Instant) {
        match (reply.part, self.local) {
            (Some(LocalPart::Headers(headers)), Local::None) => self.local_headers(headers, now),
            (Some(LocalPart::Body(body)), Local::Begun) => self.local_body(body),
            (Some(LocalPart::Trailers(trailers)), Local::Begun) => {
                self.local_trailers(&trailers);
            }
            (Some(LocalPart::Body(_)), _) => self.fail(Failure::Spurious(
                "local_response_body_received_before_headers",
            )),
            (Some(LocalPart::Trailers(_)), _) => self.fail(Failure::Spurious(
                "local_response_trailers_received_before_headers",
            )),
            (Some(LocalPart::Headers(_)), _) => {
                self.fail(Failure::Spurious("spurious_message"));
            }
            (None, _) => {
                self.count_local();
                self.close_stream();
                self.respond_error(
                    self.config.status_on_error,
                    "Invalid_local_response_headers_continue".into(),
                );
            }
        }
    }

    fn local_headers(&mut self, reply: LocalHeaders, now: Instant) {
        let LocalHeaders {
            headers,
            end_of_stream,
        } = reply;
        if self.request.callback != Callback::Headers || self.response.has_head() {
            return self.fail(Failure::Spurious("spurious_message"));
        }
        if !end_of_stream && !body::of(self.request.mode.body).takes_local_body() {
            return self.fail(Failure::Spurious(STREAMING));
        }
        self.count_local();
        let list = headers.unwrap_or_default();
        let mut head = http::Response::new(()).into_parts().0;
        let mut status = None;
        let mut fields = Vec::with_capacity(list.headers.len());
        for entry in list.headers {
            match entry.key.as_str() {
                ":status" => status = Some(entry.raw_value),
                _ => fields.push(entry),
            }
        }
        let mutated = self.apply_local(
            &HeaderList { headers: fields },
            &mut Block::Response(&mut head),
        );
        let parsed = status.as_ref().map(|status| {
            StatusCode::from_bytes(status)
                .ok()
                .filter(|status| *status >= StatusCode::OK)
        });
        let rejected = mutated.error.map(|rejection| rejection.detail);
        match (rejected, parsed) {
            (None, Some(Some(status))) => head.status = status,
            (None, None) => {
                self.count_held(end_of_stream, now);
                self.reset_stream();
                return self.respond(
                    StatusCode::BAD_GATEWAY,
                    Bytes::from_static(b"missing required header: :status"),
                    "filter_removed_required_response_headers{missing_required_header:_:status}"
                        .into(),
                );
            }
            (Some(detail), _) => {
                self.reset_stream();
                return self.respond_error(self.config.status_on_error, detail.into());
            }
            (None, Some(None)) => {
                self.event(&Event::RejectedHeaderMutation);
                self.reset_stream();
                return self.respond_error(
                    self.config.status_on_error,
                    "header_mutation_set_headers_failed".into(),
                );
            }
        }
        let outcome = Outcome::of_head_mut(&mut head);
        outcome.details = Some("ext_proc_local_response".into());
        if let Some(request) = self.request.take_request() {
            outcome.origin = Origin::Early { request };
        }
        self.begin_local(head, end_of_stream, now);
    }

    fn begin_local(&mut self, mut head: http::response::Parts, end: bool, now: Instant) {
        if self.guards_framing && end && !self.form.head {
            headers::remove_unkept_length(&mut head.headers);
        }
        self.response.mode = DirectionMode::OFF;
        self.response.head = Head::Forwarded;
        self.response.came.end();
        if end {
            self.response.gone.end();
        }
        self.request.head = Head::Forwarded;
        self.request.gone.end();
        self.request.finish_call(Callback::Idle);
        self.committed = true;
        self.actions.push_back(Action::CancelRequest);
        self.actions.push_back(Action::ResponseHead { head, end });
        self.local = if end { Local::Ended } else { Local::Begun };
        if end {
            self.count_held(true, now);
            self.request.came.end();
            return self.close_stream();
        }
        // Body bytes that came with the headers and were held are sent now or never.
        if !self.request.mode.shows_body() {
            self.request.held = Pieces::default();
        } else if !self.request.held.is_empty() {
            body::flush_held(self, Side::Request, now);
        }
        if self.trailers_are_due(Side::Request) {
            self.send_trailers(Side::Request, now);
        }
    }

    /// As in Envoy, where what is here of the request goes to the processor behind such a reply to headers, too, and the end of
    /// the stream takes it back: it counts as sent. Of a body that holds with a response that is complete.
    fn count_held(&mut self, complete: bool, now: Instant) {
        let request = &self.request;
        let sends = complete && body::of(request.mode.body).sends_held(request.came.is_ended());
        if sends && !request.held.is_empty() {
            let whole = self.request.held.share();
            let flags = Self::flags(false);
            self.send_body(Side::Request, whole, flags, Callback::BufferedBody, now);
        } else if self.trailers_are_due(Side::Request) {
            self.send_trailers(Side::Request, now);
        }
    }

    fn local_body(&mut self, body: StreamedBody) {
        self.count_local();
        let StreamedBody {
            body,
            end_of_stream,
            ..
        } = body;
        self.emit_data(Side::Response, body);
        if end_of_stream {
            self.emit_end(Side::Response);
            self.end_local();
        }
    }

    fn local_trailers(&mut self, list: &HeaderList) {
        self.count_local();
        let mut trailers = HeaderMap::new();
        let mutated = self.apply_local(list, &mut Block::ResponseTrailers(&mut trailers));
        if let Some(rejection) = mutated.error {
            return self.respond_error(self.config.status_on_error, rejection.detail.into());
        }
        self.emit_trailers(Side::Response, trailers);
        self.end_local();
    }

    fn end_local(&mut self) {
        self.local = Local::Ended;
        self.request.came.end();
        self.close_stream();
    }

    /// The client's trailers meanwhile, which the processor may have asked for.
    pub(super) fn local_request_trailers(&mut self, trailers: HeaderMap, now: Instant) {
        if self.request.mode.trailers && !self.complete {
            self.request.trailers = Some(trailers);
            self.send_trailers(Side::Request, now);
        }
    }

    /// The client's body meanwhile: dropped, or sent to the processor in full duplex.
    pub(super) fn local_request_data(&mut self, data: Bytes, end: bool, now: Instant) {
        if self.request.mode.shows_body() && !self.complete {
            body::of(self.request.mode.body).data(self, Side::Request, data, end, now);
        }
    }

    /// Returns whether the client's body is read while the processor streams the response.
    pub(super) fn local_wants_request(&self) -> bool {
        self.outbound.is_empty()
    }

    /// Each entry is a set: of duplicates the last one stays.
    fn apply_local(&self, list: &HeaderList, block: &mut Block<'_>) -> headers::Mutated {
        let message = HeaderMutation {
            set_headers: list
                .headers
                .iter()
                .map(|entry| HeaderOption {
                    header: Some(entry.clone()),
                    append: None,
                })
                .collect(),
            remove_headers: Vec::new(),
        };
        let rules: &MutationRules = &self.config.mutation_rules;
        let tell = |change: &HeaderChange<'_>| self.show_change(None, change);
        let mutated = Mutation {
            message: &message,
            rules,
            limits: None,
            replacing: false,
            drop_content_length: false,
            guards_framing: self.guards_framing,
            tell: self.is_watched().then_some(&tell),
        }
        .apply(block);
        for _ in 0..mutated.rejected {
            self.event(&Event::RejectedHeaderMutation);
        }
        mutated
    }

    fn count_local(&self) {
        self.event(&Event::MessageReceived {
            phase: None,
            latency: None,
            effect: Effect::Applied,
        });
    }
}
