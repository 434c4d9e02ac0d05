//! An HTTP/2 client that shows everything of a response.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// Nothing here takes that long, except on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Body = UnsyncBoxBody<Bytes, anyhow::Error>;

/// A response with nothing left to come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }
}

/// A body with its length, which hyper announces.
pub(crate) fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into())
        .map_err(anyhow::Error::from)
        .boxed_unsync()
}

/// A body whose length nobody knows.
pub(crate) fn streamed(pieces: Vec<Bytes>) -> Body {
    let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// Sends a request to a path of a server.
pub(crate) async fn ask(
    server: SocketAddr,
    request: http::request::Builder,
    path: &str,
    body: Body,
) -> anyhow::Result<Answer> {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let request: Request<Body> = request.uri(format!("http://{server}{path}")).body(body)?;
    let answer = async {
        let (head, body) = client.request(request).await?.into_parts();
        let body = body.collect().await?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned().unwrap_or_default(),
            body: body.to_bytes(),
        })
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.with_context(|| format!("no answer for {path}"))?
}

pub(crate) async fn get(server: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    ask(server, Request::get("/"), path, whole("")).await
}
