//! The upstream behind a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::http1::{self, Framing, Piece};
use crate::support::ports;

/// An HTTP/1.1 upstream that does what the path says: `/big/N` answers with N bytes, `/slow/N` after N ms, `/silent` never, `/lost` closes without an answer; all
/// others answer `200 ok` once the whole request is there.
#[derive(Debug)]
pub struct Upstream {
    /// Address on which it listens.
    pub address: SocketAddr,
    /// Counts of what it has seen.
    pub seen: Arc<Seen>,
    task: JoinHandle<()>,
}

/// Counts of an [`Upstream`].
#[derive(Debug, Default)]
pub struct Seen {
    /// Complete heads.
    pub requests: AtomicUsize,
    /// Bytes of bodies.
    pub bytes: AtomicU64,
    /// Bytes of bodies that were given to the system for `/big`.
    pub sent: AtomicU64,
    /// Bodies that were complete.
    pub complete: AtomicUsize,
    /// Connections accepted.
    pub connections: AtomicUsize,
}

impl Upstream {
    /// Starts it on a port that stays this process's when it ends, so that another one may be started in its place.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        Self::at(SocketAddr::from(([127, 0, 0, 1], ports::free()?))).await
    }

    /// Starts it on this address, where another one may just have ended.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    continue;
                };
                while connections.try_join_next().is_some() {}
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let _ = socket.set_nodelay(true);
                connections.spawn(serve(socket, Arc::clone(&shared)));
            }
        });
        Ok(Self {
            address,
            seen,
            task,
        })
    }

    /// Ends it with all its connections, whatever they do.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A listener on an address that was in use a moment ago.
///
/// # Errors
/// When it is taken.
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(4096)?)
}

async fn serve(socket: TcpStream, seen: Arc<Seen>) {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::with_capacity(256 * 1024, reader);
    while let Ok(Some(head)) = http1::read_head(&mut reader).await {
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let framing = http1::framing(&head.fields, Framing::None);
        let body = http1::read_body(&mut reader, framing, |piece| {
            if let Piece::Data(data) = piece {
                seen.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
        });
        if body.await.is_err() {
            return;
        }
        seen.complete.fetch_add(1, Ordering::Relaxed);
        let path = head.first.split(' ').nth(1).unwrap_or_default();
        let mut words = path.split('/').filter(|w| !w.is_empty() && *w != "open");
        let number = |word: Option<&str>| word.and_then(|w| w.parse().ok()).unwrap_or(0_usize);
        // One message for whoever reads gRPC.
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n\0\0\0\0\x02ok";
        let written = match words.next() {
            Some("big") => big(&mut writer, number(words.next()), &seen.sent).await,
            Some("slow") => {
                // The path asks for the time.
                tokio::time::sleep(Duration::from_millis(number(words.next()) as u64)).await;
                writer.write_all(ok).await
            }
            Some("silent") => {
                // Until the other side is tired of it.
                let mut scrap = [0; 64];
                while matches!(reader.read(&mut scrap).await, Ok(1..)) {}
                return;
            }
            Some("lost") => return,
            _ => writer.write_all(ok).await,
        };
        if written.is_err() {
            return;
        }
    }
}

/// Returns `bytes` bytes, which are one message for a reader of gRPC.
#[must_use]
pub fn message(bytes: usize) -> Vec<u8> {
    const PREFIX: usize = 5;
    let length = u32::try_from(bytes.saturating_sub(PREFIX)).unwrap_or(u32::MAX);
    let mut out = vec![0];
    out.extend(length.to_be_bytes());
    out.resize(bytes, b'x');
    out
}

async fn big(
    writer: &mut tokio::net::tcp::OwnedWriteHalf,
    bytes: usize,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    const PIECE: usize = 64 * 1024;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
    writer.write_all(head.as_bytes()).await?;
    let piece = message(PIECE);
    let mut left = bytes;
    while left > 0 {
        let n = left.min(PIECE);
        writer.write_all(&piece[..n]).await?;
        left -= n;
        sent.fetch_add(n as u64, Ordering::Relaxed);
    }
    Ok(())
}
