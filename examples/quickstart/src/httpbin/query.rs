//! Query strings and urlencoded forms, read as Go's `net/url` reads them.

use std::collections::BTreeMap;

/// Names with their values: keys sorted, values in order of arrival.
pub(super) type Values = BTreeMap<String, Vec<String>>;

/// Reads `a=1&a=2&b`, leaving out the pairs that are malformed.
pub(super) fn parse(text: &[u8]) -> Values {
    parse_noting(text).0
}

/// As [`parse`], but the first malformed pair is an error.
pub(super) fn parse_strict(text: &[u8]) -> Result<Values, String> {
    match parse_noting(text) {
        (values, None) => Ok(values),
        (_, Some(error)) => Err(error),
    }
}

/// The first value of `name`; an empty one counts as absent.
pub(super) fn first<'a>(values: &'a Values, name: &str) -> Option<&'a str> {
    values
        .get(name)
        .and_then(|all| all.first())
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

/// Bytes as text: every byte that is not part of valid UTF-8 becomes U+FFFD.
pub(super) fn lossy(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

fn parse_noting(text: &[u8]) -> (Values, Option<String>) {
    let mut values = Values::new();
    let mut error = None;
    for pair in text
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        match parse_pair(pair) {
            Ok((name, value)) => values.entry(name).or_default().push(value),
            Err(why) => {
                error.get_or_insert(why);
            }
        }
    }
    (values, error)
}

fn parse_pair(pair: &[u8]) -> Result<(String, String), String> {
    // A semicolon was once a separator; reading it either way would let two parsers disagree.
    if pair.contains(&b';') {
        return Err(format!("semicolon in {:?}", lossy(pair)));
    }
    let mut halves = pair.splitn(2, |byte| *byte == b'=');
    let name = unescape(halves.next().unwrap_or_default())?;
    let value = unescape(halves.next().unwrap_or_default())?;
    Ok((name, value))
}

fn unescape(text: &[u8]) -> Result<String, String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Ok(lossy(&plain)),
            [b'%', high, low, tail @ ..] => {
                let byte = hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low);
                plain.push(byte.ok_or_else(|| format!("bad percent escape in {:?}", lossy(text)))?);
                tail
            }
            [b'%', ..] => return Err(format!("bad percent escape in {:?}", lossy(text))),
            [b'+', tail @ ..] => {
                plain.push(b' ');
                tail
            }
            [byte, tail @ ..] => {
                plain.push(*byte);
                tail
            }
        };
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_pairs_are_left_out_or_refused() {
        let values = parse(b"a=1&&b&a=%32+x&c=%zz&d;e=1&f=%4");
        assert_eq!(values["a"], ["1", "2 x"]);
        assert_eq!(values["b"], [""]);
        assert_eq!(values.len(), 2);
        assert!(parse_strict(b"a=1&c=%zz").is_err_and(|error| error.contains("%zz")));
        assert!(parse_strict(b"a=1&b=2").is_ok());
    }

    #[test]
    fn each_invalid_byte_is_replaced() {
        assert_eq!(lossy(b"a\xe2\x82b"), "a\u{fffd}\u{fffd}b");
    }
}
