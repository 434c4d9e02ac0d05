//! Texts with `%OPERATOR%` substitutions.

use http::HeaderValue;
use serde_json::Value;

use crate::snapshot::{HeaderTemplate, JsonTemplate, Template};

/// Reads a text.
pub(super) fn text(text: &str) -> Result<Template, String> {
    Template::parse(text).map_err(|error| error.to_string())
}

/// Reads every string within `value`.
pub(super) fn json(value: &Value) -> Result<JsonTemplate, String> {
    Ok(match value {
        Value::String(string) => JsonTemplate::Text(text(string)?),
        Value::Array(items) => {
            JsonTemplate::List(items.iter().map(json).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => JsonTemplate::Object(
            map.iter()
                .map(|(name, value)| Ok((name.clone(), json(value)?)))
                .collect::<Result<_, String>>()?,
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => JsonTemplate::Value(value.clone()),
    })
}

/// Reads the value of a header.
pub(super) fn header(value: &str) -> Result<HeaderTemplate, String> {
    let plain = HeaderValue::from_str(value)
        .map_err(|_| format!("{value:?} is not a value of a header"))?;
    Ok(match value.contains('%') {
        true => HeaderTemplate::Template(text(value)?),
        false => HeaderTemplate::Plain(plain),
    })
}
