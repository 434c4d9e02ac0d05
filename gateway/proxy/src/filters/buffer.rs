//! The filter `envoy.filters.http.buffer`: gathers a request before it goes on.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use extproc_client::host::{ExchangeContext, Held};
use http::{HeaderMap, Request, StatusCode, header, request::Parts};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use super::{Chain, ResponseFuture, Serve, show_behind::show, switched::said};
use crate::{
    config::snapshot::{FilterKind, OnRoute},
    exchange::{Exchange, host::is_answered},
    http::{
        body::{Body, BoxError},
        headers::size,
        local_reply,
    },
};

/// The filter; a route may have a limit of its own.
pub(super) struct BufferFilter {
    /// Its name, if routes speak of it.
    pub(super) name: Option<String>,
    /// Bytes that a request's body may have.
    pub(super) limit: usize,
    pub(super) inner: Chain,
}

impl BufferFilter {
    fn limit(&self, parts: &Parts) -> usize {
        match said(parts, self.name.as_deref()) {
            Some(OnRoute::As(FilterKind::Buffer(own))) => own,
            _ => self.limit,
        }
    }
}

impl Serve for BufferFilter {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, body) = request.into_parts();
        let exchange = Exchange::of_head(&parts).cloned();
        let exchange = exchange.filter(|exchange| !exchange.upgrade);
        let Some(exchange) = exchange else {
            return self.inner.call(Request::from_parts(parts, body));
        };
        if is_answered(&parts) || body.is_end_stream() {
            return self.inner.call(Request::from_parts(parts, body));
        }
        let limit = self.limit(&parts);
        let inner = self.inner.clone();
        Box::pin(async move {
            // As in Envoy, what is gathered here may be gathered behind, too.
            if let Some(context) = ExchangeContext::of_head_mut(&mut parts) {
                let known = &mut context.limits.request_buffer;
                *known = limit.max(*known);
            }
            let gathered = gather(body, limit, Held::new(Some(exchange.clone())));
            let gathered = match exchange.or_reply(pin!(gathered)).await {
                Ok(gathered) => gathered,
                Err(reply) => return show(&inner, parts, reply).await,
            };
            match gathered {
                Ok(whole) => {
                    if !parts.headers.contains_key(header::CONTENT_LENGTH) {
                        parts.headers.remove(header::TRANSFER_ENCODING);
                        parts
                            .headers
                            .insert(header::CONTENT_LENGTH, whole.data.len().into());
                    }
                    inner
                        .call(Request::from_parts(parts, Body::new(whole)))
                        .await
                }
                Err(Unfit::TooLarge) => {
                    let status = StatusCode::PAYLOAD_TOO_LARGE;
                    let details = "request_payload_too_large";
                    let text = "Payload Too Large".into();
                    let reply = local_reply::reply(exchange.grpc, status, text, details, 0);
                    show(&inner, parts, reply).await
                }
                Err(Unfit::Failed(error)) => {
                    let body = Body::new(Broken(Some(error)));
                    inner.call(Request::from_parts(parts, body)).await
                }
            }
        })
    }
}

/// Reason for which a body is not here as a whole.
enum Unfit {
    TooLarge,
    Failed(BoxError),
}

async fn gather(mut body: Body, limit: usize, mut held: Held) -> Result<Whole, Unfit> {
    let mut data = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Unfit::Failed)?;
        match frame.into_data() {
            Ok(piece) if data.len() + piece.len() > limit => return Err(Unfit::TooLarge),
            Ok(piece) => {
                data.extend_from_slice(&piece);
                held.set(data.capacity());
            }
            Err(frame) => {
                let fields = frame.into_trailers().unwrap_or_default();
                held.set(data.capacity() + size(&fields));
                trailers = Some(fields);
            }
        }
    }
    Ok(Whole {
        data: data.freeze(),
        trailers,
        _held: held,
    })
}

/// A body that is here as a whole.
struct Whole {
    data: Bytes,
    trailers: Option<HeaderMap>,
    /// Counts it as long as it is here.
    _held: Held,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match this.data.is_empty() {
            false => Some(Frame::data(std::mem::take(&mut this.data))),
            true => this.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}

/// A body that failed while it was gathered.
struct Broken(Option<BoxError>);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.get_mut().0.take().map(Err))
    }
}
