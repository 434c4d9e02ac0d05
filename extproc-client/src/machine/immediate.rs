//! Answers that end the exchange at once: immediate responses and error replies.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};

use super::{Action, Exchange, Side, failure::Failure, half::Head};
use crate::{
    context::outcome::{Answer, Origin, Outcome},
    headers::{Block, Mutation},
    observer::Event,
    text::grpc::grpc_code,
    types::{header_change::HeaderChange, phase::Effect},
    wire::{HeaderMutation, ImmediateReply},
};

/// Bytes that details of a response and `grpc-message` take of a processor's text: both are part of a head, and of lines of logs.
const TOLD: usize = 16 * 1024;

impl Exchange {
    pub(super) fn immediate_reply(&mut self, reply: ImmediateReply, now: Instant) {
        if self.config.disable_immediate_response {
            return self.fail(Failure::Spurious(
                "unhandled_immediate_response_due_to_config_disabled_it",
            ));
        }
        let details = without_spaces(&reply.details);
        let status = reply.status.map_or(0, |status| status.code);
        let status = u16::try_from(status)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .filter(|status| *status >= StatusCode::OK)
            .unwrap_or(StatusCode::OK);
        // It answers whatever was shown.
        let sent = [self.request.call_began(), self.response.call_began()];
        let latency = sent.into_iter().flatten().min();
        self.event(&Event::MessageReceived {
            phase: None,
            latency: latency.map(|sent| now.saturating_duration_since(sent)),
            effect: Effect::Applied,
        });
        self.event(&Event::ImmediateResponseSent {
            status: status.as_u16(),
            details: &details,
        });
        self.close_stream();
        let grpc_status = reply.grpc_status.map(|grpc| grpc.status);
        let headers = reply
            .headers
            .map(|mutation| self.immediate_headers(&mutation));
        let (mut head, body) = self.local_response(status, reply.body, grpc_status, details);
        if let Some(headers) = headers {
            merge(&mut head.headers, headers, self.form.grpc);
        }
        match self.committed {
            true => self.abort(Answer { head, body }),
            false => self.answer(head, body),
        }
    }

    /// An answer to a failure, without a body.
    pub(super) fn respond_error(&mut self, status: StatusCode, details: String) {
        self.event(&Event::ImmediateResponseSent {
            status: status.as_u16(),
            details: &details,
        });
        self.respond(status, Bytes::new(), details);
    }

    /// An answer of our own, or a cut if one was begun.
    pub(super) fn respond(&mut self, status: StatusCode, body: Bytes, details: String) {
        let (head, body) = self.local_response(status, body, None, details);
        match self.committed {
            true => self.abort(Answer { head, body }),
            false => self.answer(head, body),
        }
    }

    /// The response cannot be completed. Nothing is sent on any more. The answer is for whoever still holds its head.
    pub(super) fn abort(&mut self, answer: Answer) {
        if !self.config.observability_mode {
            self.close_stream();
        }
        if self.response.gone.is_ended() {
            // The client has its response. What is left of the request goes nowhere without the processor.
            if !self.request.gone.is_ended() {
                self.finish_directions();
                self.actions.push_back(Action::CancelRequest);
            }
            return;
        }
        self.finish_directions();
        self.actions
            .retain(|action| !matches!(action, Action::RequestHead { .. }));
        self.actions.push_back(Action::CancelRequest);
        if !self.committed {
            self.committed = true;
            let (mut head, _) = self.local_response(
                StatusCode::BAD_GATEWAY,
                Bytes::new(),
                None,
                without_spaces(answer.details()),
            );
            head.headers.remove(header::CONTENT_LENGTH);
            Outcome::of_head_mut(&mut head).origin = Origin::Lost;
            self.actions
                .push_back(Action::ResponseHead { head, end: false });
        }
        self.actions.push_back(Action::Abort(Box::new(answer)));
    }

