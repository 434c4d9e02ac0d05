//! Clients that flood or stall over HTTP/2.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::BytesMut;
use tests::support::frames::{self, END_HEADERS, END_STREAM, kind};
use tests::support::rig::{Rig, scale};
use tests::support::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{LITTLE, MIB, PATIENCE, plain, with_processor};

/// A connection that has said the preface and its settings.
pub(crate) async fn http2(rig: &Rig, settings: &[(u16, u32)]) -> anyhow::Result<TcpStream> {
    let mut socket = TcpStream::connect(rig.address).await?;
    let mut out = BytesMut::from(frames::PREFACE);
    frames::settings(&mut out, settings);
    frames::frame(&mut out, kind::SETTINGS, 1, 0, &[]);
    socket.write_all(&out).await?;
    Ok(socket)
}

/// Writes as long as the gateway takes it; says whether it took everything. What it sends is read and dropped.
pub(crate) async fn pour(
    socket: TcpStream,
    pieces: impl Iterator<Item = BytesMut>,
    patience: Duration,
) -> bool {
    let (mut read, mut write) = socket.into_split();
    let drain = tokio::spawn(async move {
        let mut scrap = vec![0; 64 * 1024];
        while matches!(read.read(&mut scrap).await, Ok(1..)) {}
    });
    for piece in pieces {
        match tokio::time::timeout(patience, write.write_all(&piece)).await {
            Ok(Ok(())) => {}
            _ => {
                drain.abort();
                return false;
            }
        }
    }
    // Whether it closes now.
    let closed = tokio::time::timeout(patience, drain).await.is_ok();
    !closed
}

pub(crate) async fn rapid_reset() -> anyhow::Result<()> {
    reset_streams("rapid reset", |out, stream| {
        frames::frame(out, kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    })
    .await
}

pub(crate) async fn made_you_reset() -> anyhow::Result<()> {
    // RFC 9113 section 6.9: an increment of 0 is a stream error, so that the server resets.
    reset_streams("made you reset", |out, stream| {
        frames::window(out, stream, 0);
    })
    .await
}

/// Requests, each followed at once by what resets it.
async fn reset_streams(name: &str, reset: impl Fn(&mut BytesMut, u32)) -> anyhow::Result<()> {
    let (upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let before = upstream.seen.requests.load(Ordering::Relaxed);
    let count = 20_000 * scale() as u32;
    let socket = http2(&rig, &[]).await?;
    let block = frames::request("GET", "/slow/1000");
    let pieces = (0..count / 50).map(|group| {
        let mut out = BytesMut::new();
        for number in 0..50 {
            let stream = (group * 50 + number) * 2 + 1;
            let flags = END_HEADERS | END_STREAM;
            frames::frame(&mut out, kind::HEADERS, flags, stream, &block);
            reset(&mut out, stream);
        }
        out
    });
    let survived = pour(socket, pieces, PATIENCE).await;
    let reached = upstream.seen.requests.load(Ordering::Relaxed) - before;
    eprintln!(
        "    {name}: of {count} requests {reached} reached the upstream, connection kept: {survived}"
    );
    ensure!(!survived, "the connection is kept");
    ensure!(reached < 3000, "{reached} requests reached the upstream");
    watch.check(&rig, name, LITTLE).await
}

pub(crate) async fn continuation() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let socket = http2(&rig, &[]).await?;
    let count = 10_000 * scale();
    let field = frames::block(&[("x-a", &"a".repeat(1000))]);
    let pieces = (0..count).map(|number| {
        let mut out = BytesMut::new();
        if number == 0 {
            frames::frame(
                &mut out,
                kind::HEADERS,
                END_STREAM,
                1,
                &frames::request("GET", "/"),
            );
        }
        frames::frame(&mut out, kind::CONTINUATION, 0, 1, &field);
        out
    });
    let survived = pour(socket, pieces, PATIENCE).await;
    ensure!(!survived, "a header block without an end is taken");
    watch.check(&rig, "CONTINUATION without end", LITTLE).await
}

/// Frames that ask for an answer, from a client that reads nothing.
pub(crate) async fn control_flood(frame: u8, length: usize) -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let mut socket = http2(&rig, &[]).await?;
    let mut out = BytesMut::new();
    for _ in 0..1000 {
        frames::frame(&mut out, frame, 0, 0, &vec![0; length]);
    }
    push(&mut socket, &out).await;
    watch.check(&rig, "control frames", LITTLE).await
}

/// Frames that say nothing, as many as are taken.
pub(crate) async fn idle_talk(frame: u8, payload: &[u8]) -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let socket = http2(&rig, &[]).await?;
    let stream = if frame == kind::PRIORITY { 1 } else { 0 };
    let pieces = (0..200 * scale()).map(|_| {
        let mut out = BytesMut::new();
        for _ in 0..1000 {
            frames::frame(&mut out, frame, 0, stream, payload);
        }
        out
    });
    let survived = pour(socket, pieces, PATIENCE).await;
    ensure!(!survived, "the connection is kept");
    watch.check(&rig, "idle talk", LITTLE).await
}

