//! Texts with substitutions such as `%REQ(name):10%`, read when the configuration is.

use std::{fmt, sync::Arc};

use extproc_client::attributes::Expression;
use http::HeaderValue;
use serde_json::Value;

use super::FormatOperator;

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
#[derive(Clone, Debug)]
pub struct Substitution {
    /// Value that is shown.
    pub operator: FormatOperator,
    /// Text between the parentheses; empty without them.
    pub argument: String,
    /// Largest number of bytes of the value.
    pub limit: Option<usize>,
    /// The argument of `%CEL(..)%`.
    pub expression: Option<Arc<Expression>>,
}

impl PartialEq for Substitution {
    /// The expression is that of the argument.
    fn eq(&self, other: &Self) -> bool {
        (self.operator, &self.argument, self.limit)
            == (other.operator, &other.argument, other.limit)
    }
}

impl Eq for Substitution {}

impl Substitution {
    fn new(name: &str, argument: &str, limit: Option<usize>) -> Result<Self, TemplateError> {
        let operator =
            FormatOperator::read(name, argument, limit.is_some()).map_err(TemplateError)?;
        let expression = match operator {
            FormatOperator::Cel | FormatOperator::TypedCel => {
                let compiled = Expression::compile(argument);
                let compiled =
                    compiled.map_err(|error| TemplateError(format!("%{name}%: {error}")))?;
                Some(Arc::new(compiled))
            }
            _ => None,
        };
        Ok(Self {
            operator,
            argument: argument.to_owned(),
            limit,
            expression,
        })
    }
}

/// Error of a text with a `%` that begins no substitution, or with a substitution that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError(String);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// A `%` neither begins a substitution nor is doubled, or the operator is unknown or has another form.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
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
            let (name, argument, limit, after) = split(after).ok_or_else(|| {
                let shown: String = after.chars().take(20).collect();
                TemplateError(format!(
                    "%{shown} is no operator such as %REQ(name)%; a percent sign is written as %%"
                ))
            })?;
            let substitution = Substitution::new(name, argument, limit)?;
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

    /// Makes a text without substitutions, in which `%` stands for itself.
    pub fn literal(text: &str) -> Self {
        match text {
            "" => Self::default(),
            text => Self(vec![Piece::Text(text.to_owned())]),
        }
    }

    /// Makes a substitution alone, of an operator that shows what its argument names.
    pub fn substituted(operator: FormatOperator, argument: String) -> Self {
        Self(vec![Piece::Substitution(Substitution {
            operator,
            argument,
            limit: None,
            expression: None,
        })])
    }

    /// Tells whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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

/// Reads `NAME`, `NAME(argument)`, each with `:limit` or not, and the closing `%`; returns the parts and what follows.
fn split(text: &str) -> Option<(&str, &str, Option<usize>, &str)> {
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
    Some((name, argument, limit, rest))
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

impl JsonTemplate {
    /// Adds all texts within to `all`.
    pub(super) fn templates<'a>(&'a self, all: &mut Vec<&'a Template>) {
        match self {
            Self::Text(template) => all.push(template),
            Self::Object(fields) => fields.iter().for_each(|(_, value)| value.templates(all)),
            Self::List(items) => items.iter().for_each(|item| item.templates(all)),
            Self::Value(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces() {
        let parsed = Template::parse("a %REQ(x-a?Y):3% 100%% %START_TIME(%Y-%m)%").unwrap();
        let substitution = |operator, argument: &str, limit| {
            Piece::Substitution(Substitution {
                operator,
                argument: argument.into(),
                limit,
                expression: None,
            })
        };
        assert_eq!(
            parsed.pieces(),
            [
                Piece::Text("a ".into()),
                substitution(FormatOperator::RequestHeader, "x-a?Y", Some(3)),
                Piece::Text(" 100% ".into()),
                substitution(FormatOperator::StartTime, "%Y-%m", None),
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
            "%PATH%%PATH(NQ:ORIG):5%",
            "%COMMON_DURATION(DS_RX_BEG:DS_TX_END)%",
            "%FILTER_STATE(f)%%FILTER_STATE(f:FIELD:bytes_sent):3%",
            "%CEL(request.path)%",
            "%EXT_PROC%",
            "%DOWNSTREAM_PEER_CERT%",
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
            "%NOPE%",
            "%REQ%",
            "%REQ()%",
            "%PROTOCOL(x)%",
            "%PROTOCOL:3%",
            "%PATH(X)%",
            "%COMMON_DURATION(DS_RX_BEG)%",
            "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:s)%",
            "%FILTER_STATE(f:ANY)%",
            "%FILTER_STATE(f:FIELD)%",
            "%CEL(1 +)%",
            "%GRPC_STATUS(x)%",
            "%METADATA(x)%",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad:?}");
        }
    }
}
