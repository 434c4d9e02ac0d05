//! Checks of what a peer sends, before hyper parses it.
//!
//! hyper resolves quietly what can be understood in two ways: a `content-length` beside a
//! `transfer-encoding`, codings other than `chunked`, lines that end without CR. Whoever is on the other
//! side of the gateway may have seen the same bytes before and resolved it otherwise, so such a message
//! is refused (RFC 9112 §6.1, §11.2). hyper stays the one that decides where messages end; this follows
//! it and can at worst refuse too much.

use bytes::{Bytes, BytesMut};

use super::{
    chunks::{Chunks, Rewrite},
    framing::{ChunkPlace, Framer, MessageFacts, Role, Stop, is_token},
    head::Head,
    outgoing::{Behind, OutgoingQueue},
    waiting::Phase,
};

/// Bytes that hyper gets in place of a head that is refused: as a server it answers 400 and closes, as a client it fails the
/// request.
const MALFORMED: &[u8] = b"\x00\r\n\r\n";

/// Bytes that hyper gets in place of a chunk that is refused. A CR without LF is an error in every place where one can be
/// refused.
const MALFORMED_CHUNK: &[u8] = b"\r\x00";

/// More 1xx heads before one response are an attack. Envoy has no limit, nginx none either; no use of
/// interim responses comes near it.
pub(crate) const MOST_INTERIM: usize = 64;

/// Follows the messages that come in on a connection.
#[derive(Debug)]
pub(super) struct Inbound {
    /// The role of the peer, who writes what is read here.
    peer: Role,
    framer: Framer,
    state: State,
    /// Bytes of a head that has not come to its end.
    held: BytesMut,
    limit: usize,
    /// Heads that were let through.
    heads: u64,
    interim: usize,
    chunks: Chunks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Checking,
    /// A request may get a tunnel: what follows is held until that is decided. Not more than the limit is read.
    Undecided,
    /// A message was refused: nothing that follows is looked at.
    Refused,
    /// A tunnel, or a head too long to be held: hyper's business alone.
    Passing,
}

impl Inbound {
    /// Follows requests. Holds back at most `limit` bytes of an incomplete head.
    pub(super) fn requests(limit: usize) -> Self {
        Self::new(Role::Client, limit)
    }

    /// Follows responses.
    pub(super) fn responses(limit: usize) -> Self {
        Self::new(Role::Server, limit)
    }

    fn new(peer: Role, limit: usize) -> Self {
        Self {
            peer,
            framer: Framer::new(peer).at_chunks(),
            state: State::Checking,
            held: BytesMut::new(),
            limit,
            heads: 0,
            interim: 0,
            chunks: Chunks::default(),
        }
    }

    /// Looks at bytes as they came and gives those that hyper may see: all of them (`None`), or
    /// these. Empty means that more has to be read first. `queue` has the requests that responses
    /// belong to.
    pub(super) fn filter(&mut self, bytes: &[u8], queue: &OutgoingQueue) -> Option<Bytes> {
        match self.state {
            State::Passing => return None,
            State::Refused => return Some(Bytes::new()),
            State::Undecided => {
                self.held.extend_from_slice(bytes);
                queue.note_early(self.heads);
                return Some(Bytes::new());
            }
            State::Checking => {}
        }
        if self.held.is_empty() {
            let mut rewrite = self.chunks.begin();
            return match self.check(bytes, queue, &mut rewrite) {
                Verdict::All if rewrite.is_none() => None,
                verdict => Some(self.carry_out(verdict, rewrite, BytesMut::from(bytes))),
            };
        }
        // Heads that come byte by byte are read once, not once for each byte.
        let from = self.held.len().saturating_sub(2);
        self.held.extend_from_slice(bytes);
        let fresh = self.held.get(from..).unwrap_or_default();
        if !has_empty_line(fresh) && self.held.len() <= self.limit {
            return Some(Bytes::new());
        }
        let held = std::mem::take(&mut self.held);
        let mut rewrite = self.chunks.begin();
        let verdict = self.check(&held, queue, &mut rewrite);
        Some(self.carry_out(verdict, rewrite, held))
    }

