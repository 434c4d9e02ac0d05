//! Connections over HTTP/1 that become tunnels (RFC 9110 §7.8 and §9.3.6).

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::{
    attempt::{Keep, Sent},
    error::Failure,
    http1,
    progress::{Progress, ProgressWatch},
};
use crate::http::{
    body::{Body, BoxError, Watched},
    headers::upgrade_field,
};

/// True if the connection becomes what was asked for (RFC 9110 §7.8), or one of several if a list of them is allowed, and nothing
/// beside it.
pub(super) fn is_asked_for(response: &HeaderMap, asked: Option<&str>) -> bool {
    let now = upgrade_field(response);
    now.zip(asked).is_some_and(|(now, asked)| {
        let mut each = asked.split(',').map(str::trim);
        now.eq_ignore_ascii_case(asked) || each.any(|asked| now.eq_ignore_ascii_case(asked))
    })
}

/// Tells whether a request asks for a WebSocket.
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    upgrade_field(headers).is_some_and(|kind| kind.eq_ignore_ascii_case("websocket"))
}

/// HTTP/2 clients send no key with a WebSocket handshake, and HTTP/1 servers insist on one (RFC 8441 §5,
/// RFC 6455 §4.2.1).
pub(super) fn complete_handshake(headers: &mut HeaderMap) {
    if !is_websocket(headers) || headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return;
    }
    let key = BASE64.encode(rand::random::<[u8; 16]>());
    if let Ok(key) = HeaderValue::try_from(key) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
}

/// Joins the two bodies to the connection after the switch. An upstream that takes nothing for the time of `stall` gets no
/// more.
pub(super) async fn open(
    mut response: Response<Incoming>,
    body: Body,
    progress: &Arc<Progress>,
    stall: Option<Duration>,
) -> Result<Sent, Failure> {
    let upgraded = hyper::upgrade::on(&mut response)
        .await
        .map_err(|error| http1::failure(&error))?;
    let (read, mut write) = tokio::io::split(TokioIo::new(upgraded));
    let mut body = Watched::new(body, ProgressWatch(progress.clone()));
    let pipe = tokio::spawn(async move {
        while let Some(frame) =
            poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await
        {
            let Ok(frame) = frame else { return };
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            while data.has_remaining() {
                let written = within(stall, write.write_buf(&mut data)).await;
                if !matches!(written, Some(Ok(1..))) {
                    return;
                }
            }
        }
        let _ = write.shutdown().await;
    });
    let (mut parts, _) = response.into_parts();
    parts.extensions.clear();
    Ok(Sent {
        response: Response::from_parts(parts, Body::new(TunnelBody::new(read))),
        keep: Keep::Tunnel(pipe.abort_handle()),
        tunnel: true,
    })
}

/// `None` if it takes longer.
async fn within<T>(limit: Option<Duration>, wait: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, wait).await.ok(),
        None => Some(wait.await),
    }
}

/// The bytes that come out of a tunnel, as a body.
struct TunnelBody<R> {
    read: R,
    buffer: BytesMut,
}

impl<R> TunnelBody<R> {
    fn new(read: R) -> Self {
        Self {
            read,
            buffer: BytesMut::new(),
        }
    }
}

impl<R: AsyncRead + Unpin> http_body::Body for TunnelBody<R> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        const READ: usize = 16 * 1024;
        let this = self.get_mut();
        this.buffer.resize(READ, 0);
        let mut space = ReadBuf::new(&mut this.buffer);
        let result = Pin::new(&mut this.read).poll_read(cx, &mut space);
        let n = space.filled().len();
        match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Ok(())) if n == 0 => Poll::Ready(None),
            Poll::Ready(Ok(())) => {
                let data = this.buffer.split_to(n).freeze();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
        }
    }
}
