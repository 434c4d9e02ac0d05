//! HTTP/1.1 by hand: heads, bodies and trailers, read and written without interpretation.

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::exchange::Fields;

/// First line and fields of a head.
#[derive(Debug, Clone)]
pub struct Head {
    /// The request line or the status line.
    pub first: String,
    /// The fields in order.
    pub fields: Fields,
}

/// Rule by which the length of a body is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Until the connection closes.
    Close,
}

/// The connection ended inside a message, or what came is not HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

/// A piece of a body.
#[derive(Debug)]
pub enum Piece {
    /// Bytes: one chunk, or what one read returned.
    Data(Bytes),
    /// The trailer section, when it is not empty.
    Trailers(Fields),
}

/// Reads a head; `None` when the connection closed before its first byte.
///
/// # Errors
/// When the connection closes inside it or a line is not HTTP.
pub async fn read_head<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<Option<Head>, Truncated> {
    let mut first = String::new();
    while first.is_empty() {
        match read_line(reader).await? {
            None => return Ok(None),
            Some(line) => first = latin1(&line),
        }
    }
    let fields = read_fields(reader).await?;
    Ok(Some(Head { first, fields }))
}

/// The framing of a message with these fields; `or` is what it is without any.
#[must_use]
pub fn framing(fields: &Fields, or: Framing) -> Framing {
    if find(fields, "transfer-encoding").is_some_and(|v| v.to_lowercase().contains("chunked")) {
        return Framing::Chunked;
    }
    match find(fields, "content-length").and_then(|v| v.trim().parse().ok()) {
        Some(0) => Framing::None,
        Some(n) => Framing::Length(n),
        None => or,
    }
}

/// Reads a body and hands its pieces on as they come.
///
/// # Errors
/// When the connection ends before the body does.
pub async fn read_body<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    framing: Framing,
    mut sink: impl FnMut(Piece),
) -> Result<(), Truncated> {
    match framing {
        Framing::None => Ok(()),
        Framing::Length(mut left) => {
            while left > 0 {
                let data = read_some(reader, left).await?.ok_or(Truncated)?;
                left -= data.len() as u64;
                sink(Piece::Data(data));
            }
            Ok(())
        }
        Framing::Close => {
            while let Some(data) = read_some(reader, u64::MAX).await? {
                sink(Piece::Data(data));
            }
            Ok(())
        }
        Framing::Chunked => loop {
            let line = read_line(reader).await?.ok_or(Truncated)?;
            let text = latin1(&line);
            let size = text.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| Truncated)?;
            if size == 0 {
                let trailers = read_fields(reader).await?;
                if !trailers.is_empty() {
                    sink(Piece::Trailers(trailers));
                }
                return Ok(());
            }
            let mut data = vec![0; size];
            reader.read_exact(&mut data).await.map_err(|_| Truncated)?;
            sink(Piece::Data(data.into()));
            read_line(reader).await?.ok_or(Truncated)?;
        },
    }
}

/// Bytes that are there now, at most `limit`; `None` at the end of the connection.
///
/// # Errors
/// When the connection fails.
pub async fn read_some<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    limit: u64,
) -> Result<Option<Bytes>, Truncated> {
    let available = reader.fill_buf().await.map_err(|_| Truncated)?;
    if available.is_empty() {
        return Ok(None);
    }
    let n = available
        .len()
        .min(usize::try_from(limit).unwrap_or(usize::MAX));
    let data = Bytes::copy_from_slice(&available[..n]);
    reader.consume(n);
    Ok(Some(data))
}

/// A head as it goes on the wire.
#[must_use]
pub fn head_bytes(first: &str, fields: &Fields) -> Vec<u8> {
    let mut out = bytes_of(first);
    out.extend_from_slice(b"\r\n");
    push_fields(&mut out, fields);
    out.extend_from_slice(b"\r\n");
    out
}

/// A chunk as it goes on the wire.
#[must_use]
pub fn chunk_bytes(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
    out
}

/// The last chunk with its trailer section.
#[must_use]
pub fn last_chunk(trailers: &Fields) -> Vec<u8> {
    let mut out = b"0\r\n".to_vec();
    push_fields(&mut out, trailers);
    out.extend_from_slice(b"\r\n");
    out
}

/// The first value of a field.
#[must_use]
pub fn find(fields: &Fields, name: &str) -> Option<String> {
    fields
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| latin1(v))
}

/// Bytes as text, one character each.
#[must_use]
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// Text as bytes: one each as long as every character fits (so `"\xff"` in a script is that byte), else UTF-8.
#[must_use]
pub fn bytes_of(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(c).ok())
        .collect::<Option<_>>()
        .unwrap_or_else(|| text.as_bytes().to_vec())
}

fn push_fields(out: &mut Vec<u8>, fields: &Fields) {
    for (name, value) in fields {
        out.extend_from_slice(&bytes_of(name));
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

async fn read_fields<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<Fields, Truncated> {
    let mut fields = Fields::new();
    loop {
        let line = read_line(reader).await?.ok_or(Truncated)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let colon = line.iter().position(|b| *b == b':').ok_or(Truncated)?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        // exactly one space belongs to the notation; what else surrounds the value is shown
        let value = value.strip_prefix(b" ").unwrap_or(value);
        fields.push((latin1(name), value.to_vec()));
    }
}

async fn read_line<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<Option<Vec<u8>>, Truncated> {
    let mut line = Vec::new();
    let n = reader
        .read_until(b'\n', &mut line)
        .await
        .map_err(|_| Truncated)?;
    if n == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(Truncated);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}
