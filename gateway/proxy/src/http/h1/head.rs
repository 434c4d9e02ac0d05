//! Heads of HTTP/1 messages, as far as they say where messages end.

/// The few facts of a head that decide its framing.
pub(super) struct Head {
    pub(super) len: usize,
    /// 0 of a request.
    pub(super) status: u16,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    /// Fields that two parsers could understand differently: two rules for the length of one message, a
    /// length that is no plain number, a transfer coding other than `chunked` alone; in a request a
    /// line that ends without CR, a fragment in the target and octets there that are not ASCII too.
    pub(super) ambiguous: bool,
    /// A request that may make a tunnel of its connection: CONNECT, or with an `upgrade` field.
    pub(super) asks_for_tunnel: bool,
}

impl Head {
    /// The head that `bytes` begin with; `None` if its end is not there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut head = Self {
            len: 0,
            status: 0,
            length: None,
            chunked: false,
            ambiguous: false,
            asks_for_tunnel: false,
        };
        let mut length: Option<&[u8]> = None;
        let mut bare = false;
        let mut rest = bytes;
        let mut first = true;
        loop {
            let end = memchr::memchr(b'\n', rest)?;
            let (line, after) = rest.split_at_checked(end + 1)?;
            head.len += line.len();
            rest = after;
            bare |= !line.ends_with(b"\r\n");
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                // Empty lines before a request are skipped (RFC 9112 §2.2).
                if first {
                    continue;
                }
                head.ambiguous |= length.is_some() && head.chunked;
                head.ambiguous |= bare && head.status == 0;
                return Some(head);
            }
            if first {
                head.status = status(line);
                head.ambiguous |= head.status == 0 && (line.contains(&b'#') || !line.is_ascii());
                head.asks_for_tunnel = line.starts_with(b"CONNECT ");
                first = false;
            } else if let Some(value) = field(line, b"content-length:") {
                // A repetition is one only if it says the same in the same way.
                head.ambiguous |= length.is_some_and(|other| other != value);
                head.ambiguous |= !value.iter().all(u8::is_ascii_digit);
                length = Some(value);
                head.length = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                // Larger ones are negative to whoever counts with a sign.
                head.ambiguous |= head.length.is_none_or(|length| length > i64::MAX as u64);
            } else if let Some(coding) = field(line, b"transfer-encoding:") {
                head.ambiguous |= head.chunked || !coding.eq_ignore_ascii_case(b"chunked");
                head.chunked = true;
            } else if field(line, b"upgrade:").is_some() {
                head.asks_for_tunnel = true;
            }
        }
    }

    /// A 1xx head that another one follows.
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// The status of a status line; 0 for a request line.
fn status(line: &[u8]) -> u16 {
    line.strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // Nearly all lines differ in the first letter.
    if line.first()?.to_ascii_lowercase() != *name.first()? {
        return None;
    }
    let (start, mut value) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    Some(value)
}
