//! One connection with the exchanges of many clients: none of them can end it or use it up.

use std::{future::pending, time::Duration};

use bytes::{BufMut as _, BytesMut};
use extproc_sdk::{BoxError, Conversation, ProcessorService, Server, StreamProcessor};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Answers the head of an exchange, and reads nothing more.
struct StandsStill;

impl StreamProcessor for StandsStill {
    async fn process(&self, mut exchange: Conversation) -> Result<(), BoxError> {
        if let Some(event) = exchange.next().await {
            exchange.pass(event).await?;
        }
        pending().await
    }
}

/// The proxy's end of a connection, frame by frame.
struct Proxy(TcpStream);

fn frame(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    out.put_slice(&length[1..]);
    out.put_slice(&[kind, flags]);
    out.put_u32(stream);
    out.put_slice(payload);
}

fn call() -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (
            ":path",
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
        ),
        (":authority", "p"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend(text.as_bytes());
        }
    }
    out
}

/// `request_headers` without any.
const HEAD: &[u8] = &[0, 0, 0, 0, 2, 0x12, 0];

impl Proxy {
    async fn connect(processor: impl StreamProcessor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::with_service(ProcessorService::streaming(processor));
        tokio::spawn(server.serve(listener, pending()));
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut out = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
        frame(&mut out, SETTINGS, 0, 0, &[]);
        socket.write_all(&out).await.unwrap();
        Self(socket)
    }

    /// The next frame that is not of the connection.
    async fn next(&mut self) -> (u8, u32, Vec<u8>) {
        loop {
            let mut head = [0; 9];
            timeout(PATIENCE, self.0.read_exact(&mut head))
                .await
                .expect("nothing comes")
                .expect("the connection is closed");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            assert_ne!(head[3], GOAWAY, "{payload:?}");
            if stream != 0 && head[3] != WINDOW_UPDATE {
                return (head[3], stream, payload);
            }
        }
    }

    /// Until this stream gets a reply.
    async fn reply(&mut self, wanted: u32) {
        while !matches!(self.next().await, (DATA, stream, _) if stream == wanted) {}
    }
}

#[tokio::test]
async fn exchanges_that_are_opened_and_reset_at_once() {
    let mut proxy = Proxy::connect(StandsStill).await;
    let mut out = BytesMut::new();
    for number in 0..1000 {
        let stream = number * 2 + 1;
        frame(&mut out, HEADERS, 4, stream, &call());
        frame(&mut out, RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }
    frame(&mut out, HEADERS, 4, 2001, &call());
    frame(&mut out, DATA, 0, 2001, HEAD);
    proxy.0.write_all(&out).await.unwrap();
    proxy.reply(2001).await;
}

/// Each exchange has as much unread as its window takes, and another one is served on the same connection.
#[tokio::test]
async fn handlers_that_stand_still() {
    const WINDOW: usize = 512 * 1024;
    let mut proxy = Proxy::connect(StandsStill).await;
    let mut stream = 1;
    for _ in 0..20 {
        let mut out = BytesMut::new();
        frame(&mut out, HEADERS, 4, stream, &call());
        frame(&mut out, DATA, 0, stream, HEAD);
        proxy.0.write_all(&out).await.unwrap();
        proxy.reply(stream).await;
        let mut left = WINDOW - HEAD.len();
        while left > 0 {
            let n = left.min(16 * 1024);
            let mut out = BytesMut::new();
            frame(&mut out, DATA, 0, stream, &vec![1; n]);
            proxy.0.write_all(&out).await.unwrap();
            left -= n;
        }
        stream += 2;
    }
    let mut out = BytesMut::new();
    frame(&mut out, HEADERS, 4, stream, &call());
    frame(&mut out, DATA, 0, stream, HEAD);
    proxy.0.write_all(&out).await.unwrap();
    proxy.reply(stream).await;
}
