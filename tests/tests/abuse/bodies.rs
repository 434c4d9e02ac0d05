//! Bodies through every mode.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use tests::support::adversary::Adversary;
use tests::support::rig::{self, Rig, Setup, Upstream, get, scale};
use tests::support::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{LITTLE, MIB, with_processor};

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

/// Reads a response of this size when no more of it is on its way, and then as fast as it comes.
async fn download(rig: &Rig, upstream: &Upstream, bytes: usize) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(rig.address).await?;
    let request = format!("GET /big/{bytes} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let begun = upstream.seen.sent.load(Ordering::Relaxed);
    socket.write_all(request.as_bytes()).await?;
    // Held up: the gateway serves another client meanwhile, and takes none of it.
    let before = Cell::new(begun);
    wait::until("the response is held up", wait::LONG, async || {
        rig.normal_client().await?;
        let sent = upstream.seen.sent.load(Ordering::Relaxed);
        let grown = sent - before.replace(sent);
        ensure!(sent > begun && grown == 0, "{grown} bytes more were sent");
        Ok(())
    })
    .await?;
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

/// Empty gRPC messages, thousands in each read.
pub(crate) async fn empty_messages() -> anyhow::Result<()> {
    const MESSAGES: usize = 50_000;
    let (upstream, _processor, rig) = with_processor(&mode("GRPC"), "timeout: 600s").await?;
    let watch = rig.watch();
    let before = upstream.seen.bytes.load(Ordering::Relaxed);
    let mut socket = TcpStream::connect(rig.address).await?;
    let (read, mut write) = socket.split();
    let bytes = 5 * MESSAGES * scale();
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n");
    write.write_all(head.as_bytes()).await?;
    write.write_all(&vec![0; bytes]).await?;
    let (status, _) = rig::answer(&mut BufReader::new(read)).await?;
    ensure!(status == 200, "the upload got {status}");
    let arrived = upstream.seen.bytes.load(Ordering::Relaxed) - before;
    ensure!(
        arrived == bytes as u64,
        "{arrived} of {bytes} bytes arrived"
    );
    watch.check(&rig, "empty messages", LITTLE).await
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
    download(&rig, &upstream, bytes).await?;
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

/// Messages that processors were sent.
async fn messages(rig: &Rig) -> anyhow::Result<u64> {
    rig.stat("http.main.ext_proc.stream_msgs_sent").await
}

/// A body of 300,000 bytes in chunks of one byte, of which the processor sees all that is there at once.
pub(crate) async fn small_chunks(name: &str) -> anyhow::Result<()> {
    const BYTES: usize = 300_000;
    let (upstream, _processor, rig) = with_processor(&mode(name), "timeout: 600s").await?;
    let before = upstream.seen.bytes.load(Ordering::Relaxed);
    let known = messages(&rig).await?;
    let watch = rig.watch();
    let mut body = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    body.extend(b"1\r\nx\r\n".repeat(BYTES));
    body.extend(b"0\r\n\r\n");
    let (status, _) = rig::exchange(rig.address, &body).await?;
    ensure!(status == 200, "the upload got {status}");
    let arrived = upstream.seen.bytes.load(Ordering::Relaxed) - before;
    ensure!(arrived == BYTES as u64, "{arrived} bytes arrived");
    let sent = messages(&rig).await? - known;
    eprintln!("    {sent} messages");
    ensure!(sent < 1000, "{sent} messages for the processor");
    watch.check(&rig, "chunks of one byte", LITTLE).await
}

/// A body below the limit in chunks of one byte, which nobody answers: it takes about as much memory as it has bytes.
pub(crate) async fn held_chunks(name: &str) -> anyhow::Result<()> {
    const KIB: usize = 1000;
    let (_upstream, _processor, rig) = with_processor(&held(name), "timeout: 600s").await?;
    let watch = rig.watch();
    let mut client = TcpStream::connect(rig.address).await?;
    client
        .write_all(b"POST /mute HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    let chunks = b"1\r\nx\r\n".repeat(1024);
    for _ in 0..KIB {
        client.write_all(&chunks).await?;
    }
    rig.normal_client().await?;
    watch.check(&rig, "held chunks of one byte", 6 * MIB).await
}

/// A mode whose processor has a minute.
fn held(name: &str) -> String {
    mode(name).replace("message_timeout: 5s", "message_timeout: 60s")
}

/// Many uploads on one HTTP/2 connection, each below its limit, none of them answered: the largest end, and others on the
/// connection are served.
pub(crate) async fn many_held() -> anyhow::Result<()> {
    many_held_on(1, "").await
}

/// The same on connections of their own, with little memory for all of them.
pub(crate) async fn many_held_of_the_process() -> anyhow::Result<()> {
    const LIMIT: &str = "overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: 134217728
";
    many_held_on(16, LIMIT).await
}

async fn many_held_on(connections: usize, bootstrap: &str) -> anyhow::Result<()> {
    const STREAMS: usize = 32;
    const EACH: usize = 15 << 20;
    const REFUSED: usize = 20;
    let upstream = Upstream::start().await?;
    let processor = Adversary::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        processor: Some(processor.address),
        filter: held("BUFFERED"),
        bootstrap: bootstrap.to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let watch = rig.watch();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let socket = TcpStream::connect(rig.address).await?;
        let (client, connection) = h2::client::handshake(socket).await?;
        tokio::spawn(connection);
        clients.push(client.ready().await?);
    }
    let mut uploads = JoinSet::new();
    for number in 0..STREAMS {
        let client = clients[number % connections].clone();
        uploads.spawn(upload_http2(client, EACH));
    }
    // The processor answers none of them: what is held decides, and so many cannot be.
    for refused in 0..REFUSED {
        let status = uploads.join_next().await.context("all are over")???;
        ensure!(
            status == StatusCode::SERVICE_UNAVAILABLE,
            "{refused}: got {status}"
        );
    }
    ensure!(!uploads.is_empty(), "all were refused");
    for client in clients {
        let request = Request::get("http://a/good").body(())?;
        let (answer, _) = client.ready().await?.send_request(request, true)?;
        ensure!(
            answer.await?.status() == StatusCode::OK,
            "not served beside it"
        );
    }
    // 64 MiB in both cases, and what is on its way.
    watch
        .check(&rig, "many held uploads", 64 * MIB + 2 * LITTLE)
        .await
}

/// Many responses for one HTTP/2 client, each below its limit, which was answered and is not read: what they take is bounded, however
/// the upstream's bytes were read.
pub(crate) async fn many_unread() -> anyhow::Result<()> {
    const STREAMS: usize = 60;
    const EACH: usize = 10_000_000;
    let (_upstream, _processor, rig) = with_processor(&mode("BUFFERED"), "timeout: 600s").await?;
    let watch = rig.watch();
    let socket = TcpStream::connect(rig.address).await?;
    let (client, connection) = h2::client::handshake(socket).await?;
    tokio::spawn(connection);
    let mut responses = JoinSet::new();
    for _ in 0..STREAMS {
        let request = Request::get(format!("http://a/big/{EACH}")).body(())?;
        let (response, _) = client.clone().ready().await?.send_request(request, true)?;
        responses.spawn(response);
    }
    let (mut given, mut refused) = (Vec::new(), 0);
    while let Some(response) = responses.join_next().await {
        let response = response??;
        match response.status() {
            // Its body stays where it is.
            StatusCode::OK => given.push(response),
            StatusCode::SERVICE_UNAVAILABLE => refused += 1,
            status => anyhow::bail!("got {status}"),
        }
    }
    ensure!(!given.is_empty() && refused > 0, "{refused} were refused");
    rig.normal_client().await?;
    watch
        // 64 MiB, as told, and what an allocator takes beside them.
        .check(&rig, "many unread responses", 72 * MIB + LITTLE)
        .await
}

async fn upload_http2(
    client: h2::client::SendRequest<Bytes>,
    bytes: usize,
) -> anyhow::Result<StatusCode> {
    let mut client = client.ready().await?;
    let request = Request::post("http://a/mute").body(())?;
    let (answer, mut body) = client.send_request(request, false)?;
    let send = async {
        let mut left = bytes;
        while left > 0 {
            body.reserve_capacity(left.min(1 << 20));
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
            let room = room.context("no more room")??;
            body.send_data(Bytes::from(vec![b'x'; room]), room == left)?;
            left -= room;
        }
        anyhow::Ok(())
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => return Ok(answer?.status()),
        // What was refused need not be sent to its end.
        _ = send => {}
    }
    Ok(answer.await?.status())
}
