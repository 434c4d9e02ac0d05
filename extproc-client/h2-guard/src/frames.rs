//! The byte stream under an `h2` connection, followed frame by frame.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::traffic::{Tally, Traffic};

/// The preface of a client (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Length of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;

/// Position of the type in it.
const TYPE: usize = 3;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// A type that no extension uses. Receivers ignore such frames (RFC 9113 §5.5).
const IGNORED: u8 = 0xff;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// The largest window (RFC 9113 §6.9.1).
const LARGEST_WINDOW: u32 = 0x7fff_ffff;

/// `SETTINGS_MAX_HEADER_LIST_SIZE` (RFC 9113 §6.5.2).
const MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];

/// DATA shorter than this takes more memory than its bytes.
const SMALL: usize = 256;

/// Empty DATA frames in a row that are hidden of a client. `h2` ends the connection of one that goes on.
const EMPTY_IN_A_ROW: u32 = 10_000;

/// Length of a WINDOW_UPDATE frame.
const UPDATE: usize = HEAD + 4;

/// Bytes of frames that give window back and are not written yet. A peer that does not take them has its empty frames counted by
/// `h2`, which gives their window back itself.
const REFUNDS: usize = 64 * 1024;

/// Frames that are read while the peer takes nothing of what is written. Answers to them pile up.
const UNANSWERED: u32 = 100_000;

/// A byte stream that `h2` reads, whose frames are counted.
///
/// A DATA frame without content that does not end its stream says nothing, and `h2` ends a connection that has received 100 of them.
/// They become frames of an unknown type here, and the window that their padding takes is given back from here.
#[derive(Debug)]
pub struct Frames<S> {
    io: S,
    traffic: Arc<Traffic>,
    /// Whether reading is interrupted until somebody calls [`Traffic::turn`].
    turns: bool,
    /// Bytes of the preface or of a frame's payload that are still to come.
    left: usize,
    head: Head,
    /// Most empty frames in a row that are hidden.
    most_empty: u32,
    empty: u32,
    /// The last write had to wait.
    blocked: bool,
    unanswered: u32,
    block: Block,
    settings: Settings,
    refunds: Refunds,
}

/// A SETTINGS frame that is under way (RFC 9113 §6.5.1).
#[derive(Debug, Default)]
struct Settings {
    reading: bool,
    /// Bytes that come before its payload.
    head: usize,
    /// One setting, of which so many bytes are there.
    entry: [u8; 6],
    at: usize,
}

/// Window that is given back for frames that `h2` does not see (RFC 9113 §6.1: padding counts).
#[derive(Debug, Default)]
struct Refunds {
    connection: u32,
    /// Streams in the order of their frames; one may be there several times.
    streams: Vec<(u32, u32)>,
    /// WINDOW_UPDATE frames on their way, of which a part may be written.
    out: BytesMut,
}

/// The header block that was read last (RFC 9113 §4.3). Until it ends, no other frame may come.
#[derive(Debug, Default)]
struct Block {
    /// Its place among those of the connection, from 1 on.
    number: u64,
    open: bool,
    /// The frame that is under way completes it.
    ends: bool,
}

/// The head of a frame that was not read at once; with the first byte of its payload if it is padded.
#[derive(Debug, Default)]
struct Head {
    bytes: [u8; HEAD + 1],
    /// Bytes that are there.
    length: usize,
    /// Whether it is complete and waits for room.
    ready: bool,
}

/// Outcome of a look at the bytes from the head of a frame on.
enum Look {
    /// Not enough bytes; so many are needed.
    Short(usize),
    /// The frame is so long, without its head.
    Frame { payload: usize, hide: bool },
}

impl<S> Frames<S> {
    /// The stream of a connection to a server.
    pub fn of_server(io: S, traffic: Arc<Traffic>) -> Self {
        Self::new(io, traffic, 0, u32::MAX)
    }

    /// The stream of a connection of a client, from its preface on.
    pub fn of_client(io: S, traffic: Arc<Traffic>) -> Self {
        Self::new(io, traffic, PREFACE, EMPTY_IN_A_ROW)
    }