    /// Nothing more is there to be read. Gives the data of chunks that was collected until then.
    #[inline]
    pub(super) fn flush(&mut self) -> Option<Bytes> {
        self.chunks.flush()
    }

    /// Returns the bytes that were held behind a request that asked for a tunnel and does not get one, if hyper is to see them.
    #[inline]
    pub(super) fn declined(&mut self, queue: &OutgoingQueue) -> Option<Bytes> {
        match self.state {
            State::Undecided => self.decide(queue),
            _ => None,
        }
    }

    fn decide(&mut self, queue: &OutgoingQueue) -> Option<Bytes> {
        let held = match queue.declined(self.heads)? {
            Behind::Request => {
                self.state = State::Checking;
                std::mem::take(&mut self.held).freeze()
            }
            Behind::Nothing => {
                self.state = State::Refused;
                self.held = BytesMut::new();
                return None;
            }
        };
        Some(self.filter(&held, queue).unwrap_or(held))
    }

    /// Bytes are held that nobody is going to take before a tunnel is decided on.
    pub(super) fn holds_early(&self) -> bool {
        self.state == State::Undecided && !self.held.is_empty()
    }

    /// As many [such bytes](Self::holds_early) are held as may be.
    pub(super) fn is_full(&self) -> bool {
        self.state == State::Undecided && self.held.len() >= self.limit
    }

    /// Returns the phase of the head that the client has to send next, and its number; `None` if it is no head.
    pub(super) fn waits_for(&self) -> Option<(Phase, u64)> {
        if self.state != State::Checking || self.peer == Role::Server {
            None
        } else if !self.held.is_empty() {
            Some((Phase::Head, self.heads))
        } else if self.framer.between_messages() {
            Some((Phase::Idle, self.heads))
        } else {
            None
        }
    }

    /// The connection is a tunnel from now on. Gives what was held back.
    pub(super) fn open(&mut self) -> Bytes {
        self.state = State::Passing;
        std::mem::take(&mut self.held).freeze()
    }

    /// The peer closed. Gives what was held back, for hyper to complain of.
    pub(super) fn end(&mut self) -> Bytes {
        match self.chunks.flush() {
            // Nothing else is held within a body.
            Some(joined) => joined,
            None => self.open(),
        }
    }

    fn carry_out(&mut self, verdict: Verdict, rewrite: Rewrite, bytes: BytesMut) -> Bytes {
        let (mut bytes, longer) = rewrite.apply(bytes);
        match verdict {
            Verdict::All => bytes.freeze(),
            Verdict::Hold(at) => {
                self.held = bytes.split_off(at.saturating_add_signed(longer));
                if self.held.len() > self.limit {
                    self.state = State::Passing;
                    bytes.unsplit(std::mem::take(&mut self.held));
                }
                bytes.freeze()
            }
            Verdict::Undecided(at) => {
                self.state = State::Undecided;
                self.held = bytes.split_off(at.saturating_add_signed(longer));
                bytes.freeze()
            }
            Verdict::Refuse(at, with) => {
                self.state = State::Refused;
                bytes.truncate(at.saturating_add_signed(longer));
                bytes.extend_from_slice(with);
                bytes.freeze()
            }
        }
    }

