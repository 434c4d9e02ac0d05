//! Steady traffic while something changes, and upstreams that say who they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::http1;
use super::rig::full_answer;

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
    let mut kept = None;
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
    kept: &mut Option<BufReader<TcpStream>>,
) -> anyhow::Result<Option<(u16, String)>> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => BufReader::new(TcpStream::connect(to).await?),
    };
    let is_sent = stream.write_all(request.as_bytes()).await.is_ok();
    if !is_sent || stream.fill_buf().await.map_or(true, <[u8]>::is_empty) {
        return Ok(None);
    }
    let (status, fields, body) = full_answer(&mut stream).await?;
    if http1::find(&fields, "connection").as_deref() != Some("close") {
        *kept = Some(stream);
    }
    let body = String::from_utf8_lossy(&body).into_owned();
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

async fn answer(stream: TcpStream, name: &'static str) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
        name.len()
    );
    let mut stream = BufReader::new(stream);
    while let Ok(Some(_)) = http1::read_head(&mut stream).await {
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