    /// Sends a complete response and nothing else from now on.
    pub(super) fn answer(&mut self, mut head: response::Parts, body: Bytes) {
        let outcome = Outcome::of_head_mut(&mut head);
        outcome.origin = match self.response.has_head() {
            true => Origin::Final,
            false => match self.request.take_request() {
                Some(request) => Origin::Early { request },
                None => Origin::Late,
            },
        };
        outcome.processor = Some(self.summary.get());
        self.actions.clear();
        self.actions.push_back(Action::CancelRequest);
        self.finish_directions();
        self.committed = true;
        let end = body.is_empty();
        self.actions.push_back(Action::ResponseHead { head, end });
        if !end {
            self.actions.push_back(Action::Data(Side::Response, body));
            self.actions.push_back(Action::End(Side::Response));
        }
    }

    /// Nothing more is read or sent on in either direction.
    fn finish_directions(&mut self) {
        for side in [Side::Request, Side::Response] {
            let direction = self.direction_mut(side);
            direction.came.end();
            direction.gone.end();
            direction.head = Head::Forwarded;
        }
    }

    /// The head and body of a response made here: for a gRPC request headers alone, with the status
    /// mapped (gRPC over HTTP/2, "HTTP to gRPC status code mapping").
    pub(super) fn local_response(
        &self,
        status: StatusCode,
        body: Bytes,
        grpc_status: Option<u32>,
        details: String,
    ) -> (response::Parts, Bytes) {
        let mut head = http::Response::new(()).into_parts().0;
        let outcome = Outcome::of_head_mut(&mut head);
        outcome.details = Some(details.into());
        outcome.local = Some(status);
        if self.form.grpc {
            let code = grpc_status.unwrap_or_else(|| grpc_code(status).into());
            head.headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            head.headers
                .insert(HeaderName::from_static("grpc-status"), code.into());
            if !body.is_empty()
                && let Ok(message) =
                    HeaderValue::from_str(&percent_encoded(&body[..body.len().min(TOLD)]))
            {
                head.headers
                    .insert(HeaderName::from_static("grpc-message"), message);
            }
            return (head, Bytes::new());
        }
        head.status = status;
        if !body.is_empty() {
            head.headers
                .insert(header::CONTENT_LENGTH, (body.len() as u64).into());
            head.headers
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        let bodyless = self.form.head
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        (head, if bodyless { Bytes::new() } else { body })
    }

    /// The headers of an immediate response, after the rules. A bad entry ends the mutation; what was
    /// set before it stays.
    fn immediate_headers(&self, message: &HeaderMutation) -> HeaderMap {
        let mut head = http::Response::new(()).into_parts().0;
        let tell = |change: &HeaderChange<'_>| self.show_change(None, change);
        let outcome = Mutation {
            message,
            rules: &self.config.mutation_rules,
            limits: None,
            replacing: false,
            drop_content_length: true,
            guards_framing: self.guards_framing,
            tell: self.is_watched().then_some(&tell),
        }
        .apply(&mut Block::Response(&mut head));
        // Where a response has begun, nobody may need the headers.
        let rejected = if self.committed { 0 } else { outcome.rejected };
        for _ in 0..rejected {
            self.event(&Event::RejectedHeaderMutation);
        }
        head.headers
    }
}

/// Headers of the processor before those of the local reply, of which `content-type` alone may be replaced,
/// where there is content.
fn merge(base: &mut HeaderMap, given: HeaderMap, is_grpc: bool) {
    let has_content = base.contains_key(header::CONTENT_TYPE) && !is_grpc;
    let mut last = None;
    for (name, value) in given {
        let first = name.is_some();
        let Some(name) = name.or_else(|| last.clone()) else {
            continue;
        };
        last = Some(name.clone());
        let fixed = name == header::CONTENT_LENGTH
            || name == header::CONTENT_TYPE && !has_content
            || is_grpc && name == "grpc-status";
        if fixed {
            continue;
        }
        // What a full map does not take is left out.
        let _ = match first {
            true => base.try_insert(name, value).map(|_| ()),
            false => base.try_append(name, value).map(|_| ()),
        };
    }
}

/// gRPC over HTTP/2, `Percent-Encoded`: printable ASCII but `%` stays as it is.
fn percent_encoded(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Response code details of a processor's text: they hold no white space, and what is beyond [`TOLD`] is cut off.
pub(super) fn without_spaces(text: &str) -> String {
    let end = text.floor_char_boundary(TOLD);
    text[..end]
        .chars()
        .map(|c| if c.is_whitespace() { '_' } else { c })
        .collect()
}
