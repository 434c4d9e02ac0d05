//! Bodies on their way from one content coding into another, piece by piece.
//!
//! Nothing is gathered: a piece is worked on when it is asked for, and what becomes of it is given away before the next one. So a
//! small message that stands for a large one costs no memory, and is cut when it is out of proportion. Each step is taken from the
//! budget of the task, since a body whose bytes are all here never waits and would keep others from their turn.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use extproc_client::host::Held;
use http::{HeaderMap, HeaderName};
use http_body::Frame;
use tokio::task::coop::poll_proceed;

use super::codecs::{Decoded, Decoder, Encoder};
use crate::{
    config::snapshot::{Coding, Decoding},
    http::body::{Body, BoxError},
};

/// Bytes that are compressed in one step.
const STEP: usize = 4 * 1024;

/// Bytes that a message may become whatever its size.
const FREE: u64 = 64 * 1024;

/// A message becomes larger than is in proportion to its bytes.
#[derive(Debug, thiserror::Error)]
#[error("{0} compressed bytes become more than is allowed")]
struct OutOfProportion(u64);

/// A body that is compressed.
pub(super) struct Compressed {
    body: Body,
    /// `None` once it has given its last bytes.
    encoder: Option<Encoder>,
    /// Bytes that came and are still to be compressed.
    rest: Bytes,
    /// The body has ended, with these trailers.
    ended: bool,
    trailers: Option<HeaderMap>,
    held: Held,
}

impl Compressed {
    pub(super) fn new(body: Body, coding: Coding, mut held: Held) -> Self {
        let encoder = Encoder::new(coding);
        held.set(encoder.memory());
        Self {
            body,
            encoder: Some(encoder),
            rest: Bytes::new(),
            ended: false,
            trailers: None,
            held,
        }
    }
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        while let Some(encoder) = &mut this.encoder {
            if this.rest.is_empty() && !this.ended {
                match ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()? {
                    Some(frame) => match frame.into_data() {
                        Ok(data) => this.rest = data,
                        Err(frame) => {
                            this.trailers = frame.into_trailers().ok();
                            this.ended = true;
                        }
                    },
                    None => this.ended = true,
                }
                continue;
            }
            ready!(poll_proceed(cx)).made_progress();
            let compressed = if this.rest.is_empty() {
                this.held.set(0);
                this.encoder
                    .take()
                    .map_or(Ok(Bytes::new()), Encoder::finish)?
            } else {
                let piece = this.rest.split_to(this.rest.len().min(STEP));
                this.ended |= this.body.is_end_stream();
                // The reader gets each piece as it comes; behind the last one comes the end.
                let compressed = encoder.write(&piece, this.rest.is_empty() && !this.ended)?;
                this.held.set(encoder.memory());
                compressed
            };
            if !compressed.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(compressed))));
            }
        }
        let trailers = this.trailers.take();
        Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(fields))))
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

/// A body that is decompressed.
pub(super) struct Decompressed {
    body: Body,
    /// `None` when the coding has ended; what follows it is dropped.
    decoder: Option<Decoder>,
    /// Bytes that came and are still to be decompressed.
    input: Bytes,
    /// Nothing more comes of the bytes that came.
    spent: bool,
    /// Bytes that came, and what became of them.
    read: u64,
    written: u64,
    max_ratio: u32,
    /// The body has ended, with these trailers.
    ended: bool,
    trailers: Option<HeaderMap>,
    /// Names of the trailers that tell the lengths, until they have.
    told: Option<(HeaderName, HeaderName)>,
    /// Makes the error of a body that cannot be decompressed.
    fault: fn(BoxError) -> BoxError,
    held: Held,
}

impl Decompressed {
    pub(super) fn new(
        body: Body,
        coding: Decoding,
        max_ratio: u32,
        told: Option<(HeaderName, HeaderName)>,
        fault: fn(BoxError) -> BoxError,
        mut held: Held,
    ) -> Self {
        let decoder = Decoder::new(coding);
        held.set(decoder.memory());
        Self {
            body,
            decoder: Some(decoder),
            input: Bytes::new(),
            spent: true,
            read: 0,
            written: 0,
            max_ratio,
            ended: false,
            trailers: None,
            told,
            fault,
            held,
        }
    }

    /// Takes one step with the bytes that are here; gives what came of it, which may be nothing.
    fn step(&mut self) -> Result<Bytes, BoxError> {
        let Some(decoder) = &mut self.decoder else {
            self.input.clear();
            self.spent = true;
            return Ok(Bytes::new());
        };
        let decoded = match decoder.step(&mut self.input, self.ended) {
            // No bytes are no message in any coding, and stay none.
            Err(_) if self.ended && self.read == 0 => Decoded {
                data: Bytes::new(),
                is_last: true,
            },
            decoded => decoded?,
        };
        self.held.set(decoder.memory());
        if decoded.is_last {
            self.decoder = None;
            self.held.set(0);
        }
        self.spent = decoded.data.is_empty() && self.input.is_empty();
        self.written += decoded.data.len() as u64;
        match self.written > FREE.max(self.read.saturating_mul(self.max_ratio.into())) {
            true => Err(OutOfProportion(self.read).into()),
            false => Ok(decoded.data),
        }
    }

    /// Takes a frame of the body, or its end.
    fn take(&mut self, frame: Option<Frame<Bytes>>) {
        match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                self.read += data.len() as u64;
                self.input = data;
            }
            Some(Err(frame)) => {
                self.trailers = frame.into_trailers().ok();
                self.ended = true;
            }
            None => self.ended = true,
        }
        self.spent = false;
    }

    fn last(&mut self) -> Option<HeaderMap> {
        if let Some((compressed, uncompressed)) = self.told.take() {
            let fields = self.trailers.get_or_insert_default();
            fields.append(compressed, self.read.into());
            fields.append(uncompressed, self.written.into());
        }
        self.trailers.take()
    }
}

impl http_body::Body for Decompressed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if this.spent && this.ended {
                let last = this.last();
                return Poll::Ready(last.map(|fields| Ok(Frame::trailers(fields))));
            }
            if this.spent {
                let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()?;
                this.take(frame);
            }
            ready!(poll_proceed(cx)).made_progress();
            let data = this.step().map_err(this.fault)?;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_none() && self.ended && self.told.is_none() && self.trailers.is_none()
    }
}
