//! The forms an answer takes: JSON, plain text, and errors.

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
pub(super) const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A body of one piece with its content type.
pub(super) fn typed(content_type: HeaderValue, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

/// JSON with two spaces of indentation and a newline at the end.
pub(super) fn json(value: &impl Serialize) -> Response {
    match to_json(value) {
        Ok(text) => typed(JSON, text),
        Err(refusal) => refusal.into_response(),
    }
}

/// The text of [`json`].
pub(super) fn to_json(value: &impl Serialize) -> Result<String, Refusal> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// An error that the client gets as a JSON document with `status_code`, `error` and `detail`.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    detail: Option<String>,
}

#[derive(Serialize)]
struct RefusalDocument {
    status_code: u16,
    error: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: Some(detail.into()),
        }
    }

    /// A refusal whose status says enough.
    pub(super) fn plain(status: StatusCode) -> Self {
        Self {
            status,
            detail: None,
        }
    }

    /// 400: the client asked for something that cannot be.
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let document = RefusalDocument {
            status_code: self.status.as_u16(),
            error: self.status.canonical_reason().unwrap_or_default(),
            detail: self.detail,
        };
        // A document of numbers and strings always has a JSON form, so the fallback is never taken.
        let mut response =
            to_json(&document).map_or_else(|_| Response::default(), |text| typed(JSON, text));
        *response.status_mut() = self.status;
        response
    }
}

/// Reads a whole number out of a path or query; `what` names it in the error.
pub(super) fn integer(text: &str, what: &str) -> Result<i64, Refusal> {
    text.parse()
        .map_err(|_| Refusal::bad(format!("invalid {what}: {text:?} is not a whole number")))
}

pub(super) async fn not_found(uri: Uri) -> Response {
    let text = format!("no page at {}; / lists what there is\n", uri.path());
    (StatusCode::NOT_FOUND, typed(TEXT, text)).into_response()
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{} does not take {method}\n", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, typed(TEXT, text)).into_response()
}
