//! The byte stream under an `h2` connection, followed frame by frame.

mod blocks;
mod floods;
mod held;
mod kind;
mod refunds;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use self::floods::FloodLimits;
use self::{
    blocks::Blocks,
    floods::Floods,
    held::Held,
    kind::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, IGNORED, PADDED, PUSH_PROMISE,
        SETTINGS,
    },
    refunds::Refunds,
    settings::Settings,
};
use crate::traffic::{Tally, Traffic};

/// The preface of a client (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Length of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;

/// Position of the type in it.
const TYPE: usize = 3;

/// DATA shorter than this takes more memory than its bytes.
const SMALL: usize = 256;

/// Bytes of a header block that are held, where the size of lists is not known.
const MOST_HELD: usize = 400 * 1024;

/// Size of the frames that `h2` reads of any header block: a first one, five more, and the last.
const FEW_FRAMES: usize = 7 * 16 * 1024;

/// Empty DATA frames in a row that are hidden of a client. `h2` ends the connection of one that goes on.
const EMPTY_IN_A_ROW: u32 = 10_000;

/// Frames that are read while the peer takes nothing of what is written. Answers to them pile up.
const UNANSWERED: u32 = 100_000;

/// Text of the error of a connection without TLS whose server answers with TLS.
pub const SPEAKS_TLS: &str = "the server speaks TLS, and this connection does not";

/// Beginning of a TLS alert (RFC 8446 §5.1, §6): as a frame it would be far longer than any that may come first.
const ALERT: [u8; 2] = [0x15, 3];

/// A byte stream that `h2` reads, whose frames are counted.
///
/// A DATA frame without content that does not end its stream says nothing, and `h2` ends a connection that has received 100 of them.
/// They become frames of an unknown type here, and the window that their padding takes is given back from here.
///
/// A header block for which `h2` would end the connection although it is only malformed is replaced by one for which it resets the
/// stream. For this, a block that does not come as one frame in one read is held until it is complete.
#[derive(Debug)]
pub struct Frames<S> {
    io: S,
    traffic: Arc<Traffic>,
    /// Nothing has come from the server yet.
    first: bool,
    /// True if reading is interrupted until somebody calls [`Traffic::turn`].
    turns: bool,
    /// Bytes of the preface or of a frame's payload that are still to come.
    left: usize,
    /// Bytes that are not followed yet, from the head of a frame on.
    held: Held,
    /// Bytes that were held and are to be read before others.
    ready: BytesMut,
    blocks: Blocks,
    /// Bytes of a header block that are held at most.
    most_held: usize,
    /// Most empty frames in a row that are hidden.
    most_empty: u32,
    empty: u32,
    /// The last write had to wait.
    blocked: bool,
    unanswered: u32,
    block: Block,
    settings: Settings,
    refunds: Refunds,
    /// Of a client.
    floods: Option<Floods>,
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

/// Outcome of a look at the bytes from the head of a frame on.
enum Look {
    /// Not enough bytes; so many are needed.
    Short(usize),
    /// The frame is so long, without its head.
    Frame {
        kind: u8,
        flags: u8,
        payload: usize,
        hide: bool,
    },
}

impl<S> Frames<S> {
    /// The stream of a connection to a server.
    pub fn of_server(io: S, traffic: Arc<Traffic>) -> Self {
        Self::new(io, traffic, 0, u32::MAX)
    }

    /// The stream of a connection of a client, from its preface on.
    pub fn of_client(io: S, traffic: Arc<Traffic>) -> Self {
        let mut frames = Self::new(io, traffic, PREFACE, EMPTY_IN_A_ROW);
        frames.floods = Some(Floods::default());
        frames
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
            first: left == 0,
            turns: true,
            left,
            held: Held::default(),
            ready: BytesMut::new(),
            blocks: Blocks::default(),
            most_held: MOST_HELD,
            most_empty,
            empty: 0,
            blocked: false,
            unanswered: 0,
            block: Block::default(),
            settings: Settings::default(),
            refunds: Refunds::default(),
            floods: None,
        }
    }

    /// Sets the size of the header lists that `h2` takes on this connection. Blocks of larger ones are not looked at.
    #[must_use]
    pub fn header_list(mut self, bytes: u32) -> Self {
        // `h2` reads as many frames as the list would need and a quarter more.
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.most_held = (bytes.saturating_mul(5) / 4).saturating_add(FEW_FRAMES);
        self
    }

