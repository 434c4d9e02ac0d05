//! Responses that the gateway makes itself.

use std::borrow::Cow;

use bytes::Bytes;
use extproc_client::{
    host::{Outcome, ResponseFlags},
    text::grpc::grpc_code,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::http::body::Body;

/// Octets that `grpc-message` has to encode.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%').add(b'\x7f');

/// A local reply; to a `grpc` request it is a trailers-only one (status 200, `grpc-status`).
pub(crate) fn reply(
    grpc: bool,
    status: StatusCode,
    body: Cow<'static, str>,
    details: impl Into<Cow<'static, str>>,
    flags: u64,
) -> Response<Body> {
    let body = match body {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(text) => text.into(),
    };
    reply_with(grpc, status, body, details, flags)
}

/// The same with a body that need not be text.
pub(crate) fn reply_with(
    grpc: bool,
    status: StatusCode,
    body: Bytes,
    details: impl Into<Cow<'static, str>>,
    flags: u64,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    match grpc {
        true => put_grpc(&mut response, status, &body),
        false => put(&mut response, status, body),
    }
    let outcome = Outcome::of_mut(&mut response);
    outcome.local = Some(status);
    outcome.details = Some(details.into());
    outcome.flags = ResponseFlags::new(flags);
    response
}

/// Gives a response this status and body.
pub(crate) fn put(response: &mut Response<Body>, status: StatusCode, body: Bytes) {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    *response.body_mut() = Body::full(body);
}

/// Makes of a response the trailers-only one that says the same.
pub(crate) fn put_grpc(response: &mut Response<Body>, status: StatusCode, body: &[u8]) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-status", u16::from(grpc_code(status)).into());
    put_grpc_message(headers, body);
    *response.body_mut() = Body::empty();
}

/// Says a text in `grpc-message`.
pub(crate) fn put_grpc_message(headers: &mut HeaderMap, text: &[u8]) {
    if !text.is_empty()
        && let Ok(message) = HeaderValue::try_from(percent_encode(text, MESSAGE).to_string())
    {
        headers.insert("grpc-message", message);
    }
}
