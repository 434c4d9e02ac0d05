//! One exchange with everything it touches.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Version, request, response};
use http_body::Body;

use super::{
    Piece, Ready, SideStream,
    flow::{Flow, State, Whole},
    pace, pipe,
    pipe::pipe as new_pipe,
};
use crate::{
    context::{
        error::{BoxError, Error},
        outcome::{Outcome, RefusedRequest, UpstreamFailure},
    },
    machine::{Action, Exchange, Side},
    transport::Transport,
    types::buffers::Held,
};

/// One exchange. `B` is the body from the client, `R` the one from the upstream.
pub(crate) struct Core<T: Transport, B, R> {
    pub(super) machine: Exchange,
    side: SideStream<T>,
    request: Flow<B>,
    response: Flow<R>,
    /// Heads that wait to be taken.
    steps: VecDeque<Step>,
    /// Bytes that are kept here: of both bodies, and of a reply that is not complete.
    held: Held,
    /// Bytes of a request body that passes by.
    passed: Option<Arc<AtomicU64>>,
}

/// A head that is ready, or its cancellation.
#[derive(Debug)]
pub(crate) enum Step {
    Request { head: request::Parts, end: bool },
    Cancel,
    Response { head: response::Parts, end: bool },
}

impl<T, B, R> Core<T, B, R>
where
    T: Transport,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    pub(crate) fn new(machine: Exchange, side: SideStream<T>) -> Self {
        let held = Held::new(machine.context().buffers.clone());
        Self {
            machine,
            side,
            held,
            request: Flow::new(),
            response: Flow::new(),
            steps: VecDeque::new(),
            passed: None,
        }
    }

    /// Begins with the request.
    pub(crate) fn request(&mut self, head: request::Parts, body: B) {
        let end = body.is_end_stream();
        if !end {
            self.request.source = Some(Box::pin(body));
        }
        let context = self.machine.context();
        let version = context.facts.version;
        self.request.ends_apart =
            version.is_some_and(|version| version < Version::HTTP_2) && !context.remade;
        self.machine.request_head(head, end, Instant::now());
        self.drain();
    }

    /// Tells what is kept now.
    fn count(&mut self) {
        let waiting = self.request.waiting() + self.response.waiting();
        let kept = self.machine.kept() + self.side.buffered();
        self.held.set(kept + waiting + self.response.ahead());
    }

    /// The upstream answered.
    pub(crate) fn response(&mut self, head: response::Parts, body: R) {
        if let Some(passed) = &self.passed {
            self.machine
                .set_request_size(passed.load(Ordering::Relaxed));
        }
        let end = body.is_end_stream();
        if !end {
            self.response.source = Some(Box::pin(body));
        }
        let outcome = Outcome::of_head(&head);
        self.response.ends_apart =
            head.version < Version::HTTP_2 && outcome.is_upstream() && !outcome.remade;
        self.response.reads_on = head.version >= Version::HTTP_2;
        self.machine.response_head(head, end, Instant::now());
        self.drain();
    }

    /// Moves everything as far as it goes, or until a head is ready: then it is `Ready`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut progress = false;
        let ahead = self.response.ahead();
        let buffered = self.side.buffered();
        loop {
            let mut again = self.poll_sinks(cx);
            self.flush(cx);
            // Bodies first: what of them is here came before the reply to the message that went ahead of it, and
            // whether a message is complete when its headers are answered makes a difference.
            let mut read = 0;
            while read < pace::ENVOY.frames_at_once
                && (self.poll_request_body(cx) | self.poll_response_body(cx))
            {
                read += 1;
                self.flush(cx);
            }
            // There may be more of them, and what was read may go through a pipe.
            again |= read == pace::ENVOY.frames_at_once || read > 0 && self.has_sink();
            if self.request.has_room() && self.response.has_room() {
                if self.side.poll(&mut self.machine, cx).is_ready() {
                    self.drain();
                    again = true;
                } else if self.side.is_full() {
                    // The look for a reply may have opened the stream.
                    self.flush(cx);
                    again |= !self.side.is_full();
                }
            }
            progress |= again || read > 0;
            if !again || !self.steps.is_empty() {
                break;
            }
            if read == pace::ENVOY.frames_at_once && self.machine.kept() > pace::KEPT {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if progress || ahead != self.response.ahead() || buffered != self.side.buffered() {
            self.count();
        }
        match self.steps.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Sends what the machine has for the processor, as far as the side stream takes it.
    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) {
        self.side.flush(&mut self.machine, cx);
        self.drain();
    }

    /// The head of a request that was answered in front while the processor has it.
    pub(crate) fn take_answered(&mut self) -> Option<request::Parts> {
        self.machine.take_answered()
    }

    /// The next head that is ready.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Puts the step that was taken last back.
    pub(super) fn put_back(&mut self, step: Step) {
        self.steps.push_front(step);
    }

    // === the request's way on ===

    /// Takes out the source of a request body that passes by unseen, with the part of it that was read already. `None` if the
    /// body does not pass by.
    pub(crate) fn take_passing_request(&mut self) -> Option<(Ready, Pin<Box<B>>)> {
        if !self.machine.passes_by(Side::Request) || !matches!(self.request.state, State::Open) {
            return None;
        }
        let (before, source) = self.request.take_source()?;
        Some((self.ready(before), source))
    }

    /// Counts the bytes of a body that passes by, if attributes may ask for it.
    pub(crate) fn counter(&mut self) -> Option<Arc<AtomicU64>> {
        if self.machine.counts_request() {
            self.passed = Some(Arc::new(AtomicU64::new(self.machine.request_size())));
        }
        self.passed.clone()
    }

    /// The whole request body, if it is ready.
    pub(crate) fn take_complete_request(&mut self) -> Option<Whole> {
        if !matches!(self.request.state, State::Complete) {
            return None;
        }
        let pieces = std::mem::take(&mut self.request.out);
        let pieces = self.ready(pieces);
        Some(self.request.whole(pieces))
    }

    /// Pieces that go on and are no longer kept here.
    fn ready(&mut self, pieces: VecDeque<Piece>) -> Ready {
        self.count();
        Ready::new(pieces, self.held.other())
    }

    /// Lets the request's pieces go through a pipe.
    pub(crate) fn pipe_request(&mut self) -> pipe::Receiver {
        let (sender, receiver) = new_pipe();
        self.request.sink = Some(sender);
        receiver
    }

    /// Tells whether the request's body still has pieces, or an end, that were released before it was cancelled. Those go on;
    /// each look gives one to its pipe.
    pub(super) fn hands_over(&mut self, cx: &Context<'_>) -> bool {
        self.request.poll_sink(cx, false, &mut self.held);
        self.count();
        let sink = self.request.sink.as_ref();
        sink.is_some_and(|sink| !sink.is_taken())
    }

    /// Cuts the request that flows through a pipe.
    pub(super) fn cancel_request(&mut self) {
        self.request.out.clear();
        self.count();
        if let Some(sink) = self.request.sink.take() {
            sink.fail(Error::cancelled());
        }
    }

    /// Lets the response's pieces go through a pipe.
    pub(super) fn pipe_response(&mut self) -> pipe::Receiver {
        let (sender, receiver) = new_pipe();
        self.response.sink = Some(sender);
        receiver
    }

    // === the response's way on ===

    /// Takes out the source of a response body that passes by while the side stream has nothing left to do, with the part of it
    /// that was read already. `None` otherwise.
    pub(crate) fn take_passing_response(&mut self) -> Option<(Ready, Pin<Box<R>>)> {
        if !self.machine.is_finished()
            || !self.machine.passes_by(Side::Response)
            || !matches!(self.response.state, State::Open)
            || self.request.sink.is_some()
        {
            return None;
        }
        let (before, source) = self.response.take_source()?;
        Some((self.ready(before), source))
    }

    /// The whole response body, if it is ready and the side stream has nothing left to do.
    pub(crate) fn take_complete_response(&mut self) -> Option<Whole> {
        let done = self.machine.is_finished()
            && self.request.sink.is_none()
            && matches!(self.response.state, State::Complete);
        if !done {
            return None;
        }
        let pieces = std::mem::take(&mut self.response.out);
        let pieces = self.ready(pieces);
        Some(self.response.whole(pieces))
    }

    /// The next piece of the response, for whom polls the exchange.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Error>>> {
        let next = self.take_response();
        if next.is_ready() {
            return next;
        }
        // Heads are nobody's any more.
        self.steps.clear();
        while self.poll(cx).is_ready() {
            self.steps.clear();
        }
        self.take_response()
    }

    /// The next piece of the response that is here.
    fn take_response(&mut self) -> Poll<Option<Result<Piece, Error>>> {
        if let Some(piece) = self.response.out.pop_front() {
            // Whoever takes it counts it from now on.
            self.count();
            return Poll::Ready(Some(Ok(piece)));
        }
        match std::mem::replace(&mut self.response.state, State::Told) {
            State::Open => {
                self.response.state = State::Open;
                Poll::Pending
            }
            State::Complete | State::Told => Poll::Ready(None),
            State::Failed(error) => Poll::Ready(Some(Err(error))),
        }
    }

    /// Returns whether the response is over for whom reads it.
    pub(crate) fn response_is_over(&self) -> bool {
        let told = matches!(self.response.state, State::Told);
        self.response.out.is_empty() && (told || self.response.ends_with_piece())
    }

    /// Returns whether the exchange is over for its task: the response was given away whole, or nobody wants it.
    pub(super) fn is_over(&self, cx: &Context<'_>) -> bool {
        if self.response.out.is_empty() && matches!(self.response.state, State::Told) {
            return true;
        }
        let gone = |sink: &pipe::Sender| matches!(sink.poll_ready(cx), Poll::Ready(false));
        self.response.sink.as_ref().is_some_and(gone)
    }

    // === bodies in ===

    /// Returns whether a body is not read because the side stream has to take a message first. One that the processor does not see waits
    /// for nothing: a response that ends is what ends an exchange whose request the processor does not read.
    fn waits(&self, side: Side) -> bool {
        self.side.is_full() && !self.machine.is_observed() && !self.machine.passes_by(side)
    }

    fn poll_request_body(&mut self, cx: &mut Context<'_>) -> bool {
        let looks = self
            .request
            .take_looks(|| self.machine.is_overfull(Side::Request));
        if !self.request.out.is_empty()
            || self.waits(Side::Request)
            || !(looks > 0 || self.machine.wants_frame(Side::Request))
        {
            return false;
        }
        let Poll::Ready(frame) = self.request.poll_frame(cx, looks) else {
            return false;
        };
        let ended = !matches!(frame, Some(Ok(_))) || self.request.has_ended();
        match frame.transpose() {
            Ok(frame) => {
                self.frame(Side::Request, frame, ended);
            }
            Err(error) => {
                let error = error.into();
                if error.downcast_ref().is_some_and(Error::is_cancelled) {
                    // A filter in front gave its answer, which may come by on its way back.
                    self.request.source = None;
                    return false;
                }
                // The client is gone or broke its message: nobody waits for an answer, unless a filter in front refused it.
                self.machine.request_failed(RefusedRequest::of(&*error));
                self.drain();
                let error = Error::body(error);
                self.request.state = State::Failed(error);
            }
        }
        if ended {
            self.request.source = None;
        }
        true
    }

    fn poll_response_body(&mut self, cx: &mut Context<'_>) -> bool {
        let looks = self
            .response
            .take_looks(|| self.machine.is_overfull(Side::Response));
        if !self.response.out.is_empty() {
            return false;
        }
        if self.waits(Side::Response) || !(looks > 0 || self.machine.wants_frame(Side::Response)) {
            let Poll::Ready(error) = self.response.poll_failed(cx) else {
                return false;
            };
            self.response_failed(error.into());
            return true;
        }
        let Poll::Ready(frame) = self.response.poll_frame(cx, looks) else {
            return false;
        };
        let ended = !matches!(frame, Some(Ok(_))) || self.response.has_ended();
        match frame.transpose() {
            Ok(frame) => {
                self.frame(Side::Response, frame, ended);
                if ended {
                    self.response.stop();
                }
            }
            Err(error) => self.response_failed(error.into()),
        }
        true
    }

    fn response_failed(&mut self, error: BoxError) {
        self.machine
            .response_failed(UpstreamFailure::of(&*error), Error::answer(&*error));
        let error = Error::body(error);
        self.drain();
        if matches!(self.response.state, State::Failed(_)) {
            self.response.state = State::Failed(error);
        }
        self.response.stop();
    }

    fn frame(&mut self, side: Side, frame: Option<http_body::Frame<Bytes>>, ended: bool) {
        let now = Instant::now();
        let Some(frame) = frame else {
            self.machine.data(side, Bytes::new(), true, now);
            return self.drain();
        };
        match frame.into_data() {
            Ok(data) => self.machine.data(side, data, ended, now),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.machine.trailers(side, trailers, now);
                }
            }
        }
        self.drain();
    }

    // === actions out ===

    /// Takes what the machine made of one input.
    fn drain(&mut self) {
        let mut given = None;
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::RequestHead { head, end } => {
                    self.steps.push_back(Step::Request { head, end });
                }
                Action::CancelRequest => {
                    self.steps
                        .retain(|step| !matches!(step, Step::Request { .. }));
                    self.steps.push_back(Step::Cancel);
                    self.response.stop();
                    if self.request.sink.is_none() {
                        self.request.out.clear();
                    }
                    let is_open = matches!(self.request.state, State::Open);
                    if is_open || self.request.sink.is_none() {
                        self.request.state = State::Told;
                    }
                }
                Action::ResponseHead { head, end } => {
                    if end {
                        self.response.state = State::Complete;
                    }
                    self.steps.push_back(Step::Response { head, end });
                }
                Action::Data(side, data) => {
                    given = Some(side);
                    self.give(side, Piece::Data(data));
                }
                Action::Trailers(side, trailers) => {
                    self.give(side, Piece::Trailers(trailers));
                    self.complete(side, false);
                }
                Action::End(side) => self.complete(side, given != Some(side)),
                Action::Abort(answer) => {
                    self.response.state = State::Failed(Error::aborted(answer));
                }
            }
        }
    }

    fn give(&mut self, side: Side, piece: Piece) {
        match side {
            Side::Request => self.request.out.push_back(piece),
            Side::Response => self.response.out.push_back(piece),
        }
    }

    fn complete(&mut self, side: Side, end_follows: bool) {
        match side {
            Side::Request => self.request.complete(end_follows),
            Side::Response => self.response.complete(end_follows),
        }
    }

    fn has_sink(&self) -> bool {
        self.request.sink.is_some() || self.response.sink.is_some()
    }

    /// Gives pieces to the pipes, as far as they take them.
    fn poll_sinks(&mut self, cx: &Context<'_>) -> bool {
        if self.has_sink() && !(self.request.out.is_empty() && self.response.out.is_empty()) {
            // Of what is held, the pipes get their part.
            self.count();
        }
        let adds_nothing = self.machine.adds_nothing(Side::Request);
        let request = self.request.poll_sink(cx, adds_nothing, &mut self.held);
        let response = self.response.poll_sink(cx, false, &mut self.held);
        request | response
    }
}

impl<T: Transport, B, R> Drop for Core<T, B, R> {
    /// The exchange is over, completed or cancelled: the side stream ends at once, unless its close
    /// is deferred.
    fn drop(&mut self) {
        if self.machine.defers_close() {
            // What was not even begun to be sent.
            self.side.flush_all(&mut self.machine);
            super::task::linger(&mut self.machine, &mut self.side, self.held.other());
        } else {
            self.machine.end();
            // A graceful close needs the stream.
            self.side.flush_all(&mut self.machine);
        }
        self.machine.over();
    }
}
