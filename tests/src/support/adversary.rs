//! A processor that means harm, or is broken: what it does to an exchange is written in the request's path.
//!
//! `/unanswered` asks for no answer, `/open/unanswered` too (there the gateway is to go on without the processor), everything it does not know
//! is answered as a good processor would. So one gateway with one processor serves good and bad exchanges side by side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse,
    ProcessingRequest, ProcessingResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use super::ports;
use super::processor::unchanged;
use super::rig::listen;

/// A processor that runs.
#[derive(Debug)]
pub struct Adversary {
    /// Address on which it listens.
    pub address: SocketAddr,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Adversary {
    /// Starts it on any port.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        Self::at(SocketAddr::from(([127, 0, 0, 1], ports::free()?))).await
    }

    /// Starts it on this address, where another one may just have ended.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    continue;
                };
                while connections.try_join_next().is_some() {}
                connections.spawn(connection(socket, count.clone()));
            }
        });
        Ok(Self {
            address,
            calls,
            task,
        })
    }

    /// Number of calls that came.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Ends it with all its connections, whatever they do.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn connection(socket: TcpStream, calls: Arc<AtomicUsize>) {
    let _ = socket.set_nodelay(true);
    let Ok(mut connection) = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .handshake::<_, Bytes>(socket)
        .await
    else {
        return;
    };
    let (order, mut orders) = tokio::sync::mpsc::channel(1);
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                while streams.try_join_next().is_some() {}
                calls.fetch_add(1, Ordering::SeqCst);
                let order = order.clone();
                streams.spawn(async move {
                    // A stream that the gateway ended is no failure of ours.
                    let _ = serve(request.into_body(), respond, &order).await;
                });
            }
            Some(abrupt) = orders.recv() => match abrupt {
                true => connection.abrupt_shutdown(Reason::INTERNAL_ERROR),
                false => connection.graceful_shutdown(),
            },
        }
    }
}

/// Reads the messages of a stream.
struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    async fn next(&mut self) -> Option<ProcessingRequest> {
        loop {
            if let Some(prefix) = self.buffer.get(1..5) {
                let length = u32::from_be_bytes(prefix.try_into().ok()?) as usize;
                if self.buffer.len() >= length + 5 {
                    let message = self.buffer.split_to(length + 5).split_off(5);
                    return ProcessingRequest::decode(message).ok();
                }
            }
            let data = self.body.data().await?.ok()?;
            let _ = self.body.flow_control().release_capacity(data.len());
            self.buffer.extend_from_slice(&data);
        }
    }
}

