//! Connections that go silent.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::ensure;
use tests::support::rig::exchange;
use tokio::time::timeout;

use super::PATIENCE;
use super::upstream::Upstream;

/// The path of a connection goes silent. At most those who are on it then are lost.
pub(crate) async fn silent_connection() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 1s").await?;
    upstream.seen.silent.store(true, Ordering::SeqCst);
    let request =
        b"POST /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let (status, _) = exchange(rig.address, request).await?;
    ensure!(status == 504, "{status}");
    for _ in 0..5 {
        let (status, _) = exchange(rig.address, request).await?;
        ensure!(status == 200, "{status} after the first timeout");
    }
    Ok(())
}

/// No limit of time ends these exchanges: pings do.
pub(crate) async fn silent_without_limits() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    upstream.seen.silent.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let request =
        b"POST /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let (status, _) = timeout(3 * PATIENCE, exchange(rig.address, request)).await??;
    eprintln!("    answered with {status} after {:?}", begun.elapsed());
    ensure!(status == 503, "{status}");
    rig.normal_client().await.map(drop)
}
