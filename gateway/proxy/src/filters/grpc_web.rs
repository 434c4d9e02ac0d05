//! The filter `envoy.filters.http.grpc_web`: gRPC of browsers, which cannot read trailers, from and to gRPC.

use std::{
    mem,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use extproc_client::{
    host::{Held, Origin, Outcome},
    text::grpc::grpc_code,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;

use super::{Chain, ResponseFuture, Serve};
use crate::{
    exchange::{Exchange, host::is_answered},
    http::{
        body::{Body, BoxError},
        headers::is_grpc,
        local_reply,
    },
};

/// Content types of gRPC-Web: plain, and as base64.
const PLAIN: [&str; 2] = ["application/grpc-web", "application/grpc-web+proto"];
const TEXT: [&str; 2] = [
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// Bytes of a response that is not gRPC of which the message is made, as in Envoy.
const LONGEST_TEXT: usize = 16 * 1024;

/// The flag of a frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// Error of a body that is no base64.
#[derive(Debug, thiserror::Error)]
#[error("the request is no base64")]
struct NoBase64;

/// `grpc_web`.
pub(super) struct GrpcWeb {
    pub(super) inner: Chain,
}

/// Form of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Text,
}

impl Serve for GrpcWeb {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, mut body) = request.into_parts();
        let kind = value(&parts.headers, header::CONTENT_TYPE);
        let is_text = TEXT.contains(&kind);
        let exchange = Exchange::of_head(&parts).cloned();
        let exchange = exchange.filter(|_| is_text || PLAIN.contains(&kind));
        let Some(exchange) = exchange else {
            return self.inner.call(Request::from_parts(parts, body));
        };
        let form = match TEXT.contains(&value(&parts.headers, header::ACCEPT)) {
            true => Form::Text,
            false => Form::Plain,
        };
        // Set once the request is known to be no base64.
        let bad = Arc::new(AtomicBool::new(false));
        if !is_answered(&parts) {
            let headers = &mut parts.headers;
            headers.remove(header::CONTENT_LENGTH);
            let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
            set(header::CONTENT_TYPE, "application/grpc");
            set(header::TE, "trailers");
            set(
                header::HeaderName::from_static("grpc-accept-encoding"),
                "identity",
            );
            if is_text {
                body = Body::new(Decoded::new(body, bad.clone()));
            }
            exchange.note_head(&parts);
        }
        let future = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            let mut response = future.await;
            if bad.load(Ordering::Relaxed) {
                response = refused();
            } else if matches!(Outcome::of(&response).origin, Origin::Final) {
                return response;
            }
            // As in Envoy, a head alone is not told of.
            let is_whole = http_body::Body::is_end_stream(response.body());
            match is_whole || is_grpc(response.headers()) {
                true => translated(response, form),
                false => {
                    let held = Held::new(Some(exchange.clone()));
                    let told = pin!(told(response, form, held));
                    exchange.or_reply(told).await.unwrap_or_else(|reply| reply)
                }
            }
        })
    }
}

/// The answer to a request that is no base64.
fn refused() -> Response<Body> {
    let text = "Bad gRPC-web request, invalid base64 data.".into();
    let details = "grpc_base_64_decode_failed";
    let mut response = local_reply::reply(false, StatusCode::BAD_REQUEST, text, details, 0);
    Outcome::of_mut(&mut response).closes = true;
    response
}

fn value(headers: &HeaderMap, name: header::HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn set_type(headers: &mut HeaderMap, form: Form) {
    let kind = HeaderValue::from_static(match form {
        Form::Plain => "application/grpc-web+proto",
        Form::Text => "application/grpc-web-text+proto",
    });
    headers.insert(header::CONTENT_TYPE, kind);
}

/// A response of gRPC, whose trailers become a part of its body.
fn translated(mut response: Response<Body>, form: Form) -> Response<Body> {
    set_type(response.headers_mut(), form);
    if http_body::Body::is_end_stream(response.body()) {
        return response;
    }
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|body| Body::new(Translated::new(body, form)))
}

/// Tells of a response that is not gRPC in one that is: its status, and the beginning of its text.
async fn told(response: Response<Body>, form: Form, mut held: Held) -> Response<Body> {
    let (mut head, mut body) = response.into_parts();
    if TEXT.contains(&value(&head.headers, header::CONTENT_TYPE))
        || PLAIN.contains(&value(&head.headers, header::CONTENT_TYPE))
    {
        return Response::from_parts(head, body);
    }
    let mut text = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            let room = LONGEST_TEXT.saturating_sub(text.len());
            text.extend_from_slice(data.get(..room).unwrap_or(&data));
            held.set(text.capacity());
        }
    }
    let status = head.status;
    let code = u16::from(grpc_code(status));
    head.headers.insert(header::CONTENT_LENGTH, 0.into());
    head.headers.insert("grpc-status", code.into());
    let mut response = Response::from_parts(head, Body::empty());
    local_reply::put_grpc_message(response.headers_mut(), &text);
    set_type(response.headers_mut(), form);
    response
}

/// A body as base64, of which whole groups go on as bytes.
struct Decoded {
    body: Body,
    /// Less than a group.
    rest: Vec<u8>,
    bad: Arc<AtomicBool>,
}

impl Decoded {
    fn new(body: Body, bad: Arc<AtomicBool>) -> Self {
        let rest = Vec::with_capacity(4);
        Self { body, rest, bad }
    }

    fn fail(&self) -> BoxError {
        self.bad.store(true, Ordering::Relaxed);
        NoBase64.into()
    }

