//! Bodies on their way from one content coding into another, piece by piece.
//!
//! Nothing is gathered: a piece is worked on when it is asked for, and what becomes of it is given away before the next one. So a
//! small message that stands for a large one costs no memory, and is cut when it is out of proportion.

use std::{
    io::{self, BufRead, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use brotli::{CompressorWriter, Decompressor};
use bytes::{Buf, Bytes};
use extproc_client::host::Held;
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderName};
use http_body::Frame;

use crate::{
    config::snapshot::{Coding, Decoding},
    exchange::Exchange,
    http::body::{Body, BoxError},
};

/// Bytes that are worked on at once.
const PIECE: usize = 16 * 1024;

/// Bytes that a message may become whatever its size.
const FREE: u64 = 64 * 1024;

/// A message becomes larger than is in proportion to its bytes.
#[derive(Debug, thiserror::Error)]
#[error("{0} compressed bytes become more than is allowed")]
struct OutOfProportion(u64);

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
}

impl Encoder {
    /// The encoder, and about how much memory it takes.
    fn new(coding: Coding) -> (Self, usize) {
        match coding {
            Coding::Gzip { level } => {
                let level = Compression::new(level);
                (Self::Gzip(GzEncoder::new(Vec::new(), level)), 256 * 1024)
            }
            Coding::Brotli { quality, window } => {
                let writer = CompressorWriter::new(Vec::new(), PIECE, quality, window);
                (Self::Brotli(Box::new(writer)), (1 << window) + 512 * 1024)
            }
        }
    }

    fn write(&mut self, data: &[u8], flush: bool) -> io::Result<Bytes> {
        let writer: &mut dyn Write = match self {
            Self::Gzip(writer) => writer,
            Self::Brotli(writer) => writer,
        };
        writer.write_all(data)?;
        if flush {
            writer.flush()?;
        }
        Ok(std::mem::take(self.out()).into())
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(writer) => writer.get_mut(),
            Self::Brotli(writer) => writer.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Gzip(writer) => writer.finish()?,
            Self::Brotli(writer) => writer.into_inner(),
        }
        .into())
    }
}

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
    _held: Held,
}

impl Compressed {
    pub(super) fn new(body: Body, coding: Coding, exchange: Arc<Exchange>) -> Self {
        let (encoder, memory) = Encoder::new(coding);
        let mut held = Held::new(Some(exchange));
        held.set(memory);
        Self {
            body,
            encoder: Some(encoder),
            rest: Bytes::new(),
            ended: false,
            trailers: None,
            _held: held,
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
        loop {
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(
                    this.trailers
                        .take()
                        .map(|fields| Ok(Frame::trailers(fields))),
                );
            };
            let compressed = if !this.rest.is_empty() {
                let piece = this.rest.split_to(this.rest.len().min(PIECE));
                this.ended |= this.body.is_end_stream();
                // The reader gets each piece as it comes; behind the last one comes the end.
                encoder.write(&piece, this.rest.is_empty() && !this.ended)
            } else if this.ended {
                this.encoder
                    .take()
                    .map_or(Ok(Bytes::new()), Encoder::finish)
            } else {
                match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => this.rest = data,
                        Err(frame) => {
                            this.trailers = frame.into_trailers().ok();
                            this.ended = true;
                        }
                    },
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => this.ended = true,
                }
                continue;
            };
            match compressed {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

/// The bytes of a body as they come; reading them would block while none are here.
#[derive(Default)]
struct Input {
    data: Bytes,
    ended: bool,
}

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let data = self.fill_buf()?;
        let len = data.len().min(out.len());
        let (Some(from), Some(to)) = (data.get(..len), out.get_mut(..len)) else {
            return Ok(0);
        };
        to.copy_from_slice(from);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.data.is_empty() && !self.ended {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(&self.data),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.data.advance(amount.min(self.data.len()));
    }
}

enum Decoder {
    Gzip(Box<MultiGzDecoder<Input>>),
    Brotli(Box<Decompressor<Input>>),
}

impl Decoder {
    fn new(coding: Decoding) -> Self {
        match coding {
            Decoding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Input::default()))),
            Decoding::Brotli => Self::Brotli(Box::new(Decompressor::new(Input::default(), PIECE))),
        }
    }

    fn input(&mut self) -> &mut Input {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
        }
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(out),
            Self::Brotli(decoder) => decoder.read(out),
        }
    }

    /// About how much memory it takes for a message that begins so: brotli tells its window in the first byte (RFC 7932 §9.1).
    fn memory(&self, first: u8) -> usize {
        let Self::Brotli(_) = self else {
            return 64 * 1024;
        };
        let window = match (first & 1, first >> 1 & 7, first >> 4 & 7) {
            (0, ..) => 16,
            (_, 0, 0) => 17,
            (_, 0, more) => 8 + more,
            (_, more, _) => 17 + more,
        };
        (1 << window) + 64 * 1024
    }
}

/// A body that is decompressed.
pub(super) struct Decompressed {
    body: Body,
    /// `None` when the coding has ended; what follows it is dropped.
    decoder: Option<Decoder>,
    buffer: Box<[u8]>,
    /// Bytes that came, and what became of them.
    read: u64,
    written: u64,
    max_ratio: u32,
    /// The body has ended, with these trailers.
    ended: bool,
    trailers: Option<HeaderMap>,
    /// Names of the trailers that tell the lengths, until they have.
    told: Option<(HeaderName, HeaderName)>,
    held: Held,
}

impl Decompressed {
    pub(super) fn new(
        body: Body,
        coding: Decoding,
        max_ratio: u32,
        told: Option<(HeaderName, HeaderName)>,
        exchange: Arc<Exchange>,
    ) -> Self {
        Self {
            body,
            decoder: Some(Decoder::new(coding)),
            buffer: vec![0; PIECE].into(),
            read: 0,
            written: 0,
            max_ratio,
            ended: false,
            trailers: None,
            told,
            held: Held::new(Some(exchange)),
        }
    }

    /// Outcome of the bytes that are here; `None` if more are needed.
    fn step(&mut self) -> Result<Option<Bytes>, BoxError> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(None);
        };
        match decoder.read(&mut self.buffer) {
            Ok(0) => self.decoder = None,
            Ok(len) => {
                self.written += len as u64;
                if self.written > FREE.max(self.read.saturating_mul(self.max_ratio.into())) {
                    return Err(OutOfProportion(self.read).into());
                }
                let piece = self.buffer.get(..len).unwrap_or_default();
                return Ok(Some(Bytes::copy_from_slice(piece)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // No bytes are no message in any coding, and stay none.
            Err(_) if self.ended && self.read == 0 => self.decoder = None,
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }

    /// Takes a frame of the body.
    fn take(&mut self, frame: Option<Frame<Bytes>>) {
        match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                let Some(decoder) = &mut self.decoder else {
                    return;
                };
                if let Some(first) = data.first().filter(|_| self.read == 0) {
                    self.held.set(decoder.memory(*first));
                }
                self.read += data.len() as u64;
                decoder.input().data = data;
            }
            Some(Err(frame)) => {
                self.trailers = frame.into_trailers().ok();
                self.ended = true;
            }
            None => self.ended = true,
        }
        if self.ended
            && let Some(decoder) = &mut self.decoder
        {
            decoder.input().ended = true;
        }
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
            match this.step() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) if this.ended => {
                    let last = this.last();
                    return Poll::Ready(last.map(|fields| Ok(Frame::trailers(fields))));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose() {
                Ok(frame) => this.take(frame),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_none() && self.ended && self.told.is_none() && self.trailers.is_none()
    }
}
