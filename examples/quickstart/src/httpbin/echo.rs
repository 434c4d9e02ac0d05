//! Endpoints that show the request, or a part of it.

use axum::{
    extract::{Path, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use serde_json::json;

use super::{
    body::{self, BodyFields},
    reply::{self, Refusal},
    seen::{Args, Seen, header_text},
};

/// An echo of a request with a body.
#[derive(Serialize)]
struct WithBody {
    #[serde(flatten)]
    seen: Seen,
    #[serde(flatten)]
    body: BodyFields,
}

pub(super) async fn headers(seen: Seen) -> Response {
    reply::json(&json!({ "headers": seen.headers }))
}

pub(super) async fn ip(seen: Seen) -> Response {
    reply::json(&json!({ "origin": seen.origin }))
}

pub(super) async fn user_agent(headers: HeaderMap) -> Response {
    reply::json(&json!({ "user-agent": header_text(&headers, header::USER_AGENT) }))
}

pub(super) async fn uuid() -> Response {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    reply::json(&json!({ "uuid": id.to_string() }))
}

/// A fixed name: the machine's own is nobody's business.
pub(super) async fn hostname() -> Response {
    reply::json(&json!({ "hostname": "httpbin" }))
}

pub(super) async fn without_body(seen: Seen) -> Response {
    reply::json(&seen)
}

pub(super) async fn with_body(seen: Seen, request: Request) -> Result<Response, Refusal> {
    Ok(reply::json(&echo(seen, request).await?))
}

/// The echo of `request` as a value, for endpoints that send it in their own way.
pub(super) async fn echo(seen: Seen, request: Request) -> Result<impl Serialize, Refusal> {
    let body = body::read(request).await?;
    Ok(WithBody { seen, body })
}

pub(super) async fn anything(
    method: Method,
    seen: Seen,
    request: Request,
) -> Result<Response, Refusal> {
    if method == Method::HEAD {
        return Ok(without_body(seen).await);
    }
    with_body(seen, request).await
}

/// Every query parameter becomes a response header.
///
/// Names that are no header names are left out, as are the two headers that frame the body: they would be a lie.
pub(super) async fn response_headers(Args(mut args): Args) -> Response {
    if !args
        .keys()
        .any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        let json = String::from("application/json; charset=utf-8");
        args.insert(String::from("Content-Type"), vec![json]);
    }
    let mut response = reply::json(&args);
    let mut headers = HeaderMap::new();
    for (name, values) in &args {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            continue;
        }
        for value in values {
            if let Ok(value) = HeaderValue::from_str(&value.replace(['\r', '\n'], " ")) {
                headers.append(name.clone(), value);
            }
        }
    }
    if let Some(content_type) = headers.remove(header::CONTENT_TYPE) {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
    }
    response.headers_mut().extend(headers);
    response
}

/// 304 to a conditional request, an echo with validators otherwise.
pub(super) async fn cache(seen: Seen, headers: HeaderMap) -> Response {
    let conditional = [header::IF_MODIFIED_SINCE, header::IF_NONE_MATCH]
        .into_iter()
        .any(|name| !header_text(&headers, name).is_empty());
    if conditional {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let validators = [
        (
            header::LAST_MODIFIED,
            HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"),
        ),
        (header::ETAG, HeaderValue::from_static("\"httpbin\"")),
    ];
    (validators, reply::json(&seen)).into_response()
}

pub(super) async fn cache_control(
    seen: Seen,
    Path(seconds): Path<String>,
) -> Result<Response, Refusal> {
    let seconds = reply::integer(&seconds, "seconds")?;
    let control = format!("public, max-age={seconds}");
    Ok(([(header::CACHE_CONTROL, control)], reply::json(&seen)).into_response())
}
