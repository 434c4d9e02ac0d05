//! An HTTP/2 upstream made of frames, which answers as the path says.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use bytes::BytesMut;
use tests::support::frames::{self, END_HEADERS, END_STREAM, kind};
use tests::support::rig::{Rig, Setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};

use super::read;

/// `:status: 200` (RFC 7541, appendix A).
const OK: &[u8] = &[0x88];

/// Requests for `/slow` that are under way at all times: the oldest is answered when one more has come.
const UNDER_WAY: usize = 2;

type Output = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;

/// A request that waits for its answer: its connection and stream.
struct Held(Output, u32);

impl Held {
    async fn answer(self) {
        let mut out = BytesMut::new();
        frames::frame(
            &mut out,
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            self.1,
            OK,
        );
        // The gateway may have closed the connection.
        let _ = self.0.lock().await.write_all(&out).await;
    }
}

/// An HTTP/2 upstream made of frames, which does what the path says.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
}

#[derive(Default)]
pub(super) struct Seen {
    connections: AtomicUsize,
    /// Connections ended by GOAWAY or closed.
    pub(super) ended: AtomicUsize,
    /// Connections that there are now go silent: nothing is read from them any more.
    pub(super) silent: AtomicBool,
    /// Requests for `/slow`, oldest first; `None` once they are held no longer.
    held: Mutex<Option<VecDeque<Held>>>,
}

impl Seen {
    fn new() -> Self {
        Self {
            held: Mutex::new(Some(VecDeque::new())),
            ..Self::default()
        }
    }

    /// Keeps a request until others have come, or [`Seen::release`].
    fn hold(&self, request: Held) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = match held.as_mut() {
            None => Some(request),
            Some(held) => {
                held.push_back(request);
                (held.len() > UNDER_WAY).then(|| held.pop_front()).flatten()
            }
        };
        if let Some(oldest) = oldest {
            tokio::spawn(oldest.answer());
        }
    }

    /// Answers the requests for `/slow` from now on at once.
    pub(super) async fn release(&self) {
        let held = self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        for request in held.into_iter().flatten() {
            request.answer().await;
        }
    }
}

impl Upstream {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::new());
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let seen = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = serve(socket, &seen, number).await;
                    seen.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, seen })
    }

    pub(super) async fn rig(&self, route: &str) -> anyhow::Result<Rig> {
        let setup = Setup {
            upstream: Some(self.address),
            upstream_http2: true,
            route: route.to_owned(),
            ..Setup::default()
        };
        let rig = setup.start().await?;
        rig.normal_client().await?;
        Ok(rig)
    }
}

async fn serve(socket: TcpStream, seen: &Seen, number: usize) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let (mut input, output) = socket.into_split();
    let output: Output = Arc::new(tokio::sync::Mutex::new(output));
    let mut preface = [0; 24];
    input.read_exact(&mut preface).await?;
    let mut out = BytesMut::new();
    frames::settings(&mut out, &[(3, 1000), (6, 16 * 1024)]);
    output.lock().await.write_all(&out).await?;
    let mut hpack = loona_hpack::Decoder::new();
    let mut paths = HashMap::new();
    while let Some((frame, flags, stream, payload)) = read(&mut input).await {
        if number == 0 && seen.silent.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let mut out = BytesMut::new();
        match frame {
            kind::SETTINGS if flags == 0 => frames::frame(&mut out, kind::SETTINGS, 1, 0, &[]),
            kind::PING if flags == 0 => frames::frame(&mut out, kind::PING, 1, 0, &payload),
            // As other servers do.
            kind::HEADERS if flags & END_HEADERS == 0 => bail!("a head larger than was announced"),
            kind::HEADERS => {
                let fields = hpack.decode(&payload).ok().context("HPACK")?;
                let path = fields.into_iter().find(|(name, _)| name == b":path");
                let path = String::from_utf8(path.context("no path")?.1)?;
                if path == "/slow" {
                    seen.hold(Held(Arc::clone(&output), stream));
                } else if path == "/control" {
                    let output = Arc::clone(&output);
                    tokio::spawn(async move {
                        let flood = control_frames(stream);
                        output.lock().await.write_all(&flood).await
                    });
                } else {
                    answer(&mut out, &path, stream);
                    paths.insert(stream, path);
                }
            }
            // It was on its way when the reset was.
            kind::RST_STREAM if paths.get(&stream).is_some_and(|path| path == "/late") => {
                for _ in 0..3 {
                    frames::frame(&mut out, kind::DATA, 0, stream, b"late");
                }
            }
            kind::GOAWAY => anyhow::bail!("the gateway ends the connection"),
            _ => {}
        }
        output.lock().await.write_all(&out).await?;
    }
    Ok(())
}

