//! Bodies through every mode.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use tests::support::rig::{self, get, scale};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{LITTLE, with_processor};

pub(crate) fn mode(mode: &str) -> String {
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
pub(crate) async fn upload(
    address: SocketAddr,
    path: &str,
    bytes: usize,
) -> anyhow::Result<(u16, Vec<u8>)> {
    const PIECE: usize = 64 * 1024;
    let mut socket = TcpStream::connect(address).await?;
    let (read, mut write) = socket.split();
    let send = async {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        write.write_all(head.as_bytes()).await?;
        let mut chunk = format!("{PIECE:x}\r\n").into_bytes();
        chunk.extend(rig::message(PIECE));
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
pub(crate) async fn download(address: SocketAddr, path: &str, bytes: usize) -> anyhow::Result<()> {
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

pub(crate) async fn bodies(name: &str) -> anyhow::Result<()> {
    let (upstream, _processor, rig) = with_processor(&mode(name), "timeout: 600s").await?;
    // Whole messages: of a gRPC message that is cut off nothing is sent on.
    let bytes = 50_000_000 * scale() / 65536 * 65536;
    let watch = rig.watch();
    let before = upstream.seen.bytes.load(Ordering::Relaxed);
    let (status, _) = upload(rig.address, "/", bytes).await?;
    ensure!(status == 200, "the upload got {status}");
    let arrived = upstream.seen.bytes.load(Ordering::Relaxed) - before;
    ensure!(
        arrived == bytes as u64,
        "{arrived} of {bytes} bytes arrived"
    );
    watch.check(&rig, "upload", LITTLE).await?;
    download(rig.address, "", bytes).await?;
    watch.check(&rig, "download", LITTLE).await
}

/// As many bytes as the other modes get, in messages that fit into the buffer.
pub(crate) async fn many_buffered() -> anyhow::Result<()> {
    const EACH: usize = 512 * 1024;
    let (upstream, _processor, rig) = with_processor(&mode("BUFFERED"), "").await?;
    let times = 50_000_000 * scale() / EACH;
    let watch = rig.watch();
    let before = upstream.seen.bytes.load(Ordering::Relaxed);
    for _ in 0..times {
        let (status, _) = upload(rig.address, "/", EACH).await?;
        ensure!(status == 200, "an upload got {status}");
        let (status, body) = get(rig.address, &format!("/big/{EACH}")).await?;
        ensure!(
            status == 200 && body.len() == EACH,
            "a download got {status}"
        );
    }
    let arrived = upstream.seen.bytes.load(Ordering::Relaxed) - before;
    ensure!(arrived == (times * EACH) as u64, "{arrived} bytes arrived");
    watch.check(&rig, "messages that fit", LITTLE).await
}

pub(crate) async fn buffered() -> anyhow::Result<()> {
    let (_upstream, _processor, rig) = with_processor(&mode("BUFFERED"), "timeout: 600s").await?;
    let watch = rig.watch();
    let (status, _) = upload(rig.address, "/", 200_000_000).await?;
    ensure!(status == 413, "an upload beyond the buffer got {status}");
    let (status, _) = get(rig.address, "/big/100000000").await?;
    ensure!(status == 500, "a response beyond the buffer got {status}");
    watch.check(&rig, "beyond the buffer", LITTLE).await
}
