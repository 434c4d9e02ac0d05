//! Abuse: clients and processors that flood, stall, lie and never end. Each case bounds the gateway's memory and serves a normal client
//! beside the attack.
//!
//! Sizes are for a run of seconds; `EXTPROC_ABUSE_SCALE=20` makes them twenty times as large. `EXTPROC_ABUSE_PROXY=<path of an Envoy>`
//! runs the same against that, to compare; the figures are printed with `--nocapture`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::support::adversary::Adversary;
use tests::support::frames::{self, END_HEADERS, END_STREAM, kind};
use tests::support::rig::{self, Rig, Setup, Upstream, get, scale};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const MIB: u64 = 1024;

/// Memory that an attack may cost at most, whatever its size: buffers of one connection and noise.
const LITTLE: u64 = 24 * MIB;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials = vec![
        trial("http2/rapid-reset", || go(rapid_reset())),
        trial("http2/made-you-reset", || go(made_you_reset())),
        trial("http2/continuation", || go(continuation())),
        trial("http2/settings", || go(control_flood(kind::SETTINGS, 0))),
        trial("http2/ping", || go(control_flood(kind::PING, 8))),
        trial("http2/priority", || go(control_flood(kind::PRIORITY, 5))),
        trial("http2/empty-data", || go(empty_data())),
        trial("http2/header-bomb", || go(header_bomb())),
        trial("http2/one-byte-window", || go(small_window(1))),
        trial("http2/zero-window", || go(small_window(0))),
        trial("http2/reads-nothing", || go(http2_reads_nothing())),
        trial("http1/slow-heads", || go(slow_heads())),
        trial("http1/slow-bodies", || go(slow_bodies())),
        trial("http1/slow-readers", || go(slow_readers())),
        trial("http1/idle-connections", || go(idle_connections())),
        trial("http1/header-flood", || go(header_flood())),
        trial("http1/pipelined-flood", || go(pipelined_flood())),
        trial("limits/connections", || go(connection_limit())),
        trial("limits/memory", || go(memory_limit())),
        trial("bodies/NONE", || go(bodies("NONE"))),
        trial("bodies/STREAMED", || go(bodies("STREAMED"))),
        trial("bodies/BUFFERED_PARTIAL", || go(bodies("BUFFERED_PARTIAL"))),
        trial("bodies/FULL_DUPLEX_STREAMED", || {
            go(bodies("FULL_DUPLEX_STREAMED"))
        }),
        trial("bodies/BUFFERED", || go(buffered())),
        trial("processor/floods", || go(processor_floods())),
        trial("processor/deaf-to-an-upload", || go(deaf())),
        trial("processor/refuses-an-upload", || go(refused_upload())),
        trial("processor/no-trailers", || go(no_trailers())),
        trial("processor/goes-away", || go(goes_away())),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn go(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // No case hangs: what does not end by itself has failed.
    let limit = Duration::from_secs(60 + 60 * scale() as u64);
    tokio::runtime::Runtime::new()?.block_on(async {
        tokio::time::timeout(limit, test)
            .await
            .context("the case did not end")?
    })
}

async fn plain(manager: &str) -> anyhow::Result<(Upstream, Rig)> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        manager: manager.to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    Ok((upstream, rig))
}

async fn with_processor(filter: &str, route: &str) -> anyhow::Result<(Upstream, Adversary, Rig)> {
    let upstream = Upstream::start().await?;
    let processor = Adversary::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        processor: Some(processor.address),
        filter: filter.to_owned(),
        route: route.to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    Ok((upstream, processor, rig))
}

// HTTP/2 clients.

/// A connection that has said the preface and its settings.
async fn http2(rig: &Rig, settings: &[(u16, u32)]) -> anyhow::Result<TcpStream> {
    let mut socket = TcpStream::connect(rig.address).await?;
    let mut out = BytesMut::from(frames::PREFACE);
    frames::settings(&mut out, settings);
    frames::frame(&mut out, kind::SETTINGS, 1, 0, &[]);
    socket.write_all(&out).await?;
    Ok(socket)
}

