//! A raw client: one request, written and read without any help, over HTTP/1.1 or HTTP/2.

mod h1;
mod h2c;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use tokio::net::TcpStream;

use super::activity::Activity;
use super::exchange::{End, Received};
use super::script::{Body, Field, Protocol};

/// Request and behaviour of a client.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientScript {
    /// The protocol.
    pub protocol: Protocol,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// `:authority` or `host`; `null` sends none.
    pub authority: Option<String>,
    /// Header fields beside these.
    pub headers: Vec<Field>,
    /// The body.
    pub body: Body,
    /// The trailers.
    pub trailers: Option<Vec<Field>>,
    /// Framing of an HTTP/1 body without `content-length` of its own.
    pub framing: RequestFraming,
    /// The version in an HTTP/1 request line.
    pub version: String,
    /// Wait for a 1xx (300 ms at most) before the body.
    pub expect_continue: bool,
    /// Send the body only after the response head has come.
    pub after_head: bool,
    /// Bytes to send after a 101.
    pub upgrade_send: Option<String>,
    /// Go away that many milliseconds after everything was sent.
    pub cancel: Option<u64>,
    /// Never end the request.
    pub half_open: bool,
    /// END_STREAM in an empty DATA frame of its own (HTTP/2).
    pub separate_end: bool,
}

/// Framing of an HTTP/1 body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestFraming {
    /// Chunks.
    #[default]
    Chunked,
    /// `content-length` with the right value.
    Length,
}

impl Default for ClientScript {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http1,
            method: "GET".into(),
            path: "/".into(),
            authority: Some("test.local".into()),
            headers: Vec::new(),
            body: Body::None,
            trailers: None,
            framing: RequestFraming::Chunked,
            version: "1.1".into(),
            expect_continue: false,
            after_head: false,
            upgrade_send: None,
            cancel: None,
            half_open: false,
            separate_end: false,
        }
    }
}

/// The response as the client saw it.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// The message.
    pub received: Received,
    /// When its head came, from the start of the request.
    pub head_after: Option<Duration>,
}

/// State that the two halves of a client share.
#[derive(Debug)]
struct Seen {
    response: Mutex<Response>,
    activity: Arc<Activity>,
    begun: std::time::Instant,
}

impl Seen {
    fn change(&self, change: impl FnOnce(&mut Received)) {
        self.activity.touch();
        if let Ok(mut response) = self.response.lock() {
            change(&mut response.received);
        }
    }

    fn head(&self, fields: super::exchange::Fields) {
        if let Ok(mut response) = self.response.lock() {
            response.head_after = Some(self.begun.elapsed());
        }
        self.change(|r| r.head = Some(fields));
    }
}

/// Sends the request to `address` and reads the response for at most `limit`.
pub async fn run(
    script: &ClientScript,
    address: SocketAddr,
    activity: &Arc<Activity>,
    limit: Duration,
) -> Response {
    let seen = Seen {
        response: Mutex::default(),
        activity: Arc::clone(activity),
        begun: std::time::Instant::now(),
    };
    let talk = async {
        let Ok(socket) = TcpStream::connect(address).await else {
            seen.change(|r| r.end = End::Cut);
            return;
        };
        let _ = socket.set_nodelay(true);
        match script.protocol {
            Protocol::Http1 => h1::talk(script, socket, &seen).await,
            Protocol::Http2 => h2c::talk(script, socket, &seen).await,
        }
    };
    tokio::select! {
        () = talk => {}
        () = activity.clock.sleep(limit) => seen.change(|r| {
            if r.end == End::Open {
                r.end = End::TimedOut;
            }
        }),
    }
    seen.response.into_inner().unwrap_or_default()
}
