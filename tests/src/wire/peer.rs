//! The peers of a case: its client and its upstream, in both versions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::case::{Action, Case, Step, Steps};
use super::frames::{self, Reader};
use super::message::{self, End, Message, Reading};
use crate::support::frames::PREFACE;
use crate::support::http1::bytes_of;
use crate::support::script::Protocol;

/// The path of the request that asks whether a connection is still good.
pub const PROBE: &str = "/probe-of-the-suite";

const PLAIN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// End of one direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eof {
    /// With a FIN.
    Fin,
    /// With a RST or another error.
    Reset,
}

/// Bytes and messages that one connection has received.
#[derive(Default)]
pub struct Received {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The same, if it is HTTP/2.
    pub reader: Option<Reader>,
    /// Its end, if it has ended.
    pub eof: Option<Eof>,
}

impl Received {
    fn text(&self) -> Vec<u8> {
        match &self.reader {
            Some(reader) => bytes_of(&reader.trace),
            None => self.bytes.clone(),
        }
    }
}

/// The connections of one side.
#[derive(Default)]
pub struct Side {
    connections: Mutex<Vec<Received>>,
    changed: Notify,
}

impl Side {
    /// Returns what the connections have received, in the order in which they were opened.
    pub fn connections(&self) -> MutexGuard<'_, Vec<Received>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, reader: Option<Reader>) -> usize {
        let mut connections = self.connections();
        connections.push(Received {
            reader,
            ..Received::default()
        });
        connections.len() - 1
    }

    /// Waits until `done` holds; `false` if that takes too long.
    pub async fn wait(&self, limit: Duration, done: impl Fn(&[Received]) -> bool) -> bool {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if done(&self.connections()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }

    async fn has_seen(&self, limit: Duration, text: &str) -> bool {
        let wanted = bytes_of(text);
        self.wait(limit, |connections| {
            connections.iter().any(|one| contains(&one.text(), &wanted))
        })
        .await
    }
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len().max(1)).any(|window| window == part)
}

/// State that both sides of a case share.
pub struct Stage {
    /// The case.
    pub case: Arc<Case>,
    /// The client's side.
    pub client: Side,
    /// The upstream's side.
    pub upstream: Side,
    /// The longest that anything is waited for.
    pub limit: Duration,
    /// Steps that a peer could not do.
    pub notes: Mutex<Vec<String>>,
}

impl Stage {
    fn note(&self, text: String) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }
}

enum Order {
    Bytes(Vec<u8>),
    Action(Action),
}

/// Reads a connection into its side and writes what it is told to.
struct Pump {
    index: usize,
    orders: mpsc::UnboundedSender<Order>,
}

impl Pump {
    fn start(stream: TcpStream, stage: &Arc<Stage>, client: bool, tasks: &mut JoinSet<()>) -> Self {
        let case = &stage.case;
        let http2 = if client {
            case.http2_client()
        } else {
            case.to == Protocol::Http2
        };
        let reader = http2.then(|| Reader::new(!client));
        let side = if client {
            &stage.client
        } else {
            &stage.upstream
        };
        let index = side.open(reader);
        let (orders, receiver) = mpsc::unbounded_channel();
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let own = orders.clone();
        let reading = Arc::clone(stage);
        let reader = tasks.spawn(async move {
            let side = if client {
                &reading.client
            } else {
                &reading.upstream
            };
            read_all(read, side, index, &own).await;
        });
        tasks.spawn(write_all(write, receiver, reader));
        Self { index, orders }
    }

    fn send(&self, bytes: Vec<u8>) {
        let _ = self.orders.send(Order::Bytes(bytes));
    }
}

