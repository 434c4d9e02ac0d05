//! Beginnings and ends of messages in the byte stream that hyper's HTTP/1 encoder writes.
//!
//! A state machine without a socket. It follows heads, lengths and chunks, and stops at the two
//! places where bytes may be inserted: before a final head (interim responses) and between the last
//! chunk and the empty line after it (trailers). It never changes or copies a body byte.
//!
//! The same machine follows what peers write, before hyper reads it, and stops where the lines between
//! chunks are not exactly as RFC 9112 §7.1 has them.

use super::head::Head;

/// End of the connection that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Responses are written.
    Server,
    /// Requests are written.
    Client,
}

/// Facts about a message beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageFacts {
    /// The response to HEAD: no body, whatever the head says.
    pub(crate) bodyless: bool,
    /// After a successful head (2xx to CONNECT, or any upgrade request) the connection is a tunnel.
    pub(crate) tunnel: bool,
    /// `proxy_100_continue`: if somebody says `100 Continue`, the upstream does.
    pub(crate) continued_by_upstream: bool,
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
    /// The size line or the data of a chunk begins here; only told to whoever asked for it.
    Chunk,
    /// Here is a byte that chunks or trailers must not have (RFC 9112 §7.1).
    Fault,
}

/// ```text
/// Start ──▶ Announced ──▶ Head ──▶ Length ─────────────┐
///   ▲ └──interim──────────▶ ├────▶ ChunkSize … ⇄ Chunk │
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
    /// Digits of a size; `None` before the first.
    ChunkSize(Option<u64>),
    /// White space after the size.
    ChunkBlank(u64),
    ChunkExtension(u64),
    /// The LF of the size's line.
    ChunkSizeEnd(u64),
    Chunk(u64),
    /// The line end after a chunk's data; whether CR was there.
    ChunkEnd(bool),
    Trailers(Trailer),
    Opaque,
}

/// Place in a line of the trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailer {
    Start,
    Name,
    Value,
    /// The LF of a field line.
    LineEnd,
    /// The LF of the empty line.
    End,
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
    /// Chunks are stopped at.
    chunks: bool,
}

/// A place in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkPlace {
    /// In front of a size line.
    Start,
    /// In the data of a chunk, of which so many bytes are to come.
    Data(u64),
}

impl Framer {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            state: State::Start,
            announced: false,
            chunks: false,
        }
    }

    /// Stops at chunks, too.
    pub(super) fn at_chunks(self) -> Self {
        Self {
            chunks: true,
            ..self
        }
    }

    /// The place in a chunked body, unless that is within the lines between chunks.
    pub(super) fn chunk_place(&self) -> Option<ChunkPlace> {
        match self.state {
            State::ChunkSize(None) => Some(ChunkPlace::Start),
            State::Chunk(left) => Some(ChunkPlace::Data(left)),
            _ => None,
        }
    }

    /// Tells whether no byte of the next message has been written.
    pub(crate) fn between_messages(&self) -> bool {
        self.state == State::Start
    }

    /// Tells whether the bytes that are written have no end but that of the connection.
    pub(super) fn is_opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// Between messages: this is the head of the next one.
    pub(super) fn begin(&mut self, head: &Head, facts: MessageFacts) {
        let (left, then) = (head.len, head.framing(self.role, facts));
        self.state = match then {
            Framing::Interim => State::Head { left, then },
            _ => State::Announced { left, then },
        };
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
                    self.begin(&head, facts);
                    if !matches!(self.state, State::Head { .. }) {
                        return (at, Stop::Head);
                    }
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
                        Framing::Chunked => State::ChunkSize(None),
                        Framing::Opaque => State::Opaque,
                    };
                    if self.chunks && self.chunk_place().is_some() {
                        return (at, Stop::Chunk);
                    }
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
                State::Chunk(left) => {
                    let n = bounded(left, rest.len());
                    at += n;
                    self.state = match left - n as u64 {
                        0 => State::ChunkEnd(false),
                        left => State::Chunk(left),
                    };
                }
                State::Trailers(_) if !self.announced => {
                    self.announced = true;
                    return (at, Stop::Trailers);
                }
                State::Trailers(Trailer::End) if rest.first() == Some(&b'\n') => {
                    self.announced = false;
                    self.state = State::Start;
                    return (at + 1, Stop::MessageEnd);
                }
                state @ (State::ChunkSize(_)
                | State::ChunkBlank(_)
                | State::ChunkExtension(_)
                | State::ChunkSizeEnd(_)
                | State::ChunkEnd(_)
                | State::Trailers(_)) => {
                    let byte = rest.first().copied().unwrap_or_default();
                    let Some(next) = line_byte(state, byte) else {
                        return (at, Stop::Fault);
                    };
                    at += 1;
                    self.state = next;
                    if self.chunks && self.chunk_place().is_some() {
                        return (at, Stop::Chunk);
                    }
                }
                State::Opaque => return (bytes.len(), Stop::End),
            }
        }
        (at, Stop::End)
    }
}

