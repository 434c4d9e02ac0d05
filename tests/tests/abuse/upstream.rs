//! The upstream as the adversary: one that reads nothing of what it is sent, or sends heads without end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::BytesMut;
use tests::support::adversary::Adversary;
use tests::support::frames::{self, END_HEADERS, END_STREAM, kind};
use tests::support::rig::{Rig, Setup, scale};
use tests::support::wait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Within this time a connection that nobody needs has to be gone.
const SOON: Duration = Duration::from_secs(10);

/// An upstream that reads the head of one request, answers with this and hands its connection over. Before that it
/// answers a normal client.
async fn deaf(
    answer: &'static str,
) -> anyhow::Result<(SocketAddr, oneshot::Receiver<BufReader<TcpStream>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(serve(listener, answer, sender));
    Ok((address, receiver))
}

async fn serve(
    listener: TcpListener,
    answer: &str,
    sender: oneshot::Sender<BufReader<TcpStream>>,
) -> std::io::Result<()> {
    let mut sender = Some(sender);
    loop {
        let mut socket = BufReader::new(listener.accept().await?.0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && socket.read_line(&mut head).await? > 0 {}
        if head.starts_with("GET /good ") {
            let good = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            socket.write_all(good).await?;
            continue;
        }
        socket.write_all(answer.as_bytes()).await?;
        if let Some(sender) = sender.take() {
            let _ = sender.send(socket);
        }
    }
}

async fn rig(upstream: SocketAddr, manager: &str) -> anyhow::Result<Rig> {
    let setup = Setup {
        upstream: Some(upstream),
        manager: manager.to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    Ok(rig)
}

/// A client that sends a head and then as much as is taken.
async fn fill(rig: &Rig, head: &str) -> anyhow::Result<TcpStream> {
    let mut client = TcpStream::connect(rig.address).await?;
    client.write_all(head.as_bytes()).await?;
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..4096 {
        // Nobody tells that nothing more is taken: it is not for this long.
        if timeout(Duration::from_millis(500), client.write_all(&piece))
            .await
            .is_err()
        {
            return Ok(client);
        }
    }
    anyhow::bail!("everything was taken")
}

/// A response that the processor does not see passes also while the processor reads nothing of the request: with its end the exchange is
/// over, and what the upload takes of the connection's window is free for others.
pub(crate) async fn answers_beside_a_deaf_processor() -> anyhow::Result<()> {
    let (address, connection) = deaf("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await?;
    let processor = Adversary::start().await?;
    let setup = Setup {
        upstream: Some(address),
        processor: Some(processor.address),
        filter: "message_timeout: 60s
processing_mode: {request_body_mode: STREAMED, response_header_mode: SKIP}
"
        .to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let head = "POST /deaf HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
    let mut client = fill(&rig, head).await?;
    let mut socket = connection.await.context("no request")?;
    socket.write_all(b"done").await?;
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\r\n\r\ndone") {
            ensure!(client.read_buf(&mut answer).await? > 0, "the answer is cut");
        }
        Ok(())
    };
    timeout(SOON, read).await.context("the answer waits")?
}

/// It answers before the upload is over, which nobody wants any more then.
pub(crate) async fn answers_early() -> anyhow::Result<()> {
    let (upstream, taken) = deaf("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok").await?;
    let rig = rig(upstream, "").await?;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
    let client = fill(&rig, head).await?;
    let mut socket = taken.await.context("no request")?;
    ensure!(rig.stat("cluster.upstream.upstream_cx_active").await? == 1);
    socket.write_all(b"ok").await?;
    rig.until("cluster.upstream.upstream_cx_active", |left| left == 0)
        .await?;
    drop((client, socket));
    rig.normal_client().await.map(drop)
}

/// The client of a tunnel leaves while its bytes wait.
pub(crate) async fn tunnel() -> anyhow::Result<()> {
    const SWITCH: &str =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let (upstream, taken) = deaf(SWITCH).await?;
    let rig = rig(upstream, "upgrade_configs: [{upgrade_type: x}]\n").await?;
    let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let client = fill(&rig, head).await?;
    let socket = taken.await.context("no request")?;
    drop(client);
    // What is written to a connection that is gone fails.
    wait::until("its end", SOON, async || {
        let written = socket.get_ref().try_write(b"x");
        let gone = written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
        ensure!(gone, "it is kept");
        Ok(())
    })
    .await?;
    rig.normal_client().await.map(drop)
}

/// It sends 103 without end, to clients that read nothing.
pub(crate) async fn interim_flood(http2: bool) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let setup = Setup {
        upstream: Some(listener.local_addr()?),
        upstream_http2: http2,
        manager: "proxy_100_continue: true\n".into(),
        ..Setup::default()
    };
    let (sender, mut over) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let taken = match http2 {
                    true => early_hints_http2(socket).await,
                    false => early_hints(socket).await,
                };
                let _ = sender.send(taken);
            });
        }
    });
    let rig = setup.start().await?;
    let before = rig.memory();
    // Over HTTP/2 one request to each connection of the upstream.
    let mut clients = Vec::new();
    for _ in 0..if http2 { 1 } else { 4 } {
        let mut client = super::http2::http2(&rig, &[]).await?;
        let mut out = BytesMut::new();
        let head = frames::request("GET", "/");
        frames::frame(&mut out, kind::HEADERS, END_HEADERS | END_STREAM, 1, &head);
        client.write_all(&out).await?;
        clients.push(client);
    }
    let count = clients.len() as u64;
    rig.until("http.main.downstream_rq_5xx", |refused| refused >= count)
        .await?;
    let taken = timeout(SOON, over.recv()).await?.context("no upstream")??;
    let grown = rig.peak().saturating_sub(before);
    eprintln!(
        "    {taken} heads were taken, memory grew by {} MiB",
        grown / 1024
    );
    ensure!(grown < super::LITTLE, "memory grew by {grown} KiB");
    Ok(())
}