async fn read_all(
    mut read: OwnedReadHalf,
    side: &Side,
    index: usize,
    orders: &mpsc::UnboundedSender<Order>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let result = read.read(&mut buffer).await;
        let mut connections = side.connections();
        let Some(own) = connections.get_mut(index) else {
            return;
        };
        match result {
            Ok(0) => own.eof = Some(Eof::Fin),
            Err(_) => own.eof = Some(Eof::Reset),
            Ok(n) => match &mut own.reader {
                Some(reader) => {
                    let answer = reader.take(&buffer[..n]);
                    if !answer.is_empty() {
                        let _ = orders.send(Order::Bytes(answer));
                    }
                }
                None => own.bytes.extend_from_slice(&buffer[..n]),
            },
        }
        let over = own.eof.is_some();
        drop(connections);
        side.changed.notify_waiters();
        if over {
            return;
        }
    }
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut orders: mpsc::UnboundedReceiver<Order>,
    reader: AbortHandle,
) {
    while let Some(order) = orders.recv().await {
        match order {
            // The proxy may have closed; what it then says is looked at, not that it did.
            Order::Bytes(bytes) => {
                let _ = write.write_all(&bytes).await;
            }
            Order::Action(Action::Shutdown) => {
                let _ = write.shutdown().await;
            }
            Order::Action(Action::Close) => {
                let _ = write.shutdown().await;
                reader.abort();
                return;
            }
            Order::Action(Action::Reset) => {
                // The socket closes when both halves are gone.
                let _ = write.as_ref().set_zero_linger();
                reader.abort();
                write.forget();
                return;
            }
        }
    }
}

async fn perform(steps: &Steps, pump: &Pump, stage: &Stage, client: bool, stream: u32) -> bool {
    let (own, other) = if client {
        (&stage.client, &stage.upstream)
    } else {
        (&stage.upstream, &stage.client)
    };
    let mut open = true;
    for step in &steps.0 {
        match step {
            Step::Sees { sees } => {
                if !own.has_seen(stage.limit, sees).await {
                    stage.note(format!("never came: {sees:?}"));
                }
            }
            Step::OtherSees { other_sees } => {
                if !other.has_seen(stage.limit, other_sees).await {
                    stage.note(format!("never came to the other side: {other_sees:?}"));
                }
            }
            Step::Do { action } => {
                open &= *action == Action::Shutdown;
                let _ = pump.orders.send(Order::Action(*action));
            }
            // The case asks for the time.
            Step::Pause { pause } => tokio::time::sleep(Duration::from_millis(*pause)).await,
            Step::Bytes(bytes) => pump.send(bytes.bytes()),
            Step::Frame(frame) => pump.send(frames::encode(frame, stream)),
        }
    }
    open
}

/// A case's client while it is connected.
pub struct Client {
    pump: Pump,
    stage: Arc<Stage>,
    _tasks: JoinSet<()>,
}

impl Client {
    /// Connects and does what the case says.
    ///
    /// # Errors
    /// Nothing listens.
    pub async fn run(stage: Arc<Stage>, proxy: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(proxy).await?;
        let mut tasks = JoinSet::new();
        let pump = Pump::start(stream, &stage, true, &mut tasks);
        let case = Arc::clone(&stage.case);
        if case.http2_client() {
            if !case.bare {
                // A window as large as can be, so that no case waits for one by accident.
                let begin = [PREFACE, &frames::settings(&[(4, 0x7fff_ffff)])].concat();
                pump.send(begin);
            }
            perform(&case.frames, &pump, &stage, true, 1).await;
        } else {
            perform(&case.send, &pump, &stage, true, 1).await;
        }
        Ok(Self {
            pump,
            stage,
            _tasks: tasks,
        })
    }

    /// Asks for one more response, on the stream with this number.
    pub fn probe(&self, stream: u32) {
        let bytes = if self.stage.case.http2_client() {
            let pairs = [
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "probe"),
                (":path", PROBE),
            ];
            let list = pairs.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
            frames::headers(stream, &list.to_vec())
        } else {
            format!("GET {PROBE} HTTP/1.1\r\nHost: probe\r\n\r\n").into_bytes()
        };
        self.pump.send(bytes);
    }
}