/// Writes these thousand frames, reading nothing, until they are not taken any more; 500 times at most.
async fn push(socket: &mut TcpStream, thousand: &[u8]) {
    let mut taken = 0;
    for _ in 0..500 * scale() {
        match tokio::time::timeout(PATIENCE, socket.write_all(thousand)).await {
            Ok(Ok(())) => taken += 1000,
            _ => break,
        }
    }
    eprintln!("    {taken} frames were taken");
}

pub(crate) async fn empty_data() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let socket = http2(&rig, &[]).await?;
    let count = 200 * scale();
    let pieces = (0..count).map(|number| {
        let mut out = BytesMut::new();
        if number == 0 {
            frames::frame(
                &mut out,
                kind::HEADERS,
                END_HEADERS,
                1,
                &frames::request("POST", "/"),
            );
        }
        for _ in 0..1000 {
            frames::frame(&mut out, kind::DATA, 0, 1, &[]);
        }
        out
    });
    let survived = pour(socket, pieces, PATIENCE).await;
    ensure!(!survived, "empty DATA frames are taken without end");
    watch.check(&rig, "empty DATA", LITTLE).await
}

/// DATA of one byte, each with its head of nine and padding as long as can be or none.
pub(crate) async fn small_data() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let socket = http2(&rig, &[]).await?;
    let pieces = (0..200 * scale()).map(|number| {
        let mut out = BytesMut::new();
        if number == 0 {
            let head = frames::request("POST", "/");
            frames::frame(&mut out, kind::HEADERS, END_HEADERS, 1, &head);
        }
        for _ in 0..1000 {
            frames::frame(&mut out, kind::DATA, 0, 1, b"x");
        }
        out
    });
    let survived = pour(socket, pieces, PATIENCE).await;
    eprintln!("    connection kept: {survived}");
    watch.check(&rig, "DATA of one byte", LITTLE).await
}

/// The same for a processor that sees the body: a message for each byte would be no better than a flood of ours.
pub(crate) async fn small_data_streamed() -> anyhow::Result<()> {
    const FRAMES: usize = 30_000;
    const AT_ONCE: usize = 3000;
    let filter = super::bodies::mode("STREAMED");
    let (upstream, _processor, rig) = with_processor(&filter, "timeout: 60s").await?;
    let watch = rig.watch();
    let stat = "http.main.ext_proc.stream_msgs_sent";
    let known = rig.stat(stat).await?;
    let before = upstream.seen.bytes.load(Ordering::Relaxed);
    let mut socket = http2(&rig, &[]).await?;
    let mut out = BytesMut::new();
    let head = frames::request("POST", "/");
    frames::frame(&mut out, kind::HEADERS, END_HEADERS, 1, &head);
    for group in 1..=FRAMES / AT_ONCE {
        for _ in 0..AT_ONCE {
            frames::frame(&mut out, kind::DATA, 0, 1, b"x");
        }
        socket.write_all(&out).await?;
        out.clear();
        wait::until("the upload", wait::LONG, async || {
            let arrived = (upstream.seen.bytes.load(Ordering::Relaxed) - before) as usize;
            ensure!(arrived >= group * AT_ONCE, "{arrived} bytes arrived");
            Ok(())
        })
        .await?;
    }
    let sent = rig.stat(stat).await? - known;
    eprintln!("    {sent} messages");
    ensure!(
        sent < FRAMES as u64 / 4,
        "{sent} messages for the processor"
    );
    watch
        .check(&rig, "DATA of one byte, STREAMED", LITTLE)
        .await
}

/// Header blocks that are begun and not ended: by no CONTINUATION, and within a frame.
pub(crate) async fn half_a_head() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("request_headers_timeout: 1s\n").await?;
    let watch = rig.watch();
    let mut whole = BytesMut::new();
    frames::frame(
        &mut whole,
        kind::HEADERS,
        END_STREAM,
        1,
        &frames::request("GET", "/"),
    );
    let cut = &whole[..whole.len() - 1];
    let mut open = Vec::new();
    for part in [&whole, cut] {
        for _ in 0..50 {
            let mut socket = http2(&rig, &[]).await?;
            socket.write_all(part).await?;
            open.push(socket);
        }
    }
    let mut scrap = vec![0; 4096];
    for mut socket in open {
        let closed = async { while matches!(socket.read(&mut scrap).await, Ok(1..)) {} };
        ensure!(
            tokio::time::timeout(Duration::from_secs(10), closed)
                .await
                .is_ok(),
            "a connection with half a head is kept"
        );
    }
    let counted = rig.stat("http.main.downstream_rq_header_timeout").await?;
    ensure!(counted == 100, "{counted} counted");
    watch.check(&rig, "half a head", LITTLE).await
}

