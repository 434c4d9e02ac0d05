//! Texts with `%OPERATOR%` substitutions, which have to be operators that Envoy knows.

use http::HeaderValue;
use serde_json::Value;

use crate::snapshot::{HeaderTemplate, JsonTemplate, Template};

/// The operators of Envoy 1.40, one a line. Not all have a value here.
const OPERATORS: &str = include_str!("operators.txt");

/// Operators that this gateway has beside them.
const OWN_OPERATORS: &[&str] = &["EXT_PROC", "REQ_WITHOUT_QUERY", "VIRTUAL_HOST_NAME"];

/// Reads a text.
pub(super) fn text(text: &str) -> Result<Template, String> {
    let template = Template::parse(text).map_err(|error| error.to_string())?;
    let unknown = template.substitutions().find(|substitution| {
        let name = substitution.name.as_str();
        !OWN_OPERATORS.contains(&name) && !OPERATORS.lines().any(|known| known == name)
    });
    match unknown {
        Some(substitution) => Err(format!("%{}% is an unknown operator", substitution.name)),
        None => Ok(template),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_known() {
        assert!(text("%REQ(x)% %EXT_PROC%").is_ok());
        for bad in ["%NOPE%", "%REQUEST(x)%", "%req%"] {
            assert!(text(bad).is_err(), "{bad:?}");
        }
    }
}