/// Writes as long as the gateway takes it; says whether it took everything. What it sends is read and dropped.
async fn pour(
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

const PATIENCE: Duration = Duration::from_secs(2);

async fn rapid_reset() -> anyhow::Result<()> {
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
            frames::frame(
                &mut out,
                kind::HEADERS,
                END_HEADERS | END_STREAM,
                stream,
                &block,
            );
            frames::frame(&mut out, kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        }
        out
    });
    let survived = pour(socket, pieces, PATIENCE).await;
    let reached = upstream.seen.requests.load(Ordering::Relaxed) - before;
    eprintln!(
        "    {count} requests and resets: {reached} reached the upstream, connection kept: {survived}"
    );
    ensure!(!survived, "the connection that resets everything is kept");
    ensure!(reached < 3000, "{reached} requests reached the upstream");
    watch.check(&rig, "rapid reset", LITTLE).await
}

async fn made_you_reset() -> anyhow::Result<()> {
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
            frames::frame(
                &mut out,
                kind::HEADERS,
                END_HEADERS | END_STREAM,
                stream,
                &block,
            );
            // RFC 9113 section 6.9: an increment of 0 is a stream error, so that the server resets.
            frames::window(&mut out, stream, 0);
        }
        out
    });
    let survived = pour(socket, pieces, PATIENCE).await;
    let reached = upstream.seen.requests.load(Ordering::Relaxed) - before;
    eprintln!(
        "    {count} provoked resets: {reached} reached the upstream, connection kept: {survived}"
    );
    ensure!(!survived, "the connection that provokes resets is kept");
    ensure!(reached < 3000, "{reached} requests reached the upstream");
    watch.check(&rig, "made you reset", LITTLE).await
}

async fn continuation() -> anyhow::Result<()> {
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
async fn control_flood(frame: u8, length: usize) -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let mut socket = http2(&rig, &[]).await?;
    let stream = if frame == kind::PRIORITY { 1 } else { 0 };
    let mut out = BytesMut::new();
    for _ in 0..1000 {
        frames::frame(&mut out, frame, 0, stream, &vec![0; length]);
    }
    let mut taken = 0;
    for _ in 0..500 * scale() {
        match tokio::time::timeout(PATIENCE, socket.write_all(&out)).await {
            Ok(Ok(())) => taken += 1000,
            _ => break,
        }
    }
    eprintln!("    {taken} frames were taken");
    watch.check(&rig, "control frames", LITTLE).await
}