/// The state after one byte of the lines between chunks; `None` if they must not have it there.
fn line_byte(state: State, byte: u8) -> Option<State> {
    let text = byte >= b' ' && byte != 0x7f || byte == b'\t';
    let digit = (byte as char).to_digit(16).map(u64::from);
    Some(match (state, byte) {
        (State::ChunkSize(size), _) if digit.is_some() => {
            let size = size.unwrap_or(0).checked_mul(16)?;
            State::ChunkSize(Some(size.checked_add(digit?)?))
        }
        (State::ChunkSize(Some(size)) | State::ChunkBlank(size), b' ' | b'\t') => {
            State::ChunkBlank(size)
        }
        (State::ChunkSize(Some(size)) | State::ChunkBlank(size), b';') => {
            State::ChunkExtension(size)
        }
        (
            State::ChunkSize(Some(size)) | State::ChunkBlank(size) | State::ChunkExtension(size),
            b'\r',
        ) => State::ChunkSizeEnd(size),
        (State::ChunkExtension(size), _) if text => State::ChunkExtension(size),
        (State::ChunkSizeEnd(0), b'\n') => State::Trailers(Trailer::Start),
        (State::ChunkSizeEnd(size), b'\n') => State::Chunk(size),
        (State::ChunkEnd(false), b'\r') => State::ChunkEnd(true),
        (State::ChunkEnd(true), b'\n') => State::ChunkSize(None),
        (State::Trailers(Trailer::Start), b'\r') => State::Trailers(Trailer::End),
        (State::Trailers(Trailer::Start | Trailer::Name), _) if is_token(byte) => {
            State::Trailers(Trailer::Name)
        }
        (State::Trailers(Trailer::Name), b':') => State::Trailers(Trailer::Value),
        (State::Trailers(Trailer::Value), b'\r') => State::Trailers(Trailer::LineEnd),
        (State::Trailers(Trailer::Value), _) if text => State::Trailers(Trailer::Value),
        (State::Trailers(Trailer::LineEnd), b'\n') => State::Trailers(Trailer::Start),
        _ => return None,
    })
}

pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn bounded(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

impl Head {
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
                    if stop == Stop::Fault {
                        return stops;
                    }
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
        for value in [
            "+5",
            "5, 5",
            "",
            "5\x0b",
            "9223372036854775808",
            "18446744073709551616",
        ] {
            assert!(
                ambiguous(&format!("content-length: {value}\r\n")),
                "{value:?}"
            );
        }
        assert!(!ambiguous("content-length: 5\r\ncontent-length: 5\r\n"));
        assert!(ambiguous("content-length: 5\r\ncontent-length: 05\r\n"));
        let head = |text: &str| Head::read(text.as_bytes()).unwrap().ambiguous;
        assert!(head("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(!head("HTTP/1.1 200 OK\nx: #\n\n"));
        assert!(Head::read(b"GET / HTTP/1.1\r\nhost: a\r\n").is_none());
        assert!(Head::read(b"\r\nGET / HTTP/1.1\r\n\r\n").is_some());
    }

    #[test]
    fn lines_between_chunks_are_exact() {
        let fault = |body: &str| {
            let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
            let seen = stops(Role::Client, MessageFacts::default(), &[head, body], 1);
            seen.iter().any(|(_, stop)| *stop == Stop::Fault)
        };
        assert!(!fault("a;b=\"c\"\r\n0123456789\r\n0 \r\nx: \t1\r\n\r\n"));
        for body in [
            "\r\n",
            "g\r\n",
            "3\nabc",
            "3\r\nabcd",
            "3\r\nabc\n",
            "3;\0\r\n",
            "3;\n",
            "3 3\r\n",
            "10000000000000000\r\n",
            "0\r\n\n",
            "0\r\nx : 1\r\n",
            "0\r\n: 1\r\n",
            "0\r\n x\r\n",
            "0\r\nx: \0\r\n",
            "0\r\nx: 1\n",
            "0\r\nx\r\n",
        ] {
            assert!(fault(body), "{body:?}");
        }
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
            ..MessageFacts::default()
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
