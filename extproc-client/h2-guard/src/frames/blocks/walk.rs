//! A walk through a header block (RFC 7541 §6), and the dynamic table that it changes.

use super::field::{Field, Name, Text, Value};

/// Entries that a dynamic table of 4096 bytes can have; each takes 32 bytes more than its name and value (RFC 7541 §4.1).
const ENTRIES: usize = 128;

/// Entries of the static table (RFC 7541 Appendix A).
const STATIC: usize = 61;

/// Octets that an integer may have. `h2` takes no more.
const LONGEST_INTEGER: usize = 5;

/// Largest size of the table: `h2` announces no other one (RFC 9113 §6.5.2).
pub(super) const LARGEST: usize = 4096;

/// Bytes that an entry takes beside its name and value (RFC 7541 §4.1).
pub(super) const ENTRY: usize = 32;

/// Kinds of the newest fields in the dynamic table. Its older ones may be gone: then `h2`, which counts their bytes, refuses an index.
#[derive(Clone, Debug)]
pub(super) struct Table {
    fields: [Field; ENTRIES],
    /// Fields that were ever added, and those of them that are gone for sure.
    added: usize,
    gone: usize,
    /// Bytes that it may have.
    size: usize,
}

impl Default for Table {
    fn default() -> Self {
        let field = Field {
            name: Name::Regular,
            length: 0,
            value: Value::Fine,
        };
        Self {
            fields: [field; ENTRIES],
            added: 0,
            gone: 0,
            size: LARGEST,
        }
    }
}

impl Table {
    fn get(&self, index: usize) -> Option<Field> {
        if index <= STATIC {
            let (name, length) = Name::of_static(index);
            let value = match name {
                Name::Connection => Value::Malformed,
                _ => Value::Fine,
            };
            let field = Field {
                name,
                length,
                value,
            };
            return (index > 0).then_some(field);
        }
        let back = index - STATIC;
        let known = back <= ENTRIES && back <= self.added - self.gone;
        let place = self.added.wrapping_sub(back) % ENTRIES;
        self.fields.get(place).copied().filter(|_| known)
    }

    /// Adds a field with a value of this length. One that is larger than the table empties it (RFC 7541 §4.4).
    fn add(&mut self, field: Field, value: usize) {
        if usize::from(field.length) + value + ENTRY > self.size {
            self.gone = self.added;
            return;
        }
        if let Some(place) = self.fields.get_mut(self.added % ENTRIES) {
            *place = field;
        }
        self.added += 1;
    }
}

/// Outcome of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Fine,
    /// `h2` finds out, and resets the stream.
    Malformed,
    /// `h2` would end the connection for a field.
    Wrong,
}

/// One representation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// A change of the table's size, as it is encoded.
    Size(&'a [u8]),
    /// A field that leaves the table as it is.
    Passes,
    /// A field that is added to the table, as it is encoded.
    Adds(&'a [u8]),
    /// The same with a field that `h2` refuses.
    AddsWrong {
        /// The beginning of what is encoded: the name, if it can be kept.
        kept: Option<&'a [u8]>,
        /// Lengths of name and value, decoded.
        name: usize,
        value: usize,
    },
}

/// A block that is read from its beginning on.
struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.block.get(self.at)?;
        self.at += 1;
        Some(*byte)
    }

    /// Reads an integer behind a prefix of so many bits (RFC 7541 §5.1).
    fn integer(&mut self, first: u8, bits: u32) -> Option<usize> {
        let most = (1_u8 << bits) - 1;
        let mut integer = usize::from(first & most);
        if integer < usize::from(most) {
            return Some(integer);
        }
        for n in 1..LONGEST_INTEGER {
            let byte = self.next()?;
            integer += usize::from(byte & 0x7f) << (7 * (n - 1));
            if byte & 0x80 == 0 {
                return Some(integer);
            }
        }
        None
    }

    fn text(&mut self) -> Option<Text<'a>> {
        let first = self.next()?;
        let length = self.integer(first, 7)?;
        let end = self.at.checked_add(length)?;
        let bytes = self.block.get(self.at..end)?;
        self.at = end;
        Some(Text {
            bytes,
            huffman: first & 0x80 != 0,
        })
    }

    fn since(&self, start: usize) -> &'a [u8] {
        self.block.get(start..self.at).unwrap_or_default()
    }
}

/// Walks through a whole block. `None` if it cannot be decoded, for which a connection has to end (RFC 9113 §4.3).
pub(super) fn walk<'a>(
    block: &'a [u8],
    table: &mut Table,
    scratch: &mut Vec<u8>,
    mut each: impl FnMut(Step<'a>),
) -> Option<Outcome> {
    let mut reader = Reader { block, at: 0 };
    let mut outcome = Outcome::Fine;
    // The order of fields (RFC 9113 §8.3).
    let (mut pseudo, mut regular, mut begun) = (0, false, false);
    loop {
        let start = reader.at;
        let Some(first) = reader.next() else {
            return Some(outcome);
        };
        if first & 0xe0 == 0x20 {
            let size = reader.integer(first, 5)?;
            if begun || size > LARGEST {
                return None;
            }
            table.size = size;
            each(Step::Size(reader.since(start)));
            continue;
        }
        begun = true;
        let field = if first & 0x80 != 0 {
            each(Step::Passes);
            table.get(reader.integer(first, 7)?)?
        } else {
            let adds = first & 0x40 != 0;
            let index = reader.integer(first, if adds { 6 } else { 4 })?;
            let (name, length) = match index {
                0 => Name::of(reader.text()?, scratch)?,
                _ => table.get(index).map(|field| (field.name, field.length))?,
            };
            let kept = reader.since(start);
            let (value, value_length) = name.judge(reader.text()?, scratch)?;
            let field = Field {
                name,
                length,
                value,
            };
            if !adds {
                each(Step::Passes);
            } else if value != Value::Wrong {
                each(Step::Adds(reader.since(start)));
                table.add(field, value_length);
            } else {
                // A name is kept if there is a value of this length for it. An index leads to a name that `h2` has, even where
                // another one was put in its place.
                let keeps = match name {
                    Name::Wrong => index != 0,
                    Name::Method => value_length > 0,
                    Name::Status => value_length == 3,
                    _ => true,
                };
                each(Step::AddsWrong {
                    kept: keeps.then_some(kept),
                    name: usize::from(length),
                    value: value_length,
                });
                let name = if keeps { name } else { Name::Wrong };
                table.add(Field { name, ..field }, value_length);
            }
            field
        };
        match (field.value, field.name.pseudo()) {
            (Value::Wrong, _) => outcome = Outcome::Wrong,
            (Value::Fine, Some(bit)) if !regular && pseudo & bit == 0 => pseudo |= bit,
            (Value::Fine, None) => regular = true,
            _ if outcome == Outcome::Fine => outcome = Outcome::Malformed,
            _ => {}
        }
    }
}
