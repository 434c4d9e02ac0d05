//! Secrets in texts: URLs, forms, JSON in strings, words of peers.

use percent_encoding::percent_decode_str;

use super::{REDACTED, Redaction, Secrets};

/// Times that a text is taken for percent-encoded again.
const DEPTH: usize = 3;

impl Redaction {
    /// A URL, a part of one or a form: what stands before an `@`, values of parameters, and what looks like credentials.
    pub(super) fn text(&self, text: &str) -> String {
        self.without(text, false, DEPTH)
    }

    /// Words: the same, and what follows the name of a secret and a colon.
    pub(super) fn prose(&self, text: &str) -> String {
        self.without(text, true, DEPTH)
    }

    fn without(&self, text: &str, colons: bool, depth: usize) -> String {
        let mut out = text.to_owned();
        if out.contains('@') {
            out = without_users(&out);
        }
        if out.contains(['=', '%']) || colons && out.contains(':') {
            out = self.without_values(&out, colons);
        }
        if out.contains('%') && depth > 0 {
            out = self.without_encoded(&out, colons, depth);
        }
        without_credentials(out)
    }

    /// Learns what [`text`](Self::text) takes out because of a name before it.
    pub(super) fn learn_text(&self, text: &str, secrets: &mut Secrets) {
        self.learn_deep(text, secrets, DEPTH);
    }

    fn learn_deep(&self, text: &str, secrets: &mut Secrets, depth: usize) {
        for (start, end) in self.values(text, true) {
            let value = text.get(start..end).unwrap_or_default();
            // Words after a colon may go on after the secret.
            let first = value.split_whitespace().next().unwrap_or_default();
            for part in [value, first] {
                secrets.learn(part);
                secrets.learn(&decoded(part));
            }
        }
        for (start, end) in users(text) {
            let user = text.get(start..end).unwrap_or_default();
            if let Some((_, password)) = user.split_once(':') {
                secrets.learn(password);
                secrets.learn(&decoded(password));
            }
        }
        if depth > 0 && text.contains('%') {
            let plain = decoded(text);
            if plain != text {
                self.learn_deep(&plain, secrets, depth - 1);
            }
        }
    }

    fn without_values(&self, text: &str, colons: bool) -> String {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        for (start, end) in self.values(text, colons) {
            if start >= at {
                out.push_str(text.get(at..start).unwrap_or_default());
                out.push_str(REDACTED);
                at = end;
            }
        }
        out.push_str(text.get(at..).unwrap_or_default());
        out
    }

    /// Places of values after the name of a secret: `name=value`, `name%3Dvalue`, `"name": "value"`, and `name: value` if
    /// `colons`.
    fn values(&self, text: &str, colons: bool) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (at, sign) in text.match_indices(['=', ':', '%']) {
            let len = match sign {
                "%" if text
                    .get(at..at + 3)
                    .is_some_and(|code| code.eq_ignore_ascii_case("%3d")) =>
                {
                    3
                }
                "%" => continue,
                _ => 1,
            };
            if found.last().is_some_and(|(_, end)| at < *end) {
                continue;
            }
            let before = text.get(..at).unwrap_or_default();
            let rest = text.get(at + len..).unwrap_or_default();
            let quoted = before.trim_end().ends_with(['"', '\'']);
            if sign == ":" && !colons && !quoted {
                continue;
            }
            if !self.covers(&decoded(name_before(before))) {
                continue;
            }
            let start = at + len + value_start(rest);
            let value = text.get(start..).unwrap_or_default();
            let opened = text.get(..start).and_then(|to| to.chars().next_back());
            let end = match (opened, sign) {
                (Some(quote @ ('"' | '\'')), _) => {
                    let escaped = text.get(..start - 1).is_some_and(|to| to.ends_with('\\'));
                    closing(value, quote, escaped)
                }
                (_, ":") => value.find(['\n', '\r', '"', '}']),
                _ => value
                    .find(|c: char| c.is_whitespace() || "&;,#\"'<>)}".contains(c))
                    .into_iter()
                    .chain(value.to_ascii_lowercase().find("%26"))
                    .min(),
            };
            let end = start + end.unwrap_or(value.len());
            if end > start && text.get(start..end) != Some(REDACTED) {
                found.push((start, end));
            }
        }
        found
    }

    /// Text that holds a secret only once it is decoded is left out as a whole, from one sign that parts a URL to the next.
    fn without_encoded(&self, text: &str, colons: bool, depth: usize) -> String {
        let mut out = String::with_capacity(text.len());
        let is_border = |c: char| c.is_whitespace() || "&?;#/=\"'<>".contains(c);
        for piece in text.split_inclusive(is_border) {
            let border = piece.chars().next_back().filter(|c| is_border(*c));
            let word = border.map_or(piece, |border| piece.trim_end_matches(border));
            let plain = decoded(word);
            match plain != word && self.without(&plain, colons, depth - 1) != plain {
                true => out.push_str(REDACTED),
                false => out.push_str(word),
            }
            out.extend(border);
        }
        out
    }
}