fn answer(out: &mut BytesMut, path: &str, stream: u32) {
    let data = |out: &mut BytesMut, flags, payload: &[u8]| {
        frames::frame(out, kind::DATA, flags, stream, payload);
    };
    let head = |out: &mut BytesMut, flags| {
        frames::frame(out, kind::HEADERS, END_HEADERS | flags, stream, OK);
    };
    match path {
        "/late" | "/held" => head(out, 0),
        "/unanswered" => {}
        "/wide" => {
            let mut block = OK.to_vec();
            block.extend(frames::block(&[("x-wide", &"a".repeat(10_000))]));
            frames::frame(out, kind::HEADERS, END_HEADERS | END_STREAM, stream, &block);
        }
        "/empty" => {
            head(out, 0);
            data(out, 0, &[]);
            // Padded: three bytes of padding, and no content.
            data(out, 8, &[3, 0, 0, 0]);
            data(out, END_STREAM, b"x");
        }
        "/small" => {
            head(out, 0);
            for number in 0..SMALL {
                data(out, 0, &[number as u8]);
            }
        }
        // As much as the window of a stream takes.
        "/large" => {
            head(out, 0);
            for _ in 0..64 {
                data(out, 0, &[b'x'; 16 * 1024]);
            }
        }
        "/trailers" => {
            head(out, 0);
            data(out, 0, b"x");
            frames::frame(out, kind::HEADERS, END_STREAM, stream, &[]);
            let field = frames::block(&[("x-large", &"a".repeat(15_000))]);
            for number in 0..60 {
                let flags = if number == 59 { END_HEADERS } else { 0 };
                frames::frame(out, kind::CONTINUATION, flags, stream, &field);
            }
        }
        "/fields" => {
            // A head in many frames, larger than any limit.
            frames::frame(out, kind::HEADERS, 0, stream, OK);
            let field = frames::block(&[("x-large", &"a".repeat(15_000))]);
            for number in 0..20 {
                let flags = if number == 19 { END_HEADERS } else { 0 };
                frames::frame(out, kind::CONTINUATION, flags, stream, &field);
            }
            data(out, END_STREAM, b"x");
        }
        _ => match path.strip_prefix("/refused/") {
            Some(number) => refused(out, stream, number.parse().unwrap_or_default()),
            None => head(out, END_STREAM),
        },
    }
}

/// A response with a field that no message may have, at its head or its end.
fn refused(out: &mut BytesMut, stream: u32, number: usize) {
    let (name, value) = REFUSED[number / 3 % REFUSED.len()];
    let mut block = Vec::new();
    // Each for itself, in the dynamic table, and from there.
    match number % 3 {
        0 => block.extend(frames::block(&[(name, value)])),
        1 => frames::indexed(&mut block, name.as_bytes(), value.as_bytes()),
        _ => block.push(0x80 | 62),
    }
    if number.is_multiple_of(2) {
        block.splice(..0, OK.iter().copied());
    } else {
        frames::frame(out, kind::HEADERS, END_HEADERS, stream, OK);
    }
    let (first, last) = block.split_at(block.len() / 2);
    frames::frame(out, kind::HEADERS, END_STREAM, stream, first);
    frames::frame(out, kind::CONTINUATION, END_HEADERS, stream, last);
}

/// Fields for which HTTP libraries end a connection.
pub(super) const REFUSED: [(&str, &str); 9] = [
    ("x-line", "a\nb"),
    ("x-zero", "a\0b"),
    ("x-delete", "\x7f"),
    ("X-Upper", "a"),
    ("", "a"),
    ("two words", "a"),
    (":unknown", "a"),
    (":status", "2x0"),
    ("connection", "close"),
];

/// Frames that say nothing, and a response behind them.
fn control_frames(stream: u32) -> BytesMut {
    const EXTENSION: u8 = 0x77;
    let mut out = BytesMut::new();
    for number in 0..CONTROL {
        match number % 5 {
            0 => frames::settings(&mut out, &[(4, 65_535 + number % 2)]),
            1 => frames::frame(&mut out, kind::PING, 0, 0, &[0; 8]),
            2 => frames::frame(&mut out, kind::PRIORITY, 0, stream, &[0, 0, 0, 0, 1]),
            3 => frames::window(&mut out, stream, 1),
            _ => frames::frame(&mut out, EXTENSION, 0, stream, &[0; 8]),
        }
    }
    frames::frame(
        &mut out,
        kind::HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        OK,
    );
    out
}

/// Their number.
const CONTROL: u32 = 50_000;

/// Frames of one byte on one stream.
pub(super) const SMALL: usize = 200;
