//! HTTP/2 frames by hand (RFC 9113), right and wrong ones, for attacks that no library would send.

use bytes::{BufMut, BytesMut};

/// The connection preface.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// END_STREAM.
pub const END_STREAM: u8 = 1;
/// ACK.
pub const ACK: u8 = 1;
/// END_HEADERS.
pub const END_HEADERS: u8 = 4;
/// PADDED.
pub const PADDED: u8 = 8;
/// PRIORITY of HEADERS.
pub const WITH_PRIORITY: u8 = 0x20;

/// Adds a frame.
pub fn frame(out: &mut impl BufMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    out.put_slice(&length[1..]);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.put_slice(payload);
}

/// Adds a SETTINGS frame.
pub fn settings(out: &mut impl BufMut, values: &[(u16, u32)]) {
    let mut payload = BytesMut::new();
    for (name, value) in values {
        payload.put_u16(*name);
        payload.put_u32(*value);
    }
    frame(out, kind::SETTINGS, 0, 0, &payload);
}

/// Adds a WINDOW_UPDATE frame.
pub fn window(out: &mut impl BufMut, stream: u32, increment: u32) {
    frame(
        out,
        kind::WINDOW_UPDATE,
        0,
        stream,
        &increment.to_be_bytes(),
    );
}

/// A header block without compression: literals without indexing and without Huffman codes, by which any bytes can be written.
#[must_use]
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name.as_ref());
        string(&mut out, value.as_ref());
    }
    out
}

/// The header block of a request.
#[must_use]
pub fn request(method: &str, path: &str) -> Vec<u8> {
    block(&[
        (":method", method),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
    ])
}

/// A string literal of HPACK, and a field that goes into the dynamic table.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, text.len(), 7, 0);
    out.extend_from_slice(text);
}

/// A field that is added to the dynamic table (RFC 7541 section 6.2.1).
pub fn indexed(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0x40);
    string(out, name);
    string(out, value);
}

/// An integer with a prefix of `bits` (RFC 7541 section 5.1).
pub fn integer(out: &mut Vec<u8>, value: usize, bits: u8, first: u8) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(first | u8::try_from(value).unwrap_or(0));
        return;
    }
    out.push(first | u8::try_from(most).unwrap_or(0));
    let mut left = value - most;
    while left >= 128 {
        out.push(u8::try_from(left % 128).unwrap_or(0) | 0x80);
        left /= 128;
    }
    out.push(u8::try_from(left).unwrap_or(0));
}