    fn check(&mut self, bytes: &[u8], queue: &OutgoingQueue, rewrite: &mut Rewrite) -> Verdict {
        let mut at = 0;
        while let Some(mut rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let mut facts = MessageFacts::default();
            if self.peer == Role::Server {
                match queue.awaited() {
                    Some(request) => facts = request,
                    // Nobody asked: hyper closes the connection for it.
                    None => return Verdict::All,
                }
            }
            let mut tunnel = false;
            if self.framer.between_messages() {
                // Nothing that follows could make a head of it, as of the bytes that begin TLS.
                if !may_begin(rest, self.peer) {
                    return Verdict::Refuse(at, MALFORMED);
                }
                match Head::read(rest) {
                    None => return Verdict::Hold(at),
                    Some(head) if head.ambiguous || self.too_many(&head) => {
                        return Verdict::Refuse(at, MALFORMED);
                    }
                    Some(head) => {
                        self.heads += 1;
                        if head.is_interim() {
                            // The head behind it is to be looked at here, too.
                            rest = rest.get(..head.len).unwrap_or(rest);
                        }
                        // Where there is a body, it is no request for a tunnel.
                        tunnel = self.peer == Role::Client
                            && head.asks_for_tunnel
                            && !head.chunked
                            && head.length.unwrap_or(0) == 0;
                        self.framer.begin(&head, facts);
                    }
                }
            }
            match self.framer.chunk_place() {
                Some(ChunkPlace::Start) => self.chunks.at_start(rewrite, at),
                Some(ChunkPlace::Data(left)) => {
                    let here =
                        usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    self.chunks.at_data(rewrite, bytes, at..at + here);
                }
                None => {}
            }
            let (n, stop) = self.framer.advance(rest, facts);
            at += n;
            match stop {
                Stop::End if n == 0 => break,
                Stop::Fault => {
                    self.chunks.cut(rewrite, at);
                    return Verdict::Refuse(at, MALFORMED_CHUNK);
                }
                Stop::Trailers => self.chunks.at_last(rewrite, at),
                Stop::MessageEnd if self.peer == Role::Server => queue.answered(),
                Stop::MessageEnd if tunnel => {
                    if at < bytes.len() {
                        queue.note_early(self.heads);
                    }
                    return Verdict::Undecided(at);
                }
                Stop::End | Stop::MessageEnd | Stop::Head | Stop::Chunk => {}
            }
        }
        let between = self.framer.chunk_place() == Some(ChunkPlace::Start);
        self.chunks.end(rewrite, bytes.len(), between);
        Verdict::All
    }

    fn too_many(&mut self, head: &Head) -> bool {
        if self.peer == Role::Server && head.is_interim() {
            self.interim += 1;
        } else {
            self.interim = 0;
        }
        self.interim > MOST_INTERIM
    }
}

/// Tells whether a head may begin with these bytes: a method or a version, empty lines before it
/// (RFC 9112 §2.2, §3).
fn may_begin(bytes: &[u8], peer: Role) -> bool {
    let first = bytes.iter().find(|byte| !matches!(byte, b'\r' | b'\n'));
    first.is_none_or(|first| peer == Role::Server || is_token(*first))
}

fn has_empty_line(bytes: &[u8]) -> bool {
    let pairs = bytes.windows(2).any(|two| two == b"\n\n");
    pairs || bytes.windows(3).any(|three| three == b"\n\r\n")
}

enum Verdict {
    All,
    /// From here on it is the beginning of a head.
    Hold(usize),
    /// From here on it may be for a tunnel.
    Undecided(usize),
    /// From here on it is refused, in these words.
    Refuse(usize, &'static [u8]),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::h1::Outgoing;

    const GOOD: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    const BAD: &str =
        "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";

    /// Output for a text that comes in pieces.
    fn through(text: &str, step: usize) -> Vec<u8> {
        let queue = OutgoingQueue::default();
        let mut inbound = Inbound::requests(1024);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            match inbound.filter(piece, &queue) {
                None => out.extend_from_slice(piece),
                Some(bytes) => out.extend_from_slice(&bytes),
            }
        }
        out
    }

    #[test]
    fn good_requests_pass_unchanged() {
        let text = [GOOD, GOOD, "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
        for step in 1..text.len() {
            assert_eq!(through(&text, step), text.as_bytes(), "{step}");
        }
    }

    #[test]
    fn the_first_bad_head_ends_it() {
        let text = [GOOD, BAD, GOOD].concat();
        let wanted = [GOOD.as_bytes(), MALFORMED].concat();
        for step in 1..text.len() {
            assert_eq!(through(&text, step), wanted, "{step}");
        }
    }

    #[test]
    fn an_endless_head_is_hypers_business() {
        let text = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(4096));
        assert_eq!(through(&text, 100), text.as_bytes());
    }

    #[test]
    fn a_tunnel_is_not_looked_at() {
        let queue = OutgoingQueue::default();
        let mut inbound = Inbound::requests(1024);
        assert_eq!(inbound.filter(b"GET ", &queue), Some(Bytes::new()));
        assert_eq!(inbound.open(), "GET ");
        assert_eq!(inbound.filter(BAD.as_bytes(), &queue), None);
    }

