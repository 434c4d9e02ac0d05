//! Steady traffic while something changes, and upstreams that say who they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Clients that send one request after the other on connections that they keep.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// Outcomes of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers with status 200, by their body.
    pub answers: BTreeMap<String, u64>,
    /// Everything else, in words.
    pub failures: Vec<String>,
}

impl Load {
    /// Starts `clients` clients.
    #[must_use]
    pub fn start(to: SocketAddr, host: &str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let clients = (0..clients).map(|_| tokio::spawn(client(to, request.clone(), stop.clone())));
        Self {
            clients: clients.collect(),
            stop,
        }
    }

    /// Lets every client finish its request.
    ///
    /// # Errors
    /// When a client has panicked.
    pub async fn end(self) -> anyhow::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let tally = client.await?;
            for (body, count) in tally.answers {
                *all.answers.entry(body).or_default() += count;
            }
            all.failures.extend(tally.failures);
        }
        Ok(all)
    }
}

async fn client(to: SocketAddr, request: String, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<TcpStream> = None;
    while !stop.load(Ordering::Relaxed) {
        let reused = kept.is_some();
        let result = tokio::time::timeout(LIMIT, exchange(to, &request, &mut kept)).await;
        match result {
            Ok(Ok(Some(answer))) if answer.0 == 200 => {
                *tally.answers.entry(answer.1).or_default() += 1;
            }
            Ok(Ok(Some((status, body)))) => tally.failures.push(format!("{status} {body}")),
            // A kept connection may end between two requests; a client tries again (RFC 9112 section 9.3.1).
            Ok(Ok(None)) if reused => {}
            Ok(Ok(None)) => tally.failures.push("closed without an answer".into()),
            Ok(Err(error)) => tally.failures.push(format!("{error:#}")),
            Err(_) => {
                kept = None;
                tally.failures.push(format!("no answer in {LIMIT:?}"));
            }
        }
    }
    tally
}

/// Status and body; nothing if the connection ended before the first byte of an answer.
async fn exchange(
    to: SocketAddr,
    request: &str,
    kept: &mut Option<TcpStream>,
) -> anyhow::Result<Option<(u16, String)>> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(to).await?,
    };
    let mut bytes = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Ok(None);
    }
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) if bytes.is_empty() => return Ok(None),
            Ok(0) => anyhow::bail!("closed within the head"),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let text = String::from_utf8_lossy(bytes.get(..head).unwrap_or_default()).to_lowercase();
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    let length: usize = field("content-length")
        .context("no content-length")?
        .parse()?;
    while bytes.len() < head + length {
        ensure!(
            stream.read_buf(&mut bytes).await? > 0,
            "closed within the body"
        );
    }
    let body = String::from_utf8_lossy(bytes.get(head..).unwrap_or_default()).into_owned();
    if field("connection").as_deref() != Some("close") {
        *kept = Some(stream);
    }
    Ok(Some((status, body)))
}

/// An upstream that answers every request without a body with its name, until the runtime ends.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn named(address: SocketAddr, name: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, name));
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream, name: &'static str) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
        name.len()
    );
    let mut bytes = Vec::new();
    loop {
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            bytes.drain(..end + 4);
            stream.write_all(answer.as_bytes()).await?;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}
