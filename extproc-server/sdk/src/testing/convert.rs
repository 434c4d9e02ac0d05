//! Between the messages of the protocol and those of tests.

use std::{fmt, time::Duration};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::ext_proc::v3::{
            BodyMutation, CommonResponse, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse,
            StreamedBodyResponse, TrailersResponse, body_mutation::Mutation,
            processing_request::Request, processing_response::Response,
        },
    },
    google::protobuf::{Duration as WireDuration, Struct, value::Kind},
};
use serde_json::{Map, Value};

use super::{
    Message, ProxyError,
    mutate::{self, Rules},
};
use crate::{types::Side, view::attributes};

pub(super) fn headers(side: Side, message: &Message, end_of_stream: bool) -> Request {
    let headers = HttpHeaders {
        headers: Some(fields(&message.headers)),
        end_of_stream,
        ..HttpHeaders::default()
    };
    match side {
        Side::Request => Request::RequestHeaders(headers),
        Side::Response => Request::ResponseHeaders(headers),
    }
}

pub(super) fn body(side: Side, data: &Bytes, end_of_stream: bool) -> Request {
    let body = HttpBody {
        body: data.to_vec(),
        end_of_stream,
        ..HttpBody::default()
    };
    body_request(side, body)
}

pub(super) fn body_request(side: Side, body: HttpBody) -> Request {
    match side {
        Side::Request => Request::RequestBody(body),
        Side::Response => Request::ResponseBody(body),
    }
}

pub(super) fn trailers(side: Side, message: &Message) -> Request {
    let trailers = HttpTrailers {
        trailers: Some(fields(&message.trailers)),
    };
    match side {
        Side::Request => Request::RequestTrailers(trailers),
        Side::Response => Request::ResponseTrailers(trailers),
    }
}

fn fields(fields: &[(String, Vec<u8>)]) -> HeaderMap {
    let entry = |(key, value): &(String, Vec<u8>)| HeaderValue {
        key: key.clone(),
        value: String::new(),
        raw_value: value.clone(),
    };
    HeaderMap {
        headers: fields.iter().map(entry).collect(),
    }
}

pub(super) fn headers_reply(side: Side, reply: Response) -> Result<CommonResponse, ProxyError> {
    match (side, reply) {
        (Side::Request, Response::RequestHeaders(reply))
        | (Side::Response, Response::ResponseHeaders(reply)) => {
            Ok(reply.response.unwrap_or_default())
        }
        (_, reply) => Err(spurious("no reply to headers", &reply)),
    }
}

pub(super) fn body_reply(side: Side, reply: Response) -> Result<CommonResponse, ProxyError> {
    match (side, reply) {
        (Side::Request, Response::RequestBody(reply))
        | (Side::Response, Response::ResponseBody(reply)) => Ok(reply.response.unwrap_or_default()),
        (_, reply) => Err(spurious("no reply to a body", &reply)),
    }
}

pub(super) fn trailers_reply(side: Side, reply: &Response) -> Option<TrailersResponse> {
    match (side, reply) {
        (Side::Request, Response::RequestTrailers(reply))
        | (Side::Response, Response::ResponseTrailers(reply)) => Some(reply.clone()),
        _ => None,
    }
}

/// The new body in the modes with one reply each.
pub(super) fn whole(mutation: BodyMutation) -> Result<Bytes, ProxyError> {
    match mutation.mutation {
        Some(Mutation::Body(body)) => Ok(body.into()),
        Some(Mutation::ClearBody(true)) => Ok(Bytes::new()),
        other => Err(spurious("no whole body", &other)),
    }
}

/// The piece in a duplex mode.
pub(super) fn streamed_piece(common: CommonResponse) -> Result<StreamedBodyResponse, ProxyError> {
    match common.body_mutation.and_then(|mutation| mutation.mutation) {
        Some(Mutation::StreamedResponse(piece)) => Ok(piece),
        other => Err(spurious("no streamed_response", &other)),
    }
}

/// The head of a streamed response; its status is among its headers.
pub(super) fn response_head(head: HttpHeaders) -> Result<Message, ProxyError> {
    let message = Message {
        headers: entries(head.headers.unwrap_or_default()),
        ..Message::default()
    };
    if message.status() < 200 {
        return Err(spurious("no final status", &message));
    }
    Ok(message)
}

pub(super) fn entries(map: HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.headers
        .into_iter()
        .map(|header| (header.key, header.raw_value))
        .collect()
}

pub(super) fn immediate_response(immediate: ImmediateResponse) -> Result<Message, ProxyError> {
    let code = immediate.status.map_or(200, |status| status.code);
    let code = u16::try_from(code).unwrap_or_default().max(200);
    let mut message = Message::response(code);
    mutate::apply(&mut message.headers, immediate.headers, Rules::default())?;
    message.remove("content-length");
    if !immediate.body.is_empty() && message.get("content-type").is_none() {
        message = message.header("content-type", "text/plain");
    }
    Ok(message.body(immediate.body))
}

pub(super) fn to_struct(members: &Map<String, Value>) -> Struct {
    match attributes::object(Value::Object(members.clone())).kind {
        Some(Kind::StructValue(group)) => group,
        _ => Struct::default(),
    }
}

pub(super) fn spurious(what: &str, reply: &impl fmt::Debug) -> ProxyError {
    ProxyError::Spurious(format!("{what}: {reply:?}"))
}

pub(super) fn duration(wire: WireDuration) -> Duration {
    Duration::new(
        u64::try_from(wire.seconds).unwrap_or_default(),
        u32::try_from(wire.nanos).unwrap_or_default(),
    )
}
