//! The codecs, a piece at a time and with the memory that they take.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use brotli::{
    Allocator, BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper,
    enc::{BrotliAlloc, StandardAlloc, writer::CompressorWriterCustomAlloc},
};
use bytes::{Buf, Bytes};
use flate2::{
    Compression,
    write::{GzDecoder, GzEncoder},
};

use crate::config::snapshot::{Coding, Decoding};

/// Room for what comes of one step.
const ROOM: usize = 16 * 1024;

/// Memory of a compressor of gzip: its window, hash chains and buffers.
const GZIP_ENCODER: usize = 384 * 1024;

/// Memory of a decompressor of gzip.
const GZIP_DECODER: usize = 112 * 1024;

/// The first byte of each member of gzip (RFC 1952 §2.3.1).
const MAGIC: u8 = 0x1f;

/// Counts the memory of a codec of brotli. The sender or the configuration decides how much that is: from some KiB to 160 MiB.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }
}

// A codec is used by one thread at a time: loading and storing are enough.
impl<T: Clone + Default> Allocator<T> for Counted {
    type AllocatedMemory = <StandardAlloc as Allocator<T>>::AllocatedMemory;

    fn alloc_cell(&mut self, len: usize) -> Self::AllocatedMemory {
        let bytes = self.bytes().saturating_add(len * size_of::<T>());
        self.0.store(bytes, Relaxed);
        StandardAlloc::default().alloc_cell(len)
    }

    fn free_cell(&mut self, cell: Self::AllocatedMemory) {
        let bytes = size_of_val(cell.slice());
        self.0.store(self.bytes().saturating_sub(bytes), Relaxed);
    }
}

impl BrotliAlloc for Counted {}

type BrotliEncoder =
    CompressorWriterCustomAlloc<Vec<u8>, <Counted as Allocator<u8>>::AllocatedMemory, Counted>;

/// A compressor.
pub(super) enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<BrotliEncoder>, Counted),
}

impl Encoder {
    pub(super) fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip { level } => {
                Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(level)))
            }
            Coding::Brotli { quality, window } => {
                let mut counted = Counted::default();
                let memory = counted.clone();
                let buffer = counted.alloc_cell(ROOM);
                let writer = BrotliEncoder::new(Vec::new(), buffer, counted, quality, window);
                Self::Brotli(Box::new(writer), memory)
            }
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Gzip(_) => GZIP_ENCODER,
            Self::Brotli(_, memory) => memory.bytes(),
        }
    }

    /// Compresses `data`; gives what has come out if it is enough for a piece, and with `flush` all that comes of it.
    pub(super) fn write(&mut self, data: &[u8], flush: bool) -> io::Result<Bytes> {
        let writer: &mut dyn Write = match self {
            Self::Gzip(writer) => writer,
            Self::Brotli(writer, _) => writer,
        };
        writer.write_all(data)?;
        if flush {
            writer.flush()?;
        }
        let out = match self {
            Self::Gzip(writer) => writer.get_mut(),
            Self::Brotli(writer, _) => writer.get_mut(),
        };
        // The first bytes of gzip alone are no piece worth sending.
        Ok(match flush || out.len() >= ROOM {
            true => std::mem::take(out).into(),
            false => Bytes::new(),
        })
    }

    /// Ends the message.
    pub(super) fn finish(self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Gzip(writer) => writer.finish()?,
            Self::Brotli(writer, _) => writer.into_inner(),
        }
        .into())
    }
}

/// A decompressor.
pub(super) enum Decoder {
    Gzip(Box<GzDecoder<Vec<u8>>>),
    Brotli(Box<BrotliDecoder>),
}

/// Outcome of one step of a [`Decoder`].
pub(super) struct Decoded {
    pub(super) data: Bytes,
    /// The coding has ended.
    pub(super) is_last: bool,
}

impl Decoder {
    pub(super) fn new(coding: Decoding) -> Self {
        match coding {
            Decoding::Gzip => Self::Gzip(Box::new(GzDecoder::new(Vec::new()))),
            Decoding::Brotli => Self::Brotli(Box::new(BrotliDecoder::new())),
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Gzip(_) => GZIP_DECODER,
            Self::Brotli(decoder) => ROOM + decoder.memory.bytes(),
        }
    }

    /// Takes some of the front of `input`, and gives some of what is still to come. There is more to do as long as input is left or
    /// something came out. `ended` tells that nothing follows `input`.
    pub(super) fn step(&mut self, input: &mut Bytes, ended: bool) -> io::Result<Decoded> {
        match self {
            Self::Gzip(decoder) => gunzip(decoder, input, ended),
            Self::Brotli(decoder) => decoder.step(input, ended),
        }
    }
}

fn gunzip(decoder: &mut GzDecoder<Vec<u8>>, input: &mut Bytes, ended: bool) -> io::Result<Decoded> {
    let mut is_last = ended && input.is_empty();
    let mut next = None;
    if is_last {
        decoder.try_finish()?;
    } else if !input.is_empty() {
        let taken = decoder.write(input)?;
        input.advance(taken);
        if taken == 0 {
            decoder.try_finish()?;
            // Another member follows, or bytes that are no part of the coding.
            next = (input.first() == Some(&MAGIC)).then(|| GzDecoder::new(Vec::new()));
            is_last = next.is_none();
        }
    }
    if input.is_empty() && !is_last {
        decoder.flush()?;
    }
    let data = std::mem::take(decoder.get_mut()).into();
    if let Some(next) = next {
        *decoder = next;
    }
    Ok(Decoded { data, is_last })
}

/// A decompressor of brotli.
pub(super) struct BrotliDecoder {
    state: BrotliState<Counted, Counted, Counted>,
    memory: Counted,
    room: Box<[u8]>,
}

impl BrotliDecoder {
    fn new() -> Self {
        let memory = Counted::default();
        let of = || memory.clone();
        Self {
            // A strict one takes no window beyond those of RFC 7932, of up to 16 MiB.
            state: BrotliState::new_strict(of(), of(), of()),
            room: vec![0; ROOM].into(),
            memory,
        }
    }

    fn step(&mut self, input: &mut Bytes, ended: bool) -> io::Result<Decoded> {
        let (mut left, mut taken) = (input.len(), 0);
        let (mut free, mut len) = (self.room.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut taken,
            input,
            &mut free,
            &mut len,
            &mut self.room,
            &mut 0,
            &mut self.state,
        );
        input.advance(taken);
        let is_last = match result {
            BrotliResult::ResultSuccess => true,
            BrotliResult::NeedsMoreInput if ended && len == 0 => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => false,
            BrotliResult::ResultFailure => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Decoded {
            data: Bytes::copy_from_slice(self.room.get(..len).unwrap_or_default()),
            is_last,
        })
    }
}
