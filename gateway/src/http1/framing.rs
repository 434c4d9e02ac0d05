//! Where messages begin and end in the byte stream that hyper's HTTP/1 encoder writes.
//!
//! A state machine without a socket. It follows heads, lengths and chunks, and stops at the two
//! places where bytes may be inserted: before a final head (interim responses) and between the last
//! chunk and the empty line after it (trailers). It never changes or copies a body byte.

/// Which end of the connection writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Responses are written.
    Server,
    /// Requests are written.
    Client,
}

/// What is known of a message beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageFacts {
    /// The response to HEAD: no body, whatever the head says.
    pub(crate) bodyless: bool,
    /// After a successful head (2xx to CONNECT, or any upgrade request) the connection is a tunnel.
    pub(crate) tunnel: bool,
}

/// The place that the scanner stopped at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All bytes were looked at.
    End,
    /// A final head begins here.
    Head,
    /// The last chunk is complete; the line that ends the trailers begins here.
    Trailers,
    /// A message ended here.
    MessageEnd,
}

/// ```text
/// Start ──▶ Announced ──▶ Head ──▶ Length ─────────────┐
///   ▲ └──interim──────────▶ ├────▶ ChunkSize ⇄ Chunk   │
///   │                       │          └─▶ Trailers ───┤
///   └───────────────────────┴──────────────────────────┘
///                           └────▶ Opaque (tunnel, or until close)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// A final head begins here, and that was said.
    Announced {
        left: usize,
        then: Framing,
    },
    Head {
        left: usize,
        then: Framing,
    },
    Length(u64),
    ChunkSize(u64),
    /// After the size, up to the line's end.
    ChunkExtension(u64),
    Chunk(u64),
    /// Trailer lines; whether the current one is empty so far.
    Trailers {
        empty: bool,
    },
    Opaque,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// A 1xx head: the message is still to come.
    Interim,
    Length(u64),
    Chunked,
    Opaque,
}

/// Follows one direction of a connection. Cheap to copy, so that a caller can look ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framer {
    role: Role,
    state: State,
    /// The stop before the end of the trailers was reported.
    announced: bool,
}

impl Framer {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            state: State::Start,
            announced: false,
        }
    }

    /// Whether no byte of the next message has been written.
    pub(crate) fn between_messages(&self) -> bool {
        self.state == State::Start
    }

    /// Moves over `bytes` up to the next stop and says how many were taken.
    ///
    /// A head has to be in `bytes` as a whole when it begins; hyper writes heads in one piece. If it
    /// is not, the stream is taken for opaque and nothing is inserted any more.
    pub(crate) fn advance(&mut self, bytes: &[u8], facts: MessageFacts) -> (usize, Stop) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.state {
                State::Start => {
                    let Some(head) = Head::read(rest) else {
                        self.state = State::Opaque;
                        continue;
                    };
                    let (left, then) = (head.len, head.framing(self.role, facts));
                    if then != Framing::Interim {
                        self.state = State::Announced { left, then };
                        return (at, Stop::Head);
                    }
                    self.state = State::Head { left, then };
                }
                State::Announced { left, then } => self.state = State::Head { left, then },
                State::Head { left, then } => {
                    let n = left.min(rest.len());
                    at += n;
                    if n < left {
                        self.state = State::Head {
                            left: left - n,
                            then,
                        };
                        continue;
                    }
                    self.state = match then {
                        Framing::Interim => State::Start,
                        Framing::Length(0) => {
                            self.state = State::Start;
                            return (at, Stop::MessageEnd);
                        }
                        Framing::Length(length) => State::Length(length),
                        Framing::Chunked => State::ChunkSize(0),
                        Framing::Opaque => State::Opaque,
                    };
                }
                State::Length(left) => {
                    let n = bounded(left, rest.len());
                    at += n;
                    let left = left - n as u64;
                    if left == 0 {
                        self.state = State::Start;
                        return (at, Stop::MessageEnd);
                    }
                    self.state = State::Length(left);
                }
                State::ChunkSize(size) => {
                    let Some(byte) = rest.first().copied() else {
                        continue;
                    };
                    at += 1;
                    self.state = match (byte as char).to_digit(16) {
                        Some(digit) => {
                            let size = size.saturating_mul(16);
                            State::ChunkSize(size.saturating_add(digit.into()))
                        }
                        None if byte == b'\n' => Self::after_size(size),
                        None => State::ChunkExtension(size),
                    };
                }
                State::ChunkExtension(size) => match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        at += end + 1;
                        self.state = Self::after_size(size);
                    }
                    None => at += rest.len(),
                },
                State::Chunk(left) => {
                    let n = bounded(left, rest.len());
                    at += n;
                    self.state = match left - n as u64 {
                        0 => State::ChunkSize(0),
                        left => State::Chunk(left),
                    };
                }
                State::Trailers { empty } => {
                    if !self.announced {
                        self.announced = true;
                        return (at, Stop::Trailers);
                    }
                    let Some(byte) = rest.first().copied() else {
                        continue;
                    };
                    at += 1;
                    if byte == b'\n' && empty {
                        self.announced = false;
                        self.state = State::Start;
                        return (at, Stop::MessageEnd);
                    }
                    self.state = State::Trailers {
                        empty: byte == b'\n' || (empty && byte == b'\r'),
                    };
                }
                State::Opaque => return (bytes.len(), Stop::End),
            }
        }
        (at, Stop::End)
    }

    fn after_size(size: u64) -> State {
        match size {
            0 => State::Trailers { empty: true },
            // The line end after the data is counted with it.
            size => State::Chunk(size.saturating_add(2)),
        }
    }
}

