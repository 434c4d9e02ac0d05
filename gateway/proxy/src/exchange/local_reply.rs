//! Responses that the gateway made itself, in the form that the configuration gives them (`local_reply_config`).

use bytes::Bytes;
use extproc_client::{config::Effort, host::Outcome, text::grpc::grpc_code};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::percent_decode;

use super::{Exchange, Reply, header_changes, log_filter::passes, operators::Scope, record::Head};
use crate::{
    config::snapshot::ReplyFormat,
    http::{body::Body, local_reply},
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");

/// Applies the configuration to a response, if that is a local reply.
pub(super) fn rewrite(response: &mut Response<Body>, exchange: &Exchange) {
    let Some(config) = &exchange.http.local_reply else {
        return;
    };
    let Some(before) = Outcome::of(response).local else {
        return;
    };
    let (original, grpc_status) = bare(response, before, exchange.grpc);
    let mut text = original.clone();
    let mut code = before;
    let head = exchange.head();
    let seen = Reply::of(response);
    let scope = Scope::of(exchange, head.as_ref(), &seen);
    let mut effort = Effort::default();
    let mut mappers = config.mappers.iter();
    let mapper = mappers.find(|mapper| passes(&mapper.filter, &scope, &mut effort));
    let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
    let mut format = config.format.as_deref();
    if let Some(mapper) = mapper {
        if let Some(body) = &mapper.body {
            text = body.clone();
        }
        let changes = std::iter::once(mapper.headers.as_slice());
        header_changes::response(response, changes, exchange, head.as_ref());
        code = mapper.status.unwrap_or(code);
        format = mapper.format.as_deref().or(format);
    }
    *response.status_mut() = code;
    let is_typed = response.headers().get(header::CONTENT_TYPE) != content_type.as_ref();
    let mut form = PLAIN;
    if let Some(format) = format {
        text = formatted(format, response, &text, exchange, head.as_ref()).into();
        form = format.content_type.clone();
    }
    let is_new = text != original && !is_typed;
    if exchange.grpc {
        let headers = response.headers_mut();
        let given = headers.remove(GRPC_STATUS).or(grpc_status);
        local_reply::put_grpc(response, code, &text);
        if let Some(given) = given {
            response.headers_mut().insert(GRPC_STATUS, given);
        }
    } else {
        let kept = response.headers_mut().remove(header::CONTENT_TYPE);
        local_reply::put(response, code, text);
        let headers = response.headers_mut();
        if headers.contains_key(header::CONTENT_TYPE) {
            let kept = kept.filter(|_| !is_new);
            headers.insert(header::CONTENT_TYPE, kept.unwrap_or(form));
        }
    }
    Outcome::of_mut(response).local = Some(code);
}

/// Takes off a reply what depends on its text. Gives the text, and the gRPC status if it is not the one of the code.
fn bare(
    response: &mut Response<Body>,
    code: StatusCode,
    grpc: bool,
) -> (Bytes, Option<HeaderValue>) {
    *response.status_mut() = code;
    let text = response.body_mut().take_ready();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    if !grpc {
        if headers.get(header::CONTENT_TYPE) == Some(&PLAIN) {
            headers.remove(header::CONTENT_TYPE);
        }
        return (text, None);
    }
    headers.remove(header::CONTENT_TYPE);
    let usual = HeaderValue::from(u16::from(grpc_code(code)));
    let status = headers
        .remove(GRPC_STATUS)
        .filter(|status| *status != usual);
    (message(headers).unwrap_or(text), status)
}

/// The text of a trailers-only response.
fn message(headers: &mut HeaderMap) -> Option<Bytes> {
    let encoded = headers.remove(GRPC_MESSAGE)?;
    Some(
        percent_decode(encoded.as_bytes())
            .collect::<Vec<u8>>()
            .into(),
    )
}

/// The body of an answer that the route gives, in its own form; there is no response yet.
pub(crate) fn of_route(
    format: &ReplyFormat,
    body: &Bytes,
    exchange: &Exchange,
    head: &Head,
) -> String {
    let reply = Reply {
        local_body: String::from_utf8_lossy(body).into_owned(),
        ..Reply::default()
    };
    let scope = Scope::of(exchange, Some(head), &reply);
    scope.formatted(&format.format, format.omit_empty)
}

fn formatted(
    format: &ReplyFormat,
    response: &Response<Body>,
    text: &Bytes,
    exchange: &Exchange,
    head: Option<&Head>,
) -> String {
    let reply = Reply {
        local_body: String::from_utf8_lossy(text).into_owned(),
        ..Reply::of(response)
    };
    let scope = Scope::of(exchange, head, &reply);
    scope.formatted(&format.format, format.omit_empty)
}
