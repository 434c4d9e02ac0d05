//! Other readings that an upstream may have of a path that was normalized.

use std::borrow::Cow;

/// Escapes of escapes that are looked into. Nobody writes more of them in earnest.
const DEEPEST: usize = 4;

/// Tells whether a program that decodes a path more often, or more loosely, than RFC 3986 has it would find a segment `.` or
/// `..` in it, or a zero byte, where many end it. `path` is normalized, and decoded as far as it has to be.
pub(super) fn is_ambiguous(path: &str) -> bool {
    let mut read = Cow::Borrowed(path.as_bytes());
    for _ in 0..=DEEPEST {
        let mut segments = read.split(|byte| matches!(byte, b'/' | b'\\'));
        if segments.any(is_dots) || read.contains(&0) {
            return true;
        }
        let Some(decoded) = decoded(&read) else {
            return false;
        };
        read = Cow::Owned(decoded);
    }
    true
}

/// A segment whose name is `.` or `..` for programs that take parameters, a query or a fragment off it, or blanks and control
/// characters.
fn is_dots(segment: &[u8]) -> bool {
    let end = segment
        .iter()
        .position(|byte| matches!(byte, b';' | b'?' | b'#'));
    let name = segment.get(..end.unwrap_or(segment.len()));
    let blank = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    let mut name = name.unwrap_or_default();
    while let [first, rest @ ..] = name
        && blank(first)
    {
        name = rest;
    }
    while let [rest @ .., last] = name
        && blank(last)
    {
        name = rest;
    }
    matches!(name, b"." | b"..")
}

/// The bytes with every escape decoded; `None` if there is none.
fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut any = false;
    while let [first, after @ ..] = rest {
        let (byte, length) = escape(rest)
            .or_else(|| overlong(rest))
            .unwrap_or((*first, 1));
        any |= length > 1;
        out.push(byte);
        rest = rest.get(length..).unwrap_or(after);
    }
    any.then_some(out)
}

/// `%xx`, and `%u00xx` as some programs have it: its byte and its length.
fn escape(bytes: &[u8]) -> Option<(u8, usize)> {
    let [b'%', after @ ..] = bytes else {
        return None;
    };
    let (digits, length) = match after {
        [b'u' | b'U', b'0', b'0', high, low, ..] => ([*high, *low], 6),
        [high, low, ..] => ([*high, *low], 3),
        _ => return None,
    };
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let [high, low] = digits.map(digit);
    Some((high? << 4 | low?, length))
}

/// A sequence that is longer than UTF-8 allows for its character, of the characters that matter in a path.
fn overlong(bytes: &[u8]) -> Option<(u8, usize)> {
    let (value, length) = match *bytes {
        [lead @ (0xc0 | 0xc1), last @ 0x80..=0xbf, ..] => ((lead & 1) << 6 | last & 0x3f, 2),
        [0xe0, next @ (0x80 | 0x81), last @ 0x80..=0xbf, ..] => ((next & 1) << 6 | last & 0x3f, 3),
        [0xf0, 0x80, next @ (0x80 | 0x81), last @ 0x80..=0xbf, ..] => {
            ((next & 1) << 6 | last & 0x3f, 4)
        }
        _ => return None,
    };
    matches!(value, 0 | b'.' | b'/' | b'\\' | b'%' | b';').then_some((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings() {
        for path in [
            "/a/%252e%252e/b",
            "/a/..%252Fb",
            "/a%255c..%255cb",
            "/a/%25252e/b",
            "/a/..%253Bx/b",
            "/a/..%3B/b",
            "/a/..%3Bx=y/b",
            "/a/..%20/b",
            "/a/%09../b",
            "/a/.%0D%0A/b",
            "/a/..%7F/b",
            "/a/..%23/b",
            "/a/..%3F",
            "/a/%C0%AE%C0%AE/b",
            "/a/%E0%80%AE./b",
            "/a/%F0%80%80%AE./b",
            "/a/..%C0%AFb",
            "/a/..%C1%9Cb",
            "/a/%u002e%u002E/b",
            "/a%2500",
            "/a%C0%80",
            "/a%252525252525252525b",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in [
            "/",
            "/a/b",
            "/100%25",
            "/100%25ab",
            "/%7B%22a%22%7D",
            "/a%20b",
            "/a;x=1/b",
            "/a/.../b",
            "/a/..b",
            "/a%0Ab",
            "/%C3%80%C2%AE",
            "/%C0%20la",
            "/https%253A%252F%252Fa.example%252Fb",
            "/%u00e4",
            "/50%",
        ] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }

    #[test]
    fn deep_escapes_take_no_time() {
        let path = format!("/%{}", "25".repeat(30_000));
        assert!(is_ambiguous(&path));
    }
}