async fn empty_data() -> anyhow::Result<()> {
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

async fn header_bomb() -> anyhow::Result<()> {
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
async fn small_window(bytes: u32) -> anyhow::Result<()> {
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
    while resets < 100 && begun.elapsed() < Duration::from_secs(20) {
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
async fn http2_reads_nothing() -> anyhow::Result<()> {
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
    tokio::time::sleep(Duration::from_secs(2)).await;
    watch
        .check(&rig, "2 GB for a socket that nobody reads", 120 * MIB)
        .await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let left = rig.stat("http.main.downstream_rq_active").await?;
    ensure!(left == 0, "{left} exchanges are still there");
    Ok(())
}

// HTTP/1 clients.

async fn slow_heads() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("request_headers_timeout: 2s\n").await?;
    let watch = rig.watch();
    let mut clients = JoinSet::new();
    for _ in 0..500 * scale() {
        let address = rig.address;
        clients.spawn(async move {
            let mut socket = TcpStream::connect(address).await?;
            let (read, mut write) = socket.split();
            let drip = async {
                let mut head = b"GET / HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
                head.resize(10_000, b'a');
                for byte in head {
                    if write.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut reader = BufReader::new(read);
            tokio::select! {
                () = drip => anyhow::bail!("never"),
                answer = rig::answer(&mut reader) => Ok::<u16, anyhow::Error>(answer?.0),
            }
        });
    }
    // They may be in different places of the same answer; what counts is that all are gone.
    let mut timed_out = 0;
    let mut cut = 0;
    while let Some(result) = clients.join_next().await {
        match result? {
            Ok(408) => timed_out += 1,
            Ok(other) => anyhow::bail!("a head without end got {other}"),
            Err(_) => cut += 1,
        }
    }
    eprintln!("    {timed_out} got 408, {cut} were cut");
    ensure!(timed_out > cut, "{cut} were cut without an answer");
    watch
        .check(&rig, "slow heads", LITTLE + 20 * 500 * scale() as u64)
        .await
}

async fn slow_bodies() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("stream_idle_timeout: 1s\nrequest_timeout: 4s\n").await?;
    let watch = rig.watch();
    let mut clients = JoinSet::new();
    for number in 0..200 * scale() {
        let address = rig.address;
        clients.spawn(async move {
            let mut socket = TcpStream::connect(address).await?;
            let (read, mut write) = socket.split();
            let drip = async {
                let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000\r\n\r\n";
                let _ = write.write_all(head).await;
                // Half of them stop, half send a byte now and then.
                while number % 2 == 0 && write.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut reader = BufReader::new(read);
            tokio::select! {
                () = drip => anyhow::bail!("never"),
                answer = rig::answer(&mut reader) => Ok::<u16, anyhow::Error>(answer?.0),
            }
        });
    }
    while let Some(result) = clients.join_next().await {
        let status = result??;
        ensure!(status == 408, "a body without end got {status}");
    }
    watch
        .check(&rig, "slow bodies", LITTLE + 60 * 200 * scale() as u64)
        .await
}

async fn slow_readers() -> anyhow::Result<()> {
    let (upstream, rig) = plain("stream_idle_timeout: 2s\n").await?;
    let watch = rig.watch();
    let mut sockets = Vec::new();
    for _ in 0..50 * scale() {
        let mut socket = TcpStream::connect(rig.address).await?;
        socket
            .write_all(b"GET /big/100000000 HTTP/1.1\r\nhost: a\r\n\r\n")
            .await?;
        sockets.push(socket);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let figure = 50 * scale() as u64 * MIB;
    watch
        .check(
            &rig,
            "100 MB each for readers that do not read",
            LITTLE + figure,
        )
        .await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let left = rig.stat("http.main.downstream_rq_active").await?;
    ensure!(left == 0, "{left} exchanges are still there");
    drop(sockets);
    drop(upstream);
    Ok(())
}

async fn idle_connections() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("common_http_protocol_options: {idle_timeout: 4s}\n").await?;
    let watch = rig.watch();
    let before = rig.memory();
    let count = 400 * scale() as u64;
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(rig.address).await?;
        socket
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await?;
        let mut reader = BufReader::new(socket);
        ensure!(rig::answer(&mut reader).await?.0 == 200);
        sockets.push(reader.into_inner());
    }
    let each = rig.memory().saturating_sub(before) as f64 / count as f64;
    eprintln!("    {count} idle connections, {each:.1} KiB each");
    watch
        .check(&rig, "idle connections", LITTLE + 80 * count)
        .await?;
    let begun = Instant::now();
    for mut socket in sockets {
        let mut scrap = [0; 1];
        let end = tokio::time::timeout(Duration::from_secs(15), socket.read(&mut scrap)).await;
        ensure!(end.is_ok(), "an idle connection was kept");
    }
    eprintln!("    all were closed after {:?}", begun.elapsed());
    Ok(())
}

async fn header_flood() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let many = "x: a\r\n".repeat(100_000 * scale());
    let long = "a".repeat(10_000_000 * scale());
    for lines in [many, format!("x: {long}\r\n")] {
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let (address, lines) = (rig.address, lines.clone());
            clients.spawn(async move {
                let mut socket = TcpStream::connect(address).await?;
                let (read, mut write) = socket.split();
                let send = async {
                    let _ = write.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await;
                    let _ = write.write_all(lines.as_bytes()).await;
                    let _ = write.write_all(b"\r\n").await;
                    std::future::pending::<()>().await;
                };
                let mut reader = BufReader::new(read);
                tokio::select! {
                    () = send => anyhow::bail!("never"),
                    answer = rig::answer(&mut reader) => Ok::<u16, anyhow::Error>(answer?.0),
                }
            });
        }
        while let Some(result) = clients.join_next().await {
            // A reset may overtake the answer, as more bytes come than anybody reads.
            if let Ok(status) = result? {
                ensure!(matches!(status, 400 | 431), "too many headers got {status}");
            }
        }
    }
    watch.check(&rig, "header flood", LITTLE).await
}

async fn pipelined_flood() -> anyhow::Result<()> {
    let (_upstream, rig) = plain("").await?;
    let watch = rig.watch();
    let mut socket = TcpStream::connect(rig.address).await?;
    let requests = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1000);
    let mut taken = 0;
    for _ in 0..100 * scale() {
        // Answers are not read: the gateway stops to take requests.
        match tokio::time::timeout(PATIENCE, socket.write_all(requests.as_bytes())).await {
            Ok(Ok(())) => taken += 1000,
            _ => break,
        }
    }
    eprintln!("    {taken} requests were taken without an answer read");
    watch
        .check(&rig, "pipelining without reading", LITTLE)
        .await
}

// Limits of the process.

async fn connection_limit() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = Setup {
        upstream: Some(upstream.address),
        bootstrap: "overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 20
"
        .to_owned(),
        ..Setup::default()
    }
    .start()
    .await?;
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut socket = TcpStream::connect(rig.address).await?;
        // A refused connection may be gone before the request is.
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut reader = BufReader::new(socket);
        match rig::answer(&mut reader).await {
            Ok((200, _)) => kept.push(reader),
            Ok((status, _)) => anyhow::bail!("got {status}"),
            Err(_) => refused += 1,
        }
    }
    eprintln!("    {} connections served, {refused} refused", kept.len());
    ensure!(
        kept.len() <= 20 && refused >= 20,
        "{} were served",
        kept.len()
    );
    // Who was accepted goes on, and who leaves makes room.
    for reader in &mut kept {
        reader
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await?;
        ensure!(rig::answer(reader).await?.0 == 200);
    }
    drop(kept);
    let begun = Instant::now();
    while rig.normal_client().await.is_err() {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "no room was made"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn memory_limit() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = |bytes: u64| {
        Setup {
        upstream: Some(upstream.address),
        bootstrap: format!(
            "overload_manager:
  refresh_interval: 0.05s
  resource_monitors:
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: {bytes}
  actions:
  - name: envoy.overload_actions.stop_accepting_requests
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.9}}}}]
"
        ),
        ..Setup::default()
    }
    };
    let plenty = setup(4 << 30).start().await?;
    plenty.normal_client().await?;
    let none = setup(1 << 20).start().await?;
    let begun = Instant::now();
    loop {
        let (status, body) = get(none.address, "/").await?;
        if status == 503 {
            eprintln!("    503 {:?}", String::from_utf8_lossy(&body));
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "got {status}");
    }
    Ok(())
}

