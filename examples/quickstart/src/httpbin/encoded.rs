//! Encoded answers: gzip, deflate, base64.

use std::io::{self, Write as _};

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use serde::Serialize;

use super::{
    reply::{self, Refusal},
    seen::Seen,
};

/// An echo that says how it is encoded.
#[derive(Serialize)]
struct Encoded {
    #[serde(flatten)]
    seen: Seen,
    #[serde(skip_serializing_if = "is_false")]
    deflated: bool,
    #[serde(skip_serializing_if = "is_false")]
    gzipped: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

pub(super) async fn gzip(seen: Seen) -> Result<Response, Refusal> {
    let text = document(seen, "gzip")?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let body = encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish());
    respond("gzip", body)
}

/// Deflate as HTTP means it: with the zlib wrapper (RFC 9110 §8.4.1.2).
pub(super) async fn deflate(seen: Seen) -> Result<Response, Refusal> {
    let text = document(seen, "deflate")?;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let body = encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish());
    respond("deflate", body)
}

/// The echo of these two endpoints leaves its `url` empty, as go-httpbin's does.
fn document(mut seen: Seen, coding: &str) -> Result<String, Refusal> {
    seen.url.clear();
    reply::to_json(&Encoded {
        seen,
        deflated: coding == "deflate",
        gzipped: coding == "gzip",
    })
}

fn respond(coding: &'static str, body: io::Result<Vec<u8>>) -> Result<Response, Refusal> {
    let body = body.map_err(|error| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot encode: {error}"),
        )
    })?;
    let coding = [(header::CONTENT_ENCODING, HeaderValue::from_static(coding))];
    Ok((coding, reply::typed(reply::JSON, body)).into_response())
}

pub(super) async fn base64_decode(Path(data): Path<String>) -> Result<Response, Refusal> {
    decode(&data)
}

pub(super) async fn base64(
    Path((operation, data)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    match operation.as_str() {
        "encode" => Ok(reply::typed(reply::TEXT, URL_SAFE.encode(data))),
        "decode" => decode(&data),
        _ => Err(Refusal::bad(format!(
            "invalid operation: {operation:?} is neither encode nor decode"
        ))),
    }
}

fn decode(data: &str) -> Result<Response, Refusal> {
    let plain = URL_SAFE
        .decode(data)
        .or_else(|_| STANDARD.decode(data))
        .map_err(|error| Refusal::bad(format!("base64 decode failed: {error}")))?;
    Ok(reply::typed(reply::TEXT, plain))
}
