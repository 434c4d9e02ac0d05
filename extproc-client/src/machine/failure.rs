//! Table of failures and what each one means.
//!
//! | failure | `failure_mode_allow` covers it | otherwise | details |
//! |---|---|---|---|
//! | the stream cannot be had, or ends with an error | yes | `status_on_error` | `ext_proc_error_gRPC_error_<code>{..}` |
//! | no reply in time | yes | 504 | `ext_proc_error_per-message_timeout_exceeded` |
//! | a reply that does not fit | yes | `status_on_error` | `spurious_message` and others |
//! | the HTTP service gives no usable answer | yes | `status_on_error` | `ext_proc_error_HTTP_ERROR` |
//! | a header mutation is refused | no | `status_on_error` | `header_mutation_…` |
//! | body and `content-length` differ | no | `status_on_error` | `mismatch_between_…` |
//! | a body is larger than the buffer limit | no | 413, or 500 in a response | `…_payload_too_large` |
//! | the stream ends cleanly | – | goes on without the processor | – |
//! | the same, and the head of a full duplex body that the processor has whole went on | no | `status_on_error` | `ext_proc_stream_closed_…` |
//!
//! It holds in every phase; only what the client gets depends on it: a response while none was
//! begun, a cut afterwards. Failing open needs the original bytes: it is refused once data of a full
//! duplex direction was received, and once the processor began to stream a response itself.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Action, Callback, Closing, Direction, Exchange, Side, Stream};
use crate::{
    headers::Rejection,
    observer::{Event, FailureRow, NotOpen, Verdict},
    types::stream::Close,
};

/// Time in which a message with a timeout of zero may still leave. In Envoy it leaves before its timer is looked at, so
/// that the processor learns of the exchange.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// Kind of a failure.
#[derive(Debug)]
pub(super) enum Failure {
    /// The stream ended with an error, or there is none.
    Closed(Close),
    /// No reply in time.
    Timeout(Side),
    /// A reply that does not fit.
    Spurious(&'static str),
    /// A header mutation was refused as a whole.
    Rejected(Rejection),
    /// A new body and the `content-length` of its head differ.
    LengthMismatch,
    /// A drain was completed that was not begun.
    UnaskedDrain,
}

impl Exchange {
    /// The side stream could not be opened: nothing was on its way.
    pub(crate) fn not_opened(&mut self, close: Close) {
        self.outbound.clear();
        self.handle_close(close);
    }

    /// The side stream ended.
    pub(crate) fn handle_close(&mut self, close: Close) {
        if self.stream != Stream::Open {
            if !close.is_ok() {
                self.event(&Event::StreamFailed { close: &close });
            }
            return;
        }
        self.stream = Stream::Done;
        self.forget_messages();
        if close.http {
            self.event(&Event::HttpNotOk);
            return self.fail(Failure::Closed(close));
        }
        if !close.is_ok() {
            self.event(&Event::StreamFailed { close: &close });
            self.event(&Event::ServerHalfClosed);
            return self.fail(Failure::Closed(close));
        }
        self.event(&Event::StreamClosed);
        self.event(&Event::ServerHalfClosed);
        self.complete = true;
        if self.local.is_active() {
            let (status, details) = (
                self.config.status_on_error,
                "ext_proc_local_response_not_completed",
            );
            self.show_refusal(FailureRow::Unfinished, status, details, NotOpen::NotCovered);
            return self.respond(status, Bytes::new(), details.into());
        }
        if [&self.request, &self.response]
            .into_iter()
            .any(Direction::is_left_unfinished)
        {
            let (status, details) = (
                self.config.status_on_error,
                "ext_proc_stream_closed_before_the_end_of_the_body",
            );
            self.show_refusal(FailureRow::Unfinished, status, details, NotOpen::NotCovered);
            return self.respond(status, Bytes::new(), details.into());
        }
        self.pass_everything();
    }

    /// Time has passed. Does nothing before [`next_timeout`](Self::next_timeout).
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for side in [Side::Request, Side::Response] {
            let due = |deadline: Instant| deadline <= now;
            if self.direction(side).deadline().is_some_and(due) {
                return self.fail(Failure::Timeout(side));
            }
        }
    }

    /// The table above.
    pub(super) fn fail(&mut self, failure: Failure) {
        if self.complete {
            return;
        }
        let covered = match &failure {
            Failure::Closed(_)
            | Failure::Timeout(_)
            | Failure::Spurious(_)
            | Failure::UnaskedDrain => true,
            Failure::Rejected(_) | Failure::LengthMismatch => false,
        };
        match &failure {
            Failure::Timeout(side) => {
                let phase = match self.direction(*side).callback {
                    Callback::Headers | Callback::Idle => side.headers(),
                    Callback::BufferedBody | Callback::StreamedBody | Callback::PartialBody => {
                        side.body()
                    }
                    Callback::Trailers => side.trailers(),
                };
                self.event(&Event::MessageTimeout { phase });
            }
            Failure::Spurious(detail) => self.event(&Event::SpuriousMessage { detail }),
            Failure::Closed(_)
            | Failure::Rejected(_)
            | Failure::LengthMismatch
            | Failure::UnaskedDrain => {}
        }
        let ended_by_processor = matches!(&failure, Failure::Closed(close) if !close.http);
        match &failure {
            Failure::Timeout(_) if self.config.message_timeout.is_zero() => {
                self.close_stream_so(Closing::Within(ON_ITS_WAY));
            }
            _ => self.reset_stream(),
        }
        let Err(because) = self.fails_open(covered) else {
            if ended_by_processor {
                // Envoy counts these once more on this path.
                self.event(&Event::StreamClosed);
                self.event(&Event::ServerHalfClosed);
            }
            if self.is_watched() {
                let (_, details) = self.outcome(&failure);
                self.show(&Event::Failed {
                    row: failure.row(),
                    details: &details,
                    verdict: Verdict::FailedOpen,
                });
            }
            self.event(&Event::FailureModeAllowed);
            return self.pass_everything();
        };
        let (status, details) = self.outcome(&failure);
        self.show_refusal(failure.row(), status, &details, because);
        self.respond_error(status, details);
    }