// Bodies through every mode.

fn mode(mode: &str) -> String {
    let trailers = match mode {
        "FULL_DUPLEX_STREAMED" => ", request_trailer_mode: SEND, response_trailer_mode: SEND",
        _ => "",
    };
    format!(
        "message_timeout: 5s
processing_mode: {{request_body_mode: {mode}, response_body_mode: {mode}{trailers}}}
"
    )
}

/// Sends a chunked request of this size and gives the answer's status.
async fn upload(address: SocketAddr, path: &str, bytes: usize) -> anyhow::Result<(u16, Vec<u8>)> {
    const PIECE: usize = 64 * 1024;
    let mut socket = TcpStream::connect(address).await?;
    let (read, mut write) = socket.split();
    let send = async {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        write.write_all(head.as_bytes()).await?;
        let mut chunk = format!("{PIECE:x}\r\n").into_bytes();
        chunk.resize(chunk.len() + PIECE, b'x');
        chunk.extend_from_slice(b"\r\n");
        for _ in 0..bytes / PIECE {
            write.write_all(&chunk).await?;
        }
        write.write_all(b"0\r\n\r\n").await
    };
    let mut reader = BufReader::new(read);
    let mut receive = std::pin::pin!(rig::answer(&mut reader));
    tokio::select! {
        // Whoever refuses an upload need not read it: the answer counts, not how sending ended.
        _ = send => receive.await,
        answer = &mut receive => answer,
    }
}

