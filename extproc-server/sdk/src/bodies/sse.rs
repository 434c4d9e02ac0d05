//! Server-sent events (HTML standard, section 9.2), read across the borders of pieces.

use bytes::{Bytes, BytesMut};

use super::TooLarge;

/// An event of a `text/event-stream`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// `event`: its type; empty means `message`.
    pub event: String,
    /// `data`: its lines, joined with line feeds.
    pub data: String,
    /// `id`, if there was one.
    pub id: Option<String>,
    /// `retry` in milliseconds, if there was one.
    pub retry: Option<u64>,
    /// The event as it was received, with the empty line after it; what to pass on if it is not changed. Empty in an
    /// event that was made.
    pub raw: Bytes,
}

impl SseEvent {
    /// The event as it is written, from its fields.
    pub fn encode(&self) -> Bytes {
        let mut text = String::new();
        let mut field = |name: &str, value: &str| {
            text.push_str(name);
            text.push_str(": ");
            text.push_str(value);
            text.push('\n');
        };
        if !self.event.is_empty() {
            field("event", &self.event);
        }
        if let Some(id) = &self.id {
            field("id", id);
        }
        if let Some(retry) = self.retry {
            field("retry", &retry.to_string());
        }
        for line in self.data.split('\n') {
            field("data", line);
        }
        text.push('\n');
        text.into()
    }
}

/// Reads events from the pieces of a body.
///
/// Every byte comes out again: in the [`raw`](SseEvent::raw) of an event, or from [`rest`](Self::rest) at the end. Blocks
/// of comments alone (keep-alives) come as events without data.
#[derive(Clone, Debug)]
pub struct SseParser {
    bytes: BytesMut,
    /// Up to here there is no end of an event.
    scanned: usize,
    limit: usize,
}

impl SseParser {
    /// Reads events of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            scanned: 0,
            limit,
        }
    }

    /// Adds a piece; returns the events that are complete with it.
    ///
    /// # Errors
    /// An event is larger than the limit.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<SseEvent>, TooLarge> {
        self.bytes.extend_from_slice(piece);
        let mut events = Vec::new();
        while let Some(end) = self.end_of_event() {
            let raw = self.bytes.split_to(end).freeze();
            self.scanned = 0;
            if raw.len() > self.limit {
                return Err(TooLarge { limit: self.limit });
            }
            events.push(parse(raw));
        }
        if self.bytes.len() > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        Ok(events)
    }

    /// Returns the rest at the end of the body: an event that was never completed. Clients discard it.
    pub fn rest(&mut self) -> Bytes {
        self.scanned = 0;
        self.bytes.split().freeze()
    }

    /// The end of the first event: after the empty line that closes it. A carriage return at the very end waits for what
    /// follows, since a line feed would belong to it.
    fn end_of_event(&mut self) -> Option<usize> {
        let mut line_start = self.scanned;
        loop {
            let rest = self.bytes.get(line_start..)?;
            let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
            let ending = match (rest.get(length), rest.get(length + 1)) {
                (Some(b'\r'), Some(b'\n')) => 2,
                (Some(b'\r'), None) => return None,
                _ => 1,
            };
            line_start += length + ending;
            if length == 0 {
                return Some(line_start);
            }
            self.scanned = line_start;
        }
    }
}

fn parse(raw: Bytes) -> SseEvent {
    let text = String::from_utf8_lossy(&raw);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut event = SseEvent::default();
    let mut data: Option<String> = None;
    for line in text.split(['\r', '\n']) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => match &mut data {
                None => data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            "event" => value.clone_into(&mut event.event),
            "id" if !value.contains('\0') => event.id = Some(value.to_owned()),
            "retry" => event.retry = value.parse().ok(),
            _ => {}
        }
    }
    event.data = data.unwrap_or_default();
    event.raw = raw;
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\u{feff}event: a\ndata: 1\ndata:2\nid: 7\n\n: ping\r\n\r\ndata: ü\rretry: 10\r\rdata: x\n\r\n";

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        for size in 1..STREAM.len() {
            let mut parser = SseParser::new(100);
            let mut events = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                events.extend(parser.push(piece).unwrap());
            }
            let data: Vec<_> = events.iter().map(|event| event.data.as_str()).collect();
            assert_eq!(data, ["1\n2", "", "ü", "x"], "{size}");
            assert_eq!(
                (events[0].event.as_str(), events[0].id.as_deref()),
                ("a", Some("7"))
            );
            assert_eq!(events[2].retry, Some(10));
            let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.to_vec()).collect();
            assert_eq!(raw, STREAM.as_bytes());
            assert!(parser.rest().is_empty());
        }
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let event = SseEvent {
            event: "e".to_owned(),
            data: "a\n\nb".to_owned(),
            id: Some("1".to_owned()),
            retry: Some(5),
            raw: Bytes::new(),
        };
        let mut read = SseParser::new(100).push(&event.encode()).unwrap();
        read[0].raw = Bytes::new();
        assert_eq!(read, [event]);
    }

    #[test]
    fn large_and_unfinished_events() {
        let mut parser = SseParser::new(8);
        assert_eq!(parser.push(b"data: 12345"), Err(TooLarge { limit: 8 }));
        let mut parser = SseParser::new(8);
        assert_eq!(parser.push(b"data: 1\n"), Ok(vec![]));
        assert_eq!(parser.rest(), "data: 1\n");
    }
}
