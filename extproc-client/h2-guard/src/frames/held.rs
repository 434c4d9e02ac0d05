//! Bytes that are not handed on at once: half a head, and header blocks that are to be judged as a whole.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::{
    Frames, HEAD, Look, TYPE,
    blocks::Verdict,
    kind::{CONTINUATION, END_HEADERS, HEADERS, IGNORED, PUSH_PROMISE},
    stream,
};
use crate::traffic::Tally;

/// Bytes that are read at a time.
const PIECE: usize = 2048;

/// Largest memory that is kept for the next frames.
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// End of the frame of a header block that was looked at last; 0 if the head of a frame is to be completed.
    end: usize,
    /// This frame ends its block.
    ends: bool,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Tells whether a frame of a header block is under way.
    pub(super) fn is_within_frame(&self) -> bool {
        self.end > 0
    }

    pub(super) fn hold(&mut self, bytes: &[u8], end: usize, ends: bool) {
        self.bytes.extend_from_slice(bytes);
        self.end = end;
        self.ends = ends;
    }

    /// Takes everything out.
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self).bytes
    }

    /// Keeps a little memory for the heads of later frames.
    fn keep(&mut self, mut bytes: Vec<u8>) {
        if self.bytes.capacity() == 0 && bytes.capacity() <= KEPT {
            bytes.clear();
            self.bytes = bytes;
        }
    }

    /// Reads more, until there are so many bytes. Gives the number of those that came, none at the end of the stream.
    fn poll_fill(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        needed: usize,
    ) -> Poll<io::Result<usize>> {
        let mut room = [0; PIECE];
        let missing = needed.saturating_sub(self.bytes.len()).min(PIECE);
        let mut more = ReadBuf::new(room.get_mut(..missing).unwrap_or_default());
        ready!(Pin::new(io).poll_read(cx, &mut more))?;
        self.bytes.extend_from_slice(more.filled());
        Poll::Ready(Ok(more.filled().len()))
    }
}

/// Frames of a header block behind its first one: their payloads.
struct Continued<'a>(&'a [u8]);

impl<'a> Iterator for Continued<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (payload, behind) = split(self.0)?;
        self.0 = behind;
        Some(payload)
    }
}

/// Splits off the payload of a frame; what is behind it is the rest.
fn split(frames: &[u8]) -> Option<(&[u8], &[u8])> {
    let &[a, b, c, ..] = frames else {
        return None;
    };
    let payload = u32::from_be_bytes([0, a, b, c]) as usize;
    frames.get(HEAD..)?.split_at_checked(payload)
}

impl<S: AsyncRead + Unpin> Frames<S> {
    /// Reads on until what is held can be handed on.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let (end, there) = (self.held.end, self.held.bytes.len());
            let needed = if there < end {
                end
            } else if self.held.ends {
                return Poll::Ready(self.judge());
            } else {
                let mut tally = Tally::default();
                match self.look_behind(end, &mut tally) {
                    Look::Short(needed) => end + needed,
                    frame @ Look::Frame { .. } => {
                        self.note(&tally)?;
                        self.take_frame(&frame)?;
                        continue;
                    }
                }
            };
            if ready!(self.held.poll_fill(&mut self.io, cx, needed))? == 0 {
                // The end: `h2` is to see that it comes within a frame.
                return Poll::Ready(self.release(there));
            }
            self.note(&Tally::default())?;
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at the frame that begins there.
    fn look_behind(&mut self, at: usize, tally: &mut Tally) -> Look {
        let bytes = std::mem::take(&mut self.held.bytes);
        let look = self.look(bytes.get(at..).unwrap_or_default(), tally);
        self.held.bytes = bytes;
        look
    }

    /// Decides about the frame whose head is complete.
    fn take_frame(&mut self, look: &Look) -> io::Result<()> {
        let &Look::Frame {
            kind,
            flags,
            payload,
            hide,
        } = look
        else {
            return Ok(());
        };
        let begin = self.held.end;
        let end = begin + HEAD + payload;
        let frame = self.held.bytes.get(begin..).unwrap_or_default();
        let continues = match begin {
            0 => kind == HEADERS && self.blocks.looks(),
            _ => kind == CONTINUATION && stream(frame) == stream(&self.held.bytes),
        };
        if continues && end <= self.most_held {
            self.held.end = end;
            self.held.ends = flags & END_HEADERS != 0;
            return Ok(());
        }
        if begin > 0 || matches!(kind, HEADERS | PUSH_PROMISE) {
            self.blocks.give_up();
        }
        if let (true, Some(kind)) = (hide, self.held.bytes.get_mut(begin + TYPE)) {
            *kind = IGNORED;
        }
        self.release(end)
    }

    /// Hands on what is held, of which the last frame that was looked at ends there.
    fn release(&mut self, end: usize) -> io::Result<()> {
        let bytes = self.held.take();
        let there = end.min(bytes.len());
        self.left = end - there;
        self.ready
            .extend_from_slice(bytes.get(..there).unwrap_or_default());
        self.follow_held(bytes, there)
    }

    /// Hands on a block that is complete, or others in its place.
    fn judge(&mut self) -> io::Result<()> {
        let end = self.held.end;
        let bytes = self.held.take();
        let block = bytes.get(..end).unwrap_or_default();
        let (payload, behind) = split(block).unwrap_or_default();
        let flags = block.get(TYPE + 1).copied().unwrap_or_default();
        let verdict = self.blocks.replace(
            flags,
            stream(block),
            payload,
            Continued(behind),
            &mut self.ready,
        );
        if verdict == Verdict::Passes {
            self.ready.extend_from_slice(block);
        }
        self.follow_held(bytes, end)
    }

    /// Follows the frames behind those that were decided about.
    fn follow_held(&mut self, mut bytes: Vec<u8>, at: usize) -> io::Result<()> {
        let mut tally = Tally::default();
        let behind = bytes.get_mut(at..).unwrap_or_default();
        let whole = self.follow(behind, &mut tally);
        self.ready
            .extend_from_slice(behind.get(..whole).unwrap_or_default());
        self.held.keep(bytes);
        self.note(&tally)
    }
}