    /// The same for a server that does not let its owner poll the connection: only empty DATA frames and unread answers are looked
    /// at, since nobody calls [`Traffic::turn`].
    pub fn unturned(io: S) -> Self {
        let mut frames = Self::of_client(io, Arc::default());
        frames.turns = false;
        frames
    }

    fn new(io: S, traffic: Arc<Traffic>, left: usize, most_empty: u32) -> Self {
        Self {
            io,
            traffic,
            turns: true,
            left,
            head: Head::default(),
            most_empty,
            empty: 0,
            blocked: false,
            unanswered: 0,
            block: Block::default(),
            settings: Settings::default(),
            refunds: Refunds::default(),
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The number of the header block that has begun and is not complete. `h2` says nothing of a stream before its block is.
    pub fn open_block(&self) -> Option<u64> {
        let open = self.block.open && !(self.block.ends && self.left == 0);
        open.then_some(self.block.number)
    }

    /// Looks at a frame of which these bytes are there.
    fn look(&mut self, bytes: &[u8], tally: &mut Tally) -> Look {
        let &[a, b, c, kind, flags, d, e, f, g, ..] = bytes else {
            return Look::Short(HEAD);
        };
        let payload = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
        let content = match (kind, flags & PADDED != 0, bytes.get(HEAD)) {
            (DATA, true, None) if payload > 0 && payload <= SMALL => return Look::Short(HEAD + 1),
            // More padding than payload is an error (RFC 9113 §6.1), which `h2` is to see.
            (DATA, true, Some(padding)) => payload.checked_sub(1 + usize::from(*padding)),
            (DATA, true, None) => payload.checked_sub(1),
            _ => Some(payload),
        };
        tally.frames += 1;
        self.block.follow(kind, flags);
        self.settings = Settings {
            reading: kind == SETTINGS && flags & ACK == 0,
            ..Settings::default()
        };
        let mut hide = false;
        match kind {
            DATA if content == Some(0) && flags & END_STREAM == 0 && stream != 0 => {
                self.empty = self.empty.saturating_add(1);
                hide = self.empty <= self.most_empty && self.refunds.has_room();
                if hide && payload > 0 {
                    self.refunds.add(stream, payload);
                }
            }
            DATA => {
                self.empty = 0;
                tally.messages += 1;
                tally.bytes += payload;
                if content.is_some_and(|bytes| bytes < SMALL) && flags & END_STREAM == 0 {
                    tally.small += 1;
                }
            }
            HEADERS => {
                self.empty = 0;
                tally.messages += 1;
            }
            _ => {}
        }
        Look::Frame { payload, hide }
    }

    /// Follows the frames in what was read. Gives how much of it may be handed on: all but a head that is not complete.
    fn follow(&mut self, read: &mut [u8], tally: &mut Tally) -> usize {
        let mut at = 0;
        loop {
            let skipped = self.left.min(read.len() - at);
            self.left -= skipped;
            if self.settings.reading
                && let Some(bytes) = read.get(at..at + skipped)
            {
                self.settings.read(bytes, &self.traffic);
            }
            self.settle();
            at += skipped;
            let Some(rest) = read.get_mut(at..).filter(|rest| !rest.is_empty()) else {
                return at;
            };
            match self.look(rest, tally) {
                Look::Short(_) => {
                    for (to, from) in self.head.bytes.iter_mut().zip(rest.iter()) {
                        *to = *from;
                    }
                    self.head.length = rest.len();
                    return at;
                }
                Look::Frame { payload, hide } => {
                    if let (true, Some(kind)) = (hide, rest.get_mut(TYPE)) {
                        *kind = IGNORED;
                    }
                    self.settings.head = HEAD;
                    self.left = HEAD + payload;
                }
            }
        }
    }

    /// Tells of SETTINGS that are read to their end.
    fn settle(&mut self) {
        if self.settings.reading && self.left == 0 {
            self.settings.reading = false;
            self.traffic.settle();
        }
    }

    fn note(&mut self, tally: &Tally) -> io::Result<()> {
        self.traffic.add(tally);
        if self.blocked {
            self.unanswered = self.unanswered.saturating_add(tally.frames);
            if self.unanswered > UNANSWERED {
                return Err(io::Error::other(
                    "the peer sends frames and reads no answers",
                ));
            }
        }
        Ok(())
    }

    /// Follows the outcome of a write.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        self.blocked = written.is_pending();
        if !self.blocked {
            self.unanswered = 0;
        }
    }
}

impl<S> Drop for Frames<S> {
    fn drop(&mut self) {
        self.traffic.settle();
    }
}

impl Refunds {
    fn has_room(&self) -> bool {
        self.streams.len() * UPDATE + self.out.len() < REFUNDS
    }