pub(crate) async fn header_bomb() -> anyhow::Result<()> {
    let (upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let before = upstream.seen.requests.load(Ordering::Relaxed);
    let socket = http2(&rig, &[]).await?;
    // One field of nearly 4 KB in the dynamic table, and then 15,000 references of one byte to it.
    let mut first = frames::request("GET", "/");
    frames::indexed(&mut first, b"x-bomb", &[b'a'; 3900]);
    let mut bomb = frames::request("GET", "/");
    bomb.resize(bomb.len() + 15_000, 0xbe);
    let pieces = (0..100 * scale() as u32).map(|number| {
        let mut out = BytesMut::new();
        let block = if number == 0 { &first } else { &bomb };
        frames::frame(
            &mut out,
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            number * 2 + 1,
            block,
        );
        out
    });
    pour(socket, pieces, PATIENCE).await;
    let reached = upstream.seen.requests.load(Ordering::Relaxed) - before;
    ensure!(reached <= 1, "{reached} bombs reached the upstream");
    watch.check(&rig, "HPACK bomb", LITTLE).await
}

/// Many responses for a client whose windows stay (nearly) shut.
pub(crate) async fn small_window(bytes: u32) -> anyhow::Result<()> {
    let (_upstream, rig) = plain("stream_idle_timeout: 2s\n").await?;
    let watch = rig.watch();
    let socket = http2(&rig, &[(4, bytes)]).await?;
    let mut out = BytesMut::new();
    for number in 0..100_u32 {
        let block = frames::request("GET", "/big/10000000");
        frames::frame(
            &mut out,
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            number * 2 + 1,
            &block,
        );
    }
    let (mut read, mut write) = socket.into_split();
    write.write_all(&out).await?;
    let mut got = 0;
    let mut resets = 0;
    let mut buffer = Vec::new();
    let begun = Instant::now();
    while resets < 100 && begun.elapsed() < wait::LONG {
        let mut scrap = vec![0; 64 * 1024];
        let Ok(n) = tokio::time::timeout(Duration::from_secs(5), read.read(&mut scrap)).await
        else {
            break;
        };
        let n = n?;
        if n == 0 {
            break;
        }
        got += n;
        buffer.extend_from_slice(&scrap[..n]);
        while buffer.len() >= 9 {
            let length = u32::from_be_bytes([0, buffer[0], buffer[1], buffer[2]]) as usize;
            if buffer.len() < length + 9 {
                break;
            }
            resets += u32::from(buffer[3] == kind::RST_STREAM);
            buffer.drain(..length + 9);
        }
    }
    eprintln!(
        "    {got} bytes came, {resets} streams were reset after {:?}",
        begun.elapsed()
    );
    ensure!(resets == 100, "{resets} of 100 stalled streams were ended");
    // Each of them has at most what is on its way from the upstream.
    watch.check(&rig, "shut windows", 100 * MIB).await
}

/// Windows wide open, and then nothing is read from the socket.
pub(crate) async fn http2_reads_nothing() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("stream_idle_timeout: 3s\n").await?;
    let watch = rig.watch();
    let mut socket = http2(&rig, &[(4, 0x7fff_ffff)]).await?;
    let mut out = BytesMut::new();
    frames::window(&mut out, 0, 0x7fff_0000);
    for number in 0..200_u32 {
        let block = frames::request("GET", "/big/10000000");
        frames::frame(
            &mut out,
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            number * 2 + 1,
            &block,
        );
    }
    socket.write_all(&out).await?;
    rig.until("http.main.downstream_rq_total", |total| total >= 200)
        .await?;
    rig.until("http.main.downstream_rq_active", |left| left == 0)
        .await?;
    watch
        .check(&rig, "2 GB for a socket that nobody reads", 120 * MIB)
        .await
}

/// A server that wants to end a connection asks for an acknowledgement, to learn that no request is on its way. A client
/// that gives none is not waited for, and one that goes on asking is not served.
pub(crate) async fn acknowledges_nothing(asks: bool) -> anyhow::Result<()> {
    let limits = "drain_timeout: 1s\ncommon_http_protocol_options: {idle_timeout: 1s, max_connection_duration: 2s}\n";
    let (_upstream, rig) = plain(limits).await?;
    let socket = http2(&rig, &[]).await?;
    let (mut read, mut write) = socket.into_split();
    let end = tokio::spawn(async move {
        let mut scrap = vec![0; 64 * 1024];
        while matches!(read.read(&mut scrap).await, Ok(1..)) {}
    });
    let block = frames::request("GET", "/");
    let begun = Instant::now();
    let mut stream = 1;
    while !end.is_finished() {
        ensure!(begun.elapsed() < wait::LONG, "the connection is kept");
        if asks {
            let mut out = BytesMut::new();
            let flags = END_HEADERS | END_STREAM;
            frames::frame(&mut out, kind::HEADERS, flags, stream, &block);
            stream += 2;
            // The gateway may have ended the connection just now.
            let _ = write.write_all(&out).await;
        }
        // A client that asks now and then.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The subject is the time: both limits are a second.
    ensure!(begun.elapsed() >= Duration::from_secs(1), "too soon");
    rig.normal_client().await.map(drop)
}
