//! Checks of what a client sends, before hyper parses it.
//!
//! hyper resolves a `content-length` beside a `transfer-encoding` quietly. Whoever is behind the
//! gateway may have seen the same bytes before and resolved it otherwise, so such a request is
//! refused (RFC 9112 §6.1, §11.2). hyper stays the one that decides where messages end; this
//! follows it and can at worst refuse too much.

use bytes::{Bytes, BytesMut};

use super::{
    framing::{Framer, Head, MessageFacts, Role, Stop},
    waiting::Phase,
};

/// What hyper gets in place of a head that is refused: it answers 400 and closes.
const MALFORMED: &[u8] = b"\x00\r\n\r\n";

/// Follows the requests of a connection.
#[derive(Debug)]
pub(super) struct Inbound {
    framer: Framer,
    state: State,
    /// Bytes of a head that has not come to its end.
    held: BytesMut,
    limit: usize,
    /// Heads that were let through.
    heads: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Checking,
    /// A head was refused: nothing that follows is looked at.
    Refused,
    /// A tunnel, or a head too long to be held: hyper's business alone.
    Passing,
}

impl Inbound {
    /// Holds back at most `limit` bytes of an incomplete head.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            framer: Framer::new(Role::Client),
            state: State::Checking,
            held: BytesMut::new(),
            limit,
            heads: 0,
        }
    }

    /// Looks at bytes as they came and gives those that hyper may see: all of them (`None`), or
    /// these. Empty means that more has to be read first.
    pub(super) fn filter(&mut self, bytes: &[u8]) -> Option<Bytes> {
        match self.state {
            State::Passing => return None,
            State::Refused => return Some(Bytes::new()),
            State::Checking => {}
        }
        if self.held.is_empty() {
            return match self.check(bytes) {
                Verdict::All => None,
                verdict => Some(self.carry_out(verdict, BytesMut::from(bytes))),
            };
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let verdict = self.check(&held);
        Some(self.carry_out(verdict, held))
    }

    /// What the client has to send next if it is a head, and the number of that head.
    pub(super) fn waits_for(&self) -> Option<(Phase, u64)> {
        if self.state != State::Checking {
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
        self.open()
    }

    fn carry_out(&mut self, verdict: Verdict, mut bytes: BytesMut) -> Bytes {
        match verdict {
            Verdict::All => bytes.freeze(),
            Verdict::Hold(at) => {
                self.held = bytes.split_off(at);
                if self.held.len() > self.limit {
                    self.state = State::Passing;
                    bytes.unsplit(std::mem::take(&mut self.held));
                }
                bytes.freeze()
            }
            Verdict::Refuse(at) => {
                self.state = State::Refused;
                bytes.truncate(at);
                bytes.extend_from_slice(MALFORMED);
                bytes.freeze()
            }
        }
    }

    fn check(&mut self, bytes: &[u8]) -> Verdict {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.framer.between_messages() {
                match Head::read(rest) {
                    None => return Verdict::Hold(at),
                    Some(head) if head.ambiguous => return Verdict::Refuse(at),
                    Some(_) => self.heads += 1,
                }
            }
            let (n, stop) = self.framer.advance(rest, MessageFacts::default());
            at += n;
            if stop == Stop::End {
                break;
            }
        }
        Verdict::All
    }
}

enum Verdict {
    All,
    /// From here on it is the beginning of a head.
    Hold(usize),
    /// Here begins a head that is refused.
    Refuse(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    const BAD: &str =
        "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";

    /// What comes out for a text that comes in pieces.
    fn through(text: &str, step: usize) -> Vec<u8> {
        let mut inbound = Inbound::new(1024);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            match inbound.filter(piece) {
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
        let mut inbound = Inbound::new(1024);
        assert_eq!(inbound.filter(b"GET "), Some(Bytes::new()));
        assert_eq!(inbound.open(), "GET ");
        assert_eq!(inbound.filter(BAD.as_bytes()), None);
    }
}
