//! A careless proxy: what a quick one looks like that was never shown a hostile byte.
//!
//! It reads heads line by line, passes them on as they are, and finds the end of a body by the first field that speaks
//! of it. The suite has to turn red against it; otherwise the suite is worth nothing.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Serves as long as the future is polled.
pub async fn serve(listener: TcpListener, upstream: SocketAddr) {
    let mut tasks = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        tasks.spawn(async move {
            // Whatever goes wrong ends the connection.
            let _ = relay(client, upstream).await;
        });
    }
}

async fn relay(mut client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    let (client_read, mut client_write) = client.split();
    let (server_read, mut server_write) = server.split();
    let mut from_client = BufReader::new(client_read);
    let mut from_server = BufReader::new(server_read);
    loop {
        let Some(head) = head(&mut from_client).await? else {
            return Ok(());
        };
        server_write.write_all(head.as_bytes()).await?;
        body(&head, &mut from_client, &mut server_write, Some(0)).await?;
        let Some(head) = self::head(&mut from_server).await? else {
            return Ok(());
        };
        client_write.write_all(head.as_bytes()).await?;
        body(&head, &mut from_server, &mut client_write, None).await?;
    }
}

async fn head(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if !line.to_lowercase().starts_with("connection:") {
            head.push_str(&line);
            head.push_str("\r\n");
        }
        if line.is_empty() {
            return Ok(Some(head));
        }
    }
}

/// Copies a body; `otherwise` is how long one is of which the head says nothing, `None` until the end.
async fn body(
    head: &str,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    otherwise: Option<u64>,
) -> io::Result<()> {
    let lower = head.to_lowercase();
    let mut length = otherwise;
    for line in lower.lines() {
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse().unwrap_or(0));
            break;
        }
        if line.starts_with("transfer-encoding:") {
            return chunks(from, to).await;
        }
    }
    let mut part = from.take(length.unwrap_or(u64::MAX));
    tokio::io::copy_buf(&mut part, to).await?;
    to.flush().await
}

async fn chunks(
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    let mut last = false;
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        to.write_all(&line).await?;
        if last && line.trim_ascii().is_empty() {
            return Ok(());
        }
        last = line.trim_ascii() == b"0";
    }
}
