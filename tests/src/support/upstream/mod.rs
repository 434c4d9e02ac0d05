//! A scripted upstream: sees requests as they came and answers as its script says, over HTTP/1.1 or HTTP/2.

mod h1;
mod h2c;

use std::sync::{Arc, Mutex};

use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::activity::Activity;
use super::exchange::{End, Fields, Received};
use super::script::{Body, Field, Payload, Protocol, fields};

/// Answers and behaviour of an upstream.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamScript {
    /// The protocol.
    pub protocol: Protocol,
    /// Event to wait for before answering.
    pub wait: Wait,
    /// Milliseconds before the answer.
    pub delay: u64,
    /// 1xx heads before the answer.
    pub informational: Vec<Informational>,
    /// The status.
    pub status: u16,
    /// The header fields, beside the marker `x-upstream: <cluster>`.
    pub headers: Vec<Field>,
    /// Leave the marker out.
    pub no_marker: bool,
    /// The body.
    pub body: Body,
    /// The bodies of the first, second, … answer; the rest have `body`.
    pub bodies: Vec<Body>,
    /// The body is the request's.
    pub echo: bool,
    /// The trailers.
    pub trailers: Option<Vec<Field>>,
    /// Framing of an HTTP/1 body without `content-length` of its own.
    pub framing: ResponseFraming,
    /// Break off at this point.
    pub reset: Option<ResetAt>,
    /// With this code (HTTP/2).
    pub reset_code: u32,
    /// END_STREAM in an empty DATA frame of its own (HTTP/2).
    pub separate_end: bool,
    /// Never answer.
    pub silent: bool,
    /// Send these bytes and nothing else (HTTP/1).
    pub raw: Option<Payload>,
    /// Close the connection after the answer (HTTP/1).
    pub close: bool,
    /// Nothing listens.
    pub absent: bool,
    /// Connections are accepted, and reset with the first byte that comes: a reset before that may look like a connect that
    /// failed.
    pub refuse: bool,
}

impl Default for UpstreamScript {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http1,
            wait: Wait::Body,
            delay: 0,
            informational: Vec::new(),
            status: 200,
            headers: Vec::new(),
            no_marker: false,
            body: Body::None,
            bodies: Vec::new(),
            echo: false,
            trailers: None,
            framing: ResponseFraming::Chunked,
            reset: None,
            reset_code: 2,
            separate_end: false,
            silent: false,
            raw: None,
            close: false,
            absent: false,
            refuse: false,
        }
    }
}

/// Event that an upstream waits for before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// The whole request.
    Body,
    /// Its head.
    Head,
    /// That many bytes of its body.
    Bytes(usize),
}

/// Place where an upstream breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetAt {
    /// Before the response head.
    BeforeHead,
    /// After the response head.
    AfterHead,
    /// After the body, in place of its end.
    AfterBody,
}

/// Framing of an HTTP/1 response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponseFraming {
    /// Chunks; `content-length: 0` when there is no body.
    Chunked,
    /// `content-length` with the right value.
    Length,
    /// Until the connection closes.
    Close,
}

/// A 1xx head.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Informational {
    /// The status.
    pub status: u16,
    /// The fields.
    #[serde(default)]
    pub headers: Vec<Field>,
}

/// A request that arrived.
#[derive(Debug, Clone, Default)]
pub struct Arrived {
    /// The cluster whose upstream got it.
    pub cluster: String,
    /// When it arrived, relative to the start of the scenario.
    pub at: std::time::Duration,
    /// The message.
    pub received: Received,
}

/// A listening upstream; dropping it closes everything.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    script: UpstreamScript,
    activity: Arc<Activity>,
    arrived: Mutex<Vec<Arrived>>,
}

impl Shared {
    fn arrive(&self, head: Fields) -> usize {
        self.activity.touch();
        let Ok(mut arrived) = self.arrived.lock() else {
            return 0;
        };
        arrived.push(Arrived {
            cluster: self.name.clone(),
            at: self.activity.elapsed(),
            received: Received {
                head: Some(head),
                ..Received::default()
            },
        });
        arrived.len() - 1
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Received)) {
        self.activity.touch();
        if let Ok(mut arrived) = self.arrived.lock()
            && let Some(one) = arrived.get_mut(index)
        {
            change(&mut one.received);
        }
    }

    fn body(&self, index: usize) -> Vec<u8> {
        self.arrived
            .lock()
            .ok()
            .and_then(|a| a.get(index).map(|one| one.received.body()))
            .unwrap_or_default()
    }

    fn response_fields(&self) -> Fields {
        let mut out = fields(&self.script.headers);
        if !self.script.no_marker {
            out.push(("x-upstream".into(), self.name.clone().into_bytes()));
        }
        out
    }

    fn response_body(&self, index: usize) -> Body {
        if self.script.echo {
            let text = super::http1::latin1(&self.body(index));
            Body::One(Payload::Text(text))
        } else {
            let own = self.script.bodies.get(index);
            own.unwrap_or(&self.script.body).clone()
        }
    }
}

impl Upstream {
    /// Serves the script of the cluster `name` on a socket that is bound already.
    #[must_use]
    pub fn start(
        listener: TcpListener,
        name: &str,
        script: UpstreamScript,
        activity: Arc<Activity>,
    ) -> Self {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            script,
            activity,
            arrived: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                if serving.script.refuse {
                    connections.spawn(async move {
                        let _ = socket.peek(&mut [0]).await;
                        let _ = socket.set_zero_linger();
                    });
                    continue;
                }
                let shared = Arc::clone(&serving);
                connections.spawn(async move {
                    match shared.script.protocol {
                        Protocol::Http1 => h1::serve(socket, shared).await,
                        Protocol::Http2 => h2c::serve(socket, shared).await,
                    }
                });
            }
        });
        Self {
            shared,
            _tasks: tasks,
        }
    }

    /// The requests so far.
    #[must_use]
    pub fn arrived(&self) -> Vec<Arrived> {
        self.shared
            .arrived
            .lock()
            .map(|a| a.clone())
            .unwrap_or_default()
    }

    /// Tells whether every request has ended.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.arrived().iter().all(|a| a.received.end != End::Open)
    }
}
