//! Messages as a strict reader understands them.
//!
//! The reader takes what RFC 9112 lets a sender write and nothing else: CRLF line ends, one framing, bare chunk sizes,
//! names that are tokens. Whatever else arrives is malformed.

use std::fmt::Write as _;

use crate::support::exchange::Fields;
use crate::support::http1::latin1;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `GET /path HTTP/1.1`, `HTTP/1.1 200`; empty in HTTP/2.
    pub first: String,
    /// The fields, names in lower case, sorted by name; pseudo-headers among them.
    pub fields: Fields,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// Its end.
    pub end: End,
}

/// End of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum End {
    /// As its framing says.
    Complete,
    /// Not yet, or the connection ended inside.
    #[default]
    Cut,
    /// RST_STREAM with this code.
    Reset(u32),
    /// The bytes that came are not HTTP.
    Malformed,
}

/// Facts that the reader needs beside the bytes.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Responses are read, to requests with these methods; the last also stands for those that follow.
    pub responses_to: Option<Vec<String>>,
    /// A request that asks for a tunnel gets one.
    pub tunnel: bool,
    /// No byte is going to follow.
    pub eof: bool,
}

impl Message {
    fn malformed(why: &str, bytes: &[u8]) -> Self {
        Self {
            first: format!("malformed: {why}"),
            body: bytes.to_vec(),
            end: End::Malformed,
            ..Self::default()
        }
    }

    /// The status, in either version.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        if let Some(value) = self.field(":status") {
            return value.parse().ok();
        }
        self.first.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
    }

    /// A 1xx head, but for the one that ends HTTP.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status()
            .is_some_and(|status| (100..200).contains(&status) && status != 101)
    }

    /// The first value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        let (_, value) = self.fields.iter().find(|(have, _)| have == name)?;
        Some(latin1(value))
    }

    /// Takes a field away.
    pub fn forget(&mut self, name: &str) {
        self.fields.retain(|(have, _)| have != name);
    }

    /// Sorts the fields and writes their names in lower case.
    pub fn settle(&mut self) {
        for fields in [&mut self.fields, &mut self.trailers] {
            for (name, _) in fields.iter_mut() {
                name.make_ascii_lowercase();
            }
            // Stable: lines of one name keep their order.
            fields.sort_by(|a, b| a.0.cmp(&b.0));
        }
    }
}

/// Messages for people to read.
#[must_use]
pub fn show(messages: &[Message]) -> String {
    let mut out = String::new();
    if messages.is_empty() {
        out.push_str("  nothing\n");
    }
    for message in messages {
        let _ = writeln!(out, "  {}", message.first);
        for (name, value) in &message.fields {
            let _ = writeln!(out, "    {name}: {}", shown(value));
        }
        let _ = writeln!(
            out,
            "    body ({}) {}",
            message.body.len(),
            shown(&message.body)
        );
        for (name, value) in &message.trailers {
            let _ = writeln!(out, "    trailer {name}: {}", shown(value));
        }
        let _ = writeln!(out, "    {:?}", message.end);
    }
    out
}

fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 300;
    let mut text = bytes
        .iter()
        .take(MOST)
        .map(|byte| char::from(*byte).escape_default().to_string())
        .collect::<String>();
    if bytes.len() > MOST {
        text.push('…');
    }
    text
}

/// Reads what can be read. An incomplete head at the end is no message unless nothing follows.
#[must_use]
pub fn read(bytes: &[u8], reading: &Reading) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    let mut rest = bytes;
    let mut answered = 0;
    while !rest.is_empty() {
        let method = reading.responses_to.as_ref().map(|methods| {
            let method = methods.get(answered).or_else(|| methods.last());
            method.map_or("GET", String::as_str).to_owned()
        });
        match read_one(rest, reading, method.as_deref()) {
            Ok(Some((mut message, used))) => {
                message.settle();
                answered += usize::from(!message.is_interim());
                out.push(message);
                rest = rest.get(used..).unwrap_or_default();
            }
            Ok(None) => {
                if reading.eof {
                    out.push(Message {
                        first: "an incomplete head".into(),
                        body: rest.to_vec(),
                        ..Message::default()
                    });
                }
                break;
            }
            Err(why) => {
                out.push(Message::malformed(&why, rest));
                break;
            }
        }
    }
    out
}