fn bounded(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// The few facts of a head that decide its framing.
pub(super) struct Head {
    pub(super) len: usize,
    status: u16,
    length: Option<u64>,
    chunked: bool,
    /// Two rules for the length of one message, a transfer coding other than `chunked` alone, or a
    /// line that ends without CR: what two parsers could understand differently.
    pub(super) ambiguous: bool,
}

impl Head {
    /// The head that `bytes` begin with; `None` if its end is not there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut head = Self {
            len: 0,
            status: 0,
            length: None,
            chunked: false,
            ambiguous: false,
        };
        let (mut lengths, mut codings) = (0, 0);
        let mut rest = bytes;
        let mut first = true;
        loop {
            let end = memchr::memchr(b'\n', rest)?;
            let (line, after) = rest.split_at_checked(end + 1)?;
            head.len += line.len();
            rest = after;
            head.ambiguous |= !line.ends_with(b"\r\n");
            let line = line.trim_ascii_end();
            if line.is_empty() {
                // Empty lines before a request are skipped (RFC 9112 §2.2).
                if first {
                    continue;
                }
                head.ambiguous |= lengths > 0 && codings > 0 || codings > 1;
                return Some(head);
            }
            if first {
                head.status = status(line);
                first = false;
            } else if let Some(value) = field(line, b"content-length:") {
                lengths += 1;
                head.length = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
            } else if let Some(coding) = field(line, b"transfer-encoding:") {
                codings += 1;
                head.chunked = true;
                head.ambiguous |= !coding.eq_ignore_ascii_case(b"chunked");
            }
        }
    }

    fn framing(&self, role: Role, facts: MessageFacts) -> Framing {
        match role {
            Role::Server => match self.status {
                101 => Framing::Opaque,
                100..=199 => Framing::Interim,
                200..=299 if facts.tunnel => Framing::Opaque,
                204 | 304 => Framing::Length(0),
                _ if facts.bodyless => Framing::Length(0),
                _ if self.chunked => Framing::Chunked,
                _ => self.length.map_or(Framing::Opaque, Framing::Length),
            },
            Role::Client if facts.tunnel => Framing::Opaque,
            Role::Client if self.chunked => Framing::Chunked,
            Role::Client => Framing::Length(self.length.unwrap_or(0)),
        }
    }
}

