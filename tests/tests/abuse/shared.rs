//! Connections to upstreams that several clients share: none of these clients can end one or use it up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use tests::support::frames::{self, END_HEADERS, END_STREAM, kind};
use tests::support::rig::{Rig, Setup, exchange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::MIB;
use super::http2::http2;

/// Longest wait for a frame, and for others to be served.
const PATIENCE: Duration = Duration::from_secs(20);

/// `:status: 200` (RFC 7541, appendix A).
const OK: &[u8] = &[0x88];

/// An HTTP/2 upstream made of frames, which does what the path says.
struct Upstream {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Connections ended by GOAWAY or closed.
    ended: AtomicUsize,
    /// Connections that there are now go silent: nothing is read from them any more.
    silent: AtomicBool,
}

impl Upstream {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::<Seen>::default();
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

    async fn rig(&self, route: &str) -> anyhow::Result<Rig> {
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

/// One frame; `None` at the end.
async fn read(socket: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], stream, payload))
}

async fn serve(socket: TcpStream, seen: &Seen, number: usize) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let (mut input, output) = socket.into_split();
    let output = Arc::new(tokio::sync::Mutex::new(output));
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
                    let output = Arc::clone(&output);
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        let mut out = BytesMut::new();
                        let flags = END_HEADERS | END_STREAM;
                        frames::frame(&mut out, kind::HEADERS, flags, stream, OK);
                        output.lock().await.write_all(&out).await
                    });
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
        _ => head(out, END_STREAM),
    }
}

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
const SMALL: usize = 200;

/// Others, who want what is not idempotent and so is not sent again.
struct Victims {
    all: JoinHandle<anyhow::Result<()>>,
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
}

impl Victims {
    fn start(rig: &Rig) -> Self {
        let over = Arc::<AtomicBool>::default();
        let served = Arc::<AtomicUsize>::default();
        let (address, end, count) = (rig.address, Arc::clone(&over), Arc::clone(&served));
        let victim = move || {
            let (end, count) = (Arc::clone(&end), Arc::clone(&count));
            async move {
                let request = b"POST /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
                while !end.load(Ordering::SeqCst) {
                    let (status, _) = exchange(address, request).await?;
                    let before = count.fetch_add(1, Ordering::SeqCst);
                    ensure!(status == 200, "a victim got {status} after {before}");
                }
                anyhow::Ok(())
            }
        };
        let all = tokio::spawn(async move {
            let all: [_; 4] = std::array::from_fn(|_| tokio::spawn(victim()));
            for one in all {
                one.await??;
            }
            Ok(())
        });
        Self { all, over, served }
    }

    /// Each of them has to be served, and to be served on.
    async fn end(self, upstream: &Upstream, what: &str) -> anyhow::Result<()> {
        let enough = self.served.load(Ordering::SeqCst) + 16;
        let served_on = async {
            while self.served.load(Ordering::SeqCst) < enough && !self.all.is_finished() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, served_on)
            .await
            .context("victims are not served on")?;
        self.over.store(true, Ordering::SeqCst);
        self.all.await??;
        let served = self.served.load(Ordering::SeqCst);
        let ended = upstream.seen.ended.load(Ordering::SeqCst);
        eprintln!("    {what}: {served} requests of others were served, {ended} connections ended");
        ensure!(ended == 0, "{ended} connections to the upstream ended");
        Ok(())
    }
}

/// A client of the gateway.
struct Client(TcpStream, u32);

impl Client {
    async fn new(rig: &Rig, window: u32) -> anyhow::Result<Self> {
        Ok(Self(http2(rig, &[(4, window)]).await?, 1))
    }

    /// Asks for this, so often; gives the first stream.
    async fn ask(&mut self, path: &str, times: u32) -> anyhow::Result<u32> {
        let first = self.1;
        let mut out = BytesMut::new();
        for _ in 0..times {
            let flags = END_HEADERS | END_STREAM;
            let block = frames::request("GET", path);
            frames::frame(&mut out, kind::HEADERS, flags, self.1, &block);
            self.1 += 2;
        }
        self.0.write_all(&out).await?;
        Ok(first)
    }

    /// Reads until so many frames have come that are wanted.
    async fn wait(
        &mut self,
        mut count: usize,
        wanted: impl Fn(u8, u8) -> bool,
    ) -> anyhow::Result<()> {
        while count > 0 {
            let frame = timeout(PATIENCE, read(&mut self.0));
            let (frame, flags, ..) = frame
                .await
                .with_context(|| format!("{count} frames are missing"))?
                .context("the client's connection is closed")?;
            ensure!(frame != kind::GOAWAY, "the client's connection ends");
            count -= usize::from(wanted(frame, flags));
        }
        Ok(())
    }
}

/// A client cancels responses that have begun, and what was on its way comes later.
pub(crate) async fn cancels() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 65_535).await?;
    for _ in 0..20 {
        let first = client.ask("/late", 100).await?;
        client.wait(100, |frame, _| frame == kind::HEADERS).await?;
        let mut out = BytesMut::new();
        for number in 0..100 {
            let reason = 8_u32.to_be_bytes();
            frames::frame(&mut out, kind::RST_STREAM, 0, first + number * 2, &reason);
        }
        client.0.write_all(&out).await?;
    }
    victims.end(&upstream, "2000 cancelled responses").await
}

