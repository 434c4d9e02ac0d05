//! Texts with `%OPERATOR%` substitutions: only their form is checked here.

use serde_json::Value;

/// The operators of Envoy 1.40, one a line. Not all have a value here.
const OPERATORS: &str = include_str!("operators.txt");

/// Operators that this gateway has beside them.
const OWN_OPERATORS: &[&str] = &["EXT_PROC", "VIRTUAL_HOST_NAME"];

/// Checks that every `%` begins an operator, such as `%REQ(name?other):10%`, or is doubled, and that
/// Envoy knows the operator too.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.strip_prefix('%') {
            Some(after) => after,
            None => {
                let (name, rest) = operator(after).ok_or_else(|| {
                    let shown: String = after.chars().take(20).collect();
                    format!(
                        "%{shown} is no operator such as %REQ(name)%; a percent sign is written as %%"
                    )
                })?;
                if !OWN_OPERATORS.contains(&name) && !OPERATORS.lines().any(|known| known == name) {
                    return Err(format!("%{name}% is an unknown operator"));
                }
                rest
            }
        };
    }
    Ok(())
}

/// As [`check`], for every string within `value`.
pub(super) fn check_json(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) => check(text),
        Value::Array(items) => items.iter().try_for_each(check_json),
        Value::Object(map) => map.values().try_for_each(check_json),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// `NAME`, `NAME(argument)`, each with `:length` or not, and the closing `%`. Gives the name and what
/// follows.
fn operator(text: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let mut rest = text.trim_start_matches(is_name);
    let name = text.get(..text.len() - rest.len())?;
    if name.is_empty() {
        return None;
    }
    if let Some(argument) = rest.strip_prefix('(') {
        // An argument may hold parentheses and percent signs, as in `START_TIME(%H:%M)`.
        let end = argument.match_indices(')').find(|(at, _)| {
            let after = argument.get(at + 1..).unwrap_or_default();
            after.starts_with('%') || after.starts_with(':')
        });
        let (at, _) = end?;
        rest = argument.get(at + 1..)?;
    }
    if let Some(length) = rest.strip_prefix(':') {
        rest = length.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() == length.len() {
            return None;
        }
    }
    rest.strip_prefix('%').map(|rest| (name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(check(good), Ok(()), "{good:?}");
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
            "%REQUEST(x)%",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
