//! The instructions: a JSON object in a header, and what it may say.
//!
//! Parsing is strict, since the reader is somebody trying things out: an unknown key, a name that is no header name, or
//! a value that no header can carry is an error that says what is wrong, and where, and shows a correct example.

use std::{fmt, marker::PhantomData};

use extproc_sdk::{
    Immediate,
    validate::{self, Target},
};
use http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A correct example, shown with every error.
pub const EXAMPLE: &str = r#"{"addHeaders":{"header1":"value1","header2":"value2"},"removeHeaders":["header3","header4"]}"#;

/// Changes to a request or a response that a client asks the sample processor for.
///
/// | key | value | effect |
/// | --- | --- | --- |
/// | `addHeaders` | object of strings | sets these headers; present values are replaced |
/// | `removeHeaders` | list of strings | removes these headers, before any is set |
/// | `setBody` | string | replaces the body, or gives one to a message without |
/// | `setTrailers` | object of strings | sets these trailers, if the message has trailers and the proxy sends them |
/// | `respond` | object with `status`, `headers`, `body` | answers at once; alone in its object |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// Headers to set.
    pub add_headers: Vec<(String, String)>,
    /// Headers to remove.
    pub remove_headers: Vec<String>,
    /// The new body.
    pub set_body: Option<String>,
    /// Trailers to set.
    pub set_trailers: Vec<(String, String)>,
    /// The response to give at once.
    pub respond: Option<Respond>,
}

/// An immediate response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 599.
    pub status: StatusCode,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Instruction {
    /// Reads the value of an `instructions` header.
    ///
    /// `target` is the message that the header came with; it decides which pseudo-headers may be set.
    ///
    /// # Errors
    /// The value is not a JSON object of the keys above, or it asks for something that HTTP does not allow.
    pub fn parse(value: &[u8], target: Target) -> Result<Self, InvalidInstruction> {
        let invalid = |at, reason: String| InvalidInstruction {
            source: String::from_utf8_lossy(value).into_owned(),
            reason,
            at,
        };
        if value.trim_ascii().is_empty() {
            return Err(invalid(None, "the header is empty".to_owned()));
        }
        if let Err(error) = std::str::from_utf8(value) {
            let at = Some((1, error.valid_up_to() + 1));
            return Err(invalid(at, "the value is not UTF-8".to_owned()));
        }
        let Object(parsed): Object<Grammar> = serde_json::from_slice(value).map_err(|error| {
            let at = Some((error.line(), error.column().max(1)));
            invalid(at, reason(&error))
        })?;
        parsed.check(target).map_err(|reason| invalid(None, reason))
    }

    /// Adds what another header says: its headers and trailers after these, its body and its response instead of these.
    pub fn merge(&mut self, other: Self) {
        self.add_headers.extend(other.add_headers);
        self.remove_headers.extend(other.remove_headers);
        self.set_trailers.extend(other.set_trailers);
        self.set_body = other.set_body.or_else(|| self.set_body.take());
        self.respond = other.respond.or_else(|| self.respond.take());
    }
}

impl From<Respond> for Immediate {
    fn from(respond: Respond) -> Self {
        let reply = Self::new(respond.status)
            .details("responded_as_instructed")
            .body(respond.body);
        respond
            .headers
            .iter()
            .fold(reply, |reply, (name, value)| reply.append(name, value))
    }
}

/// Instructions that cannot be followed. Its text is for the person who wrote them: it quotes the place, and ends with
/// a correct example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInstruction {
    source: String,
    reason: String,
    at: Option<(usize, usize)>,
}

impl InvalidInstruction {
    /// Describes the fault, without its place.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The place, line and column, both from 1; the column counts bytes. None if it is not about one place.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.at
    }
}

impl fmt::Display for InvalidInstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed instructions")?;
        if let Some((line, column)) = self.at {
            write!(f, " at line {line} column {column}")?;
        }
        writeln!(f, ": {}", self.reason)?;
        if let Some((line, column)) = self.at
            && let Some((excerpt, caret)) = self.excerpt(line, column)
        {
            writeln!(f, "\n  {excerpt}\n  {:caret$}^", "")?;
        }
        write!(f, "\ncorrect example:\n\n  {EXAMPLE}\n")
    }
}

impl std::error::Error for InvalidInstruction {}