    fn add(&mut self, stream: u32, bytes: usize) {
        // It is padding and its length, at most 256 bytes.
        let bytes = u32::try_from(bytes).unwrap_or_default();
        self.connection = self.connection.saturating_add(bytes);
        match self.streams.last_mut() {
            Some((last, sum)) if *last == stream => *sum = sum.saturating_add(bytes),
            _ => self.streams.push((stream, bytes)),
        }
    }

    /// Makes frames of it.
    fn fill(&mut self) {
        let all = [(0, std::mem::take(&mut self.connection))];
        for (stream, bytes) in all.into_iter().chain(self.streams.drain(..)) {
            self.out.put_slice(&[0, 0, 4, WINDOW_UPDATE, 0]);
            self.out.put_u32(stream);
            self.out.put_u32(bytes.min(LARGEST_WINDOW));
        }
    }
}

impl Settings {
    fn read(&mut self, bytes: &[u8], traffic: &Traffic) {
        let head = self.head.min(bytes.len());
        self.head -= head;
        for byte in bytes.iter().skip(head) {
            if let Some(room) = self.entry.get_mut(self.at) {
                *room = *byte;
            }
            self.at += 1;
            if self.at == self.entry.len() {
                self.at = 0;
                let [a, b, value @ ..] = self.entry;
                if [a, b] == MAX_HEADER_LIST_SIZE {
                    traffic.announce_header_list(u32::from_be_bytes(value));
                }
            }
        }
    }
}

impl Block {
    /// A frame begins.
    fn follow(&mut self, kind: u8, flags: u8) {
        if kind == HEADERS {
            self.number += 1;
        }
        self.open = matches!(kind, HEADERS | CONTINUATION);
        self.ends = self.open && flags & END_HEADERS != 0;
    }
}

impl<S: AsyncRead + Unpin> Frames<S> {
    /// Completes a head of which a part was read.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.head.ready {
            let mut tally = Tally::default();
            let Head { bytes, length, .. } = self.head;
            match self.look(bytes.get(..length).unwrap_or_default(), &mut tally) {
                Look::Short(needed) => {
                    let mut room = [0; HEAD + 1];
                    let room = room.get_mut(..needed - length).unwrap_or_default();
                    let mut more = ReadBuf::new(room);
                    ready!(Pin::new(&mut self.io).poll_read(cx, &mut more))?;
                    let more = more.filled();
                    for (to, from) in self.head.bytes.iter_mut().skip(length).zip(more) {
                        *to = *from;
                    }
                    self.head.length += more.len();
                    // The end: `h2` is to see that it comes within a frame.
                    self.head.ready = more.is_empty();
                }
                Look::Frame { payload, hide } => {
                    if hide && let Some(kind) = self.head.bytes.get_mut(TYPE) {
                        *kind = IGNORED;
                    }
                    // Of a padded frame, the first byte is there already.
                    self.left = payload.saturating_sub(length - HEAD);
                    self.head.ready = true;
                    self.settle();
                    self.note(&tally)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turns && this.traffic.is_full() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if this.head.length > 0 {
                ready!(this.poll_head(cx))?;
                let there = this.head.length.min(buf.remaining());
                buf.put_slice(this.head.bytes.get(..there).unwrap_or_default());
                this.head.bytes.rotate_left(there);
                this.head.length -= there;
                this.head.ready = this.head.length > 0;
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let read = buf.filled_mut().get_mut(before..).unwrap_or_default();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut tally = Tally::default();
            let whole = this.follow(read, &mut tally);
            this.note(&tally)?;
            buf.set_filled(before + whole);
            if whole > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Frames<S> {
    /// Writes what is left of frames that were begun here.
    fn poll_refunds(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refunds.out.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.refunds.out);
            self.wrote(&written);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.refunds.out.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_refunds(cx))?;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_refunds(cx))?;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // `h2` flushes when it has written whole frames, each time that it has read what there was.
        if !this.refunds.streams.is_empty() {
            this.refunds.fill();
        }
        ready!(this.poll_refunds(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use http::Request;

    use super::*;
    use crate::request_size;

    /// Gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl AsyncRead for Slow<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let n = self.1.min(self.0.len()).min(buf.remaining());
            let (now, later) = self.0.split_at(n);
            buf.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        out.extend(&length[1..]);
        out.extend([kind, flags, 0, 0, 0, stream]);
        out.extend(payload);
    }

    /// Empty DATA and what looks like it, and how it is to arrive.
    fn frames() -> (Vec<u8>, Vec<u8>) {
        let (mut sent, mut seen) = (Vec::new(), Vec::new());
        for (kind, flags, stream, payload, seen_as) in [
            (HEADERS, 4, 1, &b"head"[..], HEADERS),
            (DATA, 0, 1, b"", IGNORED),
            (DATA, 0, 1, b"x", DATA),
            (DATA, PADDED, 1, b"\x03\0\0\0", IGNORED),
            (DATA, PADDED, 1, b"\x00", IGNORED),
            (DATA, PADDED, 1, b"\x02x\0\0", DATA),
            (DATA, PADDED, 1, b"\x04\0\0\0", DATA),
            (DATA, PADDED, 1, b"", DATA),
            (DATA, PADDED, 1, &[9; 300], DATA),
            (DATA, 0, 0, b"", DATA),
            (6, 0, 0, b"12345678", 6),
            (DATA, END_STREAM, 1, b"", DATA),
        ] {
            frame(&mut sent, kind, flags, stream, payload);
            frame(&mut seen, seen_as, flags, stream, payload);
        }
        (sent, seen)
    }

    #[tokio::test]
    async fn empty_data_is_hidden_however_it_arrives() {
        let (sent, seen) = frames();
        for chunk in 1..60 {
            for cut in [0, 1, 5] {
                let sent = &sent[..sent.len() - cut];
                let traffic = Arc::<Traffic>::default();
                let mut frames = Frames::of_server(Slow(sent, chunk), traffic.clone());
                let mut got = Vec::new();
                frames.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, seen[..sent.len()], "{chunk} bytes at a time");
            }
        }
    }

    /// Padding takes window; what `h2` does not see is given back from here, between the frames that it writes.
    #[tokio::test]
    async fn the_window_of_hidden_padding_comes_back() {
        let mut sent = vec![b'p'; PREFACE];
        for (stream, length) in [(1, 1), (1, 256), (3, 256), (3, 0), (1, 9)] {
            let mut payload = vec![0; length];
            if let Some(padding) = payload.first_mut() {
                *padding = u8::try_from(length - 1).unwrap();
            }
            let flags = if length > 0 { PADDED } else { 0 };
            frame(&mut sent, DATA, flags, stream, &payload);
        }
        let (near, mut far) = tokio::io::duplex(7);
        let io = tokio::io::join(Slow(&sent, 1000), near);
        let mut frames = Frames::unturned(io);
        let got = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        let read = frames.read_to_end(&mut Vec::new()).await;
        assert_eq!(read.unwrap(), sent.len());
        frames.write_all(b"whole frames").await.unwrap();
        frames.flush().await.unwrap();
        frames.write_all(b"others").await.unwrap();
        frames.flush().await.unwrap();
        drop(frames);
        let mut expected = b"whole frames".to_vec();
        for (stream, bytes) in [(0, 522_u32), (1, 257), (3, 256), (1, 9)] {
            frame(
                &mut expected,
                WINDOW_UPDATE,
                0,
                stream,
                &bytes.to_be_bytes(),
            );
        }
        expected.extend(b"others");
        assert_eq!(got.await.unwrap(), expected);
    }

    /// Takes one byte of what is written now and then.
    struct Slack<'a>(&'a [u8], u8);

    impl AsyncRead for Slack<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
            buf.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Slack<'_> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1 = (self.1 + 1) % 8;
            match self.1 {
                0 => Poll::Ready(Ok(1)),
                _ => Poll::Pending,
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_little_gets_no_queue_of_windows() {
        let mut sent = vec![b'p'; PREFACE];
        for n in 0..40_000 {
            let stream = if n % 2 == 0 { 1 } else { 3 };
            frame(&mut sent, DATA, PADDED, stream, b"\0");
            if n % 100 == 0 {
                frame(&mut sent, DATA, 0, stream, b"x");
            }
        }
        let mut seen = Vec::new();
        let mut guarded = Frames::of_server(Slack(&sent, 0), Arc::default());
        guarded.left = PREFACE;
        guarded.turns = false;
        let mut buf = [0; 4096];
        loop {
            let read = guarded.read(&mut buf).await.unwrap();
            if read == 0 {
                break;
            }
            seen.extend_from_slice(&buf[..read]);
            let flushed =
                std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut guarded).poll_flush(cx)));
            let _ = flushed.await;
            let kept = guarded.refunds.streams.len() * UPDATE + guarded.refunds.out.len();
            assert!(kept <= REFUNDS + 2 * UPDATE, "{kept} bytes are kept");
        }
        // What has no room any more is left to `h2`.
        assert_eq!(seen.len(), sent.len());
        assert!(seen != sent);
        assert_eq!(seen[seen.len() - 10..], sent[sent.len() - 10..]);
    }

