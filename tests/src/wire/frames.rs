//! HTTP/2 frame by frame: written as a case says, right or wrong, and read into messages.
//!
//! For `sees` in a case, what arrives is also written down as lines: `name: value` for every field, the bytes of DATA,
//! `END 1` at the end of stream 1, `RESET 1 8`, `GOAWAY 0`, `SETTINGS`, `SETTINGS ACK`, `PING ACK`, `WINDOW 1`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::case::FrameSpec;
use super::message::{End, Message};
use crate::support::exchange::Fields;
use crate::support::frames::kind::{
    CONTINUATION, DATA, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::support::frames::{self, ACK, END_HEADERS, END_STREAM, PADDED, PREFACE, WITH_PRIORITY};
use crate::support::http1::{bytes_of, latin1};
use crate::support::script::fields;

/// A frame as it goes on the wire.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frames::frame(&mut out, kind, flags, stream, payload);
    out
}

/// SETTINGS with these pairs.
#[must_use]
pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frames::settings(&mut out, pairs);
    out
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frames::window(&mut out, stream, increment);
    out
}

/// A complete message without body.
#[must_use]
pub fn headers(stream: u32, list: &Fields) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(list))
}

/// The frames that a case asks for. `stream` is the one that is meant if it says none.
#[must_use]
pub fn encode(spec: &FrameSpec, stream: u32) -> Vec<u8> {
    let stream = spec.stream.unwrap_or(stream);
    let end = if spec.end { END_STREAM } else { 0 };
    let padding = |payload: Vec<u8>| match spec.pad {
        None => (0, payload),
        Some(pad) => {
            let mut padded = vec![pad];
            padded.extend(payload);
            padded.resize(padded.len() + usize::from(pad), 0);
            (PADDED, padded)
        }
    };
    let flags = |own: u8| spec.flags.unwrap_or(own);
    if let Some(list) = &spec.headers {
        let block = block(&fields(list));
        let first = spec.split.unwrap_or_else(|| block.len().max(1));
        let mut pieces = block.chunks(first.max(1));
        let head = pieces.next().unwrap_or_default().to_vec();
        let rest: Vec<&[u8]> = pieces.collect();
        let (more, payload) = match spec.priority {
            None => padding(head),
            Some(on) => {
                let mut with = on.to_be_bytes().to_vec();
                with.push(15);
                with.extend(head);
                let (more, payload) = padding(with);
                (more | WITH_PRIORITY, payload)
            }
        };
        let last = if rest.is_empty() { END_HEADERS } else { 0 };
        let mut out = frame(HEADERS, flags(end | more | last), stream, &payload);
        for (index, piece) in rest.iter().enumerate() {
            let last = index + 1 == rest.len();
            let own = if last { END_HEADERS } else { 0 };
            out.extend(frame(CONTINUATION, own, stream, piece));
        }
        return out;
    }
    if let Some(data) = &spec.data {
        let mut out = Vec::new();
        let bytes = data.bytes();
        let mut pieces = bytes.chunks(16_384).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            let (more, payload) = padding(piece.to_vec());
            let own = more | if last { end } else { 0 };
            out.extend(frame(DATA, flags(own), stream, &payload));
            if last {
                return out;
            }
        }
    }
    if let Some(pairs) = &spec.settings {
        return settings(pairs);
    }
    if let Some(code) = spec.rst {
        return frame(RST_STREAM, flags(0), stream, &code.to_be_bytes());
    }
    if let Some(text) = &spec.ping {
        return frame(PING, flags(0), 0, &bytes_of(text));
    }
    if let Some(code) = spec.goaway {
        let payload = [spec.last.to_be_bytes(), code.to_be_bytes()].concat();
        return frame(GOAWAY, flags(0), 0, &payload);
    }
    if let Some(increment) = spec.window {
        return window(stream, increment);
    }
    if let Some(on) = spec.priority {
        let mut payload = on.to_be_bytes().to_vec();
        payload.push(15);
        return frame(PRIORITY, flags(0), stream, &payload);
    }
    let payload = spec
        .payload
        .as_ref()
        .map(|payload| payload.bytes())
        .unwrap_or_default();
    frame(spec.kind.unwrap_or_default(), flags(0), stream, &payload)
}

fn block(list: &Fields) -> Vec<u8> {
    let list = list.iter().map(|(name, value)| (bytes_of(name), value));
    frames::block(&list.collect::<Vec<_>>())
}

/// Reads one side of a connection.
pub struct Reader {
    server: bool,
    preface: bool,
    buffer: Vec<u8>,
    hpack: loona_hpack::Decoder<'static>,
    /// A header block whose end has not come: its stream and whether it ends the stream.
    block: Option<(u32, bool, Vec<u8>)>,
    /// Messages by stream: interim heads, then the final one.
    pub streams: BTreeMap<u32, (Vec<Message>, Option<Message>)>,
    /// The code of a GOAWAY.
    pub goaway: Option<u32>,
    /// Everything as lines.
    pub trace: String,
}

impl Reader {
    /// A server reads the client's preface first.
    #[must_use]
    pub fn new(server: bool) -> Self {
        Self {
            server,
            preface: server,
            buffer: Vec::new(),
            hpack: loona_hpack::Decoder::new(),
            block: None,
            streams: BTreeMap::new(),
            goaway: None,
            trace: String::new(),
        }
    }