    fn outcome(&self, failure: &Failure) -> (http::StatusCode, String) {
        let on_error = self.config.status_on_error;
        match failure {
            Failure::Timeout(_) => (
                http::StatusCode::GATEWAY_TIMEOUT,
                "ext_proc_error_per-message_timeout_exceeded".into(),
            ),
            Failure::Closed(close) if close.http => (on_error, "ext_proc_error_HTTP_ERROR".into()),
            Failure::Closed(close) => (on_error, close_details(close)),
            Failure::Spurious(detail) => (on_error, (*detail).into()),
            Failure::Rejected(rejection) => (on_error, rejection.detail.into()),
            Failure::LengthMismatch => (
                on_error,
                "mismatch_between_content_length_and_the_length_of_the_mutated_body".into(),
            ),
            Failure::UnaskedDrain => (on_error, "drain_completed_before_it_was_announced".into()),
        }
    }

    /// Tells of a failure after which the exchange does not go on.
    fn show_refusal(
        &self,
        row: FailureRow,
        status: http::StatusCode,
        details: &str,
        because: NotOpen,
    ) {
        let verdict = match self.committed {
            true if self.response.gone.is_ended() => Verdict::RequestCut { because },
            true => Verdict::Cut { because },
            false => Verdict::LocalReply {
                status: status.as_u16(),
                because,
            },
        };
        self.show(&Event::Failed {
            row,
            details,
            verdict,
        });
    }

    fn fails_open(&self, covered: bool) -> Result<(), NotOpen> {
        if !covered {
            return Err(NotOpen::NotCovered);
        }
        match (self.config.failure_mode_allow, self.can_fail_open()) {
            (false, _) => Err(NotOpen::Off),
            (true, false) => Err(NotOpen::TooLate),
            (true, true) => Ok(()),
        }
    }

    fn can_fail_open(&self) -> bool {
        let lost = [&self.request, &self.response]
            .iter()
            .any(|direction| direction.mode.body.is_duplex() && direction.came.has_data());
        !lost && !self.local.is_active()
    }

    /// From now on both directions pass by: what is held goes on as it came.
    pub(super) fn pass_everything(&mut self) {
        for side in [Side::Request, Side::Response] {
            let direction = self.direction_mut(side);
            direction.finish_call(Callback::Idle);
            if !direction.has_head() || direction.gone.is_ended() {
                continue;
            }
            let queued = direction.join_queue();
            let partial = direction.deframer.take();
            self.release_head(side);
            self.emit_pieces(side, queued.data);
            self.emit_data(side, partial);
            self.release(side);
        }
    }

    /// Returns whether what is buffered fits; if not, the exchange is answered so. Gives whether to go on.
    pub(super) fn check_buffer(&mut self, side: Side, now: Instant) -> bool {
        let direction = self.direction(side);
        if direction.held.len() <= direction.buffer_limit {
            return true;
        }
        self.overflow(side, now);
        false
    }

    /// A body is larger than the buffer limit. The 413 of a request is an answer like that of an
    /// upstream, and is processed as one, unless there is one already.
    pub(super) fn overflow(&mut self, side: Side, now: Instant) {
        let (status, text, details) = match side {
            Side::Request => (
                http::StatusCode::PAYLOAD_TOO_LARGE,
                "Payload Too Large",
                "request_payload_too_large",
            ),
            Side::Response => (
                http::StatusCode::INTERNAL_SERVER_ERROR,
                "Internal Server Error",
                "response_payload_too_large",
            ),
        };
        self.show_refusal(
            FailureRow::BufferLimit,
            status,
            details,
            NotOpen::NotCovered,
        );
        let text = Bytes::from_static(text.as_bytes());
        if side == Side::Response || self.response.has_head() {
            let direction = self.direction_mut(side);
            direction.drop_unsent();
            direction.clear_queue();
            self.close_stream_flushed();
            return self.respond(status, text, details.into());
        }
        self.request.drop_unsent();
        self.request.clear_queue();
        self.request.stop_timer();
        self.request.came.end();
        // The head stays for the reply that may be awaited: what that may not change counts.
        self.request.gone.end();
        self.actions.push_back(Action::CancelRequest);
        let (head, body) = self.local_response(status, text, None, details.into());
        self.response_head(head, body.is_empty(), now);
        if !body.is_empty() {
            self.data(Side::Response, body, true, now);
        }
    }
}

impl Failure {
    /// The row for observers.
    fn row(&self) -> FailureRow {
        match self {
            Self::Closed(close) if close.http => FailureRow::HttpService,
            Self::Closed(_) => FailureRow::Stream,
            Self::Timeout(_) => FailureRow::Timeout,
            Self::Spurious(_) | Self::UnaskedDrain => FailureRow::Spurious,
            Self::Rejected(_) => FailureRow::Mutation,
            Self::LengthMismatch => FailureRow::ContentLength,
        }
    }
}

/// `ext_proc_error_gRPC_error_<code>{<message>{<details>}}`, white space replaced.
fn close_details(close: &Close) -> String {
    let inner = match (close.message.is_empty(), close.details.is_empty()) {
        (false, false) => format!("{}{{{}}}", close.message, close.details),
        (false, true) => close.message.clone(),
        (true, _) => close.details.clone(),
    };
    super::immediate::without_spaces(&format!(
        "ext_proc_error_gRPC_error_{}{{{inner}}}",
        close.code
    ))
}
