//! The processor of the benchmark: straight on HTTP/2, agrees to everything, gives full-duplex bodies back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// Lets a test keep all exchanges waiting.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: AtomicBool,
    opened: Notify,
    /// Exchanges that wait.
    waiting: AtomicUsize,
}

impl Gate {
    /// From now on nothing is answered.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Answers all that wait, and everything from now on.
    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn pass(&self) {
        let opened = self.opened.notified();
        if self.closed.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            opened.await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, gate: Arc<Gate>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let gate = gate.clone();
        tokio::spawn(async move {
            // A proxy that is stopped breaks its connection.
            let _ = connection(stream, gate).await;
        });
    }
}

async fn connection(stream: TcpStream, gate: Arc<Gate>) -> Result<(), h2::Error> {
    let mut connection = server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(64 << 20)
        .max_concurrent_streams(10_000)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let gate = gate.clone();
        tokio::spawn(async move {
            let mut head = Response::new(());
            head.headers_mut().insert(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            if let Ok(send) = respond.send_response(head, false) {
                // The exchange is over when it fails, whatever the reason.
                let _ = exchange(request.into_body(), send, &gate).await;
            }
        });
    }
    Ok(())
}

async fn exchange(
    mut receive: RecvStream,
    mut send: SendStream<Bytes>,
    gate: &Gate,
) -> Result<(), h2::Error> {
    let mut held = BytesMut::new();
    let mut duplex = (false, false);
    while let Some(data) = receive.data().await {
        let data = data?;
        let _ = receive.flow_control().release_capacity(data.len());
        held.extend_from_slice(&data);
        while let Some(message) = message(&mut held) {
            let Ok(request) = Request::decode(message) else {
                return Ok(());
            };
            gate.pass().await;
            if let Some(reply) = reply(request, &mut duplex) {
                send.send_data(framed(&reply), false)?;
            }
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)
}

/// The next whole message.
fn message(held: &mut BytesMut) -> Option<Bytes> {
    let length = usize::try_from(u32::from_be_bytes(held.get(1..5)?.try_into().ok()?)).ok()?;
    if held.len() < 5 + length {
        return None;
    }
    held.advance(5);
    Some(held.split_to(length).freeze())
}

fn framed(reply: &Reply) -> Bytes {
    let length = reply.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    reply.encode_raw(&mut out);
    out.freeze()
}

/// Returns the answer; `duplex` remembers the full-duplex directions, whose bytes come back.
fn reply(request: Request, duplex: &mut (bool, bool)) -> Option<Reply> {
    const FULL_DUPLEX: i32 = 4;
    if let Some(modes) = &request.protocol {
        *duplex = (
            modes.request_body == FULL_DUPLEX,
            modes.response_body == FULL_DUPLEX,
        );
    }
    let mut reply = Reply::default();
    if request.request_headers.is_some() {
        reply.request_headers = Some(Common::default());
    } else if request.response_headers.is_some() {
        reply.response_headers = Some(Common::default());
    } else if let Some(body) = request.request_body {
        reply.request_body = Some(Common::body(body, duplex.0));
    } else if let Some(body) = request.response_body {
        reply.response_body = Some(Common::body(body, duplex.1));
    } else if request.request_trailers.is_some() {
        reply.request_trailers = Some(Empty {});
    } else if request.response_trailers.is_some() {
        reply.response_trailers = Some(Empty {});
    } else {
        return None;
    }
    Some(reply)
}

impl Common {
    fn body(body: Body, duplex: bool) -> Self {
        if !duplex {
            return Self::default();
        }
        Self {
            response: Some(Changes {
                body: Some(Mutation {
                    streamed: Some(body),
                }),
            }),
        }
    }
}

// The parts of ext_proc that matter here, with bodies that are not copied.

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "2")]
    request_headers: Option<Empty>,
    #[prost(message, optional, tag = "3")]
    response_headers: Option<Empty>,
    #[prost(message, optional, tag = "4")]
    request_body: Option<Body>,
    #[prost(message, optional, tag = "5")]
    response_body: Option<Body>,
    #[prost(message, optional, tag = "6")]
    request_trailers: Option<Empty>,
    #[prost(message, optional, tag = "7")]
    response_trailers: Option<Empty>,
    #[prost(message, optional, tag = "11")]
    protocol: Option<Modes>,
}

#[derive(Clone, PartialEq, Message)]
struct Modes {
    #[prost(int32, tag = "1")]
    request_body: i32,
    #[prost(int32, tag = "2")]
    response_body: i32,
}

/// `HttpBody`, and `StreamedBodyResponse`, which begins alike.
#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(bool, tag = "2")]
    end: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Reply {
    #[prost(message, optional, tag = "1")]
    request_headers: Option<Common>,
    #[prost(message, optional, tag = "2")]
    response_headers: Option<Common>,
    #[prost(message, optional, tag = "3")]
    request_body: Option<Common>,
    #[prost(message, optional, tag = "4")]
    response_body: Option<Common>,
    #[prost(message, optional, tag = "5")]
    request_trailers: Option<Empty>,
    #[prost(message, optional, tag = "6")]
    response_trailers: Option<Empty>,
}

/// `HeadersResponse` and `BodyResponse`.
#[derive(Clone, PartialEq, Message)]
struct Common {
    #[prost(message, optional, tag = "1")]
    response: Option<Changes>,
}

/// `CommonResponse`.
#[derive(Clone, PartialEq, Message)]
struct Changes {
    #[prost(message, optional, tag = "3")]
    body: Option<Mutation>,
}

/// `BodyMutation`.
#[derive(Clone, PartialEq, Message)]
struct Mutation {
    #[prost(message, optional, tag = "3")]
    streamed: Option<Body>,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}