/// Reads a response of this size slowly, then as fast as it comes.
async fn download(address: SocketAddr, path: &str, bytes: usize) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    let request =
        format!("GET {path}/big/{bytes} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut total = 0;
    let mut scrap = vec![0; 256 * 1024];
    loop {
        match socket.read(&mut scrap).await? {
            0 => break,
            n => total += n,
        }
    }
    ensure!(total >= bytes, "{total} of {bytes} bytes came");
    Ok(())
}

async fn bodies(name: &str) -> anyhow::Result<()> {
    let (upstream, _processor, rig) = with_processor(&mode(name), "timeout: 600s").await?;
    let bytes = 50_000_000 * scale();
    let watch = rig.watch();
    let before = upstream.seen.bytes.load(Ordering::Relaxed);
    let (status, _) = upload(rig.address, "/", bytes).await?;
    ensure!(status == 200, "the upload got {status}");
    let arrived = upstream.seen.bytes.load(Ordering::Relaxed) - before;
    ensure!(
        arrived == (bytes / 65536 * 65536) as u64,
        "{arrived} of {bytes} bytes arrived"
    );
    watch.check(&rig, "upload", LITTLE).await?;
    download(rig.address, "", bytes).await?;
    watch.check(&rig, "download", LITTLE).await
}

async fn buffered() -> anyhow::Result<()> {
    let (_upstream, _processor, rig) = with_processor(&mode("BUFFERED"), "timeout: 600s").await?;
    let watch = rig.watch();
    let (status, _) = upload(rig.address, "/", 200_000_000).await?;
    ensure!(status == 413, "an upload beyond the buffer got {status}");
    let (status, _) = get(rig.address, "/big/100000000").await?;
    ensure!(status == 500, "a response beyond the buffer got {status}");
    watch.check(&rig, "beyond the buffer", LITTLE).await
}

// The processor as the adversary.

/// Replies without end, from many exchanges at once.
async fn processor_floods() -> anyhow::Result<()> {
    let filter = "message_timeout: 10s\n";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    let watch = rig.watch();
    let mut clients = JoinSet::new();
    for number in 0..100 * scale() {
        let deeds = ["endless", "endless-good", "announced", "large/4"];
        let path = format!("/{}", deeds[number % deeds.len()]);
        let address = rig.address;
        clients.spawn(async move { get(address, &path).await });
    }
    while let Some(result) = clients.join_next().await {
        let (status, _) = result??;
        ensure!(matches!(status, 500 | 504), "got {status}");
    }
    // A message is held until it is complete: 25 of 4 MiB at the same time, and their pieces.
    watch.check(&rig, "100 bad processors", 300 * MIB).await
}

/// A processor that reads nothing stops the upload, not the gateway.
async fn deaf() -> anyhow::Result<()> {
    let filter = "message_timeout: 1s
processing_mode: {request_body_mode: STREAMED, response_header_mode: SKIP}
";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    let watch = rig.watch();
    for (path, wanted) in [("/deaf", 504), ("/open/deaf", 200)] {
        let begun = Instant::now();
        let (status, _) = upload(rig.address, path, 50_000_000).await?;
        eprintln!("    {path}: {status} after {:?}", begun.elapsed());
        ensure!(status == wanted, "{path} gave {status}");
    }
    watch.check(&rig, "deaf processor", LITTLE).await
}

