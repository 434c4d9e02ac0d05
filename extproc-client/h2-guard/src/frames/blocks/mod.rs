//! Header blocks whose fields `h2` would end the connection for.
//!
//! A field that HPACK decodes but HTTP does not allow makes a message malformed, which is an error of its stream (RFC 9113 §8.1.1). `h2`
//! ends the connection for most of them. Such a block is replaced by one that makes the same changes to the dynamic table, with
//! other octets in place of those that are not allowed, and with a field for which `h2` resets the stream.

mod field;
mod huffman;
#[cfg(test)]
mod tests;
mod walk;

use self::walk::{ENTRY, LARGEST, Outcome, Step, Table, walk};
use super::kind::{END_HEADERS, HEADERS, PADDED, PRIORITY};

/// Longest payload of a frame that needs no permission (RFC 9113 §4.2).
const PAYLOAD: usize = 16 * 1024;

/// `transfer-encoding` of the static table (RFC 7541 Appendix A). `h2` resets a stream with it.
const MARK: u8 = 0x80 | 57;

/// Literal that is added to the table, with a name that follows (RFC 7541 §6.2.1).
const ADDED: u8 = 0x40;

/// Octet in place of others: allowed in names and values of any kind, and three of them are a status.
const FILL: u8 = b'2';

/// The decoder's state of a connection, as far as it says which fields are refused.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    table: Table,
    scratch: Vec<u8>,
    /// A block was not looked at, or could not be decoded. From then on the table is not known.
    blind: bool,
}

/// Verdict on a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passes,
    Replaced,
}

/// The first frame of a block.
struct Beginning<'a> {
    fragment: &'a [u8],
    /// The stream depends on itself (RFC 9113 §5.3). `h2` resets it, and does not decode the block.
    circular: bool,
}

impl Blocks {
    /// Stops looking.
    pub(super) fn give_up(&mut self) {
        self.blind = true;
    }

    /// Tells whether blocks are looked at.
    pub(super) fn looks(&self) -> bool {
        !self.blind
    }

    /// Judges a block that is one HEADERS frame. The table is left as it was unless the block passes.
    pub(super) fn passes(&mut self, flags: u8, stream: u32, payload: &[u8]) -> bool {
        if self.blind {
            return true;
        }
        let Some(Beginning { fragment, circular }) = beginning(flags, stream, payload) else {
            self.blind = true;
            return true;
        };
        let before = self.table.clone();
        match walk(fragment, &mut self.table, &mut self.scratch, |_| ()) {
            None => self.blind = true,
            Some(Outcome::Wrong) => {}
            Some(Outcome::Fine | Outcome::Malformed) if circular => {}
            Some(Outcome::Fine | Outcome::Malformed) => return true,
        }
        self.table = before;
        self.blind
    }

    /// Judges a block of any number of frames, and makes others in its place.
    ///
    /// `h2` resets a stream for a malformed message, too; but it forgets that a block is under way then, and ends the connection for the
    /// rest of it.
    pub(super) fn replace<'a>(
        &mut self,
        flags: u8,
        stream: u32,
        payload: &[u8],
        more: impl Iterator<Item = &'a [u8]>,
        out: &mut impl Extend<u8>,
    ) -> Verdict {
        if self.blind {
            return Verdict::Passes;
        }
        let Some(Beginning { fragment, circular }) = beginning(flags, stream, payload) else {
            self.blind = true;
            return Verdict::Passes;
        };
        let mut several = false;
        let mut block = fragment.to_vec();
        for fragment in more {
            several = true;
            block.extend_from_slice(fragment);
        }
        let before = self.table.clone();
        match walk(&block, &mut self.table, &mut self.scratch, |_| ()) {
            None => {
                self.blind = true;
                return Verdict::Passes;
            }
            Some(Outcome::Fine) if !circular => return Verdict::Passes,
            Some(Outcome::Malformed) if !circular && !several => return Verdict::Passes,
            Some(_) => {}
        }
        self.table = before;
        let mut frames = Replacement {
            stream,
            payload: Vec::new(),
            out,
        };
        // It was walked through already.
        let _ = walk(&block, &mut self.table, &mut self.scratch, |step| {
            frames.add(step);
        });
        frames.end();
        Verdict::Replaced
    }
}

/// Takes the first frame of a block apart. `None` if `h2` ends the connection for it (RFC 9113 §6.2).
fn beginning(flags: u8, stream: u32, payload: &[u8]) -> Option<Beginning<'_>> {
    let mut rest = payload;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (first, behind) = rest.split_first()?;
        (padding, rest) = (usize::from(*first), behind);
    }
    let mut circular = false;
    if flags & PRIORITY != 0 {
        let (priority, behind) = rest.split_first_chunk::<5>()?;
        let [a, b, c, d, _] = *priority;
        circular = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff == stream;
        rest = behind;
    }
    let fragment = rest.get(..rest.len().checked_sub(padding)?)?;
    (stream != 0).then_some(Beginning { fragment, circular })
}

/// Frames in place of a block. Each is a block of its own: the stream is reset with the first, and the others are ignored for it.
struct Replacement<'a, O> {
    stream: u32,
    payload: Vec<u8>,
    out: &'a mut O,
}

impl<O: Extend<u8>> Replacement<'_, O> {
    fn add(&mut self, step: Step<'_>) {
        match step {
            Step::Passes => {}
            Step::Size(encoded) => self.put(encoded),
            Step::Adds(encoded) if encoded.len() < PAYLOAD => self.put(encoded),
            // Whatever the code, so many octets are an entry that is larger than the table, and empties it.
            Step::Adds(_) => self.put(&filler(None, 1, LARGEST)),
            Step::AddsWrong { kept, name, value } => {
                let wrong = match name + value + ENTRY > LARGEST {
                    true => filler(None, 1, LARGEST),
                    // For `h2`, a name has one octet at least. Without one in the value, either, `h2` counts one more than the
                    // peer, and may give up an entry sooner: then an index for it ends the connection after all.
                    false if name == 0 && kept.is_none() => {
                        filler(None, 1, value.saturating_sub(1))
                    }
                    false => filler(kept, name, value),
                };
                self.put(&wrong);
            }
        }
    }

    fn put(&mut self, encoded: &[u8]) {
        if self.payload.len() + encoded.len() >= PAYLOAD {
            self.end();
        }
        self.payload.extend_from_slice(encoded);
    }

    fn end(&mut self) {
        self.payload.push(MARK);
        let length = u32::try_from(self.payload.len()).unwrap_or_default();
        let [_, a, b, c] = length.to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        self.out.extend([a, b, c, HEADERS, END_HEADERS, d, e, f, g]);
        self.out.extend(self.payload.drain(..));
    }
}

/// A field that is added to the table, with a name that is kept or of a length, and a value of a length.
fn filler(kept: Option<&[u8]>, name: usize, value: usize) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name + value + 8);
    match kept {
        Some(kept) => encoded.extend_from_slice(kept),
        None => {
            encoded.push(ADDED);
            fill(&mut encoded, name);
        }
    }
    fill(&mut encoded, value);
    encoded
}

/// Adds a string of so many octets (RFC 7541 §5.2).
fn fill(encoded: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(length @ ..0x7f) => encoded.push(length),
        _ => {
            encoded.push(0x7f);
            let mut rest = length - 0x7f;
            while rest > 0x7f {
                encoded.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            encoded.push((rest & 0x7f) as u8);
        }
    }
    encoded.resize(encoded.len() + length, FILL);
}