    /// Takes what arrived and gives what has to be answered at once: acknowledgements and windows.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut answer = Vec::new();
        if self.preface {
            if self.buffer.len() < PREFACE.len() {
                return answer;
            }
            self.buffer.drain(..PREFACE.len());
            self.preface = false;
        }
        while let [a, b, c, kind, flags, s0, s1, s2, s3, ..] = *self.buffer.as_slice() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.buffer.len() < 9 + length {
                break;
            }
            let payload: Vec<u8> = self.buffer.drain(..9 + length).skip(9).collect();
            let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
            self.frame(kind, flags, stream, &payload, &mut answer);
        }
        answer
    }

    /// The messages of all streams, in order of their numbers, interim heads before the final one.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        let mut out = Vec::new();
        for (interim, last) in self.streams.values() {
            out.extend(interim.iter().cloned());
            out.extend(last.iter().cloned());
        }
        for message in &mut out {
            message.settle();
        }
        out
    }

    /// The streams that have come to their end.
    #[must_use]
    pub fn ended(&self) -> usize {
        let over = |(_, last): &&(Vec<Message>, Option<Message>)| {
            last.as_ref().is_some_and(|message| message.end != End::Cut)
        };
        self.streams.values().filter(over).count()
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], answer: &mut Vec<u8>) {
        let word = |at: usize| {
            let bytes = payload.get(at..at + 4).unwrap_or(&[0; 4]);
            u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        match kind {
            DATA => {
                let data = unpadded(flags, payload);
                self.trace.push_str(&latin1(data));
                let message = self.message(stream);
                message.body.extend_from_slice(data);
                if let Ok(length) = u32::try_from(payload.len())
                    && length > 0
                {
                    answer.extend(window(0, length));
                    if flags & END_STREAM == 0 {
                        answer.extend(window(stream, length));
                    }
                }
                self.end(stream, flags);
            }
            HEADERS => {
                let mut part = unpadded(flags, payload);
                if flags & WITH_PRIORITY != 0 {
                    part = part.get(5..).unwrap_or_default();
                }
                self.block = Some((stream, flags & END_STREAM != 0, part.to_vec()));
                self.block_end(flags);
            }
            CONTINUATION => {
                if let Some((_, _, block)) = &mut self.block {
                    block.extend_from_slice(payload);
                }
                self.block_end(flags);
            }
            RST_STREAM => {
                let _ = writeln!(self.trace, "RESET {stream} {}", word(0));
                self.message(stream).end = End::Reset(word(0));
            }
            SETTINGS if flags & ACK != 0 => self.trace.push_str("SETTINGS ACK\n"),
            SETTINGS => {
                self.trace.push_str("SETTINGS\n");
                answer.extend(frame(SETTINGS, ACK, 0, &[]));
            }
            PING if flags & ACK != 0 => self.trace.push_str("PING ACK\n"),
            PING => answer.extend(frame(PING, ACK, 0, payload)),
            GOAWAY => {
                self.goaway = Some(word(4));
                let _ = writeln!(self.trace, "GOAWAY {}", word(4));
            }
            WINDOW_UPDATE => {
                let _ = writeln!(self.trace, "WINDOW {stream}");
            }
            _ => {}
        }
    }

    fn block_end(&mut self, flags: u8) {
        if flags & END_HEADERS == 0 {
            return;
        }
        let Some((stream, ends, block)) = self.block.take() else {
            return;
        };
        let list = self.hpack.decode(&block).unwrap_or_default();
        let fields: Fields = list.into_iter().map(|(n, v)| (latin1(&n), v)).collect();
        for (name, value) in &fields {
            let _ = writeln!(self.trace, "{name}: {}", latin1(value));
        }
        let (interim, last) = self.streams.entry(stream).or_default();
        match last {
            Some(message) if !message.fields.is_empty() => message.trailers.extend(fields),
            _ => {
                let message = Message {
                    fields,
                    ..Message::default()
                };
                if !self.server && message.is_interim() && !ends {
                    interim.push(Message {
                        end: End::Complete,
                        ..message
                    });
                } else {
                    *last = Some(message);
                }
            }
        }
        self.end(stream, if ends { END_STREAM } else { 0 });
    }

    fn message(&mut self, stream: u32) -> &mut Message {
        let (_, last) = self.streams.entry(stream).or_default();
        last.get_or_insert_default()
    }

    fn end(&mut self, stream: u32, flags: u8) {
        if flags & END_STREAM != 0 {
            let _ = writeln!(self.trace, "END {stream}");
            let message = self.message(stream);
            if message.end == End::Cut {
                message.end = End::Complete;
            }
        }
    }
}

fn unpadded(flags: u8, payload: &[u8]) -> &[u8] {
    if flags & PADDED == 0 {
        return payload;
    }
    let Some((pad, rest)) = payload.split_first() else {
        return payload;
    };
    rest.get(..rest.len().saturating_sub(usize::from(*pad)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::script::{Field, Payload};

    #[test]
    fn what_is_written_is_read() {
        let head = FrameSpec {
            headers: Some(vec![
                Field::Line(":path: /".into()),
                Field::Line("X: 1".into()),
            ]),
            split: Some(3),
            pad: Some(4),
            ..FrameSpec::default()
        };
        let body = FrameSpec {
            data: Some(Payload::Text("abc".into())),
            pad: Some(1),
            end: true,
            ..FrameSpec::default()
        };
        let mut reader = Reader::new(false);
        let bytes = [encode(&head, 1), encode(&body, 1)].concat();
        for byte in bytes {
            reader.take(&[byte]);
        }
        let read = reader.messages();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].body, b"abc");
        assert_eq!(read[0].end, End::Complete);
        assert_eq!(read[0].field("x").as_deref(), Some("1"));
        assert_eq!(reader.trace, ":path: /\nX: 1\nabcEND 1\n");
    }
}