/// Serves a case's upstream as long as the future is polled.
pub async fn upstream(stage: Arc<Stage>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    let replies = Arc::new(Mutex::new(stage.case.replies.clone().into_iter()));
    let first = Arc::new(Mutex::new(stage.case.reply.clone()));
    while let Ok((stream, _)) = listener.accept().await {
        let pump = Pump::start(stream, &stage, false, &mut tasks);
        let stage = Arc::clone(&stage);
        let (first, replies) = (Arc::clone(&first), Arc::clone(&replies));
        let next = move || {
            let own = first.lock().ok().and_then(|mut first| first.take());
            own.or_else(|| replies.lock().ok().and_then(|mut replies| replies.next()))
        };
        tasks.spawn(async move {
            match stage.case.to {
                Protocol::Http1 => serve_http1(&pump, &stage, next).await,
                Protocol::Http2 => serve_http2(&pump, &stage, next).await,
            }
        });
    }
}

async fn serve_http1(pump: &Pump, stage: &Stage, next: impl Fn() -> Option<Steps>) {
    const LONG: Duration = Duration::from_secs(60);
    let plain = Steps(vec![Step::Bytes(crate::support::script::Payload::Text(
        PLAIN.into(),
    ))]);
    let mut served = 0;
    loop {
        let ready = |received: &[Received]| {
            let Some(own) = received.get(pump.index) else {
                return true;
            };
            let messages = message::read(&own.bytes, &Reading::default());
            own.eof.is_some()
                || messages
                    .get(served)
                    .is_some_and(|message| stage.case.early || message.end != End::Cut)
        };
        if !stage.upstream.wait(LONG, ready).await {
            return;
        }
        let request = {
            let connections = stage.upstream.connections();
            let Some(own) = connections.get(pump.index) else {
                return;
            };
            let messages = message::read(&own.bytes, &Reading::default());
            messages.get(served).cloned()
        };
        let Some(request) = request else { return };
        served += 1;
        if is_probe(&request) {
            pump.send(PLAIN.into());
        } else if !perform(
            &next().unwrap_or_else(|| plain.clone()),
            pump,
            stage,
            false,
            1,
        )
        .await
        {
            return;
        }
    }
}

async fn serve_http2(pump: &Pump, stage: &Stage, next: impl Fn() -> Option<Steps>) {
    const LONG: Duration = Duration::from_secs(60);
    // Large windows, and extended CONNECT is welcome.
    pump.send(frames::settings(&[(4, 0x7fff_ffff), (8, 1)]));
    let mut served = std::collections::BTreeSet::new();
    loop {
        let ready = |received: &[Received]| {
            received
                .get(pump.index)
                .is_none_or(|own| own.eof.is_some() || waiting(own, stage, &served).is_some())
        };
        if !stage.upstream.wait(LONG, ready).await {
            return;
        }
        let request = {
            let connections = stage.upstream.connections();
            connections
                .get(pump.index)
                .and_then(|own| waiting(own, stage, &served))
        };
        let Some((stream, request)) = request else {
            return;
        };
        served.insert(stream);
        let own = if is_probe(&request) { None } else { next() };
        let Some(steps) = own else {
            let list = vec![(":status".to_owned(), b"200".to_vec())];
            pump.send(frames::headers(stream, &list));
            continue;
        };
        if !perform(&steps, pump, stage, false, stream).await {
            return;
        }
    }
}

fn waiting(
    own: &Received,
    stage: &Stage,
    served: &std::collections::BTreeSet<u32>,
) -> Option<(u32, Message)> {
    let reader = own.reader.as_ref()?;
    reader
        .streams
        .iter()
        .filter(|(stream, _)| !served.contains(stream))
        .find_map(|(stream, (_, message))| {
            let message = message.as_ref()?;
            let ready = stage.case.early || message.end == End::Complete;
            (ready && !message.fields.is_empty()).then(|| (*stream, message.clone()))
        })
}

/// Tells whether this is the suite's own question.
#[must_use]
pub fn is_probe(request: &Message) -> bool {
    request.first.contains(PROBE) || request.field(":path").is_some_and(|path| path == PROBE)
}
