//! JSON values as YAML text in block style, for manifests that people read.

use serde_json::Value;

/// Appends one document.
pub(super) fn write(value: &Value, text: &mut String) {
    block(value, 0, text);
}

fn block(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                indent(depth, text);
                text.push_str(&key(name));
                text.push(':');
                below(value, depth, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, text);
                text.push('-');
                let mut inner = String::new();
                below(item, depth, &mut inner);
                // The first field of an entry stands on the line of its dash.
                let inner = match inner.strip_prefix('\n') {
                    Some(lines) => format!(" {}", lines.trim_start_matches(' ')),
                    None => inner,
                };
                text.push_str(&inner);
            }
        }
        _ => {}
    }
}

fn below(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            block(value, depth + 1, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(value, depth + 1, text);
        }
        scalar => {
            text.push(' ');
            text.push_str(&plain(scalar));
            text.push('\n');
        }
    }
}

fn indent(depth: usize, text: &mut String) {
    for _ in 0..depth {
        text.push_str("  ");
    }
}

fn key(name: &str) -> String {
    if word(name) {
        name.into()
    } else {
        Value::from(name).to_string()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if word(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns whether text can stand as it is; all other text stands in JSON's quotes, which YAML shares.
fn word(text: &str) -> bool {
    const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !RESERVED.contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn block_style() {
        let value = json!({
            "a": {"b": [1, {"c": "x y", "d": []}, ["e"]], "empty": {}},
            "no": "no",
            "odd key": "it's: \"so\"",
        });
        let mut text = String::new();
        write(&value, &mut text);
        let expected = "a:\n  b:\n    - 1\n    - c: \"x y\"\n      d: []\n    - - e\n  empty: {}\n\"no\": \"no\"\n\"odd key\": \"it's: \\\"so\\\"\"\n";
        assert_eq!(text, expected);
    }
}