    #[tokio::test]
    async fn a_header_block_is_open_until_its_last_byte() {
        let mut sent = vec![b'p'; PREFACE];
        frame(&mut sent, 4, 0, 0, b"settings");
        let begin = sent.len() + HEAD;
        frame(&mut sent, HEADERS, END_STREAM, 1, b"half a block");
        frame(&mut sent, CONTINUATION, 0, 1, b"");
        frame(&mut sent, CONTINUATION, END_HEADERS, 1, b"rest");
        let end = sent.len();
        frame(&mut sent, DATA, END_HEADERS, 1, b"data");
        frame(&mut sent, HEADERS, END_HEADERS, 3, b"");
        for chunk in 1..sent.len() {
            let traffic = Arc::<Traffic>::default();
            let mut frames = Frames::of_client(Slow(&sent, chunk), traffic);
            let mut some = vec![0; chunk];
            let mut at = 0;
            while let Ok(n @ 1..) = frames.read(&mut some).await {
                at += n;
                // Of the next frame's head, some may be kept back.
                if (begin..end).contains(&at) {
                    assert_eq!(frames.open_block(), Some(1), "{at} in {chunk}");
                } else if at < begin - HEAD || at > end {
                    assert_eq!(frames.open_block(), None, "{at} in {chunk}");
                }
            }
            assert_eq!(frames.block.number, 2);
        }
    }