async fn serve(
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
    order: &tokio::sync::mpsc::Sender<bool>,
) -> Result<(), h2::Error> {
    let mut messages = Messages {
        body,
        buffer: BytesMut::new(),
    };
    let Some(first) = messages.next().await else {
        return Ok(());
    };
    let path = path_of(&first);
    let mut words = path
        .split('/')
        .filter(|word| !word.is_empty() && *word != "open");
    let deed = words.next().unwrap_or_default().to_owned();
    let number: u32 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let forever = std::future::pending::<()>();
    match deed.as_str() {
        "unanswered" => {
            forever.await;
            return Ok(());
        }
        "reset" => {
            respond.send_reset(Reason::from(number));
            return Ok(());
        }
        "goaway" | "die" => {
            let _ = order.send(deed == "die").await;
        }
        "status" => {
            let head = http::Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", number);
            let _ = respond.send_response(head.body(()).unwrap_or_default(), true)?;
            return Ok(());
        }
        "not-grpc" => {
            let mut head = http::Response::new(());
            *head.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            let mut out = respond.send_response(head, false)?;
            return out.send_data(Bytes::from_static(b"<html>"), true);
        }
        _ => {}
    }
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap_or_default();
    let mut out = respond.send_response(head, false)?;
    match deed.as_str() {
        "endless" => loop {
            send(&mut out, framed(&ProcessingResponse::default())).await?;
        },
        "endless-good" => loop {
            send(&mut out, framed(&reply(&first))).await?;
        },
        "announced" => {
            out.send_data(Bytes::from_static(b"\0\x80\0\0\0abc"), false)?;
            std::future::pending().await
        }
        "large" => {
            // A good reply that carries megabytes which nobody asked for.
            let mut large = reply(&first);
            set(
                &mut large,
                "x-large",
                vec![b'x'; number as usize * 1024 * 1024],
            );
            send(&mut out, framed(&large)).await?;
        }
        "drip" => {
            for byte in framed(&mutated(&first, 20)) {
                out.send_data(Bytes::copy_from_slice(&[byte]), false)?;
                // Slow on purpose.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        "half" => {
            let whole = framed(&mutated(&first, 10));
            out.send_data(whole.slice(..whole.len() / 2), false)?;
            if number == 0 {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                return out.send_trailers(trailers);
            }
            // A reset drops what is not on its way yet, and nothing tells when it is.
            tokio::time::sleep(Duration::from_millis(20)).await;
            out.send_reset(Reason::from(number));
            return Ok(());
        }
        "garbage" => {
            out.send_data(
                Bytes::from_static(b"\0\0\0\0\x05\xff\xff\xff\xff\xff"),
                false,
            )?;
            std::future::pending().await
        }
        "twice" => {
            for _ in 0..2 {
                send(&mut out, framed(&reply(&first))).await?;
            }
        }
        "wrong-kind" => {
            let wrong = ProcessingResponse {
                response: Some(Response::ResponseBody(BodyResponse::default())),
                ..ProcessingResponse::default()
            };
            send(&mut out, framed(&wrong)).await?;
        }
        "mutations" => {
            send(&mut out, framed(&mutated(&first, number as usize))).await?;
        }
        "set" => {
            let mut evil = reply(&first);
            let (name, value) = EVIL
                .get(number as usize)
                .copied()
                .unwrap_or(("x-good", b"good"));
            set(&mut evil, name, value.to_vec());
            send(&mut out, framed(&evil)).await?;
        }
        "refuse" => {
            let immediate = ProcessingResponse {
                response: Some(Response::ImmediateResponse(ImmediateResponse {
                    status: Some(HttpStatus { code: 403 }),
                    body: b"no more of this".to_vec(),
                    ..ImmediateResponse::default()
                })),
                ..ProcessingResponse::default()
            };
            if number > 0 {
                // Only while the body is on its way.
                send(&mut out, framed(&reply(&first))).await?;
                let _ = messages.next().await;
            }
            send(&mut out, framed(&immediate)).await?;
        }
        "immediate" => {
            let immediate = ProcessingResponse {
                response: Some(Response::ImmediateResponse(ImmediateResponse {
                    body: vec![b'x'; number as usize * 1024 * 1024],
                    ..ImmediateResponse::default()
                })),
                ..ProcessingResponse::default()
            };
            send(&mut out, framed(&immediate)).await?;
        }
        "deaf" => {
            send(&mut out, framed(&reply(&first))).await?;
            // Neither reads nor gives windows back.
            std::future::pending().await
        }
        "mute" => {
            send(&mut out, framed(&reply(&first))).await?;
            while messages.next().await.is_some() {}
            std::future::pending().await
        }
        _ => send(&mut out, framed(&reply(&first))).await?,
    }
    let mut duplex = modes(&first);
    while let Some(message) = messages.next().await {
        if message.protocol_config.is_some() {
            duplex = modes(&message);
        }
        let trailers = matches!(
            message.request,
            Some(Request::RequestTrailers(_) | Request::ResponseTrailers(_))
        );
        if deed == "no-trailers" && trailers {
            continue;
        }
        if let ("replaced", Some(Request::RequestBody(_))) = (deed.as_str(), &message.request) {
            let body = vec![b'x'; number as usize * 1024 * 1024];
            send(&mut out, framed(&replaced(body))).await?;
            continue;
        }
        if let Some(reply) = unchanged(&message, duplex.0, duplex.1) {
            send(&mut out, framed(&reply)).await?;
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    out.send_trailers(trailers)
}

/// A request body in place of the one that was shown.
fn replaced(body: Vec<u8>) -> ProcessingResponse {
    let mutation = BodyMutation {
        mutation: Some(Mutation::Body(body)),
    };
    ProcessingResponse {
        response: Some(Response::RequestBody(BodyResponse {
            response: Some(CommonResponse {
                body_mutation: Some(mutation),
                ..CommonResponse::default()
            }),
        })),
        ..ProcessingResponse::default()
    }
}

/// Fields that must not reach the wire as they are, by number.
pub const EVIL: &[(&str, &[u8])] = &[
    ("x-evil", b"a\r\nx-smuggled: 1"),
    ("x-evil", b"a\nx-smuggled: 1"),
    ("x-evil", b"a\0b"),
    ("x-evil", b"a\rb"),
    ("x evil", b"a"),
    ("x-evil\r\nx-smuggled", b"1"),
    ("x-evil:", b"a"),
    ("transfer-encoding", b"chunked"),
    ("transfer-encoding", b"gzip"),
    ("content-length", b"3"),
    ("connection", b"upgrade, x-good"),
    ("upgrade", b"websocket"),
    ("keep-alive", b"timeout=1"),
    (":path", b"/a b HTTP/1.1\r\nx-smuggled: 1"),
    (":unknown", b"a"),
    ("te", b"gzip"),
];

fn path_of(message: &ProcessingRequest) -> String {
    let Some(Request::RequestHeaders(headers)) = &message.request else {
        return String::new();
    };
    let fields = headers.headers.iter().flat_map(|map| &map.headers);
    fields
        .filter(|field| field.key == ":path")
        .map(|field| String::from_utf8_lossy(&field.raw_value).into_owned())
        .next()
        .unwrap_or_default()
}

fn modes(message: &ProcessingRequest) -> (bool, bool) {
    message.protocol_config.map_or((false, false), |config| {
        (
            config.request_body_mode >= 4,
            config.response_body_mode >= 4,
        )
    })
}

/// The answer of a good processor to headers.
fn reply(message: &ProcessingRequest) -> ProcessingResponse {
    let (request, response) = modes(message);
    unchanged(message, request, response).unwrap_or_default()
}

fn mutated(message: &ProcessingRequest, count: usize) -> ProcessingResponse {
    let mut reply = reply(message);
    for number in 0..count {
        set(&mut reply, &format!("x-m-{number}"), b"value".to_vec());
    }
    reply
}

fn set(reply: &mut ProcessingResponse, name: &str, value: Vec<u8>) {
    let Some(Response::RequestHeaders(HeadersResponse { response })) = &mut reply.response else {
        return;
    };
    response
        .get_or_insert_with(CommonResponse::default)
        .header_mutation
        .get_or_insert_with(HeaderMutation::default)
        .set_headers
        .push(HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_owned(),
                raw_value: value,
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        });
}

fn framed(message: &ProcessingResponse) -> Bytes {
    let mut out = BytesMut::with_capacity(message.encoded_len() + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    // A growing buffer takes every message.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Sends as much at a time as the windows allow.
async fn send(out: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        out.reserve_capacity(bytes.len());
        match std::future::poll_fn(|cx| out.poll_capacity(cx)).await {
            Some(Ok(0)) => {}
            Some(Ok(n)) => out.send_data(bytes.split_to(n.min(bytes.len())), false)?,
            Some(Err(error)) => return Err(error),
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}