const HINTS: usize = 100_000;

/// Sends heads to whoever asks; gives how many were taken.
async fn early_hints(mut socket: TcpStream) -> anyhow::Result<usize> {
    let mut scrap = [0; 1024];
    let _ = socket.read(&mut scrap).await?;
    let link = format!("link: <{}>; rel=preload\r\n", "x".repeat(100)).repeat(80);
    let one = format!("HTTP/1.1 103 Early Hints\r\n{link}\r\n");
    for number in 0..HINTS * scale() {
        if socket.write_all(one.as_bytes()).await.is_err() {
            return Ok(number);
        }
    }
    Ok(HINTS * scale())
}

/// The same over HTTP/2, where each field is one byte.
async fn early_hints_http2(mut socket: TcpStream) -> anyhow::Result<usize> {
    let mut out = BytesMut::new();
    frames::settings(&mut out, &[]);
    frames::frame(&mut out, kind::SETTINGS, 1, 0, &[]);
    socket.write_all(&out).await?;
    let (mut read, mut write) = socket.split();
    // The first stream is asked for by now.
    let mut scrap = vec![0; 1024];
    let mut seen = Vec::new();
    while !seen.windows(4).any(|four| four == [kind::HEADERS, 5, 0, 0]) {
        let n = read.read(&mut scrap).await?;
        ensure!(n > 0, "no request");
        seen.extend_from_slice(&scrap[..n]);
    }
    let drain = async { while matches!(read.read(&mut scrap).await, Ok(1..)) {} };
    let send = async {
        // Static table: 103 has no entry there. The field is the first one of the dynamic table.
        let mut first = vec![0x08];
        frames::string(&mut first, b"103");
        let status = first.clone();
        frames::indexed(&mut first, b"link", &[b'x'; 100]);
        let mut again = status;
        again.extend([0xbe; 80]);
        let mut out = BytesMut::new();
        frames::frame(&mut out, kind::HEADERS, END_HEADERS, 1, &first);
        write.write_all(&out).await?;
        out.clear();
        for _ in 0..100 {
            frames::frame(&mut out, kind::HEADERS, END_HEADERS, 1, &again);
        }
        for number in 0..HINTS / 100 * scale() {
            if write.write_all(&out).await.is_err() {
                return Ok(number * 100);
            }
        }
        anyhow::Ok(HINTS * scale())
    };
    tokio::select! {
        taken = send => taken,
        () = drain => Ok(0),
    }
}
