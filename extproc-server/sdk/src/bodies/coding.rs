//! Content codings (RFC 9110, section 8.4.1), piece by piece.

use std::{
    fmt,
    io::{self, Write},
};

use brotli::{CompressorWriter, DecompressorWriter};
use bytes::Bytes;
use flate2::{
    Compression,
    write::{GzEncoder, MultiGzDecoder, ZlibDecoder, ZlibEncoder},
};

use super::TooLarge;

const BROTLI_BUFFER: usize = 4096;
/// A middle way between speed and size, and the usual choice for content made on the fly.
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW: u32 = 22;

/// The lower seven bits of a stream with a window beyond 16 MiB. RFC 7932, section 9.1, has none; the library does, up to 1 GiB.
const LARGE_WINDOW: u8 = 0x11;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Coding {
    /// `gzip`
    Gzip,
    /// `deflate`: the zlib format
    Deflate,
    /// `br`
    Brotli,
}

impl Coding {
    /// The coding that a `content-encoding` names; none if it names several, or one that is not known here.
    pub fn from_header(value: &str) -> Option<Self> {
        match value.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "br" => Some(Self::Brotli),
            _ => None,
        }
    }

    /// Its name in `content-encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
        }
    }
}

/// Reason for which a body could not be decoded or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodingError {
    /// It is not what its coding says, or is cut short.
    #[error("the body is not valid {}", .0.name())]
    Malformed(Coding, #[source] io::Error),
    /// One piece becomes too many bytes.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// Decodes a body.
///
/// Beside what comes out it keeps what is referred back to: 32 KiB, in Brotli as much as the encoder asked for, up to 16 MiB.
pub struct Decoder {
    coding: Coding,
    inner: DecoderKind,
    begun: bool,
}

enum DecoderKind {
    Gzip(MultiGzDecoder<Sink>),
    Deflate(ZlibDecoder<Sink>),
    Brotli(Box<DecompressorWriter<Sink>>),
}

impl Decoder {
    /// A decoder that makes up to `limit` bytes of one piece. A small piece can become a very large one.
    pub fn new(coding: Coding, limit: usize) -> Self {
        let sink = Sink::new(limit);
        let inner = match coding {
            Coding::Gzip => DecoderKind::Gzip(MultiGzDecoder::new(sink)),
            Coding::Deflate => DecoderKind::Deflate(ZlibDecoder::new(sink)),
            Coding::Brotli => {
                DecoderKind::Brotli(Box::new(DecompressorWriter::new(sink, BROTLI_BUFFER)))
            }
        };
        Self {
            coding,
            inner,
            begun: false,
        }
    }

    /// Decodes a piece. What comes out may be empty although the piece is not.
    ///
    /// # Errors
    /// The piece is malformed, or becomes larger than the limit. The decoder cannot go on then.
    pub fn push(&mut self, piece: &[u8]) -> Result<Bytes, CodingError> {
        if let Some(first) = piece.first()
            && !std::mem::replace(&mut self.begun, true)
            && self.coding == Coding::Brotli
            && first & 0x7f == LARGE_WINDOW
        {
            let error = io::Error::new(io::ErrorKind::InvalidData, "a large window");
            return Err(CodingError::Malformed(self.coding, error));
        }
        let written = match &mut self.inner {
            DecoderKind::Gzip(inner) => inner.write_all(piece).and_then(|()| inner.flush()),
            DecoderKind::Deflate(inner) => inner.write_all(piece).and_then(|()| inner.flush()),
            DecoderKind::Brotli(inner) => inner.write_all(piece).and_then(|()| inner.flush()),
        };
        self.taken(written)
    }

    /// Ends the body; returns what is left of it.
    ///
    /// # Errors
    /// The body is cut short.
    pub fn finish(mut self) -> Result<Bytes, CodingError> {
        let finished = match &mut self.inner {
            DecoderKind::Gzip(inner) => inner.try_finish(),
            DecoderKind::Deflate(inner) => inner.try_finish(),
            DecoderKind::Brotli(inner) => inner.close(),
        };
        self.taken(finished)
    }

    fn taken(&mut self, result: io::Result<()>) -> Result<Bytes, CodingError> {
        let sink = match &mut self.inner {
            DecoderKind::Gzip(inner) => inner.get_mut(),
            DecoderKind::Deflate(inner) => inner.get_mut(),
            DecoderKind::Brotli(inner) => inner.get_mut(),
        };
        sink.take(result, self.coding)
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("coding", &self.coding)
            .finish_non_exhaustive()
    }
}

/// Encodes a body.
pub struct Encoder {
    coding: Coding,
    inner: EncoderKind,
}

enum EncoderKind {
    Gzip(GzEncoder<Sink>),
    Deflate(ZlibEncoder<Sink>),
    Brotli(Box<CompressorWriter<Sink>>),
}

impl Encoder {
    /// An encoder with the usual level of compression.
    pub fn new(coding: Coding) -> Self {
        let sink = Sink::new(usize::MAX);
        let level = Compression::default();
        let inner = match coding {
            Coding::Gzip => EncoderKind::Gzip(GzEncoder::new(sink, level)),
            Coding::Deflate => EncoderKind::Deflate(ZlibEncoder::new(sink, level)),
            Coding::Brotli => EncoderKind::Brotli(Box::new(CompressorWriter::new(
                sink,
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                BROTLI_WINDOW,
            ))),
        };
        Self { coding, inner }
    }

    /// Encodes a piece, so that the receiver can decode all of it at once.
    ///
    /// # Errors
    /// None in practice: the bytes are written to memory.
    pub fn push(&mut self, piece: &[u8]) -> Result<Bytes, CodingError> {
        let written = match &mut self.inner {
            EncoderKind::Gzip(inner) => inner.write_all(piece).and_then(|()| inner.flush()),
            EncoderKind::Deflate(inner) => inner.write_all(piece).and_then(|()| inner.flush()),
            EncoderKind::Brotli(inner) => inner.write_all(piece).and_then(|()| inner.flush()),
        };
        let sink = match &mut self.inner {
            EncoderKind::Gzip(inner) => inner.get_mut(),
            EncoderKind::Deflate(inner) => inner.get_mut(),
            EncoderKind::Brotli(inner) => inner.get_mut(),
        };
        sink.take(written, self.coding)
    }

    /// Ends the body; returns what is left of it.
    ///
    /// # Errors
    /// None in practice: the bytes are written to memory.
    pub fn finish(self) -> Result<Bytes, CodingError> {
        let finished = match self.inner {
            EncoderKind::Gzip(inner) => inner.finish(),
            EncoderKind::Deflate(inner) => inner.finish(),
            EncoderKind::Brotli(inner) => Ok(inner.into_inner()),
        };
        match finished {
            Ok(mut sink) => sink.take(Ok(()), self.coding),
            Err(error) => Err(CodingError::Malformed(self.coding, error)),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("coding", &self.coding)
            .finish_non_exhaustive()
    }
}

/// Receiver of decoded bytes; refuses more than its limit.
struct Sink {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl Sink {
    fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            full: false,
        }
    }

    fn take(&mut self, result: io::Result<()>, coding: Coding) -> Result<Bytes, CodingError> {
        if self.full {
            return Err(TooLarge { limit: self.limit }.into());
        }
        result.map_err(|error| CodingError::Malformed(coding, error))?;
        Ok(std::mem::take(&mut self.bytes).into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            self.full = true;
            return Err(io::Error::other("limit reached"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODINGS: [Coding; 3] = [Coding::Gzip, Coding::Deflate, Coding::Brotli];

    #[test]
    fn what_was_encoded_is_decoded_however_it_is_cut() {
        let text = "a body that repeats itself, a body that repeats itself. ".repeat(20);
        for coding in CODINGS {
            let mut encoder = Encoder::new(coding);
            let mut encoded = encoder.push(&text.as_bytes()[..100]).unwrap().to_vec();
            // Everything pushed can be decoded before the end.
            let early = Decoder::new(coding, 1000).push(&encoded).unwrap();
            assert_eq!(early, text.as_bytes()[..100], "{coding:?}");
            encoded.extend(encoder.push(&text.as_bytes()[100..]).unwrap());
            encoded.extend(encoder.finish().unwrap());
            assert!(encoded.len() < text.len());
            for size in [1, 7, encoded.len()] {
                let mut decoder = Decoder::new(coding, 10_000);
                let mut decoded = Vec::new();
                for piece in encoded.chunks(size) {
                    decoded.extend(decoder.push(piece).unwrap());
                }
                decoded.extend(decoder.finish().unwrap());
                assert_eq!(decoded, text.as_bytes(), "{coding:?} {size}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        for coding in CODINGS {
            let mut encoder = Encoder::new(coding);
            let mut encoded = encoder.push(&[0; 1_000_000]).unwrap().to_vec();
            encoded.extend(encoder.finish().unwrap());
            let refused = Decoder::new(coding, 1000).push(&encoded);
            assert!(
                matches!(refused, Err(CodingError::TooLarge(_))),
                "{coding:?} {refused:?}"
            );
        }
    }

    #[test]
    fn nonsense_and_a_cut_body_are_refused() {
        for coding in CODINGS {
            let mut decoder = Decoder::new(coding, 1000);
            let refused = decoder.push(&[0xff; 64]);
            assert!(
                matches!(refused, Err(CodingError::Malformed(..))),
                "{coding:?} {refused:?}"
            );

            let mut encoder = Encoder::new(coding);
            let encoded = encoder.push(b"never ended").unwrap();
            let mut decoder = Decoder::new(coding, 1000);
            decoder.push(&encoded[..encoded.len() / 2]).unwrap();
            assert!(decoder.finish().is_err(), "{coding:?}");
        }
    }

    #[test]
    fn a_large_window_is_no_brotli() {
        let params = brotli::enc::BrotliEncoderParams {
            large_window: true,
            lgwin: 28,
            ..Default::default()
        };
        let mut encoded = Vec::new();
        CompressorWriter::with_params(&mut encoded, BROTLI_BUFFER, &params)
            .write_all(b"hello")
            .unwrap();
        let refused = Decoder::new(Coding::Brotli, 1000).push(&encoded);
        assert!(
            matches!(refused, Err(CodingError::Malformed(..))),
            "{refused:?}"
        );
    }

    #[test]
    fn names() {
        for coding in CODINGS {
            assert_eq!(Coding::from_header(coding.name()), Some(coding));
        }
        assert_eq!(Coding::from_header(" GZIP"), Some(Coding::Gzip));
        assert_eq!(Coding::from_header("gzip, br"), None);
    }
}
