//! The alphabet: everything that can happen to an exchange next.

use crate::{
    machine::{
        Side::{self, Request, Response},
        tests::play::*,
    },
    wire::{
        BodyMutation, HeaderEntry, HeaderList, ImmediateReply, LocalHeaders, LocalPart, LocalReply,
        ModeReply, Part, Reply, StreamedBody,
    },
};
use bytes::Bytes;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The head of a message arrives, with the end of the message or not.
    Head(Side, bool),
    /// The next piece of its body, with the end of the message or not.
    Piece(Side, bool),
    /// A piece without a byte.
    Empty(Side),
    /// The end of the message alone.
    End(Side),
    /// Trailers, which end the message.
    Trailers(Side),
    /// The peer that sends the message is gone.
    Broken(Side),
    /// The processor replies.
    Reply(Answer),
    /// The processor ends the stream with this gRPC status.
    Close(i32),
    /// The side stream cannot be had.
    Refused,
    /// The processor's connection takes what waits for it.
    Taken,
    /// The message timeout fires.
    Timeout,
    /// The HTTP exchange is over: the client is gone, or has its response.
    Gone,
}

/// One reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Headers(Side, Status),
    Body(Side, Change),
    Trailers(Side),
    /// `immediate_response`.
    Immediate,
    /// No part at all.
    Nothing,
    /// `override_message_timeout` and nothing else.
    Longer,
    /// A CONTINUE of request headers with `mode_override`: body mode of request and response, trailer mode of both.
    Override(i32, i32, i32),
    /// `mode_override` alone, which makes the request FULL_DUPLEX_STREAMED.
    Switch,
    /// `request_drain_requests` or `request_drain_responses`.
    Drain(Side),
    /// `streamed_immediate_response`: its head, with the end or not.
    LocalHead(bool),
    /// A piece of it, with the end or not.
    LocalBody(bool),
    LocalTrailers,
}

/// A reply to headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Continue,
    /// CONTINUE_AND_REPLACE without a body.
    Replace,
    /// CONTINUE_AND_REPLACE with the body [`REPLACED`].
    ReplaceBody,
    /// A header mutation that is refused.
    Refused,
}

/// A reply to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The body becomes [`CHANGED`].
    Body,
    /// `streamed_response` with [`CHANGED`], and `end_of_stream` or not.
    Streamed(bool),
    /// `streamed_response` with `drain_complete`.
    Drained,
}

/// A body that a processor puts in place of a piece.
pub(super) const CHANGED: &str = "X";

/// A body that a processor puts in place of a whole one.
pub(super) const REPLACED: &str = "Y";

/// The bytes of the pieces of a body, in order.
pub(super) fn pieces(side: Side) -> [&'static str; 2] {
    match side {
        Request => ["1", "2"],
        Response => ["3", "4"],
    }
}

/// The bytes by which bodies are followed: those of pieces and of processors. Whatever frames them, and the text of an
/// answer of our own, is left out.
pub(super) fn letters(bytes: &[u8]) -> String {
    let kept = bytes.iter().filter(|byte| b"1234XY".contains(byte));
    kept.map(|byte| char::from(*byte)).collect()
}

/// Replies to the headers, body and trailers of either side, and those that fit anywhere or nowhere.
pub(super) fn answers() -> Vec<Answer> {
    let of = |side| {
        [
            Answer::Headers(side, Status::Continue),
            Answer::Headers(side, Status::Replace),
            Answer::Headers(side, Status::ReplaceBody),
            Answer::Headers(side, Status::Refused),
            Answer::Body(side, Change::Nothing),
            Answer::Body(side, Change::Body),
            Answer::Body(side, Change::Streamed(false)),
            Answer::Body(side, Change::Streamed(true)),
            Answer::Trailers(side),
        ]
    };
    let all = of(Request).into_iter().chain(of(Response));
    all.chain([Answer::Immediate, Answer::Nothing]).collect()
}

impl Answer {
    pub(super) fn reply(self) -> Reply {
        let mut reply = Reply::default();
        reply.part = Some(match self {
            Self::Headers(side, status) => {
                let common = match status {
                    Status::Continue => nothing(),
                    Status::Replace => replace(nothing()),
                    Status::ReplaceBody => replace(common(None, body(REPLACED))),
                    Status::Refused => common(Some(set(&[("a b", "1")])), None),
                };
                match side {
                    Request => rh(common),
                    Response => sh(common),
                }
            }
            Self::Body(side, change) => {
                let common = match change {
                    Change::Nothing => nothing(),
                    Change::Body => common(None, body(CHANGED)),
                    Change::Streamed(end) => stream(CHANGED, end),
                    Change::Drained => common(
                        None,
                        Some(BodyMutation::Streamed(StreamedBody {
                            drain_complete: true,
                            ..StreamedBody::default()
                        })),
                    ),
                };
                match side {
                    Request => rb(common),
                    Response => sb(common),
                }
            }
            Self::Trailers(Request) => rt(None),
            Self::Trailers(Response) => st(None),
            Self::Immediate => Part::Immediate(ImmediateReply::default()),
            Self::Override(request, response, trailers) => {
                reply.mode_override = Some(ModeReply {
                    request_body_mode: request,
                    response_body_mode: response,
                    request_trailer_mode: trailers,
                    response_trailer_mode: trailers,
                    ..ModeReply::default()
                });
                rh(nothing())
            }
            Self::Switch => {
                reply.mode_override = Some(ModeReply {
                    request_body_mode: 4,
                    request_trailer_mode: 1,
                    ..ModeReply::default()
                });
                return reply;
            }
            Self::Nothing => return reply,
            Self::Longer => {
                reply.override_message_timeout = Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 0,
                });
                return reply;
            }
            Self::Drain(side) => {
                reply.request_drain_requests = side == Request;
                reply.request_drain_responses = side == Response;
                return reply;
            }
            Self::LocalHead(end_of_stream) => local(LocalPart::Headers(LocalHeaders {
                headers: Some(HeaderList {
                    headers: vec![HeaderEntry {
                        key: ":status".into(),
                        raw_value: Bytes::from_static(b"200"),
                    }],
                }),
                end_of_stream,
            })),
            Self::LocalBody(end_of_stream) => local(LocalPart::Body(StreamedBody {
                body: CHANGED.into(),
                end_of_stream,
                ..StreamedBody::default()
            })),
            Self::LocalTrailers => local(LocalPart::Trailers(HeaderList {
                headers: vec![HeaderEntry {
                    key: "x-t".into(),
                    raw_value: Bytes::from_static(b"1"),
                }],
            })),
        });
        reply
    }
}

fn local(part: LocalPart) -> Part {
    Part::Local(LocalReply { part: Some(part) })
}
