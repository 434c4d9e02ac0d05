//! Secrets are left out when an exchange is recorded: what is not kept cannot be shown.

mod secrets;
mod text;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::http::HeaderMap;
use serde_json::Value;

use self::secrets::parts;
pub(crate) use self::{secrets::Secrets, text::without_userinfo};
use crate::record::Field;

/// Stands in place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// Names of headers, query parameters and attributes whose values are not recorded.
#[derive(Clone, Debug)]
pub struct Redaction {
    names: Vec<String>,
}

impl Default for Redaction {
    /// `authorization`, `proxy-authorization`, `authentication-info`, `cookie`, `set-cookie`, `jwt`, `sid`, `sig`, and names
    /// that end in `token`, `secret`, `password`, `passwd`, `passphrase`, `api_key`, `access_key`, `private_key`, `signature`,
    /// `credential`, `credentials`, `assertion`, `session_id` or `auth_key`.
    fn default() -> Self {
        Self::new([
            "authorization",
            "proxy-authorization",
            "authentication-info",
            "cookie",
            "set-cookie",
            "jwt",
            "sid",
            "sig",
            "*token",
            "*secret",
            "*password",
            "*passwd",
            "*passphrase",
            "*api_key",
            "*access_key",
            "*private_key",
            "*signature",
            "*credential",
            "*credentials",
            "*assertion",
            "*session_id",
            "*auth_key",
        ])
    }
}

impl Redaction {
    /// These names alone, case, `-` and `_` ignored; `*` at the beginning stands for anything.
    pub fn new<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        let names = names.into_iter().map(|name| plain(&name.into()));
        Self {
            names: names.collect(),
        }
    }

    /// One more name.
    #[must_use]
    pub fn and(mut self, name: impl Into<String>) -> Self {
        self.names.push(plain(&name.into()));
        self
    }

    /// Tells whether the value of this name is left out. Of a path such as `request.headers['cookie']`, each part is a name.
    pub(crate) fn covers(&self, name: &str) -> bool {
        let is_border = |c: char| !c.is_alphanumeric() && !"-_".contains(c);
        let part = |part: &str| {
            let part = plain(part);
            let mut known = self.names.iter();
            !part.is_empty()
                && known.any(|known| match known.strip_prefix('*') {
                    Some(end) => part.ends_with(end),
                    None => *known == part,
                })
        };
        part(name) || name.split(is_border).any(part)
    }
}

/// A name without what different spellings of it differ in.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(|c| !matches!(c, '-' | '_'));
    kept.map(|c| c.to_ascii_lowercase()).collect()
}

/// Takes secrets out of what is recorded of one exchange. What stood under the name of a secret is known from then on, and is
/// taken out wherever it comes again: a message of gRPC may repeat it, or a header of another name.
pub(crate) struct Redactor<'a> {
    pub(crate) names: &'a Redaction,
    pub(crate) secrets: &'a mut Secrets,
}