/// The name that a text ends with, quotes and blanks after it aside.
fn name_before(text: &str) -> &str {
    let is_quote = |c: char| c.is_whitespace() || "\"'\\".contains(c);
    let text = text.trim_end_matches(is_quote);
    let is_name = |c: char| c.is_alphanumeric() || "_-.~%$[]".contains(c);
    let start = text
        .char_indices()
        .rev()
        .take_while(|(_, c)| is_name(*c))
        .last();
    start.map_or("", |(at, _)| &text[at..])
}

/// Length of blanks and an opening quote before a value.
fn value_start(rest: &str) -> usize {
    let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
    let after = rest.get(blanks..).unwrap_or_default();
    let escaped = after.starts_with('\\');
    match after.trim_start_matches('\\').starts_with(['"', '\'']) {
        true if escaped => blanks + after.len() - after.trim_start_matches('\\').len() + 1,
        true => blanks + 1,
        false => blanks,
    }
}

/// Place of the quote that closes a value, or of the backslash before it in a text that is itself quoted.
fn closing(value: &str, quote: char, escaped: bool) -> Option<usize> {
    if escaped {
        return value.find(['\\', quote]);
    }
    let mut chars = value.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some(at);
        }
        if c == '\\' {
            chars.next();
        }
    }
    None
}

pub(super) fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Places of users with their passwords, the `@` included: after `//` whatever there is, elsewhere if a colon is in it.
fn users(text: &str) -> Vec<(usize, usize)> {
    let is_border = |c: char| c.is_whitespace() || "/?#&=\"'<>\\,;()[]{}".contains(c);
    let mut found = Vec::new();
    let mut start = 0;
    for piece in text.split_inclusive(is_border) {
        let end = start + piece.len();
        let border = piece.chars().next_back().filter(|c| is_border(*c));
        let word = text
            .get(start..end - border.map_or(0, char::len_utf8))
            .unwrap_or_default();
        if let Some(at) = word.rfind('@') {
            let before = text.get(..start).unwrap_or_default();
            let is_authority = before.ends_with("://") || before == "//";
            let user = word.get(..at).unwrap_or_default();
            if is_authority || user.contains(':') {
                found.push((start, start + at + 1));
            }
        }
        start = end;
    }
    found
}

