//! Blocks of a peer with a real encoder, read by `h2` behind [`Frames`].

use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    super::{Frames, kind::CONTINUATION},
    *,
};

/// Time in which everything that was sent is read: the clock moves when nothing is left to do.
const SILENCE: std::time::Duration = std::time::Duration::from_millis(1);

type Pair = (Vec<u8>, Vec<u8>);

/// Numbers that look random (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// An encoder with a dynamic table (RFC 7541 §4).
struct Encoder {
    table: VecDeque<Pair>,
    size: usize,
    most: usize,
}

fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, mut integer: usize) {
    let most = (1 << bits) - 1;
    if integer < most {
        out.push(pattern | integer as u8);
        return;
    }
    out.push(pattern | most as u8);
    integer -= most;
    while integer >= 0x80 {
        out.push((integer & 0x7f) as u8 | 0x80);
        integer >>= 7;
    }
    out.push(integer as u8);
}

fn string(out: &mut Vec<u8>, octets: &[u8], huffman: bool) {
    let encoded = match huffman {
        true => huffman::encode(octets),
        false => octets.to_vec(),
    };
    integer(out, if huffman { 0x80 } else { 0 }, 7, encoded.len());
    out.extend(encoded);
}

impl Encoder {
    fn evict(&mut self, needed: usize) {
        while self.size + needed > self.most {
            let Some((name, value)) = self.table.pop_back() else {
                return;
            };
            self.size -= name.len() + value.len() + ENTRY;
        }
    }

    fn resize(&mut self, out: &mut Vec<u8>, most: usize) {
        integer(out, 0x20, 5, most);
        self.most = most;
        self.evict(0);
    }

    fn encode(&mut self, out: &mut Vec<u8>, random: &mut Random, pair: &Pair) {
        let (name, value) = pair;
        let found = self.table.iter().position(|entry| entry == pair);
        if let Some(found) = found.filter(|_| !random.once_in(4)) {
            integer(out, 0x80, 7, found + 62);
            return;
        }
        let statics: [(&[u8], usize); 7] = [
            (b":authority", 1),
            (b":method", 2),
            (b":path", 4),
            (b":status", 8),
            (b"accept", 19),
            (b"transfer-encoding", 57),
            (b"cookie", 32),
        ];
        let by_static = statics.iter().find(|known| known.0 == name);
        let by_table = self.table.iter().position(|entry| entry.0 == *name);
        let index = match random.below(3) {
            0 => 0,
            1 => by_static.map_or(0, |known| known.1),
            _ => by_table.map_or(0, |place| place + 62),
        };
        let (pattern, bits) = match random.below(4) {
            0 => (0, 4),
            1 => (0x10, 4),
            _ => (0x40, 6),
        };
        integer(out, pattern, bits, index);
        if index == 0 {
            string(out, name, random.once_in(2));
        }
        string(out, value, random.once_in(2));
        if pattern == 0x40 {
            let size = name.len() + value.len() + ENTRY;
            self.evict(size);
            if size <= self.most {
                self.size += size;
                self.table.push_front(pair.clone());
            }
        }
    }
}