    /// Sets other limits for frames that say little. Those of a server have none: its connection carries streams of many clients.
    #[must_use]
    pub fn floods(mut self, limits: FloodLimits) -> Self {
        if self.floods.is_some() {
            self.floods = Some(Floods::of(limits));
        }
        self
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The number of the header block that has begun and is not complete. `h2` says nothing of a stream before its block is.
    pub fn open_block(&self) -> Option<u64> {
        let whole = self.left == 0 && !self.held.is_within_frame();
        let open = self.block.open && !(self.block.ends && whole);
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
        if let Some(floods) = &mut self.floods {
            floods.read(kind, stream);
        }
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
            CONTINUATION => tally.continued += payload,
            _ => {}
        }
        Look::Frame {
            kind,
            flags,
            payload,
            hide,
        }
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
                    self.held.hold(rest, 0, false);
                    return at;
                }
                Look::Frame {
                    kind: HEADERS,
                    flags,
                    payload,
                    ..
                } if self.blocks.looks() && HEAD + payload <= self.most_held => {
                    let ends = flags & END_HEADERS != 0;
                    let stream = stream(rest);
                    let whole = rest.get(HEAD..HEAD + payload).filter(|_| ends);
                    match whole {
                        Some(whole) if self.blocks.passes(flags, stream, whole) => {
                            self.left = HEAD + payload;
                        }
                        _ => {
                            self.held.hold(rest, HEAD + payload, ends);
                            return at;
                        }
                    }
                }
                Look::Frame {
                    kind,
                    payload,
                    hide,
                    ..
                } => {
                    if matches!(kind, HEADERS | PUSH_PROMISE) {
                        self.blocks.give_up();
                    }
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
        if let Some(floods) = &self.floods {
            floods.check()?;
        }
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
}

/// The stream of a frame (RFC 9113 §4.1).
fn stream(frame: &[u8]) -> u32 {
    match frame {
        &[_, _, _, _, _, a, b, c, d, ..] => u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff,
        _ => 0,
    }
}

fn speaks_tls() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, SPEAKS_TLS)
}

impl<S> Drop for Frames<S> {
    fn drop(&mut self) {
        self.traffic.settle();
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
            if !this.ready.is_empty() {
                let there = this.ready.len().min(buf.remaining());
                buf.put_slice(this.ready.get(..there).unwrap_or_default());
                this.ready.advance(there);
                if this.ready.is_empty() {
                    this.ready = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                ready!(this.poll_held(cx))?;
                continue;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let read = buf.filled_mut().get_mut(before..).unwrap_or_default();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if std::mem::take(&mut this.first) && read.starts_with(&ALERT) {
                return Poll::Ready(Err(speaks_tls()));
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

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Follows the outcome of a write.
    ///
    /// A server that speaks TLS sends its alert and closes, so that the next write may fail before the alert is read.
    fn wrote(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.blocked = written.is_pending();
        if !self.blocked {
            self.unanswered = 0;
        }
        if let Poll::Ready(Err(error)) = &written
            && self.first
            && matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            )
        {
            // The connection is over, so that reading comes to an end, too.
            let mut room = [0; ALERT.len()];
            let mut read = ReadBuf::new(&mut room);
            if ready!(Pin::new(&mut self.io).poll_read(cx, &mut read)).is_ok()
                && read.filled() == ALERT
            {
                return Poll::Ready(Err(speaks_tls()));
            }
        }
        written
    }

    /// Writes what is left of frames that were begun here.
    fn poll_refunds(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refunds.out.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.refunds.out);
            match ready!(self.wrote(written, cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.refunds.out.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_refunds(cx))?;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        if let (Poll::Ready(Ok(written)), Some(floods)) = (&written, &mut this.floods) {
            floods.wrote(buf.get(..*written).unwrap_or_default());
        }
        this.wrote(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_refunds(cx))?;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        if let (Poll::Ready(Ok(written)), Some(floods)) = (&written, &mut this.floods) {
            let mut left = *written;
            for buf in bufs {
                let bytes = buf.get(..left.min(buf.len())).unwrap_or_default();
                floods.wrote(bytes);
                left -= bytes.len();
            }
        }
        this.wrote(written, cx)
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
