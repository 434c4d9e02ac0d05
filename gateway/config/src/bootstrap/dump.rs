//! The configuration as `/config_dump` shows it: as it was written, secrets left out.

use serde_json::Value;

/// In place of a secret.
const REDACTED: &str = "[redacted]";

/// Fields whose content nobody may see, whatever form it has: the ones that Envoy marks as sensitive.
const SENSITIVE: &[&str] = &[
    "private_key",
    "private_key_provider",
    "password",
    "pkcs12",
    "session_ticket_keys",
    "generic_secret",
];

/// Members of a data source that say where it is, not what it holds.
const PLACES: &[&str] = &["filename", "environment_variable", "watched_directory"];

/// Names of headers, whole or at their ends, whose values are credentials.
const CREDENTIALS: &[&str] = &[
    "authorization",
    "cookie",
    "api-key",
    "token",
    "secret",
    "password",
];

/// Leaves secrets out.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            let name = fields.get("key").and_then(Value::as_str);
            if name.is_some_and(is_credential) {
                for field in ["value", "raw_value", "rawValue"] {
                    if let Some(value) = fields.get_mut(field) {
                        *value = REDACTED.into();
                    }
                }
            }
            for (name, value) in fields {
                match SENSITIVE.contains(&snake(name).as_str()) {
                    true => hide(value),
                    false => redact(value),
                }
            }
        }
        _ => {}
    }
}

fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    CREDENTIALS.iter().any(|ending| name.ends_with(ending))
}

/// Hides everything in a value but the places that it names.
fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => {
            for (name, value) in fields {
                if !PLACES.contains(&snake(name).as_str()) {
                    hide(value);
                }
            }
        }
        value => *value = REDACTED.into(),
    }
}

/// A name of ProtoJSON as the proto has it.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let mut value = json!({
            "tls_certificates": [
                {"certificate_chain": {"inline_string": "public"}, "private_key": {"inline_string": "S1"}},
                {"privateKey": {"inlineBytes": "UzI="}, "password": {"filename": "/p"}},
                {"private_key": {"filename": "/key.pem"}, "pkcs12": "S3"},
            ],
            "initial_metadata": [
                {"key": "x-api-key", "value": "S4"},
                {"key": "Authorization", "rawValue": "S5"},
                {"key": "x-shown", "value": "shown"},
            ],
        });
        redact(&mut value);
        let text = value.to_string();
        for secret in ["S1", "UzI=", "S3", "S4", "S5"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for shown in ["public", "/key.pem", "/p", "shown"] {
            assert!(text.contains(shown), "no {shown} in {text}");
        }
    }
}
