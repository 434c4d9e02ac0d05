//! Responses that a client cancels or leaves unread, and those behind frames that say nothing.

use anyhow::{Context, ensure};
use bytes::BytesMut;
use tests::support::frames::{self, END_STREAM, kind};
use tests::support::rig::exchange;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::upstream::{SMALL, Upstream};
use super::{Client, PATIENCE, Victims, read};
use crate::MIB;

/// A client cancels responses that have begun, and what was on its way comes later.
pub(crate) async fn cancels() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 65_535).await?;
    for _ in 0..20 {
        let first = client.ask("/late", 100).await?;
        client.wait(100, |frame, _| frame == kind::HEADERS).await?;
        let mut out = BytesMut::new();
        for number in 0..100 {
            let reason = 8_u32.to_be_bytes();
            frames::frame(&mut out, kind::RST_STREAM, 0, first + number * 2, &reason);
        }
        client.0.write_all(&out).await?;
    }
    victims.end(&upstream, "2000 cancelled responses").await
}

pub(crate) async fn empty_data() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 65_535).await?;
    for _ in 0..150 {
        client.ask("/empty", 1).await?;
        let end = |frame, flags: u8| frame == kind::DATA && flags & END_STREAM != 0;
        client.wait(1, end).await?;
    }
    victims.end(&upstream, "300 empty DATA frames").await
}

/// Small frames that a client leaves unread; in the end it gets all of them.
pub(crate) async fn small_data() -> anyhow::Result<()> {
    const STREAMS: u32 = 200;
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 0).await?;
    client.ask("/small", STREAMS).await?;
    let heads = |frame, _: u8| frame == kind::HEADERS;
    client.wait(STREAMS as usize, heads).await?;
    victims.end(&upstream, "40,000 small frames").await?;
    watch.check(&rig, "small frames", 40 * MIB).await?;
    let mut out = BytesMut::new();
    for number in 0..STREAMS {
        frames::window(&mut out, number * 2 + 1, 65_535);
    }
    client.0.write_all(&out).await?;
    let mut bytes = 0;
    while bytes < SMALL * STREAMS as usize {
        let frame = timeout(PATIENCE, read(&mut client.0));
        let (frame, _, _, payload) = frame.await?.context("the connection is closed")?;
        bytes += payload.len() * usize::from(frame == kind::DATA);
    }
    Ok(())
}

/// Trailers of 900 KB behind a byte that a client leaves unread.
pub(crate) async fn unread_trailers() -> anyhow::Result<()> {
    const STREAMS: u32 = 100;
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let watch = rig.watch();
    let victims = Victims::start(&rig);
    let mut client = Client::new(&rig, 0).await?;
    client.ask("/trailers", STREAMS).await?;
    let heads = |frame, _: u8| frame == kind::HEADERS;
    client.wait(STREAMS as usize, heads).await?;
    victims.end(&upstream, "90 MB of trailers").await?;
    watch.check(&rig, "trailers", 24 * MIB).await
}

/// Clients that read nothing of long responses.
pub(crate) async fn deaf_clients() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("timeout: 0s").await?;
    let victims = Victims::start(&rig);
    let mut deaf = Vec::new();
    for _ in 0..12 {
        let mut client = Client::new(&rig, 0).await?;
        client.ask("/large", 1).await?;
        client.wait(1, |frame, _| frame == kind::HEADERS).await?;
        deaf.push(client);
    }
    // The upstream has as many bytes for another client, and they arrive.
    let mut client = Client::new(&rig, 1 << 24).await?;
    let mut out = BytesMut::new();
    frames::window(&mut out, 0, 1 << 24);
    client.0.write_all(&out).await?;
    client.ask("/large", 1).await?;
    client.wait(64, |frame, _| frame == kind::DATA).await?;
    victims.end(&upstream, "12 MiB that nobody reads").await
}

/// An upstream that sends frames which are no part of a message, in front of its responses.
pub(crate) async fn control_floods() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let watch = rig.watch();
    let victims = Victims::start(&rig);
    for _ in 0..4 {
        let request = b"GET /control HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let (status, _) = exchange(rig.address, request).await?;
        ensure!(status == 200, "{status}");
    }
    victims.end(&upstream, "200,000 control frames").await?;
    watch.check(&rig, "control frames", 8 * MIB).await
}