impl InvalidInstruction {
    /// The part of the line around the column, and how far in it stands.
    fn excerpt(&self, line: usize, column: usize) -> Option<(String, usize)> {
        const BEFORE: usize = 72;
        const AFTER: usize = 20;
        let line = self.source.lines().nth(line.checked_sub(1)?)?;
        let place = line
            .char_indices()
            .take_while(|(offset, _)| *offset < column.saturating_sub(1))
            .count();
        let start = place.saturating_sub(BEFORE);
        let excerpt = line
            .chars()
            .skip(start)
            .take(place - start + AFTER)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Some((excerpt, place - start))
    }
}

/// Returns serde_json's message without the place that it appends.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    match text {
        "key must be a string" => {
            "a key in double quotes is expected here; all keys belong into one pair of braces"
                .to_owned()
        }
        "trailing comma" => "there must be no comma before the closing bracket".to_owned(),
        "trailing characters" => "the object has ended, nothing may follow it".to_owned(),
        _ => text.to_owned(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Grammar {
    #[serde(default)]
    add_headers: Pairs,
    #[serde(default)]
    remove_headers: Vec<Removed>,
    set_body: Option<String>,
    #[serde(default)]
    set_trailers: Pairs,
    respond: Option<Object<RespondGrammar>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RespondGrammar {
    status: Status,
    #[serde(default)]
    headers: Pairs,
    #[serde(default)]
    body: String,
}

/// A `T` written as an object. What serde derives would take a list of its fields as well.
struct Object<T>(T);

trait Keys {
    const EXPECTED: &'static str;
}

impl Keys for Grammar {
    const EXPECTED: &'static str =
        "a JSON object with the keys addHeaders, removeHeaders, setBody, setTrailers or respond";
}

impl Keys for RespondGrammar {
    const EXPECTED: &'static str = "an object with the keys status, headers and body";
}

impl<'de, T: Deserialize<'de> + Keys> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Keys> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

impl Grammar {
    fn check(self, target: Target) -> Result<Instruction, String> {
        let alone = self.add_headers.0.is_empty()
            && self.remove_headers.is_empty()
            && self.set_body.is_none()
            && self.set_trailers.0.is_empty();
        if self.respond.is_some() && !alone {
            return Err(
                "\"respond\" ends the exchange and cannot be combined with other keys".to_owned(),
            );
        }
        let respond = match self.respond {
            None => None,
            Some(Object(respond)) => Some(Respond {
                status: respond.status.0,
                headers: respond.headers.check("headers", Target::Immediate)?,
                body: respond.body,
            }),
        };
        Ok(Instruction {
            add_headers: self.add_headers.check("addHeaders", target)?,
            remove_headers: self.remove_headers.into_iter().map(|name| name.0).collect(),
            set_body: self.set_body,
            set_trailers: self.set_trailers.check("setTrailers", Target::Trailers)?,
            respond,
        })
    }
}

/// An object of strings in its order; names and values are legal HTTP.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn check(self, key: &str, target: Target) -> Result<Vec<(String, String)>, String> {
        for (name, value) in &self.0 {
            validate::set_name(name, target)
                .and_then(|()| validate::set_value(name, value.as_bytes()))
                .map_err(|error| format!("in {key:?}: {error}"))?;
        }
        Ok(self.0)
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings, like {\"header1\":\"value1\"}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    // Pseudo-headers are checked later, when it is known where they go.
                    if !name.starts_with(':') {
                        validate::set_name(&name, Target::Request).map_err(A::Error::custom)?;
                    }
                    if pairs
                        .iter()
                        .any(|(seen, _)| seen.eq_ignore_ascii_case(&name))
                    {
                        return Err(A::Error::custom(format!("{name:?} is given twice")));
                    }
                    let value: String = map.next_value()?;
                    validate::set_value(&name, value.as_bytes()).map_err(A::Error::custom)?;
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

/// The name of a header that can be removed.
struct Removed(String);

impl<'de> Deserialize<'de> for Removed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        validate::remove_name(&name).map_err(D::Error::custom)?;
        Ok(Self(name))
    }
}

struct Status(StatusCode);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u16::deserialize(deserializer)?;
        match StatusCode::from_u16(number) {
            Ok(status) if (200..=599).contains(&number) => Ok(Self(status)),
            _ => Err(D::Error::custom(format!(
                "status {number} is not between 200 and 599"
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
