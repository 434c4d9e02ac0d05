//! Uploads that the upstream does not take.

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use tests::support::frames::{self, END_HEADERS, kind};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::upstream::Upstream;
use super::{Client, PATIENCE};
use crate::MIB;

/// A client sends small frames within its windows to an upstream that does not take them, and its other requests on the
/// same connection are served.
pub(crate) async fn small_uploads() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let mut client = Client::new(&rig, 65_535).await?;
    // Its windows are open now.
    client
        .wait(1, |frame, _| frame == kind::WINDOW_UPDATE)
        .await?;
    let mut out = BytesMut::new();
    let head = frames::request("POST", "/held");
    frames::frame(&mut out, kind::HEADERS, END_HEADERS, client.1, &head);
    for _ in 0..400_000 {
        frames::frame(&mut out, kind::DATA, 0, client.1, b"x");
    }
    for _ in 0..500 {
        frames::frame(&mut out, kind::DATA, 0, client.1, &[]);
    }
    client.1 += 2;
    client.0.write_all(&out).await?;
    client.ask("/good", 1).await?;
    client.wait(2, |frame, _| frame == kind::HEADERS).await?;
    watch
        .check(&rig, "small frames of a client", 40 * MIB)
        .await
}

/// A client's uploads that their upstream does not take leave its other requests on the same connection alone.
pub(crate) async fn unread_uploads() -> anyhow::Result<()> {
    const UPLOADS: usize = 24;
    const EACH: usize = 1 << 20;
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let socket = TcpStream::connect(rig.address).await?;
    let (client, connection) = h2::client::handshake(socket).await?;
    tokio::spawn(connection);
    let mut uploads = JoinSet::new();
    for _ in 0..UPLOADS {
        let request = Request::post("http://a/held").body(())?;
        let (_, mut body) = client.clone().ready().await?.send_request(request, false)?;
        uploads.spawn(async move {
            let mut left = EACH;
            while left > 0 {
                body.reserve_capacity(left);
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                let room = room.context("the upload is over")??;
                body.send_data(Bytes::from(vec![b'x'; room]), false)?;
                left -= room;
            }
            anyhow::Ok(body)
        });
    }
    let mut open = Vec::new();
    while let Some(sent) = timeout(PATIENCE, uploads.join_next())
        .await
        .context("an upload has no window")?
    {
        open.push(sent??);
    }
    let request = Request::get("http://a/good").body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    let status = timeout(PATIENCE, answer).await??.status();
    ensure!(status == StatusCode::OK, "{status}");
    watch
        .check(&rig, "uploads that nobody takes", 64 * MIB)
        .await
}