/// The status of a status line; 0 for a request line.
fn status(line: &[u8]) -> u16 {
    line.strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // Nearly all lines differ in the first letter.
    if line.first()?.to_ascii_lowercase() != *name.first()? {
        return None;
    }
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stops of a stream that is given in pieces of `step` bytes, heads excepted.
    fn stops(role: Role, facts: MessageFacts, parts: &[&str], step: usize) -> Vec<(usize, Stop)> {
        let mut framer = Framer::new(role);
        let mut stops = Vec::new();
        let mut base = 0;
        for part in parts {
            let pieces: Vec<&[u8]> = if part.starts_with("HTTP") || part.contains(" HTTP/1.1") {
                vec![part.as_bytes()]
            } else {
                part.as_bytes().chunks(step).collect()
            };
            for piece in pieces {
                let mut at = 0;
                loop {
                    let (n, stop) = framer.advance(&piece[at..], facts);
                    at += n;
                    if stop == Stop::End {
                        break;
                    }
                    stops.push((base + at, stop));
                }
                assert_eq!(at, piece.len());
                base += piece.len();
            }
        }
        stops
    }

    #[test]
    fn chunked_response_in_any_pieces() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = "5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        let whole = head.len() + body.len();
        for step in 1..body.len() {
            assert_eq!(
                stops(Role::Server, MessageFacts::default(), &[head, body], step),
                [
                    (0, Stop::Head),
                    (whole - 2, Stop::Trailers),
                    (whole, Stop::MessageEnd)
                ]
            );
        }
    }

    #[test]
    fn a_chunk_whose_data_looks_like_an_end() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = "5\r\n0\r\n\r\n\r\n0\r\n\r\n";
        let whole = head.len() + body.len();
        assert_eq!(
            stops(Role::Client, MessageFacts::default(), &[head, body], 3),
            [
                (0, Stop::Head),
                (whole - 2, Stop::Trailers),
                (whole, Stop::MessageEnd)
            ]
        );
    }

    #[test]
    fn extensions_and_trailers_of_peers() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = "3;a=b\r\nabc\r\n0;c\r\nx-t: 1\r\nx-u: 2\r\n\r\n";
        let trailers = "x-t: 1\r\nx-u: 2\r\n\r\n".len();
        let whole = head.len() + body.len();
        for step in 1..body.len() {
            assert_eq!(
                stops(Role::Client, MessageFacts::default(), &[head, body], step),
                [
                    (0, Stop::Head),
                    (whole - trailers, Stop::Trailers),
                    (whole, Stop::MessageEnd)
                ]
            );
        }
    }

    #[test]
    fn ambiguous_heads() {
        let ambiguous = |lines: &str| {
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
            Head::read(head.as_bytes()).unwrap().ambiguous
        };
        assert!(!ambiguous("content-length: 5\r\n"));
        assert!(!ambiguous("transfer-encoding: Chunked\r\n"));
        assert!(ambiguous(
            "content-length: 5\r\ntransfer-encoding: chunked\r\n"
        ));
        assert!(ambiguous(
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"
        ));
        assert!(ambiguous("transfer-encoding: gzip, chunked\r\n"));
        assert!(ambiguous(
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"
        ));
        assert!(ambiguous("x: a\n"));
        assert!(Head::read(b"GET / HTTP/1.1\r\nhost: a\r\n").is_none());
        assert!(Head::read(b"\r\nGET / HTTP/1.1\r\n\r\n").is_some());
    }

    #[test]
    fn length_then_next_message() {
        let first = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
        let second = "HTTP/1.1 204 No Content\r\n\r\n";
        let at = first.len() + 3;
        assert_eq!(
            stops(
                Role::Server,
                MessageFacts::default(),
                &[first, "abc", second],
                2
            ),
            [
                (0, Stop::Head),
                (at, Stop::MessageEnd),
                (at, Stop::Head),
                (at + second.len(), Stop::MessageEnd)
            ]
        );
    }

    #[test]
    fn interim_heads_are_no_message() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(
            stops(Role::Server, MessageFacts::default(), &[text], 1),
            [(25, Stop::Head), (text.len(), Stop::MessageEnd)]
        );
    }

    #[test]
    fn bodyless_and_tunnels() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n";
        let facts = MessageFacts {
            bodyless: true,
            tunnel: false,
        };
        assert_eq!(
            stops(Role::Server, facts, &[head], 1),
            [(0, Stop::Head), (head.len(), Stop::MessageEnd)]
        );
        let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
        let tunnel = "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(
            stops(Role::Server, MessageFacts::default(), &[switch, tunnel], 1),
            [(0, Stop::Head)]
        );
    }

    #[test]
    fn a_request_without_framing_has_no_body() {
        let head = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(
            stops(Role::Client, MessageFacts::default(), &[head], 1),
            [(0, Stop::Head), (head.len(), Stop::MessageEnd)]
        );
    }
}
