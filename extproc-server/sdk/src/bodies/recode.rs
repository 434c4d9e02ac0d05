//! A body that is changed behind its content coding.

use bytes::{Bytes, BytesMut};

use super::{Coding, CodingError, Decoder, Encoder};

/// Maps the plain bytes of a body that may be encoded: decodes each piece, has it changed, and encodes it again.
///
/// The receiver can decode each pushed piece at once, so a stream goes on streaming. The new body is as long as it
/// turns out: for a body that declares its length, use a mode in which the length can follow, or none is declared.
///
/// ```
/// # use extproc_sdk::{Body, BodyReply, bodies::{Coding, CodingError, Recode}};
/// // With the headers: `content-encoding` decides.
/// let mut recode = Recode::new(Coding::from_header("gzip"), 1024 * 1024);
///
/// // With each piece:
/// # fn piece(recode: &mut Recode, body: &Body) -> Result<BodyReply, CodingError> {
/// let changed = recode.push(&body.data, body.end_of_stream, |plain| {
///     plain.to_ascii_uppercase().into()
/// })?;
/// # Ok(BodyReply::replace(changed))
/// # }
/// ```
///
/// Without a coding it is a plain map, with the same calls.
#[derive(Debug)]
pub struct Recode {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Plain,
    Coded(Box<Coder>),
    /// The last piece was pushed, or a piece could not be decoded.
    Ended,
}

#[derive(Debug)]
struct Coder {
    decoder: Decoder,
    encoder: Encoder,
}

impl Recode {
    /// For a body in this coding. No piece may decode to more than `limit` bytes.
    pub fn new(coding: Option<Coding>, limit: usize) -> Self {
        let stage = match coding {
            None => Stage::Plain,
            Some(coding) => Stage::Coded(Box::new(Coder {
                decoder: Decoder::new(coding, limit),
                encoder: Encoder::new(coding),
            })),
        };
        Self { stage }
    }

    /// Changes a piece; `last` ends the body. `map` is called once, also with nothing.
    ///
    /// After the last piece, and after an error, there is nothing more to change: pieces come out empty.
    ///
    /// # Errors
    /// The piece is malformed, becomes larger than the limit, or is the last and the body is cut short.
    pub fn push(
        &mut self,
        piece: &[u8],
        last: bool,
        map: impl FnOnce(Bytes) -> Bytes,
    ) -> Result<Bytes, CodingError> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ended => Ok(Bytes::new()),
            Stage::Plain => {
                if !last {
                    self.stage = Stage::Plain;
                }
                Ok(map(Bytes::copy_from_slice(piece)))
            }
            Stage::Coded(mut coder) => {
                let plain = coder.decoder.push(piece)?;
                if !last {
                    let coded = coder.encoder.push(&map(plain))?;
                    self.stage = Stage::Coded(coder);
                    return Ok(coded);
                }
                let Coder {
                    decoder,
                    mut encoder,
                } = *coder;
                let plain = joined(plain, &decoder.finish()?);
                let coded = encoder.push(&map(plain))?;
                Ok(joined(coded, &encoder.finish()?))
            }
        }
    }
}

fn joined(first: Bytes, second: &[u8]) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(second);
    both.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"a body that repeats itself, a body that repeats itself";

    fn shout(plain: Bytes) -> Bytes {
        plain.to_ascii_uppercase().into()
    }

    #[test]
    fn the_plain_bytes_change_in_every_coding_and_cut() {
        for coding in [
            None,
            Some(Coding::Gzip),
            Some(Coding::Deflate),
            Some(Coding::Brotli),
        ] {
            let sent = match coding {
                None => TEXT.to_vec(),
                Some(coding) => {
                    let mut encoder = Encoder::new(coding);
                    let mut sent = encoder.push(TEXT).unwrap().to_vec();
                    sent.extend(encoder.finish().unwrap());
                    sent
                }
            };
            for size in [1, 10, 1000] {
                let mut recode = Recode::new(coding, 1000);
                let mut got = Vec::new();
                let mut pieces = sent.chunks(size).peekable();
                while let Some(piece) = pieces.next() {
                    let last = pieces.peek().is_none();
                    got.extend(recode.push(piece, last, shout).unwrap());
                }
                if let Some(coding) = coding {
                    let mut decoder = Decoder::new(coding, 1000);
                    let mut plain = decoder.push(&got).unwrap().to_vec();
                    plain.extend(decoder.finish().unwrap());
                    got = plain;
                }
                assert_eq!(got, TEXT.to_ascii_uppercase(), "{coding:?} {size}");
            }
        }
    }

    #[test]
    fn what_is_malformed_ends_it() {
        let mut recode = Recode::new(Some(Coding::Gzip), 1000);
        assert!(recode.push(b"no gzip at all", false, shout).is_err());
        assert_eq!(recode.push(TEXT, true, shout).unwrap(), "");
    }
}
