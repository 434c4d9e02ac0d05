//! The spelling of paths that are compared.

/// Letters of escapes that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapeCase {
    /// As they were written, which is what Envoy does.
    Kept,
    /// Upper case (RFC 3986 §6.2.2.1).
    Upper,
}

/// A path in one spelling: `%xx` is decoded where it stands for an unreserved character (RFC 3986 §2.3), and characters that
/// no path may have are escaped. Escapes are read once: what has become one by that is escaped again.
///
/// `None` if the path has an escaped zero byte, where many programs end it.
pub fn canonical_path(path: &str, case: EscapeCase) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    // The last `%` that begins no escape.
    let mut lone = None;
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        if first != '%' {
            push(&mut out, first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        } else if let Some((code, byte)) = escape(rest) {
            if byte == 0 {
                return None;
            }
            match byte {
                b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
                _ => {
                    out.push('%');
                    match case {
                        EscapeCase::Kept => out.push_str(code),
                        EscapeCase::Upper => out.push_str(&code.to_ascii_uppercase()),
                    }
                }
            }
            rest = rest.get(3..).unwrap_or_default();
        } else {
            lone = Some(out.len());
            out.push('%');
            rest = rest.get(1..).unwrap_or_default();
        }
        if let Some(at) = lone
            && out.len() >= at + 3
        {
            lone = None;
            if out.get(at..).and_then(escape).is_some() {
                out.insert_str(at + 1, "25");
            }
        }
    }
    Some(out)
}

fn push(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("%22"),
        '<' => out.push_str("%3C"),
        '>' => out.push_str("%3E"),
        '^' => out.push_str("%5E"),
        '`' => out.push_str("%60"),
        '{' => out.push_str("%7B"),
        '|' => out.push_str("%7C"),
        '}' => out.push_str("%7D"),
        c => out.push(c),
    }
}

/// The digits of the escape that a text begins with, and the byte that they stand for.
fn escape(text: &str) -> Option<(&str, u8)> {
    let code = text.strip_prefix('%')?.get(..2)?;
    let whole = code.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = u8::from_str_radix(code, 16).ok()?;
    whole.then_some((code, byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for (from, to) in [
            ("/a%2Db%7e%2f%2B", Some("/a-b~%2f%2B")),
            ("/%", Some("/%")),
            ("/%2", Some("/%2")),
            ("/%zz", Some("/%zz")),
            ("/a|{}", Some("/a%7C%7B%7D")),
            ("/a%00", None),
            // Escapes that only come about by decoding.
            ("/%2%65", Some("/%252e")),
            ("/%%32e", Some("/%252e")),
            ("/%%32%65/", Some("/%252e/")),
            ("/%%%32e", Some("/%%252e")),
            ("/%%2e", Some("/%.")),
            ("/\u{e4}%2\u{e4}", Some("/\u{e4}%2\u{e4}")),
        ] {
            assert_eq!(canonical_path(from, EscapeCase::Kept).as_deref(), to);
        }
        let upper = canonical_path("/%2f%c3", EscapeCase::Upper);
        assert_eq!(upper.as_deref(), Some("/%2F%C3"));
    }
}
