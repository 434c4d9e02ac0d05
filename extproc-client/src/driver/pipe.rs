//! A pipe for body pieces between the task of an exchange and a body: one piece at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::Piece;
use crate::{context::error::Error, types::buffers::Held};

/// The end that a task holds.
#[derive(Debug)]
pub(crate) struct Sender(Arc<Mutex<State>>);

/// The end that a body holds.
#[derive(Debug)]
pub(crate) struct Receiver(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// With its bytes, which are held until it is taken.
    piece: Option<(Piece, Held)>,
    /// No byte follows what was sent.
    spent: bool,
    end: End,
    /// Something was read: a body that turns out empty is framed as a body all the same.
    started: bool,
    receiver_gone: bool,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

/// End of the stream of pieces.
#[derive(Debug, Default)]
enum End {
    #[default]
    Open,
    Complete,
    Failed(Error),
    Told,
}

/// A new pipe.
pub(crate) fn pipe() -> (Sender, Receiver) {
    let state = Arc::new(Mutex::new(State::default()));
    (Sender(state.clone()), Receiver(state))
}

/// A panic elsewhere cannot leave the state half changed: each change is one assignment.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot
        .as_ref()
        .is_some_and(|known| known.will_wake(cx.waker()))
    {
        *slot = Some(cx.waker().clone());
    }
}

impl Sender {
    /// Returns whether a piece can be sent: `Ready(false)` once the body was dropped.
    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = lock(&self.0);
        if state.receiver_gone {
            return Poll::Ready(false);
        }
        register(&mut state.sender, cx);
        match state.piece {
            None => Poll::Ready(true),
            Some(_) => Poll::Pending,
        }
    }

    /// Returns whether all that was sent, an end included, was taken or is for nobody.
    pub(crate) fn is_taken(&self) -> bool {
        let state = lock(&self.0);
        let told = !matches!(state.end, End::Complete);
        state.receiver_gone || state.piece.is_none() && told
    }

    /// Sends a piece, whose bytes are `held`; only after `poll_ready` said so. `spent` if no byte follows it.
    pub(crate) fn send(&self, piece: Piece, held: Held, spent: bool) {
        let waker = {
            let mut state = lock(&self.0);
            state.piece = Some((piece, held));
            state.spent = spent;
            state.receiver.take()
        };
        wake(waker);
    }

    /// The body is complete.
    pub(crate) fn complete(&self) {
        self.end(End::Complete);
    }

    /// The body is cut.
    pub(crate) fn fail(&self, error: Error) {
        self.end(End::Failed(error));
    }

    fn end(&self, end: End) {
        let waker = {
            let mut state = lock(&self.0);
            if matches!(state.end, End::Open) {
                state.end = end;
            }
            state.receiver.take()
        };
        wake(waker);
    }
}

impl Drop for Sender {
    /// A body that nobody finishes is cut, not complete.
    fn drop(&mut self) {
        self.fail(Error::cancelled());
    }
}

impl Receiver {
    /// The next piece.
    pub(crate) fn poll_piece(&self, cx: &Context<'_>) -> Poll<Option<Result<Piece, Error>>> {
        let mut state = lock(&self.0);
        if let Some((piece, held)) = state.piece.take() {
            state.started = true;
            let waker = state.sender.take();
            drop(state);
            // The account is told without the lock.
            drop(held);
            wake(waker);
            return Poll::Ready(Some(Ok(piece)));
        }
        match std::mem::replace(&mut state.end, End::Told) {
            End::Open => {
                state.end = End::Open;
                register(&mut state.receiver, cx);
                Poll::Pending
            }
            End::Complete | End::Told => Poll::Ready(None),
            End::Failed(error) => Poll::Ready(Some(Err(error))),
        }
    }

    /// Returns true if no more byte of a body that has begun comes.
    pub(crate) fn is_spent(&self) -> bool {
        let state = lock(&self.0);
        state.started && state.piece.is_none() && state.spent
    }

    /// Returns whether nothing more comes.
    pub(crate) fn is_complete(&self) -> bool {
        let state = lock(&self.0);
        state.started && state.piece.is_none() && matches!(state.end, End::Complete | End::Told)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let (piece, waker) = {
            let mut state = lock(&self.0);
            state.receiver_gone = true;
            (state.piece.take(), state.sender.take())
        };
        drop(piece);
        wake(waker);
    }
}