impl Redactor<'_> {
    /// The value of a header, as text.
    pub(crate) fn value(&mut self, name: &str, value: &[u8]) -> String {
        self.learn_value(name, value);
        self.shown(name, &String::from_utf8_lossy(value))
    }

    pub(crate) fn headers(&mut self, headers: &HeaderMap) -> Vec<Field> {
        self.learn_headers(headers);
        let values = headers.iter();
        values
            .map(|(name, value)| {
                let text = String::from_utf8_lossy(value.as_bytes());
                let shown = self.shown(name.as_str(), &text);
                // Of a value in which something was left out, the bytes are as well.
                let is_whole = matches!(text, Cow::Owned(_)) && shown == text;
                Field {
                    raw: is_whole.then(|| value.as_bytes().into()),
                    ..Field::text(name.as_str(), shown)
                }
            })
            .collect()
    }

    /// Learns the secrets of a block of headers, before anything beside them is written down.
    pub(crate) fn learn_headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            self.learn_value(name.as_str(), value.as_bytes());
        }
    }

    /// A URL or a part of one.
    pub(crate) fn url(&mut self, url: &str) -> String {
        self.names.learn_text(url, self.secrets);
        self.secrets.hide(self.names.text(url))
    }

    /// Words of a peer, such as a message of gRPC.
    pub(crate) fn words(&mut self, words: &str) -> String {
        self.names.learn_text(words, self.secrets);
        self.secrets.hide(self.names.prose(words))
    }

    /// Words of the gateway, in which a secret may stand that is known.
    pub(crate) fn known(&self, words: String) -> String {
        self.secrets.hide(words)
    }

    /// Bytes of a body. One that is no text is left as it is, unless a secret stands in it as it is known.
    pub(crate) fn body(&mut self, body: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(body) {
            Ok(text) => self.words(text).into_bytes(),
            // The last character is not there as a whole.
            Err(error) if error.error_len().is_none() => {
                let (text, rest) = body.split_at(error.valid_up_to());
                let mut shown = self.body(text);
                shown.extend_from_slice(rest);
                shown
            }
            Err(_) => {
                let text = String::from_utf8_lossy(body);
                let hidden = self.secrets.hide(text.clone().into_owned());
                match hidden == text {
                    true => body.to_vec(),
                    false => hidden.into_bytes(),
                }
            }
        }
    }

    /// A message as ProtoJSON.
    pub(crate) fn message(&mut self, json: &mut Value) {
        self.learn_message(json);
        self.hide_message(json);
    }

    fn learn_value(&mut self, name: &str, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        match self.names.covers(name) {
            true => parts(&text).for_each(|part| self.secrets.learn(&part)),
            false => self.names.learn_text(&text, self.secrets),
        }
    }

    fn shown(&self, name: &str, text: &str) -> String {
        if self.names.covers(name) {
            return REDACTED.into();
        }
        let text = match name {
            // These have no name of their own before them.
            "host" | ":authority" | "request.host" | "x-forwarded-host" => without_userinfo(text),
            _ => text,
        };
        let is_url = text.starts_with('/') || text.contains("://");
        let shown = match is_url {
            true => self.names.text(text),
            false => self.names.prose(text),
        };
        self.secrets.hide(shown)
    }

    fn learn_message(&mut self, json: &Value) {
        match json {
            Value::Object(members) => {
                if let Some(key) = named(json) {
                    for member in ["raw_value", "value"] {
                        let text = members.get(member).and_then(Value::as_str);
                        if let Some(text) = text {
                            let bytes = match member {
                                "raw_value" => STANDARD.decode(text).unwrap_or_default(),
                                _ => text.as_bytes().to_vec(),
                            };
                            self.learn_value(key, &bytes);
                        }
                    }
                }
                for (name, value) in members {
                    match value {
                        value if self.names.covers(name) => self.learn_all(value),
                        Value::String(text) if is_bytes(name, members.contains_key("@type")) => {
                            let bytes = STANDARD.decode(text).unwrap_or_default();
                            self.learn_value("", &bytes);
                        }
                        Value::String(text) => self.learn_value("", text.as_bytes()),
                        value => self.learn_message(value),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn_message(item)),
            Value::String(text) => self.learn_value("", text.as_bytes()),
            _ => {}
        }
    }

    /// All texts of this value are secrets.
    fn learn_all(&mut self, value: &Value) {
        match value {
            Value::String(text) => parts(text).for_each(|part| self.secrets.learn(&part)),
            Value::Array(items) => items.iter().for_each(|item| self.learn_all(item)),
            Value::Object(members) => members.values().for_each(|member| self.learn_all(member)),
            _ => {}
        }
    }

    fn hide_message(&mut self, json: &mut Value) {
        let key = named(json).map(str::to_owned).unwrap_or_default();
        match json {
            Value::Object(members) => {
                let is_typed = members.contains_key("@type");
                for (name, value) in members.iter_mut() {
                    let is_bytes = is_bytes(name, is_typed);
                    let of_key = matches!(name.as_str(), "raw_value" | "value") && !key.is_empty();
                    let called = if of_key { key.as_str() } else { name.as_str() };
                    match value {
                        Value::String(text) if is_bytes => {
                            let bytes = STANDARD.decode(&*text).unwrap_or_default();
                            let shown = match of_key {
                                true => self
                                    .shown(called, &String::from_utf8_lossy(&bytes))
                                    .into_bytes(),
                                false => self.body(&bytes),
                            };
                            // Bytes that are no text stay as they are.
                            if shown != String::from_utf8_lossy(&bytes).as_bytes() {
                                *text = STANDARD.encode(shown);
                            }
                        }
                        value if self.names.covers(called) => *value = REDACTED.into(),
                        Value::String(text) => *text = self.shown(called, text),
                        value => self.hide_message(value),
                    }
                }
                self.hide_names(members);
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_message(item)),
            Value::String(text) => *text = self.shown("", text),
            _ => {}
        }
    }

    /// A name may hold a secret as well: a key of metadata that a client has chosen.
    fn hide_names(&self, members: &mut serde_json::Map<String, Value>) {
        let hidden = |name: &String| self.secrets.hide(name.clone());
        if members.keys().any(|name| hidden(name) != *name) {
            *members = std::mem::take(members)
                .into_iter()
                .map(|(name, value)| (hidden(&name), value))
                .collect();
        }
    }
}

/// The name that stands beside a value in an object.
fn named(json: &Value) -> Option<&str> {
    let name = json.get("key").or_else(|| json.get("name"));
    name.and_then(Value::as_str)
}

/// Tells whether a member of this name is base64, in a message that says its type or in another.
fn is_bytes(name: &str, is_typed: bool) -> bool {
    match name {
        "raw_value" | "body" => true,
        // A message of a type that is not known.
        "value" => is_typed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Redaction {
        Redaction::default().and("x-mine")
    }

    #[test]
    fn names_in_their_spellings() {
        let redaction = names();
        for name in [
            "Authorization",
            "x-auth-token",
            "X-Mine",
            "access_token",
            "accessToken",
            "x-api-key",
            "apiKey",
            "request.headers['cookie']",
            "request.headers[\"x-mine\"]",
            "metadata.filter.password",
        ] {
            assert!(redaction.covers(name), "{name}");
        }
        for name in [
            "x-tokens",
            "accept",
            "x-cookie-a",
            "",
            "key",
            "request.headers",
        ] {
            assert!(!redaction.covers(name), "{name}");
        }
    }

    #[test]
    fn messages() {
        let secret = "s3cret-value";
        let mut json = serde_json::json!({
            "request_headers": {"headers": {"headers": [
                {"key": "cookie", "raw_value": STANDARD.encode("sid=s3cret-value; a=b")},
                {"key": ":path", "raw_value": STANDARD.encode("/?token=s3cret-value")},
                {"key": "x-original-url", "raw_value": STANDARD.encode("https://u:s3cret-value@h/")},
                {"key": "x-copy", "raw_value": STANDARD.encode("it was s3cret-value")},
                {"key": "x-a", "raw_value": STANDARD.encode("kept")},
                {"key": "authorization", "value": "s3cret-value"},
            ]}},
            "metadata": {
                "set-cookie": ["s3cret-value"],
                "a": {"key": "k", "password": "s3cret-value"},
                "token": {"of": "s3cret-value"},
                "list": ["plain", "s3cret-value"],
                "s3cret-value": 1,
            },
            "unknown": {"@type": "a.b", "value": STANDARD.encode("..s3cret-value..")},
            "attributes": {"envoy.filters.http.ext_proc": {
                "request.query": "token=s3cret-value",
                "request.headers": {"authorization": "s3cret-value", "x-a": "kept"},
                "request.headers['authorization']": "s3cret-value",
                "request.path": "/?token=s3cret-value",
            }},
            "immediate_response": {"body": STANDARD.encode("no s3cret-value"), "details": "s3cret-value"},
        });
        let mut secrets = Secrets::default();
        let names = names();
        Redactor {
            names: &names,
            secrets: &mut secrets,
        }
        .message(&mut json);
        let text = json.to_string();
        assert!(!text.contains(secret), "{text}");
        assert!(text.contains(&STANDARD.encode("kept")), "{text}");
        let mut decoded = 0;
        let strings = text.split('"').filter(|part| part.len() > 7);
        for bytes in strings.filter_map(|part| STANDARD.decode(part).ok()) {
            decoded += 1;
            assert!(!String::from_utf8_lossy(&bytes).contains(secret), "{text}");
        }
        assert!(decoded > 5);
    }
}
