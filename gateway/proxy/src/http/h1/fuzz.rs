//! Bytes from the network, sent through our own checks: seeds from `corpus/`, damaged in every way.
//!
//! A run is short and always the same; `EXTPROC_FUZZ_RUNS=1000000` makes a long one with other damages each time.
//! An input that was found belongs into `corpus/`.

use std::sync::Arc;

use proptest::{prelude::*, sample::Index};

use super::{
    framing::{ChunkPlace, Framer, MessageFacts, Role, Stop},
    inbound::Inbound,
    outgoing::{Outgoing, OutgoingQueue},
};
use crate::fuzzing::runs;

/// Bytes that mean something to somebody.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length:+5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding:\tchunked \r\n",
    b"chunked",
    b"identity",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"ffffffffffffffff",
    b"\xff",
];

#[derive(Clone, Debug)]
enum Damage {
    Insert(Index, &'static [u8]),
    Put(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let word = prop::sample::select(WORDS);
    prop_oneof![
        3 => (any::<Index>(), word).prop_map(|(at, word)| Damage::Insert(at, word)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Put(at, byte)),
        2 => (any::<Index>(), 1..24_usize).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (any::<Index>(), 1..40_usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/h1/corpus");
    let files = std::fs::read_dir(directory).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| std::fs::read(path).unwrap();
    paths.iter().map(read).collect()
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let damages = prop::collection::vec(damage(), 0..6);
    (prop::sample::select(seeds()), damages).prop_map(|(mut bytes, damages)| {
        for damage in damages {
            let place = |at: Index, bytes: &[u8]| at.index(bytes.len() + 1);
            match damage {
                Damage::Insert(at, word) => {
                    let at = place(at, &bytes);
                    bytes.splice(at..at, word.iter().copied());
                }
                Damage::Put(at, byte) => {
                    let at = place(at, &bytes);
                    let end = (at + 1).min(bytes.len());
                    bytes.splice(at..end, [byte]);
                }
                Damage::Remove(at, n) => {
                    let at = place(at, &bytes);
                    let end = (at + n).min(bytes.len());
                    bytes.drain(at..end);
                }
                Damage::Repeat(at, n) => {
                    let at = place(at, &bytes);
                    let end = (at + n).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    bytes.splice(end..end, again);
                }
            }
        }
        bytes
    })
}

/// Bytes that hyper would see of a text that comes in pieces of these lengths.
fn filtered(peer: Role, bytes: &[u8], pieces: &[usize]) -> Vec<u8> {
    let queue = OutgoingQueue::default();
    let mut inbound = match peer {
        Role::Client => Inbound::requests(8192),
        Role::Server => {
            queue.push(Arc::new(Outgoing::new(MessageFacts::default())));
            Inbound::responses(8192)
        }
    };
    let mut out = Vec::new();
    let mut rest = bytes;
    let mut lengths = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let n = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (piece, after) = rest.split_at(n);
        match inbound.filter(piece, &queue) {
            None => out.extend_from_slice(piece),
            Some(instead) => out.extend_from_slice(&instead),
        }
        rest = after;
    }
    out.extend(inbound.flush().unwrap_or_default());
    out
}

/// Meaning of these bytes, however their chunks are cut.
fn meaning(peer: Role, bytes: &[u8]) -> Vec<u8> {
    let mut framer = Framer::new(peer).at_chunks();
    let mut said = Vec::new();
    let mut at = 0;
    loop {
        let place = framer.chunk_place();
        let (n, stop) = framer.advance(&bytes[at..], MessageFacts::default());
        let passed = &bytes[at..at + n];
        at += n;
        match place {
            Some(ChunkPlace::Start) => {}
            Some(ChunkPlace::Data(left)) => {
                let left = usize::try_from(left).unwrap_or(n);
                said.extend_from_slice(&passed[..left.min(n)]);
            }
            None => said.extend_from_slice(passed),
        }
        match stop {
            Stop::End => return said,
            Stop::Fault => {
                said.extend_from_slice(b" and a fault");
                return said;
            }
            Stop::Trailers => said.extend_from_slice(b" and trailers "),
            Stop::MessageEnd | Stop::Head | Stop::Chunk => {}
        }
    }
}

/// Ends of requests, by our framer.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut framer = Framer::new(Role::Client);
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let (n, stop) = framer.advance(&bytes[at..], MessageFacts::default());
        at += n;
        match stop {
            Stop::End | Stop::Fault => return found,
            Stop::MessageEnd => found.push(at),
            Stop::Head | Stop::Trailers | Stop::Chunk => {}
        }
    }
}

/// Finds the ends of requests with a reader that shares no line with ours: httparse, which hyper uses, and the rules of
/// RFC 9112 §6.3 for all that is not ambiguous.
fn ends_by_others(bytes: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(n) = one_by_others(&bytes[at..]) {
        at += n;
        found.push(at);
    }
    found
}

fn one_by_others(bytes: &[u8]) -> Option<usize> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(head)) = request.parse(bytes) else {
        return None;
    };
    let named = |name: &'static str| {
        let fields = request.headers.iter();
        fields.filter(move |field| field.name.eq_ignore_ascii_case(name))
    };
    let body = &bytes[head..];
    if named("transfer-encoding").next().is_some() {
        return chunks_by_others(body).map(|n| head + n);
    }
    let length = named("content-length").next();
    let length = length.map_or(Some(0), |field| {
        std::str::from_utf8(field.value).ok()?.parse().ok()
    })?;
    (body.len() >= length).then_some(head + length)
}

fn chunks_by_others(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&body[at..])
        else {
            return None;
        };
        at += line;
        if size == 0 {
            break;
        }
        at = at.checked_add(usize::try_from(size).ok()?)?;
        if body.get(at..at.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    let mut fields = [httparse::EMPTY_HEADER; 64];
    match httparse::parse_headers(&body[at..], &mut fields) {
        Ok(httparse::Status::Complete((n, _))) => Some(at + n),
        _ => None,
    }
}

#[test]
fn the_corpus_in_pieces() {
    for seed in seeds() {
        for peer in [Role::Client, Role::Server] {
            let said = |pieces: &[usize]| meaning(peer, &filtered(peer, &seed, pieces));
            let whole = said(&[]);
            for step in 1..seed.len() {
                let text = String::from_utf8_lossy(&seed);
                assert_eq!(said(&[step]), whole, "{step}: {text:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(runs(4000))]

    /// Bytes have the same meaning in whichever packets they come.
    #[test]
    fn pieces_do_not_matter(
        bytes in input(),
        pieces in prop::collection::vec(1..50_usize, 1..6),
        server in any::<bool>(),
    ) {
        let peer = if server { Role::Server } else { Role::Client };
        let said = |pieces: &[usize]| meaning(peer, &filtered(peer, &bytes, pieces));
        prop_assert_eq!(said(&pieces), said(&[]));
    }

    /// Bytes that pass unchanged have the same message boundaries for us and for the parser behind us.
    #[test]
    fn one_meaning(bytes in input()) {
        // Byte by byte, no chunks are joined.
        if filtered(Role::Client, &bytes, &[1]) == bytes {
            let (ours, theirs) = (ends(&bytes), ends_by_others(&bytes));
            let common = theirs.len().min(ours.len());
            prop_assert_eq!(&ours[..common], &theirs[..common]);
            prop_assert!(theirs.len() <= ours.len(), "{:?} and {:?}", ours, theirs);
        }
    }
}