pub(crate) async fn empty_data() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 65_535).await?;
    for _ in 0..150 {
        client.ask("/empty", 1).await?;
        let end = |frame, flags: u8| frame == kind::DATA && flags & END_STREAM != 0;
        client.wait(1, end).await?;
    }
    victims.end(&upstream, "300 empty DATA frames").await
}

/// Small frames that a client leaves unread; in the end it gets all of them.
pub(crate) async fn small_data() -> anyhow::Result<()> {
    const STREAMS: u32 = 200;
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 0).await?;
    client.ask("/small", STREAMS).await?;
    let heads = |frame, _: u8| frame == kind::HEADERS;
    client.wait(STREAMS as usize, heads).await?;
    victims.end(&upstream, "40,000 small frames").await?;
    watch.check(&rig, "small frames", 40 * MIB).await?;
    let mut out = BytesMut::new();
    for number in 0..STREAMS {
        frames::window(&mut out, number * 2 + 1, 65_535);
    }
    client.0.write_all(&out).await?;
    let mut bytes = 0;
    while bytes < SMALL * STREAMS as usize {
        let frame = timeout(PATIENCE, read(&mut client.0));
        let (frame, _, _, payload) = frame.await?.context("the connection is closed")?;
        bytes += payload.len() * usize::from(frame == kind::DATA);
    }
    Ok(())
}

/// Trailers of 900 KB behind a byte that a client leaves unread.
pub(crate) async fn unread_trailers() -> anyhow::Result<()> {
    const STREAMS: u32 = 100;
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 0).await?;
    client.ask("/trailers", STREAMS).await?;
    let heads = |frame, _: u8| frame == kind::HEADERS;
    client.wait(STREAMS as usize, heads).await?;
    victims.end(&upstream, "90 MB of trailers").await?;
    watch.check(&rig, "trailers", 24 * MIB).await
}

/// Clients that read nothing of long responses.
pub(crate) async fn deaf_clients() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let victims = Victims::start(&rig);
    let mut deaf = Vec::new();
    for _ in 0..12 {
        let mut client = Client::new(&rig, 0).await?;
        client.ask("/large", 1).await?;
        client.wait(1, |frame, _| frame == kind::HEADERS).await?;
        deaf.push(client);
    }
    // The upstream has as many bytes for another client, and they arrive.
    let mut client = Client::new(&rig, 1 << 24).await?;
    let mut out = BytesMut::new();
    frames::window(&mut out, 0, 1 << 24);
    client.0.write_all(&out).await?;
    client.ask("/large", 1).await?;
    client.wait(64, |frame, _| frame == kind::DATA).await?;
    victims.end(&upstream, "12 MiB that nobody reads").await
}

/// A response with more header fields than is allowed is lost, and nothing else.
pub(crate) async fn large_head() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let victims = Victims::start(&rig);
    for _ in 0..3 {
        let request =
            b"POST /fields HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (status, _) = exchange(rig.address, request).await?;
        ensure!(status >= 500, "{status}");
    }
    victims.end(&upstream, "heads of 300 KB").await
}

/// Requests whose heads are larger than the upstream says it takes, which ends connections of those who do not heed it.
pub(crate) async fn large_request_head() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        upstream_http2: true,
        manager: "max_request_headers_kb: 200\n".to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let victims = Victims::start(&rig);
    for _ in 0..3 {
        let fill = "x".repeat(100_000);
        let request =
            format!("GET /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-fill: {fill}\r\n\r\n");
        let (status, _) = exchange(rig.address, request.as_bytes()).await?;
        ensure!(status == 431, "{status}");
    }
    victims.end(&upstream, "request heads of 100 KB").await
}

/// Trailers larger than the upstream announced are not sent to it.
pub(crate) async fn large_request_trailers() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        upstream_http2: true,
        manager: "max_request_headers_kb: 200\nhttp_protocol_options: {enable_trailers: true}\n"
            .to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let victims = Victims::start(&rig);
    for _ in 0..3 {
        let fill = "x".repeat(50_000);
        let request = format!(
            "POST /unanswered HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-fill: {fill}\r\n\r\n"
        );
        let (status, _) = exchange(rig.address, request.as_bytes()).await?;
        ensure!(status == 431, "{status}");
    }
    victims.end(&upstream, "request trailers of 50 KB").await
}

