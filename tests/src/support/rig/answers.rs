//! Answers, as a client with a connection of its own reads them.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::exchange::Fields;
use crate::support::http1::{self, Framing, Piece};

/// `GET` on a connection of its own: status and body.
///
/// # Errors
/// When there is no complete answer.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await
}

/// Sends these bytes on a connection of its own and reads one answer.
///
/// # Errors
/// When there is no complete answer.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(request).await?;
    let mut reader = BufReader::new(socket);
    answer(&mut reader).await
}

/// Reads one answer.
///
/// # Errors
/// When it is not complete.
pub async fn answer<R>(reader: &mut R) -> anyhow::Result<(u16, Vec<u8>)>
where
    R: tokio::io::AsyncBufRead + Unpin,
{
    let (status, _, body) = full_answer(reader).await?;
    Ok((status, body))
}

/// Reads one answer with its fields.
///
/// # Errors
/// When it is not complete.
pub async fn full_answer<R>(reader: &mut R) -> anyhow::Result<(u16, Fields, Vec<u8>)>
where
    R: tokio::io::AsyncBufRead + Unpin,
{
    let head = http1::read_head(reader)
        .await
        .map_err(|_| anyhow::anyhow!("cut inside the head"))?
        .context("closed without an answer")?;
    let status: u16 = head
        .first
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status")?;
    let framing = match status {
        204 | 304 => Framing::None,
        _ => http1::framing(&head.fields, Framing::Close),
    };
    let mut body = Vec::new();
    http1::read_body(reader, framing, |piece| {
        if let Piece::Data(data) = piece {
            body.extend_from_slice(&data);
        }
    })
    .await
    .map_err(|_| anyhow::anyhow!("{status}: cut inside the body"))?;
    Ok((status, head.fields, body))
}