    #[tokio::test]
    async fn what_the_peer_takes_is_read_from_its_settings() {
        let traffic = Arc::<Traffic>::default();
        // 203 bytes, and the path.
        let size = |path: &str| {
            let request = Request::get(format!("http://a{path}")).header("x-a", "123");
            request_size(&request.body(()).unwrap())
        };
        let takes = |traffic: &Traffic, path: &str| traffic.takes(|| size(path));
        assert_eq!(takes(&traffic, "/"), Some(true));
        assert_eq!(takes(&traffic, &"/".repeat(60_000)), None);
        let mut sent = Vec::new();
        frame(
            &mut sent,
            SETTINGS,
            0,
            0,
            &[0, 6, 0, 0, 0, 200, 0, 4, 0, 0, 0, 1],
        );
        frame(&mut sent, SETTINGS, ACK, 0, b"");
        frame(&mut sent, DATA, 0, 1, &[0, 6, 0, 0, 0, 9]);
        frame(
            &mut sent,
            SETTINGS,
            0,
            0,
            &[0, 3, 0, 0, 0, 7, 0, 6, 0, 0, 0, 207],
        );
        for chunk in 1..sent.len() {
            let traffic = Arc::<Traffic>::default();
            let mut frames = Frames::of_server(Slow(&sent, chunk), traffic.clone());
            frames.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(takes(&traffic, "/123"), Some(true), "{chunk}");
            assert_eq!(takes(&traffic, "/1234"), Some(false), "{chunk}");
        }
    }