    /// The bytes of all groups that are here.
    fn decode(&mut self, data: &[u8]) -> Result<Bytes, BoxError> {
        let mut text = mem::take(&mut self.rest);
        text.extend_from_slice(data);
        let whole = text.len() / 4 * 4;
        self.rest = text.split_off(whole);
        let mut bytes = Vec::with_capacity(whole / 4 * 3);
        // Any group may be padded, as clients that send several messages do.
        for group in text.chunks(4) {
            STANDARD
                .decode_vec(group, &mut bytes)
                .map_err(|_| self.fail())?;
        }
        Ok(bytes.into())
    }
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()?;
            let data = match frame.map(Frame::into_data) {
                Some(Ok(data)) => this.decode(&data)?,
                _ if !this.rest.is_empty() => return Poll::Ready(Some(Err(this.fail()))),
                Some(Err(frame)) => return Poll::Ready(Some(Ok(frame))),
                None => return Poll::Ready(None),
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

/// A body of gRPC whose trailers come as its last message.
struct Translated {
    body: Body,
    form: Form,
    /// The message that is being encoded as base64.
    message: Message,
    is_over: bool,
}

/// The part of a message that has come.
#[derive(Debug, Default)]
struct Message {
    /// The five bytes in front of it, as far as they are here.
    prefix: Vec<u8>,
    /// Bytes of it that are still to come.
    left: usize,
    /// Bytes that make no group yet.
    group: Vec<u8>,
}

impl Message {
    /// The text of these bytes; each message is padded for itself.
    fn encode(&mut self, mut data: Bytes) -> String {
        let mut text = String::with_capacity(data.len() / 3 * 4 + 8);
        while !data.is_empty() {
            if self.left == 0 {
                let missing = 5 - self.prefix.len();
                let part = data.split_to(missing.min(data.len()));
                self.prefix.extend_from_slice(&part);
                self.add(&part, &mut text);
                if let [_, length @ ..] = self.prefix.as_slice()
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.left = u32::from_be_bytes(length) as usize;
                    self.prefix.clear();
                    self.end(&mut text);
                }
                continue;
            }
            let part = data.split_to(self.left.min(data.len()));
            self.left -= part.len();
            self.add(&part, &mut text);
            self.end(&mut text);
        }
        text
    }

    fn add(&mut self, part: &[u8], text: &mut String) {
        self.group.extend_from_slice(part);
        let rest = self.group.split_off(self.group.len() / 3 * 3);
        STANDARD.encode_string(&self.group, text);
        self.group = rest;
    }

    /// Pads a message that is whole.
    fn end(&mut self, text: &mut String) {
        if self.left == 0 {
            STANDARD.encode_string(&self.group, text);
            self.group.clear();
        }
    }
}

impl Translated {
    fn new(body: Body, form: Form) -> Self {
        Self {
            body,
            form,
            message: Message::default(),
            is_over: false,
        }
    }
}

/// Trailers as a message.
fn framed(trailers: &HeaderMap) -> Bytes {
    let mut fields = BytesMut::new();
    for (name, value) in trailers {
        fields.put_slice(name.as_str().as_bytes());
        fields.put_u8(b':');
        fields.put_slice(value.as_bytes());
        fields.put_slice(b"\r\n");
    }
    let mut message = BytesMut::with_capacity(5 + fields.len());
    message.put_u8(TRAILERS);
    message.put_u32(u32::try_from(fields.len()).unwrap_or(u32::MAX));
    message.put(fields.copy_to_bytes(fields.len()));
    message.freeze()
}

impl http_body::Body for Translated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if this.is_over {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()?;
            let data = match frame.map(Frame::into_data) {
                Some(Ok(data)) => match this.form {
                    Form::Plain => data,
                    Form::Text => this.message.encode(data).into(),
                },
                Some(Err(frame)) => {
                    this.is_over = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let message = framed(&trailers);
                    match this.form {
                        Form::Plain => message,
                        Form::Text => STANDARD.encode(message).into(),
                    }
                }
                None => {
                    this.is_over = true;
                    continue;
                }
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_each() {
        let bytes: &[u8] = &[
            0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'c',
        ];
        let whole = ["AAAAAAJhYg==", "AAAAAAA=", "AAAAAAFj"].concat();
        for step in 1..=bytes.len() {
            let mut message = Message::default();
            let pieces = bytes.chunks(step).map(Bytes::copy_from_slice);
            let text: String = pieces.map(|piece| message.encode(piece)).collect();
            assert_eq!(text, whole, "{step}");
        }
    }

    #[test]
    fn groups_are_decoded_whatever_the_pieces() {
        let text = "AAAAAAJhYg==AAAAAAA=AAAAAAFj";
        let expected: &[u8] = &[
            0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'c',
        ];
        for step in 1..=text.len() {
            let mut decoded = Decoded::new(Body::empty(), Arc::default());
            let pieces = text.as_bytes().chunks(step);
            let bytes: Vec<u8> = pieces
                .flat_map(|piece| decoded.decode(piece).unwrap())
                .collect();
            assert_eq!(bytes, expected, "{step}");
            assert!(decoded.rest.is_empty());
        }
        for bad in ["A===", "!AAA", "AA=A", "===="] {
            assert!(
                Decoded::new(Body::empty(), Arc::default())
                    .decode(bad.as_bytes())
                    .is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn trailers_are_a_message() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(framed(&trailers), &b"\x80\0\0\0\x0fgrpc-status:0\r\n"[..]);
    }
}
