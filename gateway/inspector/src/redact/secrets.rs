//! Values that are known to be secrets, while the exchange lasts.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::REDACTED;

/// Most values of one exchange.
const MOST: usize = 64;
/// Most bytes of them.
const MOST_BYTES: usize = 64 * 1024;
/// Shorter ones are not looked for: they stand in other words by chance.
const SHORTEST: usize = 6;

/// Values that are known to be secrets, the longest first. They are forgotten when the exchange is over.
#[derive(Default)]
pub(crate) struct Secrets {
    values: Vec<Box<str>>,
    bytes: usize,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.values.len())
    }
}

impl Secrets {
    /// Bytes that they take.
    pub(crate) fn size(&self) -> usize {
        self.bytes + self.values.capacity() * size_of::<Box<str>>()
    }

    pub(super) fn learn(&mut self, value: &str) {
        let is_room = self.values.len() < MOST && self.bytes + value.len() <= MOST_BYTES;
        if value.len() < SHORTEST || !is_room || value == REDACTED {
            return;
        }
        let place = self
            .values
            .partition_point(|known| known.len() > value.len());
        if !self.values.iter().any(|known| **known == *value) {
            self.bytes += value.len();
            self.values.insert(place, value.into());
        }
    }

    /// A text without them.
    pub(super) fn hide(&self, mut text: String) -> String {
        for value in &self.values {
            if text.contains(&**value) {
                text = text.replace(&**value, REDACTED);
            }
        }
        text
    }
}

/// Parts of a value that are secrets: the whole of it, what follows the scheme of credentials, the values of cookies, the
/// password of basic credentials.
pub(super) fn parts(value: &str) -> impl Iterator<Item = String> {
    let value = value.trim();
    let mut parts = vec![value.to_owned()];
    if let Some((scheme, rest)) = value.split_once(' ') {
        parts.push(rest.trim().to_owned());
        if scheme.eq_ignore_ascii_case("basic")
            && let Some(pair) = STANDARD
                .decode(rest.trim())
                .ok()
                .and_then(|pair| String::from_utf8(pair).ok())
            && let Some((_, password)) = pair.split_once(':')
        {
            parts.push(password.to_owned());
        }
    }
    for pair in value.split([';', ',']).take(MOST) {
        // Attributes of a cookie are no secrets.
        if let Some((name, value)) = pair.trim().split_once('=')
            && !is_attribute(name)
        {
            parts.push(value.trim_matches('"').to_owned());
        }
    }
    let decoded = parts.iter().filter(|part| part.contains('%'));
    let decoded: Vec<String> = decoded.map(|part| super::text::decoded(part)).collect();
    parts.into_iter().chain(decoded)
}

fn is_attribute(name: &str) -> bool {
    let known = [
        "path", "domain", "expires", "max-age", "samesite", "priority", "realm",
    ];
    known.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_credentials_and_cookies() {
        let all = |value| parts(value).collect::<Vec<_>>();
        assert_eq!(all("Bearer abcdef"), ["Bearer abcdef", "abcdef"]);
        assert!(all("Basic dXNlcjpoaWRkZW4=").contains(&"hidden".to_owned()));
        let cookie = all("sid=hidden1; Path=/somewhere; theme=hidden2");
        assert!(cookie.contains(&"hidden1".to_owned()) && cookie.contains(&"hidden2".to_owned()));
        assert!(!cookie.contains(&"/somewhere".to_owned()));
    }

    #[test]
    fn bounded() {
        let mut secrets = Secrets::default();
        for n in 0..1000 {
            secrets.learn(&format!("secret-{n}-{}", "x".repeat(n)));
        }
        assert!(secrets.values.len() <= MOST);
        assert!(secrets.size() <= MOST_BYTES + 2 * MOST * size_of::<Box<str>>());
        secrets.learn(&"y".repeat(MOST_BYTES));
        assert!(secrets.bytes <= MOST_BYTES);
        assert_eq!(secrets.hide("a secret-0- b".into()), "a [redacted] b");
    }
}