    /// One that says nothing of header lists takes any; so does one that is gone, for what finds that out.
    #[tokio::test]
    async fn large_heads_wait_for_the_first_settings_or_the_end() {
        let mut sent = Vec::new();
        frame(&mut sent, SETTINGS, 0, 0, b"");
        for (sent, gone) in [(sent.as_slice(), false), (&[], true)] {
            let traffic = Arc::<Traffic>::default();
            let mut frames = Frames::of_server(Slow(sent, 1), traffic.clone());
            let waits = {
                let traffic = traffic.clone();
                tokio::spawn(async move { traffic.will_take(|| 60_000).await })
            };
            tokio::task::yield_now().await;
            frames.read_to_end(&mut Vec::new()).await.unwrap();
            if gone {
                assert_eq!(traffic.takes(|| u64::MAX), None);
                tokio::task::yield_now().await;
                assert!(!waits.is_finished());
                drop(frames);
            }
            assert!(waits.await.unwrap());
            let unasked = || unreachable!("there is no limit");
            assert_eq!(traffic.takes(unasked), Some(true));
        }
    }

    /// A peer that never says anything may be waited for by any number of tasks that give up.
    #[tokio::test]
    async fn heads_that_no_longer_wait_leave_nothing_behind() {
        struct Task;
        impl std::task::Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        let traffic = Arc::<Traffic>::default();
        let task = Arc::new(Task);
        let waker = std::task::Waker::from(task.clone());
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..3 {
            let waits = std::pin::pin!(traffic.will_take(|| 60_000));
            assert!(waits.poll(cx).is_pending());
        }
        drop(waker);
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[tokio::test]
    async fn a_client_may_not_send_empty_data_without_end() {
        let mut sent = vec![b'p'; PREFACE];
        for _ in 0..EMPTY_IN_A_ROW + 5 {
            frame(&mut sent, DATA, 0, 1, b"");
        }
        let traffic = Arc::<Traffic>::default();
        let mut frames = Frames::of_client(Slow(&sent, 1000), traffic.clone());
        let mut got: Vec<u8> = Vec::new();
        let mut some = vec![0; 1000];
        while let Ok(n @ 1..) = frames.read(&mut some).await {
            got.extend(&some[..n]);
            traffic.turn();
        }
        let kinds = got[PREFACE..].chunks(HEAD).map(|frame| frame[TYPE]);
        assert_eq!(kinds.filter(|kind| *kind == DATA).count(), 5);
    }

    /// A peer that takes no answers is not read for ever.
    #[tokio::test]
    async fn frames_that_cannot_be_answered() {
        let mut sent = Vec::new();
        for _ in 0..UNANSWERED + 5000 {
            frame(&mut sent, DATA, 0, 1, b"x");
        }
        let (near, far) = tokio::io::duplex(10);
        let traffic = Arc::<Traffic>::default();
        let io = tokio::io::join(Slow(&sent, 8000), near);
        let mut frames = Frames::of_server(io, traffic.clone());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut frames).poll_write(cx, &[0; 10]);
        assert!(Pin::new(&mut frames).poll_write(cx, &[0; 10]).is_pending());
        let mut some = vec![0; 8000];
        let end = loop {
            match frames.read(&mut some).await {
                Ok(1..) => traffic.turn(),
                end => break end,
            }
        };
        assert!(end.is_err());
        drop(far);
    }
}
