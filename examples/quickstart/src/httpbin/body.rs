//! The request body: read whole, up to a limit, and shown by its content type.

use axum::{
    body::Body,
    extract::{FromRequest as _, Multipart, Request},
    http::header,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use serde::Serialize;
use serde_json::Value;

use super::{
    MAX_BODY,
    query::{self, Values, lossy},
    reply::Refusal,
    seen::header_text,
};

/// The fields an echo shows of a body, in their order.
#[derive(Debug, Default, Serialize)]
pub(super) struct BodyFields {
    data: String,
    files: Values,
    form: Values,
    json: Value,
}

/// Reads and sorts the body of `request`.
///
/// Text stays text; forms and JSON are shown parsed beside the raw text; anything else becomes a base64 `data:` URL
/// (RFC 2397, with the URL-safe alphabet).
pub(super) async fn read(request: Request) -> Result<BodyFields, Refusal> {
    let (parts, body) = request.into_parts();
    let content_type = header_text(&parts.headers, header::CONTENT_TYPE);
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let refuse = |why: String| Refusal::bad(format!("error parsing request body: {why}"));

    let bytes = collect(body).await.map_err(refuse)?;
    if bytes.is_empty() {
        return Ok(BodyFields::default());
    }
    let mut fields = BodyFields {
        data: lossy(&bytes),
        ..BodyFields::default()
    };
    match media_type {
        "text/html" | "text/plain" => {}
        "application/x-www-form-urlencoded" => {
            fields.form = query::parse_strict(&bytes).map_err(refuse)?
        }
        "multipart/form-data" => {
            let request = Request::from_parts(parts, Body::from(bytes));
            (fields.form, fields.files) = multipart(request).await.map_err(refuse)?;
        }
        "application/json" => fields.json = first_json(&bytes).map_err(refuse)?,
        _ => {
            let media_type = if media_type.is_empty() {
                "application/octet-stream"
            } else {
                media_type
            };
            fields.data = format!("data:{media_type};base64,{}", URL_SAFE.encode(&bytes));
        }
    }
    Ok(fields)
}

async fn collect(body: Body) -> Result<Bytes, String> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(format!("it is longer than {MAX_BODY} bytes"))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn multipart(request: Request) -> Result<(Values, Values), String> {
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|error| error.body_text())?;
    let (mut form, mut files) = (Values::new(), Values::new());
    while let Some(part) = parts
        .next_field()
        .await
        .map_err(|error| error.body_text())?
    {
        let Some(name) = part.name().map(str::to_owned) else {
            continue;
        };
        let is_file = part.file_name().is_some_and(|file| !file.is_empty());
        let content = part.bytes().await.map_err(|error| error.body_text())?;
        let into = if is_file { &mut files } else { &mut form };
        into.entry(name).or_default().push(lossy(&content));
    }
    Ok((form, files))
}

/// The first JSON value of the body, its keys sorted; what follows it is ignored.
fn first_json(bytes: &[u8]) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let mut value = match values.next() {
        Some(value) => value.map_err(|error| error.to_string())?,
        None => return Err("it holds only white space".to_owned()),
    };
    value.sort_all_objects();
    Ok(value)
}