fn pair(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Pair {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

/// Fields for which `h2` ends a connection.
fn wrong(random: &mut Random) -> Pair {
    match random.below(16) {
        0 => pair("x-a", "a\nb"),
        1 => pair("x-b", "\0"),
        2 => pair("x-c", b"\x7f\xff".repeat(1 + random.below(40))),
        3 => pair("X-Upper", "value"),
        4 => pair("", "value"),
        5 => pair("", ""),
        6 => pair(":unknown", "value"),
        7 => pair("two words", "value"),
        8 => pair(":status", "2x0"),
        9 => pair(":status", ""),
        10 => pair(":path", b"/\xff\xfe"),
        11 => pair(":method", "A B"),
        12 => pair("te", "trail\rers"),
        13 => pair("connection", "\n"),
        14 => pair("cookie", b"\n".repeat(random.below(6000))),
        _ => pair(vec![b'N'; random.below(5000)], "v"),
    }
}

/// Fields for which `h2` resets a stream.
fn malformed(random: &mut Random) -> Pair {
    match random.below(5) {
        0 => pair("connection", "close"),
        1 => pair("transfer-encoding", ""),
        2 => pair("te", "gzip"),
        3 => pair("upgrade", "h2c"),
        _ => pair(":path", "/second"),
    }
}

fn fine(random: &mut Random) -> Pair {
    let n = random.below(40);
    match random.below(12) {
        0 => pair("te", "trailers"),
        1 => pair("cookie", format!("n={}", random.below(1000))),
        2 => pair("accept", ""),
        3 => pair(format!("x-{n}"), vec![b'v'; random.below(3000)]),
        4 => pair(format!("x-{n}"), vec![0xe4; random.below(100)]),
        5 if random.once_in(8) => pair("x-huge", vec![b'h'; random.below(50_000)]),
        6 => pair(vec![b'n'; 1 + random.below(2000)], "v"),
        7 => pair("x-tab", "\t"),
        _ => pair(format!("x-{n}"), format!("value {n}")),
    }
}

/// Frames of a block, however they are cut.
fn frames(out: &mut Vec<u8>, random: &mut Random, stream: u32, block: &[u8]) {
    let mut cuts = vec![block];
    while cuts.last().is_some_and(|last| last.len() > 15_000) || random.once_in(4) {
        let last = cuts.pop().unwrap();
        let (first, second) = last.split_at(random.below(last.len().min(15_000) + 1));
        cuts.extend([first, second]);
    }
    let last = cuts.len() - 1;
    for (n, fragment) in cuts.into_iter().enumerate() {
        let mut flags = if n == last { END_HEADERS } else { 0 };
        let (mut payload, mut kind) = (Vec::new(), CONTINUATION);
        let mut padding = 0;
        if n == 0 {
            kind = HEADERS;
            flags |= 1;
            if random.once_in(4) {
                flags |= PADDED;
                padding = random.below(256);
                payload.push(padding as u8);
            }
            if random.once_in(4) {
                flags |= PRIORITY;
                payload.extend([0, 0, 0, 0, 16]);
            }
        }
        payload.extend(fragment);
        payload.resize(payload.len() + padding, 0);
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        out.extend(&length[1..]);
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(payload);
    }
}

/// Gives what a client has sent, in pieces, and keeps what is written.
struct Socket {
    sent: Vec<u8>,
    at: usize,
    random: Random,
    most: usize,
    /// Nothing comes behind what was sent, and no end, either.
    open: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at == self.sent.len() && self.open {
            return Poll::Pending;
        }
        let most = self.most;
        let n = (1 + self.random.below(most))
            .min(self.sent.len() - self.at)
            .min(buf.remaining());
        buf.put_slice(&self.sent[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Traffic of a client: bytes, and for each stream its path and fields if it is well-formed.
struct Sent {
    bytes: Vec<u8>,
    streams: HashMap<String, Vec<Pair>>,
    bad: Vec<u32>,
}

fn client(random: &mut Random, damages: bool) -> Sent {
    let mut sent = Sent {
        bytes: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        streams: HashMap::new(),
        bad: Vec::new(),
    };
    let mut encoder = Encoder {
        table: VecDeque::new(),
        size: 0,
        most: LARGEST,
    };
    let mut remembered = Vec::new();
    for n in 0..60_u32 {
        let stream = 2 * n + 1;
        let path = format!("/{n}");
        let mut fields = vec![
            pair(":method", ["GET", "PATCH", "X-Y"][random.below(3)]),
            pair(":scheme", "http"),
            pair(":authority", "h"),
            pair(":path", &path),
        ];
        for _ in 0..random.below(12) {
            let one = fine(random);
            fields.push(one);
        }
        let mut bad = false;
        for _ in 0..random.below(8) {
            let one = match random.below(6) {
                0 | 1 if damages => wrong(random),
                2 if damages => malformed(random),
                3 if damages && !remembered.is_empty() => {
                    let place: usize = random.below(remembered.len());
                    Pair::clone(&remembered[place])
                }
                _ => continue,
            };
            bad = true;
            remembered.push(one.clone());
            fields.push(one);
        }
        let mut block = Vec::new();
        if random.once_in(6) {
            let most = [0, 100, 600, LARGEST][random.below(4)];
            encoder.resize(&mut block, most);
        }
        for field in &fields {
            encoder.encode(&mut block, random, field);
        }
        frames(&mut sent.bytes, random, stream, &block);
        match bad {
            true => sent.bad.push(stream),
            false => {
                let mut fields = fields.split_off(4);
                fields.sort();
                sent.streams.insert(path, fields);
            }
        }
    }
    sent
}

/// Streams that were reset with an error of the protocol, and connections that were ended with one.
fn resets(mut written: &[u8]) -> (Vec<u32>, usize) {
    let (mut resets, mut ends) = (Vec::new(), 0);
    while let &[a, b, c, kind, _, d, e, f, g, ref rest @ ..] = written {
        let (payload, behind) = rest.split_at(u32::from_be_bytes([0, a, b, c]) as usize);
        match (kind, payload) {
            (3, [0, 0, 0, 1]) => resets.push(u32::from_be_bytes([d, e, f, g])),
            (7, [_, _, _, _, 0, 0, 0, reason, ..]) if *reason > 0 => ends += 1,
            _ => {}
        }
        written = behind;
    }
    resets.sort_unstable();
    resets.dedup();
    (resets, ends)
}

fn socket(sent: &Sent, seed: u64, most: usize) -> Socket {
    Socket {
        sent: sent.bytes.clone(),
        at: 0,
        random: Random(seed),
        most,
        open: false,
        written: Arc::default(),
    }
}

/// However a block is encoded and cut, its stream alone is reset, and the others arrive as they were sent.
#[tokio::test(start_paused = true)]
async fn a_stream_with_a_field_that_is_refused_is_reset_alone() {
    for seed in 1..150 {
        let random = &mut Random(seed);
        let sent = client(random, true);
        let most = [1, 100, 20_000, 1_000_000][random.below(4)];
        let mut socket = socket(&sent, seed, most);
        socket.open = true;
        let written = socket.written.clone();
        let mut connection = crate::server()
            .max_header_list_size(1 << 20)
            .handshake::<_, bytes::Bytes>(Frames::unturned(socket))
            .await
            .unwrap();
        let mut left = sent.streams;
        while let Ok(Some(Ok((request, _)))) = timeout(SILENCE, connection.accept()).await {
            let path = request.uri().path();
            let mut got: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| pair(name, value))
                .collect();
            got.sort();
            assert_eq!(left.remove(path), Some(got), "seed {seed}: {path}");
        }
        drop(connection);
        let (reset, ends) = resets(&written.lock().unwrap());
        assert_eq!(ends, 0, "seed {seed}");
        assert!(left.is_empty(), "seed {seed}: {:?}", left.keys());
        assert_eq!(reset, sent.bad, "seed {seed}");
    }
}

#[tokio::test]
async fn blocks_that_h2_accepts_pass_as_they_are() {
    for seed in 1..100 {
        let random = &mut Random(seed);
        let sent = client(random, false);
        let mut frames = Frames::unturned(socket(&sent, seed, [1, 300, 100_000][random.below(3)]));
        let mut seen = Vec::new();
        frames.read_to_end(&mut seen).await.unwrap();
        assert!(seen == sent.bytes, "seed {seed}");
        assert!(frames.blocks.looks(), "seed {seed}");
    }
}

/// Anything else is left to `h2`: nothing is lost, and nothing panics.
#[tokio::test]
async fn damaged_blocks_are_read_to_their_end() {
    for seed in 1..300 {
        let random = &mut Random(seed);
        let mut sent = client(random, true);
        for _ in 0..1 + random.below(20) {
            let place = 24 + random.below(sent.bytes.len() - 24);
            sent.bytes[place] = random.below(256) as u8;
        }
        let mut frames = Frames::unturned(socket(&sent, seed, 1 + random.below(30_000)));
        frames.read_to_end(&mut Vec::new()).await.unwrap();
    }
}

/// A stream that depends on itself is reset, and its block changes the table.
#[tokio::test(start_paused = true)]
async fn a_circular_stream_is_reset_alone() {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let request = [0x82, 0x86, 0x84, 0x41, 1, b'h'];
    for (stream, priority) in [(1, 1), (3, 0), (5, 5), (7, 5)] {
        let mut block = request.to_vec();
        if stream == 1 {
            block.extend(b"\x40\x01x\x03one");
        } else {
            block.truncate(3);
            // The authority and the field of the first stream.
            block.extend([0x80 | 63, 0x80 | 62]);
        }
        bytes.extend([
            0,
            0,
            5 + block.len() as u8,
            HEADERS,
            END_HEADERS | 1 | PRIORITY,
        ]);
        bytes.extend([0, 0, 0, stream, 0, 0, 0, priority, 16]);
        bytes.extend(block);
    }
    let sent = Sent {
        bytes,
        streams: HashMap::new(),
        bad: Vec::new(),
    };
    let mut socket = socket(&sent, 1, 1000);
    socket.open = true;
    let written = socket.written.clone();
    let mut connection = crate::server()
        .handshake::<_, bytes::Bytes>(Frames::unturned(socket))
        .await
        .unwrap();
    let mut seen = 0;
    while let Ok(Some(Ok((request, _)))) = timeout(SILENCE, connection.accept()).await {
        assert_eq!(request.headers()["x"], "one");
        assert_eq!(request.uri().authority().unwrap(), "h");
        seen += 1;
    }
    drop(connection);
    assert_eq!(seen, 2);
    assert_eq!(resets(&written.lock().unwrap()), (vec![1, 5], 0));
}
