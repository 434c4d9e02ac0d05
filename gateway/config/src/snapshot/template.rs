//! Texts with substitutions such as `%REQ(name):10%`, read when the configuration is.

use std::fmt;

use http::HeaderValue;
use serde_json::Value;

/// A text with substitutions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Stands as it is.
    Text(String),
    /// Is replaced by a value of the exchange.
    Substitution(Substitution),
}

/// `%NAME(argument):limit%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution {
    /// Name of the operator.
    pub name: String,
    /// Text between the parentheses; empty without them.
    pub argument: String,
    /// Largest number of bytes of the value.
    pub limit: Option<usize>,
}

/// Error of a text with a `%` that begins no substitution; shows the beginning of what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSubstitution(String);

impl fmt::Display for NoSubstitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0;
        write!(
            f,
            "%{shown} is no operator such as %REQ(name)%; a percent sign is written as %%"
        )
    }
}

impl std::error::Error for NoSubstitution {}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// A `%` neither begins a substitution nor is doubled.
    pub fn parse(text: &str) -> Result<Self, NoSubstitution> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let (substitution, after) = substitution(after)
                .ok_or_else(|| NoSubstitution(after.chars().take(20).collect()))?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Substitution(substitution));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Returns the pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Returns the substitutions, in order.
    pub fn substitutions(&self) -> impl Iterator<Item = &Substitution> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Substitution(substitution) => Some(substitution),
        })
    }
}

/// Reads `NAME`, `NAME(argument)`, each with `:limit` or not, and the closing `%`; returns it with what follows.
fn substitution(text: &str) -> Option<(Substitution, &str)> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let rest = text.trim_start_matches(is_name);
    let name = text.strip_suffix(rest).filter(|name| !name.is_empty())?;
    let (argument, rest) = match rest.strip_prefix('(') {
        // An argument may hold parentheses and percent signs, as in `START_TIME(%H:%M)`.
        Some(rest) => {
            let mut ends = rest.match_indices(')');
            let (at, _) = ends.find(|(at, _)| {
                let after = rest.get(at + 1..).unwrap_or_default();
                after.starts_with('%') || after.starts_with(':')
            })?;
            (rest.get(..at)?, rest.get(at + 1..)?)
        }
        None => ("", rest),
    };
    let (limit, rest) = match rest.strip_prefix(':') {
        Some(rest) => {
            let (limit, rest) = rest.split_once('%')?;
            (Some(limit.parse().ok()?), rest)
        }
        None => (None, rest.strip_prefix('%')?),
    };
    let substitution = Substitution {
        name: name.to_owned(),
        argument: argument.to_owned(),
        limit,
    };
    Some((substitution, rest))
}

/// A header value that may hold substitutions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderTemplate {
    /// The same for every message.
    Plain(HeaderValue),
    /// Made for each message.
    Template(Template),
}

/// A JSON value whose strings hold substitutions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonTemplate {
    /// A string.
    Text(Template),
    /// An object, in the order of its fields.
    Object(Vec<(String, Self)>),
    /// An array.
    List(Vec<Self>),
    /// A value without strings.
    Value(Value),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces() {
        let parsed = Template::parse("a %REQ(x-a?Y):3% 100%% %START_TIME(%Y-%m)%").unwrap();
        let substitution = |name: &str, argument: &str, limit| {
            Piece::Substitution(Substitution {
                name: name.into(),
                argument: argument.into(),
                limit,
            })
        };
        assert_eq!(
            parsed.pieces(),
            [
                Piece::Text("a ".into()),
                substitution("REQ", "x-a?Y", Some(3)),
                Piece::Text(" 100% ".into()),
                substitution("START_TIME", "%Y-%m", None),
            ]
        );
    }

    #[test]
    fn forms() {
        for good in [
            "",
            "plain",
            "100%%",
            "%PROTOCOL%",
            "%REQ(x)% %REQ(x?y):10%",
            "%START_TIME(%H:%M:%S%.3f)% next",
            "%DYNAMIC_METADATA(my.ns:k)%",
            "%RESPONSE_CODE%%RESPONSE_FLAGS%",
        ] {
            assert!(Template::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "50%",
            "%",
            "%req%",
            "%REQ(x%",
            "%REQ(x):%",
            "%NAME",
            "a %b% c",
            "%()%",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad:?}");
        }
    }
}