    #[test]
    fn the_first_bad_chunk_ends_it() {
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
        let text = [head, "0x3\r\nabc\r\n0\r\n\r\n"].concat();
        let wanted = [head.as_bytes(), b"0", MALFORMED_CHUNK].concat();
        for step in [1, 7, text.len()] {
            let through = through(&text, step);
            assert_eq!(through, wanted, "{step}");
        }
    }

    /// Bytes that hyper is given for each of these reads, after which nothing more is there.
    fn reads(reads: &[&str]) -> Vec<String> {
        let queue = OutgoingQueue::default();
        let mut inbound = Inbound::requests(1024);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut seen = Vec::new();
        for read in reads {
            let mut out = match inbound.filter(read.as_bytes(), &queue) {
                None => text(read.as_bytes()),
                Some(bytes) => text(&bytes),
            };
            out.push_str(&text(&inbound.flush().unwrap_or_default()));
            seen.push(out);
        }
        seen
    }

    #[test]
    fn chunks_that_are_there_at_once_are_joined() {
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let with = |rest: &str| [head, rest].concat();
        // One chunk a read stays as it is.
        let single = [&*with("1;x\r\na\r\n"), "2\r\nbc\r\n", "0\r\n\r\n"];
        assert_eq!(reads(&single), single);
        assert_eq!(
            reads(&[&with("1;x\r\na\r\n2\r\nbc\r\n0\r\nx-t: 1\r\n\r\n")]),
            [with("3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n")]
        );
        // A chunk that is cut, in its data and in its lines; what it began with in the read before stays.
        assert_eq!(
            reads(&[
                &with("3\r\na"),
                "bc\r\n1\r\nd\r\n3\r\ne",
                "fg\r",
                "\n1\r",
                "\nh\r\n2\r\nij",
                "\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            ]),
            [
                &with("3\r\na"),
                "bc\r\n2\r\nde\r\n",
                "2\r\nfg\r\n",
                "",
                "3\r\nhij\r\n",
                "0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            ]
        );
        // The first fault ends it, behind what was good.
        let fault = [
            with("1\r\na\r\n1\r\nb\r\n").as_str(),
            "1\r\nc\r\n1\r\nd\r\n0x1",
        ]
        .concat();
        assert_eq!(reads(&[&fault]), [with("4\r\nabcd\r\n\r\0")]);
    }

    #[test]
    fn large_chunks_are_not_copied() {
        let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
        let text =
            format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
        let queue = OutgoingQueue::default();
        let mut inbound = Inbound::requests(1024);
        assert_eq!(inbound.filter(text.as_bytes(), &queue), None);
        assert_eq!(inbound.flush(), None);
    }

    #[test]
    fn responses_are_checked_against_their_requests() {
        let responses = |bodyless: bool, text: &str| {
            let queue = OutgoingQueue::default();
            let facts = MessageFacts {
                bodyless,
                tunnel: false,
                ..MessageFacts::default()
            };
            queue.push(Arc::new(Outgoing::new(facts)));
            let mut inbound = Inbound::responses(1024);
            let out = inbound.filter(text.as_bytes(), &queue);
            out.map_or_else(
                || text.into(),
                |out| String::from_utf8(out.to_vec()).unwrap(),
            )
        };
        let malformed = String::from_utf8(MALFORMED.to_vec()).unwrap();
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(responses(true, chunked), chunked);
        let gzip = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n";
        assert_eq!(responses(false, gzip), malformed);
        // What nobody asked for is shown to hyper as it is.
        let surplus = format!("{chunked}0\r\n\r\nHTTP");
        assert_eq!(responses(false, &surplus), surplus);
        let many = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(MOST_INTERIM);
        assert_eq!(responses(false, &many), many);
        let more = format!("{many}HTTP/1.1 103 Early Hints\r\n\r\n");
        assert_eq!(responses(false, &more), format!("{many}{malformed}"));
        let behind = format!("HTTP/1.1 103 Early Hints\r\n\r\n{gzip}");
        assert_eq!(
            responses(false, &behind),
            format!("HTTP/1.1 103 Early Hints\r\n\r\n{malformed}")
        );
    }
}
