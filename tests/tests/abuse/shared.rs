//! Connections to upstreams that several clients share: none of these clients can end one or use it up.

mod heads;
mod responses;
mod silence;
mod uploads;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::BytesMut;
use tests::support::frames::{self, END_HEADERS, END_STREAM, kind};
use tests::support::rig::{Rig, exchange};
use tests::support::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) use self::heads::{
    large_head, large_heads_of_a_proxy, large_request_head, large_request_trailers, refused_fields,
    refused_fields_of_a_client,
};
pub(crate) use self::responses::{
    cancels, control_floods, deaf_clients, empty_data, small_data, unread_trailers,
};
pub(crate) use self::silence::{silent_connection, silent_without_limits};
pub(crate) use self::uploads::{small_uploads, unread_uploads};
use self::upstream::Upstream;
use super::http2::http2;

/// Longest wait for a frame, and for others to be served.
const PATIENCE: Duration = Duration::from_secs(20);

/// One frame; `None` at the end.
async fn read(socket: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], stream, payload))
}

/// Others, who want what is not idempotent and so is not sent again. Some of their requests are with the upstream at all times.
struct Victims {
    all: JoinHandle<anyhow::Result<()>>,
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
}

impl Victims {
    fn start(rig: &Rig) -> Self {
        let over = Arc::<AtomicBool>::default();
        let served = Arc::<AtomicUsize>::default();
        let (address, end, count) = (rig.address, Arc::clone(&over), Arc::clone(&served));
        let victim = move || {
            let (end, count) = (Arc::clone(&end), Arc::clone(&count));
            async move {
                let request = b"POST /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
                while !end.load(Ordering::SeqCst) {
                    let (status, _) = exchange(address, request).await?;
                    let before = count.fetch_add(1, Ordering::SeqCst);
                    ensure!(status == 200, "a victim got {status} after {before}");
                }
                anyhow::Ok(())
            }
        };
        let all = tokio::spawn(async move {
            let all: [_; 4] = std::array::from_fn(|_| tokio::spawn(victim()));
            for one in all {
                one.await??;
            }
            Ok(())
        });
        Self { all, over, served }
    }

    /// Each of them has to be served, and to be served on.
    async fn end(self, upstream: &Upstream, what: &str) -> anyhow::Result<()> {
        let enough = self.served.load(Ordering::SeqCst) + 16;
        wait::until("victims are served on", wait::LONG, async || {
            let served = self.served.load(Ordering::SeqCst);
            ensure!(served >= enough || self.all.is_finished(), "{served}");
            Ok(())
        })
        .await?;
        self.over.store(true, Ordering::SeqCst);
        upstream.seen.release().await;
        self.all.await??;
        let served = self.served.load(Ordering::SeqCst);
        let ended = upstream.seen.ended.load(Ordering::SeqCst);
        eprintln!("    {what}: {served} requests of others were served, {ended} connections ended");
        ensure!(ended == 0, "{ended} connections to the upstream ended");
        Ok(())
    }
}

/// A client of the gateway.
struct Client(TcpStream, u32);

impl Client {
    async fn new(rig: &Rig, window: u32) -> anyhow::Result<Self> {
        Ok(Self(http2(rig, &[(4, window)]).await?, 1))
    }

    /// Asks for this, so often; gives the first stream.
    async fn ask(&mut self, path: &str, times: u32) -> anyhow::Result<u32> {
        let first = self.1;
        let mut out = BytesMut::new();
        for _ in 0..times {
            let flags = END_HEADERS | END_STREAM;
            let block = frames::request("GET", path);
            frames::frame(&mut out, kind::HEADERS, flags, self.1, &block);
            self.1 += 2;
        }
        self.0.write_all(&out).await?;
        Ok(first)
    }

    /// Sends a request of which this is the header block.
    async fn send(&mut self, block: &[u8]) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        let flags = END_HEADERS | END_STREAM;
        frames::frame(&mut out, kind::HEADERS, flags, self.1, block);
        self.1 += 2;
        Ok(self.0.write_all(&out).await?)
    }

    /// Reads until so many frames have come that are wanted.
    async fn wait(
        &mut self,
        mut count: usize,
        wanted: impl Fn(u8, u8) -> bool,
    ) -> anyhow::Result<()> {
        while count > 0 {
            let frame = timeout(PATIENCE, read(&mut self.0));
            let (frame, flags, ..) = frame
                .await
                .with_context(|| format!("{count} frames are missing"))?
                .context("the client's connection is closed")?;
            ensure!(frame != kind::GOAWAY, "the client's connection ends");
            count -= usize::from(wanted(frame, flags));
        }
        Ok(())
    }
}