/// Heads and trailers beyond the limits end their stream and not the connection, which may be a proxy's. Nor does a response
/// that is larger than the client takes.
pub(crate) async fn large_heads_of_a_proxy() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        upstream_http2: true,
        manager: "max_request_headers_kb: 8\n".to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let socket = TcpStream::connect(rig.address).await?;
    let (client, connection) = h2::client::Builder::new()
        .max_header_list_size(1024)
        .handshake::<_, Bytes>(socket)
        .await?;
    tokio::spawn(connection);
    let request = Request::get("http://a/slow").body(())?;
    let (victim, _) = client.clone().ready().await?.send_request(request, true)?;
    for size in [9_000, 40_000, 100_000] {
        let request = Request::get("http://a/good").header("x-fill", "x".repeat(size));
        let mut client = client.clone().ready().await?;
        let (answer, _) = client.send_request(request.body(())?, true)?;
        let status = answer.await?.status();
        ensure!(status == 431, "{status} for a head of {size} bytes");

        let request = Request::post("http://a/unanswered").body(())?;
        let mut client = client.ready().await?;
        let (answer, mut body) = client.send_request(request, false)?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-fill", "x".repeat(size).parse()?);
        body.send_trailers(trailers)?;
        let answer = timeout(PATIENCE, answer).await?;
        ensure!(
            answer.as_ref().is_err_and(|error| error.is_reset()),
            "trailers of {size} bytes: {answer:?}"
        );
    }
    let request = Request::get("http://a/wide").body(())?;
    let (answer, _) = client.clone().ready().await?.send_request(request, true)?;
    let answer = answer.await;
    ensure!(
        answer.as_ref().is_err_and(|error| error.is_reset()),
        "a wide response: {answer:?}"
    );
    let status = victim.await?.status();
    ensure!(status == StatusCode::OK, "{status}");
    let request = Request::get("http://a/good").body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    let status = answer.await?.status();
    ensure!(status == StatusCode::OK, "{status} afterwards");
    Ok(())
}

/// An upstream that sends frames which are no part of a message, in front of its responses.
pub(crate) async fn control_floods() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let watch = rig.watch();
    let victims = Victims::start(&rig);
    for _ in 0..4 {
        let request = b"GET /control HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let (status, _) = exchange(rig.address, request).await?;
        ensure!(status == 200, "{status}");
    }
    victims.end(&upstream, "200,000 control frames").await?;
    watch.check(&rig, "control frames", 8 * MIB).await
}

/// The path of a connection goes silent. At most those who are on it then are lost.
pub(crate) async fn silent_connection() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 1s").await?;
    upstream.seen.silent.store(true, Ordering::SeqCst);
    let request =
        b"POST /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let (status, _) = exchange(rig.address, request).await?;
    ensure!(status == 504, "{status}");
    for _ in 0..5 {
        let (status, _) = exchange(rig.address, request).await?;
        ensure!(status == 200, "{status} after the first timeout");
    }
    Ok(())
}

/// No limit of time ends these exchanges: pings do.
pub(crate) async fn silent_without_limits() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    upstream.seen.silent.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let request =
        b"POST /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let (status, _) = timeout(3 * PATIENCE, exchange(rig.address, request)).await??;
    eprintln!("    answered with {status} after {:?}", begun.elapsed());
    ensure!(status == 503, "{status}");
    rig.normal_client().await.map(drop)
}

/// A client sends small frames within its windows to an upstream that does not take them, and its other requests on the
/// same connection are served.
pub(crate) async fn small_uploads() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let mut client = Client::new(&rig, 65_535).await?;
    // Its windows are open now.
    client
        .wait(1, |frame, _| frame == kind::WINDOW_UPDATE)
        .await?;
    let mut out = BytesMut::new();
    let head = frames::request("POST", "/held");
    frames::frame(&mut out, kind::HEADERS, END_HEADERS, client.1, &head);
    for _ in 0..400_000 {
        frames::frame(&mut out, kind::DATA, 0, client.1, b"x");
    }
    for _ in 0..500 {
        frames::frame(&mut out, kind::DATA, 0, client.1, &[]);
    }
    client.1 += 2;
    client.0.write_all(&out).await?;
    client.ask("/good", 1).await?;
    client.wait(2, |frame, _| frame == kind::HEADERS).await?;
    watch
        .check(&rig, "small frames of a client", 40 * MIB)
        .await
}

/// A client's uploads that their upstream does not take leave its other requests on the same connection alone.
pub(crate) async fn unread_uploads() -> anyhow::Result<()> {
    const UPLOADS: usize = 24;
    const EACH: usize = 1 << 20;
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let socket = TcpStream::connect(rig.address).await?;
    let (client, connection) = h2::client::handshake(socket).await?;
    tokio::spawn(connection);
    let mut uploads = JoinSet::new();
    for _ in 0..UPLOADS {
        let request = Request::post("http://a/held").body(())?;
        let (_, mut body) = client.clone().ready().await?.send_request(request, false)?;
        uploads.spawn(async move {
            let mut left = EACH;
            while left > 0 {
                body.reserve_capacity(left);
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                let room = room.context("the upload is over")??;
                body.send_data(Bytes::from(vec![b'x'; room]), false)?;
                left -= room;
            }
            anyhow::Ok(body)
        });
    }
    let mut open = Vec::new();
    while let Some(sent) = timeout(PATIENCE, uploads.join_next())
        .await
        .context("an upload has no window")?
    {
        open.push(sent??);
    }
    let request = Request::get("http://a/good").body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    let status = timeout(PATIENCE, answer).await??.status();
    ensure!(status == StatusCode::OK, "{status}");
    watch
        .check(&rig, "uploads that nobody takes", 64 * MIB)
        .await
}
