//! One direction of an exchange: where its body comes from, and what of it is ready to go on.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{Piece, Ready, pace, pipe};
use crate::{
    context::error::Error,
    types::{buffers::Held, pieces::compacted},
};

/// One direction.
pub(super) struct Flow<B> {
    pub(super) source: Option<Pin<Box<B>>>,
    pub(super) out: VecDeque<Piece>,
    pub(super) state: State,
    /// The end was given after the last piece, not with it: a filter behind is told so, too.
    pub(super) end_follows: bool,
    /// Receiver of the pieces, if it is not the caller that polls.
    pub(super) sink: Option<pipe::Sender>,
    /// The source comes as it is over HTTP/1, where the end is told apart from the last bytes, whatever the framing: a processor
    /// of a streamed body gets another message for it.
    pub(super) ends_apart: bool,
    /// The source is read on while nobody asks for more, as an HTTP/2 stream is (see [`Pace`]).
    pub(super) reads_on: bool,
    ahead: Ahead,
    /// Looks that are left for the end behind the last piece.
    looks: u8,
}

/// Frames of a source that nobody has asked for.
#[derive(Default)]
struct Ahead {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// The end came behind them.
    over: bool,
}

impl Ahead {
    fn push(&mut self, frame: Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        // What waits is not to keep alive what it was read with.
        self.frames.push_back(frame.map_data(compacted));
    }

    fn pop(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.data_ref().map_or(0, Bytes::len);
        Some(frame)
    }

    fn has_room(&self) -> bool {
        !self.over && self.bytes < pace::AHEAD && self.frames.len() < pace::PIECES
    }
}

/// A frame of a body, or its end.
type Polled<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// A body that is here as a whole.
#[derive(Debug)]
pub(crate) struct Whole {
    pieces: Ready,
    end_follows: bool,
    /// Something was read: a body that turns out empty is framed as a body all the same.
    started: bool,
}

impl Whole {
    pub(crate) fn next(&mut self) -> Option<Piece> {
        self.started = true;
        self.pieces.pop()
    }

    /// Bytes that are left.
    pub(crate) fn size(&self) -> u64 {
        self.pieces.bytes() as u64
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.started && !self.end_follows && self.pieces.is_empty()
    }
}

/// Progress of a direction's output.
pub(super) enum State {
    Open,
    Complete,
    Failed(Error),
    /// The one who reads was told the end.
    Told,
}