fn without_users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (start, end) in users(text) {
        out.push_str(text.get(at..start).unwrap_or_default());
        at = end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// An authority without what stands before its `@`.
pub(crate) fn without_userinfo(authority: &str) -> &str {
    let end = authority.find('/').unwrap_or(authority.len());
    match authority[..end].rfind('@') {
        Some(at) => &authority[at + 1..],
        None => authority,
    }
}

/// Schemes of credentials.
const SCHEMES: [&str; 5] = ["bearer", "basic", "negotiate", "digest", "token"];

/// A text without words that look like credentials: what follows the name of a scheme, and JSON web tokens.
fn without_credentials(text: String) -> String {
    let lower = text.to_ascii_lowercase();
    if !text.contains("eyJ") && !SCHEMES.iter().any(|scheme| lower.contains(scheme)) {
        return text;
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    let mut follows = false;
    while let Some(c) = rest.chars().next() {
        if !is_word(c) {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            follows &= c == ' ';
            continue;
        }
        let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(len);
        let token = word.find("eyJ").filter(|at| {
            let token = word.get(*at..).unwrap_or_default();
            token.len() >= 16 && token.contains('.')
        });
        // A parameter of a challenge is none.
        let is_parameter = word.ends_with('=') && after.starts_with('"');
        match token {
            _ if follows && word.len() >= 6 && !is_parameter => out.push_str(REDACTED),
            Some(at) => {
                out.push_str(word.get(..at).unwrap_or_default());
                out.push_str(REDACTED);
            }
            None => out.push_str(word),
        }
        follows = SCHEMES
            .iter()
            .any(|scheme| word.eq_ignore_ascii_case(scheme));
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let names = Redaction::default();
        for (url, shown) in [
            (
                "/a?access_token=1&b=2&c",
                "/a?access_token=[redacted]&b=2&c",
            ),
            ("http://u:p@h/a@b", "http://h/a@b"),
            ("http://u@h/", "http://h/"),
            ("//u@h/", "//h/"),
            ("u:p@h:80", "h:80"),
            ("/a;token=1;b=2/c", "/a;token=[redacted];b=2/c"),
            (
                "/a?access%5Ftoken=1#token=2",
                "/a?access%5Ftoken=[redacted]#token=[redacted]",
            ),
            ("/a?filter%5Btoken%5D=1", "/a?filter%5Btoken%5D=[redacted]"),
            (
                "/a?to=http%3A%2F%2Fu%3Ap%40h%2F&b=1",
                "/a?to=[redacted]&b=1",
            ),
            (
                "/a?to=%2Fb%3Fq%3D1%26token%3D2",
                "/a?to=%2Fb%3Fq%3D1%26token%3D[redacted]",
            ),
            ("/a?to=%252Fb%253Ftoken%253D2&b=1", "/a?to=[redacted]&b=1"),
            ("/a%3Ftoken%3D2", "/a%3Ftoken%3D[redacted]"),
            ("/v1/token:refresh?a=b", "/v1/token:refresh?a=b"),
            ("/a?b=c%20d", "/a?b=c%20d"),
            ("/%zz%", "/%zz%"),
        ] {
            assert_eq!(names.text(url), shown, "{url}");
        }
    }

    #[test]
    fn words() {
        let names = Redaction::default();
        for (words, shown) in [
            (
                "authorization: Bearer abc is bad",
                "authorization: [redacted]",
            ),
            ("got Bearer abcdef, sorry", "got Bearer [redacted], sorry"),
            (r#"Bearer realm="x""#, r#"Bearer realm="x""#),
            (
                r#"{"password": "a\"b", "c": 1}"#,
                r#"{"password": "[redacted]", "c": 1}"#,
            ),
            (
                r#"{\"token\":\"abc\",\"c\":1}"#,
                r#"{\"token\":\"[redacted]\",\"c\":1}"#,
            ),
            ("client_secret=abc&x=y", "client_secret=[redacted]&x=y"),
            ("is eyJhbGciOi.eyJzdWIi.c2ln, no", "is [redacted], no"),
            (
                "dial postgres://u:p@h/db: refused",
                "dial postgres://h/db: refused",
            ),
            ("no secret here", "no secret here"),
            ("a bearer of news", "a bearer of news"),
        ] {
            assert_eq!(names.prose(words), shown, "{words}");
        }
    }
}