fn read_one(
    bytes: &[u8],
    reading: &Reading,
    method: Option<&str>,
) -> Result<Option<(Message, usize)>, String> {
    let Some((lines, mut at)) = section(bytes)? else {
        return Ok(None);
    };
    let (first, lines) = lines.split_first().ok_or("an empty head")?;
    let mut message = Message {
        first: latin1(first),
        fields: fields(lines)?,
        ..Message::default()
    };
    let framing = match method {
        Some(method) => {
            // Either version may answer (RFC 9110 section 2.5).
            let first = &message.first;
            let rest = first.strip_prefix("HTTP/1.1 ");
            let rest = rest.or_else(|| first.strip_prefix("HTTP/1.0 "));
            let status = rest.and_then(|rest| rest.get(..3)).ok_or("status line")?;
            let code: u16 = status.parse().map_err(|_| "status")?;
            // The phrase means nothing.
            message.first = format!("HTTP/1.1 {status}");
            let tunnel = code == 101 || method == "CONNECT" && (200..300).contains(&code);
            if tunnel {
                Framing::Close
            } else if code < 200 || code == 204 || code == 304 || method == "HEAD" {
                let _ = declared(&message.fields)?;
                Framing::None
            } else {
                declared(&message.fields)?.unwrap_or(Framing::Close)
            }
        }
        None => {
            let words: Vec<&str> = message.first.split(' ').collect();
            if words.len() != 3 || words[2] != "HTTP/1.1" || words.contains(&"") {
                return Err("request line".into());
            }
            let hosts = message
                .fields
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("host"));
            if hosts.count() != 1 {
                return Err("not one host".into());
            }
            if reading.tunnel {
                Framing::Close
            } else {
                declared(&message.fields)?.unwrap_or(Framing::None)
            }
        }
    };
    let body = bytes.get(at..).unwrap_or_default();
    at += match framing {
        Framing::None => {
            message.end = End::Complete;
            0
        }
        Framing::Length(length) => {
            let n = body.len().min(length);
            message.body = body[..n].to_vec();
            if n == length {
                message.end = End::Complete;
            }
            n
        }
        Framing::Close => {
            message.body = body.to_vec();
            if reading.eof {
                message.end = End::Complete;
            }
            body.len()
        }
        Framing::Chunked => chunks(body, &mut message)?,
    };
    Ok(Some((message, at)))
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
}

/// Lines, and how many bytes they are with their ends.
type Section<'a> = (Vec<&'a [u8]>, usize);

/// The lines of a head or trailer section up to the empty one, and how long it is.
fn section(bytes: &[u8]) -> Result<Option<Section<'_>>, String> {
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = rest[..end].strip_suffix(b"\r").ok_or("a line without CR")?;
        at += end + 1;
        if line.is_empty() {
            return Ok(Some((lines, at)));
        }
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return Err("CR or NUL in a line".into());
        }
        lines.push(line);
    }
}

fn fields(lines: &[&[u8]]) -> Result<Fields, String> {
    lines
        .iter()
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.ok_or("a line without colon")?);
            let token =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            if name.is_empty() || !name.iter().all(token) {
                return Err(format!("name {:?}", latin1(name)));
            }
            let value = value[1..].trim_ascii();
            Ok((latin1(name), value.to_vec()))
        })
        .collect()
}

fn declared(fields: &Fields) -> Result<Option<Framing>, String> {
    let all = |wanted: &str| -> Vec<String> {
        let lines = fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        lines.map(|(_, value)| latin1(value)).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([], [coding]) if coding == "chunked" => Ok(Some(Framing::Chunked)),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => length
            .parse()
            .map(|length| Some(Framing::Length(length)))
            .map_err(|_| format!("content-length {length:?}")),
        _ => Err(format!("framing {lengths:?} {codings:?}")),
    }
}

fn chunks(bytes: &[u8], message: &mut Message) -> Result<usize, String> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Ok(bytes.len());
        };
        let digits = latin1(&rest[..end]);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(&digits, 16)
            .ok()
            .filter(|_| plain)
            .ok_or_else(|| format!("chunk size {digits:?}"))?;
        at += end + 2;
        let rest = &bytes[at..];
        if size == 0 {
            let Some((lines, used)) = section(rest)? else {
                return Ok(bytes.len());
            };
            message.trailers = fields(&lines)?;
            message.end = End::Complete;
            return Ok(at + used);
        }
        let n = size.min(rest.len());
        message.body.extend_from_slice(&rest[..n]);
        if rest.len() < size + 2 {
            return Ok(bytes.len());
        }
        if &rest[size..size + 2] != b"\r\n" {
            return Err("no CRLF after a chunk".into());
        }
        at += size + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(text: &str) -> Vec<Message> {
        read(text.as_bytes(), &Reading::default())
    }

    #[test]
    fn two_requests() {
        let read = requests(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        );
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].body, b"abc");
        assert_eq!(read[0].trailers.len(), 1);
        assert!(read.iter().all(|message| message.end == End::Complete));
    }

    #[test]
    fn guesses_are_refused() {
        for text in [
            "GET / HTTP/1.1\nhost: a\n\n",
            "GET /  HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n1",
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0;x\r\n\r\n",
        ] {
            assert_eq!(requests(text)[0].end, End::Malformed, "{text:?}");
        }
    }

    #[test]
    fn a_cut_response_is_not_complete() {
        let reading = Reading {
            responses_to: Some(vec!["GET".into()]),
            eof: true,
            ..Reading::default()
        };
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc";
        assert_eq!(read(text, &reading)[0].end, End::Cut);
        let text = b"HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(read(text, &reading)[0].end, End::Complete);
    }
}
