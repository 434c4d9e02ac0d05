//! Clients that flood or stall over HTTP/1.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::support::rig::{self, scale};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{LITTLE, MIB, PATIENCE, plain};

pub(crate) async fn slow_heads() -> anyhow::Result<()> {
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
                    // Slow on purpose, and never silent for long.
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

pub(crate) async fn slow_bodies() -> anyhow::Result<()> {
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
                    // Slow on purpose: within the idle timeout of 1 s.
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

pub(crate) async fn slow_readers() -> anyhow::Result<()> {
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
    let count = sockets.len() as u64;
    rig.until("http.main.downstream_rq_total", |total| total >= count)
        .await?;
    rig.until("http.main.downstream_rq_active", |left| left == 0)
        .await?;
    let figure = 50 * scale() as u64 * MIB;
    watch
        .check(
            &rig,
            "100 MB each for readers that do not read",
            LITTLE + figure,
        )
        .await?;
    drop(sockets);
    drop(upstream);
    Ok(())
}

/// A client that sends on behind the last response of its connection is not read for as long as that takes.
pub(crate) async fn sends_on() -> anyhow::Result<()> {
    const MOST: u64 = 32 * MIB * 1024;
    let (_upstream, rig) = plain("delayed_close_timeout: 2s\n").await?;
    let watch = rig.watch();
    for last in ["connection: close", "transfer-encoding: gzip"] {
        let mut socket = TcpStream::connect(rig.address).await?;
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{last}\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        let piece = vec![b'a'; 1 << 20];
        let mut taken = 0;
        while taken < MOST
            && let Ok(written) = socket.write(&piece).await
        {
            taken += written as u64;
        }
        eprintln!("    {taken} bytes were taken behind {last}");
        ensure!(taken < MOST, "{taken} bytes were taken behind {last}");
    }
    watch.check(&rig, "sends on", LITTLE).await
}

pub(crate) async fn idle_connections() -> anyhow::Result<()> {
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

pub(crate) async fn header_flood() -> anyhow::Result<()> {
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

pub(crate) async fn pipelined_flood() -> anyhow::Result<()> {
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
