//! The upstream as the adversary: one that reads nothing of what it is sent.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::support::rig::{Rig, Setup};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
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
        if timeout(Duration::from_millis(500), client.write_all(&piece))
            .await
            .is_err()
        {
            return Ok(client);
        }
    }
    anyhow::bail!("everything was taken")
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
    let gone = async {
        while rig.stat("cluster.upstream.upstream_cx_active").await? > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    timeout(SOON, gone).await.context("it is kept")??;
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
    let mut socket = taken.await.context("no request")?;
    drop(client);
    // What is written to a connection that is gone fails.
    let gone = async {
        while socket.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, gone).await.context("it is kept")?;
    rig.normal_client().await.map(drop)
}
