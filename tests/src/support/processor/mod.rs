//! A scripted processor: an ext_proc server on bare HTTP/2, which sees every message as it was sent and can answer
//! with anything, garbage included.

mod observe;
mod reply;
mod script;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use observe::Kind;
pub(crate) use reply::unchanged;
pub use script::{Action, Answer, Answers, ProcessorScript, SetField, Step, Word};

use super::activity::Activity;
use super::exchange::{End, Fields, end_of, extend};

/// One side stream as the processor saw it.
#[derive(Debug, Clone, Default)]
pub struct StreamRecord {
    /// The gRPC request's head.
    pub head: Fields,
    /// The messages, in the form that observations use.
    pub messages: Vec<Value>,
    /// End of it by the client.
    pub end: End,
    /// The script ended it first.
    pub ended_by_script: bool,
    /// Steps of the script that could not be done.
    pub notes: Vec<String>,
}

/// A listening processor; dropping it closes everything.
#[derive(Debug)]
pub struct Processor {
    streams: Arc<Mutex<Vec<StreamRecord>>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    script: ProcessorScript,
    streams: Arc<Mutex<Vec<StreamRecord>>>,
    activity: Arc<Activity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionOrder {
    Serve,
    GoAway,
    Abort,
}

enum Event {
    Open,
    Message(Box<ProcessingRequest>),
    HalfClosed,
    Gone,
}

impl Processor {
    /// Serves the script on a socket that is bound already.
    #[must_use]
    pub fn start(listener: TcpListener, script: ProcessorScript, activity: Arc<Activity>) -> Self {
        let streams = Arc::default();
        let shared = Arc::new(Shared {
            script,
            streams: Arc::clone(&streams),
            activity,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                if shared.script.refuse {
                    let _ = socket.set_zero_linger();
                    continue;
                }
                connections.spawn(connection(socket, Arc::clone(&shared)));
            }
        });
        Self {
            streams,
            _tasks: tasks,
        }
    }

    /// Returns the streams that it has seen so far.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamRecord> {
        self.streams.lock().map(|s| s.clone()).unwrap_or_default()
    }

    /// Tells whether every stream has ended.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.streams().iter().all(|s| s.end != End::Open)
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    let (order, mut orders) = watch::channel(ConnectionOrder::Serve);
    let order = Arc::new(order);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_header_list_size(1 << 20);
    if let Some(max) = shared.script.max_streams {
        builder.max_concurrent_streams(max);
    }
    let _ = socket.set_zero_linger();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else {
        return;
    };
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else {
                    // the streams still have to note how they ended
                    let ends = async { while streams.join_next().await.is_some() {} };
                    let _ = tokio::time::timeout(Duration::from_millis(100), ends).await;
                    return;
                };
                let shared = Arc::clone(&shared);
                let order = Arc::clone(&order);
                streams.spawn(async move {
                    let (parts, body) = request.into_parts();
                    serve(&parts, body, respond, &shared, &order).await;
                });
            }
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
                let order = *orders.borrow_and_update();
                match order {
                    ConnectionOrder::Abort => {
                        // What the script said before leaves before the connection breaks.
                        poll_fn(|cx| {
                            let _ = connection.poll_accept(cx);
                            Poll::Ready(())
                        })
                        .await;
                        return;
                    }
                    ConnectionOrder::GoAway => connection.graceful_shutdown(),
                    ConnectionOrder::Serve => {}
                }
            }
        }
    }
}

async fn serve(
    parts: &http::request::Parts,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    shared: &Arc<Shared>,
    order: &watch::Sender<ConnectionOrder>,
) {
    let mut head = vec![
        (":method".to_owned(), parts.method.as_str().into()),
        (":path".to_owned(), parts.uri.path().into()),
        (
            ":authority".to_owned(),
            parts.uri.authority().map_or("", |a| a.as_str()).into(),
        ),
    ];
    extend(&mut head, &parts.headers);
    let index = {
        let Ok(mut streams) = shared.streams.lock() else {
            return;
        };
        streams.push(StreamRecord {
            head,
            ..StreamRecord::default()
        });
        streams.len() - 1
    };
    shared.activity.touch();
    let (events, inbox) = mpsc::unbounded_channel();
    let reader = read(body, Arc::clone(shared), index, events);
    let script = shared.script.for_stream(index);
    let mut talk = Talk {
        out: Out::Waiting(respond),
        echo: EchoModes::from_script(script),
        seen: HashMap::new(),
        script,
        shared,
        index,
        order,
    };
    tokio::join!(reader, talk.run(inbox));
}