impl<B> Flow<B> {
    /// Returns whether one more reply may add to what waits.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < pace::PIECES && self.waiting() < pace::BYTES
    }

    /// Bytes that wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.out.iter().map(Piece::len).sum()
    }

    pub(super) fn new() -> Self {
        Self {
            source: None,
            out: VecDeque::new(),
            state: State::Open,
            end_follows: false,
            sink: None,
            ends_apart: false,
            reads_on: false,
            ahead: Ahead::default(),
            looks: 0,
        }
    }

    /// Bytes that were read and nobody has asked for.
    pub(super) fn ahead(&self) -> usize {
        self.ahead.bytes
    }

    /// Nothing more comes from the source.
    pub(super) fn stop(&mut self) {
        self.source = None;
        self.ahead = Ahead::default();
    }

    /// The source, to be read by somebody else, with all that is here; none if that has come to its end.
    pub(super) fn take_source(&mut self) -> Option<(VecDeque<Piece>, Pin<Box<B>>)> {
        if self.ahead.over {
            return None;
        }
        let source = self.source.take()?;
        let mut pieces = std::mem::take(&mut self.out);
        while let Some(frame) = self.ahead.pop() {
            pieces.extend(Piece::of(frame));
        }
        Some((pieces, source))
    }

    /// Nothing more is given.
    pub(super) fn complete(&mut self, end_follows: bool) {
        self.state = State::Complete;
        self.end_follows = end_follows;
    }

    /// The body, which is complete and consists of these pieces.
    pub(super) fn whole(&self, pieces: Ready) -> Whole {
        Whole {
            pieces,
            end_follows: self.end_follows,
            started: false,
        }
    }

    /// Returns whether nothing comes behind the pieces that are here, and the end goes with the last of them.
    pub(super) fn ends_with_piece(&self) -> bool {
        matches!(self.state, State::Complete) && !self.end_follows
    }

    /// Returns whether nothing comes after the frame that was just read.
    pub(super) fn has_ended(&self) -> bool
    where
        B: Body,
    {
        !self.ends_apart
            && self.ahead.frames.is_empty()
            && !self.ahead.over
            && self
                .source
                .as_ref()
                .is_some_and(|body| body.is_end_stream())
    }

    /// Number of looks for the end behind the last piece: none if that piece was not one too many.
    pub(super) fn take_looks(&mut self, is_overfull: impl FnOnce() -> bool) -> u8 {
        let looks = std::mem::take(&mut self.looks);
        match looks > 0 && is_overfull() {
            true => looks,
            false => 0,
        }
    }

    /// The next frame of the source; none without one. With `looks`, it is only asked for the end that it may be: what reads
    /// for the body gets its turn before each further one, since the end may be among what it has.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>, looks: u8) -> Poll<Polled<B>>
    where
        B: Body<Data = Bytes>,
    {
        let Some(source) = &mut self.source else {
            return Poll::Pending;
        };
        if let Some(frame) = self.ahead.pop() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ahead.over {
            return Poll::Ready(None);
        }
        let frame = source.as_mut().poll_frame(cx);
        self.looks = match (&frame, looks) {
            (Poll::Ready(Some(Ok(_))), 0) if self.ends_apart => pace::ENVOY.end_looks,
            (Poll::Pending, 2..) => {
                cx.waker().wake_by_ref();
                looks - 1
            }
            _ => 0,
        };
        frame
    }

    /// Reads on while nobody asks for more, since only a reader learns that the message has failed. Gives that error, which is
    /// told ahead of all that was read before it.
    pub(super) fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<B::Error>
    where
        B: Body<Data = Bytes>,
    {
        let Some(source) = self.source.as_mut().filter(|_| self.reads_on) else {
            return Poll::Pending;
        };
        while self.ahead.has_room() && !source.is_end_stream() {
            match ready!(source.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => self.ahead.push(frame),
                Some(Err(error)) => return Poll::Ready(error),
                None => self.ahead.over = true,
            }
        }
        Poll::Pending
    }

    /// Gives pieces to the pipe, as far as it takes them.
    ///
    /// `adds_nothing` if no byte is given but those of the source. What is in the pipe is held apart from the rest that is `held`.
    pub(super) fn poll_sink(
        &mut self,
        cx: &Context<'_>,
        adds_nothing: bool,
        held: &mut Held,
    ) -> bool
    where
        B: Body,
    {
        let Some(sink) = &self.sink else {
            return false;
        };
        let mut moved = false;
        loop {
            match sink.poll_ready(cx) {
                Poll::Pending => return moved,
                Poll::Ready(false) => {
                    // Nobody reads on: what still comes is dropped.
                    moved |= !self.out.is_empty();
                    self.out.clear();
                    return moved;
                }
                Poll::Ready(true) => {}
            }
            if let Some(piece) = self.out.pop_front() {
                let source = self.source.as_ref();
                let spent = adds_nothing
                    && self.out.is_empty()
                    && source.is_some_and(|body| body.size_hint().exact() == Some(0));
                let held = held.split(piece.len());
                sink.send(piece, held, spent);
                moved = true;
                if !self.out.is_empty() || !self.ends_with_piece() {
                    continue;
                }
            }
            match std::mem::replace(&mut self.state, State::Told) {
                State::Open => self.state = State::Open,
                State::Told => {}
                State::Complete => {
                    sink.complete();
                    moved = true;
                }
                State::Failed(error) => {
                    sink.fail(error);
                    moved = true;
                }
            }
            return moved;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(piece: &Bytes) -> Ahead {
        let mut ahead = Ahead::default();
        while ahead.has_room() {
            ahead.push(Frame::data(piece.clone()));
        }
        ahead
    }

    #[test]
    fn what_is_read_on_is_bounded_in_bytes_and_in_pieces() {
        let large = Bytes::from(vec![b'l'; 16 * 1024]);
        let mut ahead = pushed(&large);
        assert_eq!((ahead.frames.len(), ahead.bytes), (64, pace::AHEAD));
        assert_eq!(pushed(&Bytes::new()).frames.len(), pace::PIECES);
        while ahead.pop().is_some() {}
        assert_eq!(ahead.bytes, 0);
    }

    #[test]
    fn a_small_piece_that_is_read_on_keeps_no_large_buffer() {
        let buffer = Bytes::from(vec![b'l'; 16 * 1024]);
        let piece = buffer.slice(..1);
        let mut ahead = pushed(&piece);
        assert_eq!(ahead.bytes, pace::PIECES);
        let kept = ahead.pop().and_then(|frame| frame.into_data().ok());
        let kept = kept.unwrap();
        assert_eq!(kept, piece);
        assert_ne!(kept.as_ptr(), piece.as_ptr());
    }
}
