//! Names and values of fields: those that `h2` represents, and those for which it ends a connection.

use http::{Method, StatusCode};

use super::huffman;

/// Kind of a field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Regular,
    Authority,
    Method,
    Scheme,
    Path,
    Protocol,
    Status,
    /// Belongs to a connection, and so to HTTP/1 (RFC 9113 §8.2.2).
    Connection,
    Te,
    /// Cannot be represented: empty, not in lower case, a pseudo-header field that is not known.
    Wrong,
}

/// Kind of a field's value, for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Fine,
    /// Makes a message malformed. `h2` resets the stream.
    Malformed,
    /// Cannot be represented. `h2` ends the connection.
    Wrong,
}

/// A name and a value, as an entry of a table remembers them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: Name,
    /// Length of the name, decoded; that of a name too long for any table is not exact.
    pub(super) length: u16,
    pub(super) value: Value,
}

/// A string of a literal, as it is encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) huffman: bool,
}

impl Text<'_> {
    /// Hands out the octets, and gives their number. `None` if it cannot be decoded.
    fn each(self, mut each: impl FnMut(u8)) -> Option<usize> {
        if self.huffman {
            let mut length = 0;
            huffman::decode(self.bytes, |octet| {
                length += 1;
                each(octet);
            })?;
            return Some(length);
        }
        for byte in self.bytes {
            each(*byte);
        }
        Some(self.bytes.len())
    }

    /// The octets; in `scratch` if they have to be decoded.
    fn octets<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if !self.huffman {
            return Some(self.bytes);
        }
        scratch.clear();
        huffman::decode(self.bytes, |octet| scratch.push(octet))?;
        Some(scratch)
    }
}

impl Name {
    /// Finds out what a name is, and its length. `None` if it cannot be decoded.
    pub(super) fn of(text: Text<'_>, scratch: &mut Vec<u8>) -> Option<(Self, u16)> {
        let octets = text.octets(scratch)?;
        let name = match octets {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => Self::Connection,
            b"te" => Self::Te,
            _ if octets.is_empty() || octets.len() > LONGEST_NAME => Self::Wrong,
            _ if octets.iter().all(|octet| is_lower(*octet)) => Self::Regular,
            _ => Self::Wrong,
        };
        let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
        Some((name, length))
    }

    /// The name of an entry of the static table (RFC 7541 Appendix A), from 1 on, and its length.
    pub(super) fn of_static(index: usize) -> (Self, u16) {
        let length = index.checked_sub(1).and_then(|place| LENGTHS.get(place));
        let name = match index {
            1 => Self::Authority,
            2 | 3 => Self::Method,
            4 | 5 => Self::Path,
            6 | 7 => Self::Scheme,
            8..=14 => Self::Status,
            57 => Self::Connection,
            _ => Self::Regular,
        };
        (name, length.copied().map_or(0, u16::from))
    }

    /// The bit of a pseudo-header field in a set. `None` for others.
    pub(super) fn pseudo(self) -> Option<u8> {
        match self {
            Self::Authority => Some(1),
            Self::Method => Some(2),
            Self::Scheme => Some(4),
            Self::Path => Some(8),
            Self::Protocol => Some(16),
            Self::Status => Some(32),
            Self::Regular | Self::Connection | Self::Te | Self::Wrong => None,
        }
    }

    /// Judges a value for this name, and gives its length. `None` if it cannot be decoded.
    pub(super) fn judge(self, text: Text<'_>, scratch: &mut Vec<u8>) -> Option<(Value, usize)> {
        if let Self::Regular | Self::Connection = self {
            let mut wrong = false;
            let length = text.each(|octet| wrong |= is_control(octet))?;
            let value = match self {
                _ if wrong => Value::Wrong,
                Self::Connection => Value::Malformed,
                _ => Value::Fine,
            };
            return Some((value, length));
        }
        let octets = text.octets(scratch)?;
        let fine = match self {
            Self::Method => Method::from_bytes(octets).is_ok(),
            Self::Status => StatusCode::from_bytes(octets).is_ok(),
            Self::Te => !octets.iter().any(|octet| is_control(*octet)),
            Self::Wrong => false,
            _ => std::str::from_utf8(octets).is_ok(),
        };
        let value = match self {
            _ if !fine => Value::Wrong,
            Self::Te if octets != b"trailers" => Value::Malformed,
            _ => Value::Fine,
        };
        Some((value, octets.len()))
    }
}

/// Lengths of the names of the static table.
#[rustfmt::skip]
const LENGTHS: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12,
    6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// Longest name that the crate `http` represents.
const LONGEST_NAME: usize = u16::MAX as usize;

/// Tells whether an octet makes a value one that cannot be represented (RFC 9110 §5.5, and other control characters).
fn is_control(octet: u8) -> bool {
    (octet < b' ' && octet != b'\t') || octet == 0x7f
}

/// Tells whether an octet may be in a name: those of a token (RFC 9110 §5.6.2) without upper case, and a quotation mark, which `http`
/// allows.
fn is_lower(octet: u8) -> bool {
    matches!(octet, b'a'..=b'z' | b'0'..=b'9')
        || matches!(
            octet,
            b'!' | b'"'
                | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// Fields that are let through here have to be represented by `h2`, and the other way round.
    #[test]
    fn octets_are_those_of_the_crate_http() {
        for octet in 0..=255 {
            let name = HeaderName::from_lowercase(&[octet]);
            assert_eq!(is_lower(octet), name.is_ok(), "{octet}");
            let value = HeaderValue::from_bytes(&[octet]);
            assert_eq!(!is_control(octet), value.is_ok(), "{octet}");
        }
        for (length, fits) in [(LONGEST_NAME, true), (LONGEST_NAME + 1, false)] {
            let name = vec![b'a'; length];
            assert_eq!(HeaderName::from_lowercase(&name).is_ok(), fits);
            let text = Text {
                bytes: &name,
                huffman: false,
            };
            let (of, _) = Name::of(text, &mut Vec::new()).unwrap();
            assert_eq!(of == Name::Regular, fits);
        }
    }
}
