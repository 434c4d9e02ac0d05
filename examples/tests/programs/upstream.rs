//! The upstream of the flows: shows what reached it, and streams what the processors are to look into.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue},
    response::IntoResponse,
    routing::{any, get},
};
use bytes::Bytes;
use examples::signer::Signer;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;
use tokio::net::TcpListener;

/// Text with an e-mail address and a card number in it.
pub(crate) const LETTER: &str =
    "To: Alice <alice.b+shop@mail.example.com>, card 4111-1111-1111-1111.\n";
pub(crate) const CLEAN_LETTER: &str = "To: Alice <[redacted]>, card [redacted].\n";

/// An answer of a language model; two pieces of text.
pub(crate) const MODEL_ANSWER: &str = concat!(
    "data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n",
    "data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"content\":\" world\"}}]}\n\n",
    "data: [DONE]\n\n",
);

/// Serves until the runtime ends.
pub(crate) async fn start(name: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app(name)).await });
    Ok(address)
}

/// As [`start`], without the socket.
pub(crate) fn app(name: &'static str) -> Router {
    Router::new()
        .route("/signed", get(signed))
        .route(
            "/letter",
            get(|| async { pieces(LETTER.repeat(50), "text/plain") }),
        )
        .route(
            "/model",
            any(|| async { pieces(MODEL_ANSWER.to_owned(), "text/event-stream") }),
        )
        .fallback(echo)
        .with_state(name)
}

/// Answers with the request that reached the upstream, as JSON.
async fn echo(State(name): State<&'static str>, request: Request) -> Json<serde_json::Value> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let headers: serde_json::Map<_, _> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into(),
            )
        })
        .collect();
    Json(json!({
        "upstream": name,
        "path": head.uri.path(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
}

/// Tells whether the request was signed; the response ends with trailers.
async fn signed(request: Request) -> impl IntoResponse {
    let signed = Signer::demo().has_signed(&request);
    let data = Frame::data(Bytes::from(json!({ "signed": signed }).to_string()));
    let trailers = Frame::trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("x-upstream"),
        HeaderValue::from_static("done"),
    )]));
    let frames = [data, trailers].map(Ok::<_, std::convert::Infallible>);
    Body::new(StreamBody::new(stream::iter(frames)))
}

/// In pieces of seven bytes, which nothing ends at.
fn pieces(text: String, media: &'static str) -> impl IntoResponse {
    let pieces: Vec<_> = text
        .as_bytes()
        .chunks(7)
        .map(|piece| Ok::<_, std::convert::Infallible>(Bytes::copy_from_slice(piece)))
        .collect();
    (
        [("content-type", media)],
        Body::from_stream(stream::iter(pieces)),
    )
}