/// Records what arrives when it arrives, whatever the script is doing.
async fn read(
    mut body: RecvStream,
    shared: Arc<Shared>,
    index: usize,
    events: mpsc::UnboundedSender<Event>,
) {
    let record = |change: &dyn Fn(&mut StreamRecord)| {
        shared.activity.touch();
        if let Some(stream) = shared
            .streams
            .lock()
            .ok()
            .as_mut()
            .and_then(|s| s.get_mut(index))
        {
            change(stream);
        }
    };
    let _ = events.send(Event::Open);
    let mut buffer = BytesMut::new();
    loop {
        match body.data().await {
            Some(Ok(data)) => {
                let _ = body.flow_control().release_capacity(data.len());
                buffer.extend_from_slice(&data);
                while let Some(message) = next_message(&mut buffer) {
                    match ProcessingRequest::decode(message.clone()) {
                        Ok(message) => {
                            let shown = observe::describe(&message);
                            record(&|s| {
                                let mut shown = shown.clone();
                                if s.ended_by_script {
                                    shown["after_end"] = true.into();
                                }
                                s.messages.push(shown);
                            });
                            let _ = events.send(Event::Message(Box::new(message)));
                        }
                        Err(error) => record(&|s| s.notes.push(format!("undecodable: {error}"))),
                    }
                }
            }
            Some(Err(error)) => {
                record(&|s| s.end = end_of(&error));
                let _ = events.send(Event::Gone);
                return;
            }
            None => {
                record(&|s| s.end = End::Complete);
                let _ = events.send(Event::HalfClosed);
                return;
            }
        }
    }
}

fn next_message(buffer: &mut BytesMut) -> Option<Bytes> {
    let prefix: [u8; 5] = buffer.get(..5)?.try_into().ok()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    let mut message = buffer.split_to(5 + length);
    Some(message.split_off(5).freeze())
}

/// Directions that get `streamed_response` as the answer that changes nothing.
#[derive(Debug, Clone, Copy, Default)]
struct EchoModes {
    request: bool,
    response: bool,
}

impl EchoModes {
    fn from_script(script: &ProcessorScript) -> Self {
        Self {
            request: script.duplex.contains(&Kind::RequestBody),
            response: script.duplex.contains(&Kind::ResponseBody),
        }
    }
}

enum Out {
    Waiting(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
    Over,
}

struct Talk<'a> {
    out: Out,
    echo: EchoModes,
    seen: HashMap<Kind, usize>,
    script: &'a ProcessorScript,
    shared: &'a Shared,
    index: usize,
    order: &'a watch::Sender<ConnectionOrder>,
}