/// The refusal is readable while the client still sends, on both protocol versions.
async fn refused_upload() -> anyhow::Result<()> {
    let filter = "processing_mode: {request_body_mode: STREAMED, response_header_mode: SKIP}\n";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    let watch = rig.watch();
    for path in ["/refuse/0", "/refuse/1"] {
        for _ in 0..5 {
            let (status, body) = upload(rig.address, path, 50_000_000).await?;
            ensure!(status == 403, "{path} gave {status}");
            ensure!(body == b"no more of this", "{path}: {body:?}");
        }
        let (status, body) = upload_http2(rig.address, path, 50_000_000).await?;
        ensure!(status == 403, "{path} gave {status} over HTTP/2");
        ensure!(body == b"no more of this", "{path}: {body:?}");
    }
    watch.check(&rig, "refused uploads", LITTLE).await
}

async fn upload_http2(
    address: SocketAddr,
    path: &str,
    bytes: usize,
) -> anyhow::Result<(u16, Vec<u8>)> {
    let socket = TcpStream::connect(address).await?;
    let (client, connection) = h2::client::handshake(socket).await?;
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await?;
    let request = http::Request::post(format!("http://test{path}")).body(())?;
    let (response, mut body) = client.send_request(request, false)?;
    let send = async {
        let mut left = bytes;
        while left > 0 {
            body.reserve_capacity(left.min(64 * 1024));
            match poll_fn(|cx| body.poll_capacity(cx)).await {
                Some(Ok(n)) if n > 0 => {
                    left = left.saturating_sub(n);
                    if body
                        .send_data(Bytes::from(vec![b'x'; n]), left == 0)
                        .is_err()
                    {
                        break;
                    }
                }
                Some(Ok(_)) => {}
                _ => break,
            }
        }
        std::future::pending::<()>().await;
    };
    let receive = async {
        let (parts, mut body) = response.await?.into_parts();
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            all.extend_from_slice(&data?);
        }
        Ok::<_, anyhow::Error>((parts.status.as_u16(), all))
    };
    let answer = tokio::select! {
        () = send => anyhow::bail!("never"),
        answer = receive => answer,
    };
    connection.abort();
    answer
}

/// Full duplex waits for the answer to trailers without a message timer; the route's and the stream's end it.
async fn no_trailers() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let processor = Adversary::start().await?;
    let setup = |manager: &str, route: &str| Setup {
        upstream: Some(upstream.address),
        processor: Some(processor.address),
        filter: mode("FULL_DUPLEX_STREAMED"),
        manager: format!("http_protocol_options: {{enable_trailers: true}}\n{manager}"),
        route: route.to_owned(),
        ..Setup::default()
    };
    let request = b"POST /no-trailers HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
        5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n";
    for (manager, route) in [
        ("stream_idle_timeout: 1s\n", "timeout: 0s"),
        (
            "common_http_protocol_options: {max_stream_duration: 1s}\n",
            "timeout: 0s",
        ),
        ("", "max_stream_duration: {max_stream_duration: 1s}"),
    ] {
        let rig = setup(manager, route).start().await?;
        let begun = Instant::now();
        let (status, _) = rig::exchange(rig.address, request).await?;
        eprintln!("    {manager}{route}: {status} after {:?}", begun.elapsed());
        ensure!(status == 504, "{manager}{route} gave {status}");
    }
    Ok(())
}

/// GOAWAY and lost connections: the exchanges on them end by the failure table, the next one finds another connection.
async fn goes_away() -> anyhow::Result<()> {
    let filter = "message_timeout: 1s\nprocessing_mode: {response_header_mode: SKIP}\n";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    for _ in 0..20 {
        for (path, wanted) in [
            ("/goaway", &[200][..]),
            ("/good", &[200]),
            ("/die", &[200, 500]),
            ("/good", &[200]),
            ("/open/die", &[200]),
            ("/open/goaway", &[200]),
        ] {
            let (status, _) = get(rig.address, path).await?;
            ensure!(wanted.contains(&status), "{path} gave {status}");
        }
    }
    Ok(())
}
