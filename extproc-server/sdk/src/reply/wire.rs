//! Replies as messages of the protocol.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::HeaderMap,
        service::ext_proc::v3::{
            BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMutation,
            HeadersResponse, HttpHeaders, ImmediateResponse, ProcessingResponse,
            StreamedBodyResponse, StreamedImmediateResponse, TrailersResponse, body_mutation,
            common_response::ResponseStatus, processing_response::Response,
            streamed_immediate_response,
        },
        r#type::v3::HttpStatus,
    },
    google::protobuf::Duration as WireDuration,
};
use http::StatusCode;

use crate::{
    reply::{Content, Immediate, Mutation},
    types::{BodyMode, Side},
    view::Body,
};

/// The largest piece of a body in a duplex mode. The protocol recommends at most 64 kB per message.
pub(crate) const PIECE: usize = 62 * 1024;

/// The reply to headers; `replacement` is the whole new body.
pub(crate) fn headers(
    side: Side,
    mutation: Mutation,
    replacement: Option<Bytes>,
    clear_route_cache: bool,
) -> ProcessingResponse {
    let status = match replacement {
        None => ResponseStatus::Continue,
        Some(_) => ResponseStatus::ContinueAndReplace,
    };
    let reply = HeadersResponse {
        response: Some(CommonResponse {
            status: status.into(),
            header_mutation: header_mutation(mutation, clear_route_cache),
            body_mutation: replacement.map(whole),
            trailers: None,
            clear_route_cache,
        }),
    };
    respond(match side {
        Side::Request => Response::RequestHeaders(reply),
        Side::Response => Response::ResponseHeaders(reply),
    })
}

/// The reply to a piece of a body in the modes with one reply each.
pub(crate) fn body(
    side: Side,
    mutation: Mutation,
    content: Content,
    clear_route_cache: bool,
) -> ProcessingResponse {
    let body_mutation = match content {
        Content::Keep => None,
        Content::Replace(body) => Some(whole(body)),
        Content::Clear => Some(whole(Bytes::new())),
    };
    body_response(
        side,
        CommonResponse {
            status: ResponseStatus::Continue.into(),
            header_mutation: header_mutation(mutation, clear_route_cache),
            body_mutation,
            trailers: None,
            clear_route_cache,
        },
    )
}

/// Proxies ignore `clear_route_cache` in a reply without a header mutation; an empty one is enough.
fn header_mutation(mutation: Mutation, clear_route_cache: bool) -> Option<HeaderMutation> {
    mutation
        .into_wire()
        .or_else(|| clear_route_cache.then(HeaderMutation::default))
}

/// A piece of a body in a duplex mode.
pub(crate) fn streamed(side: Side, piece: StreamedBodyResponse) -> ProcessingResponse {
    body_response(
        side,
        CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(body_mutation::Mutation::StreamedResponse(piece)),
            }),
            ..CommonResponse::default()
        },
    )
}

pub(crate) fn trailers(side: Side, mutation: Mutation) -> ProcessingResponse {
    let reply = TrailersResponse {
        header_mutation: mutation.into_wire(),
    };
    respond(match side {
        Side::Request => Response::RequestTrailers(reply),
        Side::Response => Response::ResponseTrailers(reply),
    })
}

pub(crate) fn immediate(immediate: Immediate) -> ProcessingResponse {
    respond(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: immediate.status.as_u16().into(),
        }),
        headers: immediate.mutation.into_wire(),
        body: immediate.body.into(),
        grpc_status: immediate.grpc_status.map(|status| GrpcStatus { status }),
        details: immediate.details,
    }))
}

/// A message of its own: a proxy that reads the timeout ignores everything beside it.
pub(crate) fn more_time(time: Duration) -> ProcessingResponse {
    ProcessingResponse {
        override_message_timeout: Some(WireDuration {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
        }),
        ..ProcessingResponse::default()
    }
}

/// Cuts a body into the pieces of a duplex mode. A gRPC message stays whole.
pub(crate) fn pieces(
    mode: BodyMode,
    mut body: Bytes,
    end: bool,
) -> impl Iterator<Item = StreamedBodyResponse> {
    let limit = if mode == BodyMode::Grpc {
        usize::MAX
    } else {
        PIECE
    };
    // An empty piece says nothing, except that the body ends, or that a gRPC message is empty.
    let mut due = !body.is_empty() || end || mode == BodyMode::Grpc;
    std::iter::from_fn(move || {
        if !due {
            return None;
        }
        let piece = body.split_to(body.len().min(limit));
        due = !body.is_empty();
        Some(StreamedBodyResponse {
            body: piece.into(),
            end_of_stream: end && !due,
            ..StreamedBodyResponse::default()
        })
    })
}