impl Talk<'_> {
    async fn run(&mut self, mut inbox: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = inbox.recv().await {
            let result = match event {
                Event::Open => self.perform(&self.script.open, None).await,
                Event::Message(message) => self.message(&message).await,
                Event::HalfClosed => self.close(0, ""),
                Event::Gone => return,
            };
            // a stream that the client has ended meanwhile takes nothing any more, which is no mistake of the script
            if let Err(error) = result
                && !error.is::<h2::Error>()
            {
                self.note(|s| s.notes.push(format!("{error:#}")));
            }
        }
    }

    async fn message(&mut self, message: &ProcessingRequest) -> anyhow::Result<()> {
        if let Some(config) = message.protocol_config {
            self.echo.request |= config.request_body_mode >= 4;
            self.echo.response |= config.response_body_mode >= 4;
        }
        let Some(kind) = Kind::of(message) else {
            return Ok(());
        };
        let count = self.seen.entry(kind).or_default();
        let answer = self.script.answer(kind, *count);
        *count += 1;
        self.perform(&answer, Some(message)).await
    }

    async fn perform(
        &mut self,
        answer: &Answer,
        message: Option<&ProcessingRequest>,
    ) -> anyhow::Result<()> {
        for step in answer.steps() {
            if matches!(self.out, Out::Over) {
                return Ok(());
            }
            match step {
                Step::Word(Word::Silence) => {}
                Step::Word(Word::Continue) => {
                    if let Some(message) = message
                        && let Some(reply) =
                            unchanged(message, self.echo.request, self.echo.response)
                    {
                        self.send(&reply.encode_to_vec())?;
                    }
                }
                Step::Word(Word::Close) => self.close(0, "")?,
                Step::Word(Word::Abort) => {
                    self.over();
                    let _ = self.order.send(ConnectionOrder::Abort);
                }
                Step::Word(Word::Goaway) => {
                    let _ = self.order.send(ConnectionOrder::GoAway);
                }
                Step::Action(action) => self.action(action, message).await?,
            }
        }
        Ok(())
    }

    async fn action(
        &mut self,
        action: &Action,
        message: Option<&ProcessingRequest>,
    ) -> anyhow::Result<()> {
        if let Some(ms) = action.sleep {
            self.shared.activity.clock.pause(ms).await;
        } else if let Some(garbage) = &action.garbage {
            self.send(&garbage.bytes())?;
        } else if let Some(raw) = &action.raw {
            let raw = raw.bytes();
            self.open()?.send_data(raw.into(), false)?;
        } else if let Some(status) = action.error {
            self.close(status, action.message.as_deref().unwrap_or("boom"))?;
        } else if let Some(code) = action.reset {
            match std::mem::replace(&mut self.out, Out::Over) {
                Out::Waiting(mut respond) => respond.send_reset(Reason::from(code)),
                Out::Open(mut stream) => stream.send_reset(Reason::from(code)),
                Out::Over => {}
            }
            self.over();
        } else if let Some(status) = action.http {
            if let Out::Waiting(respond) = &mut self.out {
                let response = Response::builder()
                    .status(status)
                    .header("content-type", "text/plain")
                    .body(())?;
                respond.send_response(response, true)?;
            }
            self.over();
        } else {
            let kind = message.and_then(Kind::of);
            let reply = reply::build(action, kind)?;
            self.send(&reply.encode_to_vec())?;
        }
        Ok(())
    }

    fn open(&mut self) -> anyhow::Result<&mut SendStream<Bytes>> {
        if let Out::Waiting(respond) = &mut self.out {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .body(())?;
            self.out = Out::Open(respond.send_response(response, false)?);
        }
        match &mut self.out {
            Out::Open(stream) => Ok(stream),
            _ => anyhow::bail!("the stream is over"),
        }
    }

    fn send(&mut self, message: &[u8]) -> anyhow::Result<()> {
        self.shared.activity.touch();
        let mut framed = BytesMut::with_capacity(5 + message.len());
        framed.extend_from_slice(&[0]);
        framed.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        framed.extend_from_slice(message);
        self.open()?.send_data(framed.freeze(), false)?;
        Ok(())
    }

    fn close(&mut self, status: u32, message: &str) -> anyhow::Result<()> {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from(status));
        if !message.is_empty() {
            fields.insert(
                "grpc-message",
                HeaderValue::from_str(message).context("grpc-message")?,
            );
        }
        match std::mem::replace(&mut self.out, Out::Over) {
            Out::Waiting(mut respond) => {
                let mut response = Response::builder()
                    .header("content-type", "application/grpc")
                    .body(())?;
                response.headers_mut().extend(fields);
                respond.send_response(response, true)?;
            }
            Out::Open(mut stream) => stream.send_trailers(fields)?,
            Out::Over => return Ok(()),
        }
        self.over();
        Ok(())
    }

    fn over(&mut self) {
        self.out = Out::Over;
        self.note(|s| {
            s.ended_by_script |= s.end == End::Open;
        });
    }

    fn note(&self, change: impl FnOnce(&mut StreamRecord)) {
        self.shared.activity.touch();
        if let Some(stream) = self
            .shared
            .streams
            .lock()
            .ok()
            .as_mut()
            .and_then(|s| s.get_mut(self.index))
        {
            change(stream);
        }
    }
}
