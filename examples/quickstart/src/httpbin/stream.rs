//! Bodies by size and by piece: `/bytes`, `/stream-bytes`, `/stream`, `/trailers`.
//!
//! A streamed body is made piece by piece as the client takes it, never whole in memory first.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{Path, Request},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use rand::RngCore as _;
use serde::Serialize;

use super::{
    echo,
    query::{Values, first},
    reply::{self, Refusal},
    seen::{Args, Seen},
    status::seeded,
};

/// The most random bytes in one answer; more is cut to this.
const MAX_RANDOM: i64 = 100 * 1024;

/// The chunk size of `/stream-bytes` unless the client asks for another.
const CHUNK: i64 = 10 * 1024;

/// The most lines of `/stream`; more is cut to this.
const MAX_LINES: i64 = 100;

pub(super) async fn bytes(
    Path(count): Path<String>,
    Args(args): Args,
) -> Result<Response, Refusal> {
    let (count, mut random) = (random_count(&count)?, seeded(first(&args, "seed"))?);
    if count == 0 {
        return Ok(Response::new(Body::empty()));
    }
    let mut body = vec![0; count];
    random.fill_bytes(&mut body);
    Ok(reply::typed(reply::BINARY, body))
}

pub(super) async fn stream_bytes(
    Path(count): Path<String>,
    Args(args): Args,
) -> Result<Response, Refusal> {
    let (count, mut random) = (random_count(&count)?, seeded(first(&args, "seed"))?);
    let chunk = match first(&args, "chunk_size") {
        Some(text) => reply::integer(text, "chunk_size")?,
        None => CHUNK,
    };
    if count == 0 {
        return Ok(Response::new(Body::empty()));
    }
    // A size that no chunk can have means one chunk.
    let chunk = usize::try_from(chunk)
        .ok()
        .filter(|size| *size > 0)
        .unwrap_or(count);
    let mut left = count;
    let chunks = std::iter::from_fn(move || {
        let mut piece = vec![0; left.min(chunk)];
        left -= piece.len();
        random.fill_bytes(&mut piece);
        (!piece.is_empty()).then_some(Ok::<_, Infallible>(piece))
    });
    Ok(reply::typed(
        reply::BINARY,
        Body::from_stream(stream::iter(chunks)),
    ))
}

fn random_count(text: &str) -> Result<usize, Refusal> {
    let count = reply::integer(text, "byte count")?;
    usize::try_from(count.min(MAX_RANDOM))
        .map_err(|_| Refusal::bad(format!("invalid byte count: {count} is negative")))
}

#[derive(Serialize)]
struct Line<'a> {
    id: i64,
    args: &'a Values,
    headers: &'a Values,
    origin: &'a str,
    url: &'a str,
}

/// One line of JSON after another, each a chunk of its own.
pub(super) async fn lines(seen: Seen, Path(count): Path<String>) -> Result<Response, Refusal> {
    let count = reply::integer(&count, "line count")?.clamp(1, MAX_LINES);
    let lines = (0..count).map(move |id| {
        let line = Line {
            id,
            args: &seen.args,
            headers: &seen.headers,
            origin: &seen.origin,
            url: &seen.url,
        };
        serde_json::to_vec(&line).map(|mut text| {
            text.push(b'\n');
            text
        })
    });
    Ok(reply::typed(
        reply::TEXT,
        Body::from_stream(stream::iter(lines)),
    ))
}

/// An echo, followed by the query parameters as trailers.
pub(super) async fn trailers(seen: Seen, request: Request) -> Result<Response, Refusal> {
    let mut fields = HeaderMap::new();
    for (name, values) in &seen.args {
        // A name or value that cannot stand in a header is left out.
        let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        if forbidden(&field) {
            return Err(Refusal::bad(format!("forbidden trailer: {name}")));
        }
        if let Some(Ok(value)) = values.last().map(|value| HeaderValue::from_str(value)) {
            fields.insert(field, value);
        }
    }
    let announced: Vec<HeaderValue> = fields.keys().cloned().map(HeaderValue::from).collect();
    let text = reply::to_json(&echo::echo(seen, request).await?)?;

    // A body of frames has no length up front: trailers need the chunked coding (RFC 9112 §7.1.2).
    let frames = [Frame::data(Bytes::from(text)), Frame::trailers(fields)].map(Ok::<_, Infallible>);
    let mut response = reply::typed(
        reply::JSON,
        Body::new(StreamBody::new(stream::iter(frames))),
    );
    for name in announced {
        response.headers_mut().append(header::TRAILER, name);
    }
    Ok(response)
}

/// Fields that frame, route or authorize a message: too late after its body (RFC 9110 §6.5.1).
fn forbidden(name: &HeaderName) -> bool {
    [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::HOST,
        header::MAX_FORWARDS,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ]
    .contains(name)
}