/// The end of a body without bytes, and without another gRPC message.
pub(crate) fn end_of_body(mode: BodyMode) -> StreamedBodyResponse {
    StreamedBodyResponse {
        end_of_stream: true,
        end_of_stream_without_message: mode == BodyMode::Grpc,
        ..StreamedBodyResponse::default()
    }
}

/// A gRPC message as it was received.
pub(crate) fn same_message(body: Body) -> StreamedBodyResponse {
    StreamedBodyResponse {
        body: body.data.into(),
        end_of_stream: body.end_of_stream,
        end_of_stream_without_message: body.without_message,
        grpc_message_compressed: body.grpc_compressed,
        ..StreamedBodyResponse::default()
    }
}

/// The head of a streamed response.
pub(crate) fn response_head(status: StatusCode, headers: Mutation) -> ProcessingResponse {
    let mut all = Mutation::default();
    all.set(":status", status.as_str().as_bytes());
    let headers = HttpHeaders {
        headers: Some(HeaderMap {
            headers: all.into_entries().chain(headers.into_entries()).collect(),
        }),
        ..HttpHeaders::default()
    };
    streamed_response(streamed_immediate_response::Response::HeadersResponse(
        headers,
    ))
}

pub(crate) fn response_data(piece: StreamedBodyResponse) -> ProcessingResponse {
    streamed_response(streamed_immediate_response::Response::BodyResponse(piece))
}

pub(crate) fn response_end() -> ProcessingResponse {
    response_data(end_of_body(BodyMode::FullDuplexStreamed))
}

pub(crate) fn response_trailers(trailers: Mutation) -> ProcessingResponse {
    let headers = trailers.into_entries().collect();
    streamed_response(streamed_immediate_response::Response::TrailersResponse(
        HeaderMap { headers },
    ))
}

fn streamed_response(part: streamed_immediate_response::Response) -> ProcessingResponse {
    respond(Response::StreamedImmediateResponse(
        StreamedImmediateResponse {
            response: Some(part),
        },
    ))
}

fn whole(body: Bytes) -> BodyMutation {
    let mutation = if body.is_empty() {
        body_mutation::Mutation::ClearBody(true)
    } else {
        body_mutation::Mutation::Body(body.into())
    };
    BodyMutation {
        mutation: Some(mutation),
    }
}

fn body_response(side: Side, common: CommonResponse) -> ProcessingResponse {
    let reply = BodyResponse {
        response: Some(common),
    };
    respond(match side {
        Side::Request => Response::RequestBody(reply),
        Side::Response => Response::ResponseBody(reply),
    })
}

fn respond(response: Response) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(mode: BodyMode, length: usize, end: bool) -> Vec<(usize, bool)> {
        pieces(mode, vec![7; length].into(), end)
            .map(|piece| (piece.body.len(), piece.end_of_stream))
            .collect()
    }

    #[test]
    fn pieces_are_small_and_the_last_one_ends() {
        let duplex = BodyMode::FullDuplexStreamed;
        assert_eq!(cut(duplex, 0, false), []);
        assert_eq!(cut(duplex, 0, true), [(0, true)]);
        assert_eq!(cut(duplex, PIECE, true), [(PIECE, true)]);
        assert_eq!(cut(duplex, PIECE + 1, true), [(PIECE, false), (1, true)]);
        assert_eq!(cut(duplex, PIECE + 1, false), [(PIECE, false), (1, false)]);
    }

    #[test]
    fn clearing_the_route_cache_brings_a_header_mutation_along() {
        let common = |message: ProcessingResponse| match message.response {
            Some(Response::RequestHeaders(reply)) => reply.response.unwrap(),
            Some(Response::RequestBody(reply)) => reply.response.unwrap(),
            other => panic!("{other:?}"),
        };
        for clear in [false, true] {
            let to_headers = headers(Side::Request, Mutation::default(), None, clear);
            let to_body = body(Side::Request, Mutation::default(), Content::Keep, clear);
            for reply in [common(to_headers), common(to_body)] {
                assert_eq!(reply.clear_route_cache, clear);
                assert_eq!(reply.header_mutation.is_some(), clear);
            }
        }
    }

    #[test]
    fn a_grpc_message_stays_whole_even_if_empty() {
        assert_eq!(cut(BodyMode::Grpc, PIECE * 2, false), [(PIECE * 2, false)]);
        assert_eq!(cut(BodyMode::Grpc, 0, false), [(0, false)]);
    }
}
