//! Secrets are left out when an exchange is recorded: what is not kept cannot be shown.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use serde_json::Value;

/// Stands in place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// Names of headers, query parameters and attributes whose values are not recorded.
#[derive(Clone, Debug)]
pub struct Redaction {
    names: Vec<String>,
}

impl Default for Redaction {
    /// `authorization`, `proxy-authorization`, `cookie`, `set-cookie`, `x-api-key`, and names that end in `token`, `secret`,
    /// `password` or `api_key`.
    fn default() -> Self {
        Self::new([
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "*token",
            "*secret",
            "*password",
            "*api_key",
        ])
    }
}

impl Redaction {
    /// These names alone, case ignored; `*` at the beginning stands for anything.
    pub fn new<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        let names = names.into_iter().map(|name| name.into().to_lowercase());
        Self {
            names: names.collect(),
        }
    }

    /// One more name.
    #[must_use]
    pub fn and(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into().to_lowercase());
        self
    }

    pub(crate) fn covers(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.names
            .iter()
            .any(|known| match known.strip_prefix('*') {
                Some(end) => name.ends_with(end),
                None => *known == name,
            })
    }

    /// The value of a header, as text.
    pub(crate) fn value(&self, name: &str, value: &[u8]) -> String {
        if self.covers(name) {
            return REDACTED.into();
        }
        let text = String::from_utf8_lossy(value);
        match name {
            ":path" | "referer" | "location" => self.url(&text),
            ":authority" | "host" => without_userinfo(&text).to_owned(),
            _ => text.into_owned(),
        }
    }

    pub(crate) fn headers(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let values = headers.iter();
        values
            .map(|(name, value)| {
                let value = self.value(name.as_str(), value.as_bytes());
                (name.as_str().to_owned(), value)
            })
            .collect()
    }

    /// A URL or a part of one: the values of query parameters and the userinfo are left out.
    pub(crate) fn url(&self, url: &str) -> String {
        let (before, query) = match url.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (url, None),
        };
        let mut out = match before.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", without_userinfo(rest)),
            None => before.to_owned(),
        };
        if let Some(query) = query {
            out.push('?');
            out.push_str(&self.query(query));
        }
        out
    }

    fn query(&self, query: &str) -> String {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if self.covers(name) => format!("{name}={REDACTED}"),
            _ => pair.to_owned(),
        });
        pairs.collect::<Vec<_>>().join("&")
    }

    /// A message as ProtoJSON: header values, whose bytes are base64, and members with such a name.
    pub(crate) fn message(&self, json: &mut Value) {
        match json {
            Value::Object(members) => {
                let key = members.get("key").and_then(Value::as_str);
                if let Some(key) = key.map(str::to_owned) {
                    if let Some(Value::String(raw)) = members.get_mut("raw_value") {
                        let value = STANDARD.decode(&*raw).unwrap_or_default();
                        let shown = self.value(&key, &value);
                        if shown.as_bytes() != String::from_utf8_lossy(&value).as_bytes() {
                            *raw = STANDARD.encode(shown);
                        }
                    }
                    if let Some(Value::String(text)) = members.get_mut("value") {
                        *text = self.value(&key, text.as_bytes());
                    }
                }
                for (name, value) in members {
                    match value {
                        _ if self.covers(name) => *value = REDACTED.into(),
                        Value::String(text) if name == "request.query" => *text = self.query(text),
                        Value::String(text) if text.contains('?') && name != "body" => {
                            *text = self.url(text);
                        }
                        value => self.message(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.message(item)),
            _ => {}
        }
    }
}

/// An authority without what stands before its `@`.
pub(crate) fn without_userinfo(authority: &str) -> &str {
    let end = authority.find('/').unwrap_or(authority.len());
    match authority[..end].rfind('@') {
        Some(at) => &authority[at + 1..],
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_urls() {
        let redaction = Redaction::default().and("x-mine");
        for name in ["Authorization", "x-auth-token", "X-Mine", "access_token"] {
            assert!(redaction.covers(name), "{name}");
        }
        for name in ["x-tokens", "accept", "x-cookie-a"] {
            assert!(!redaction.covers(name), "{name}");
        }
        assert_eq!(
            redaction.url("/a?access_token=1&b=2&c"),
            "/a?access_token=[redacted]&b=2&c"
        );
        assert_eq!(redaction.url("http://u:p@h/a@b"), "http://h/a@b");
    }

    #[test]
    fn messages() {
        let mut json = serde_json::json!({
            "request_headers": {"headers": {"headers": [
                {"key": "cookie", "raw_value": STANDARD.encode("secret")},
                {"key": ":path", "raw_value": STANDARD.encode("/?token=secret")},
                {"key": "x-a", "raw_value": STANDARD.encode("kept")},
                {"key": "authorization", "value": "secret"},
            ]}},
            "metadata": {
                "set-cookie": ["secret"],
                "a": {"key": "k", "password": "secret"},
                "token": {"of": "secret"},
            },
            "attributes": {"envoy.filters.http.ext_proc": {
                "request.query": "token=secret",
                "request.headers": {"authorization": "secret", "x-a": "kept"},
                "request.path": "/?token=secret",
            }},
        });
        Redaction::default().message(&mut json);
        let text = json.to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(!text.contains(&STANDARD.encode("secret")), "{text}");
        assert!(!text.contains(&STANDARD.encode("/?token=secret")), "{text}");
        assert!(text.contains(&STANDARD.encode("kept")), "{text}");
    }
}
