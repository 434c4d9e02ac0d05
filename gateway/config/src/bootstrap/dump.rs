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

/// Words of the names of headers, query parameters and members whose values are credentials.
const CREDENTIALS: &[&str] = &[
    "accesskey",
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "jwt",
    "passwd",
    "password",
    "secret",
    "secretkey",
    "token",
];

/// Words that make a credential of the word `key` behind them.
const KEYS: &[&str] = &[
    "access",
    "account",
    "api",
    "encryption",
    "functions",
    "master",
    "private",
    "shared",
    "signing",
    "subscription",
];

/// Members of a `HeaderValue` that hold the value.
const VALUES: &[&str] = &["value", "raw_value"];

/// Members of matchers, and of tags of spans, that hold the value of what they name.
const MATCHES: &[&str] = &[
    "contains_match",
    "default_value",
    "exact_match",
    "prefix_match",
    "range_match",
    "safe_regex_match",
    "string_match",
    "suffix_match",
];

/// Maps of a match tree, whose keys are values of its input.
const MAPS: &[&str] = &["exact_match_map", "prefix_match_map"];

/// Leaves secrets out.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            let named = |name: &str| {
                let name = fields.get(name).and_then(Value::as_str);
                name.is_some_and(is_credential)
            };
            let (key, name) = (named("key"), named("name"));
            let input = fields.get("input").is_some_and(reads_credential);
            for (field, value) in fields {
                let snake = snake(field);
                let field = snake.as_str();
                let is_value = key && VALUES.contains(&field)
                    || name && MATCHES.contains(&field)
                    || input && field == "value_match"
                    || value.is_string() && is_credential(field);
                if is_value || SENSITIVE.contains(&field) {
                    hide(value);
                    continue;
                }
                if input && MAPS.contains(&field) {
                    hide_keys(value);
                }
                redact(value);
            }
        }
        Value::String(text) => {
            if let Some(shown) = without_credentials(text) {
                *text = shown;
            }
        }
        _ => {}
    }
}

/// Tells whether the input of a match tree is a header or query parameter with credentials.
fn reads_credential(input: &Value) -> bool {
    let config = input
        .get("typed_config")
        .or_else(|| input.get("typedConfig"));
    let fields = config.and_then(Value::as_object);
    let mut named = fields
        .into_iter()
        .flatten()
        .filter(|(field, _)| matches!(snake(field).as_str(), "header_name" | "query_param"));
    named.any(|(_, name)| name.as_str().is_some_and(is_credential))
}

/// Tells whether what has this name is a credential, by its words: `x-api-key`, `access_token`, `Authorization`.
fn is_credential(name: &str) -> bool {
    let is_key = |pair: &[&str]| matches!(pair, [of, "key"] if KEYS.contains(of));
    // A header may be written in capitals, a member with some.
    [name.to_ascii_lowercase(), snake(name)].iter().any(|name| {
        let words = name.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        words.iter().any(|word| CREDENTIALS.contains(word)) || words.windows(2).any(is_key)
    })
}

/// A URI without its userinfo, and without the credentials among its query parameters; `None` if it has neither.
fn without_credentials(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let host = authority.rsplit_once('@').map(|(_, host)| host);
    let (path, query) = match behind.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (behind, None),
    };
    let mut hidden = host.is_some();
    let mut shown = format!("{scheme}://{}{path}", host.unwrap_or(authority));
    for (at, pair) in query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .enumerate()
    {
        shown.push(if at == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if is_credential(name) => {
                hidden = true;
                shown.push_str(name);
                shown.push('=');
                shown.push_str(REDACTED);
            }
            _ => shown.push_str(pair),
        }
    }
    hidden.then_some(shown)
}

/// Hides the keys of a map, but not what they lead to.
fn hide_keys(map: &mut Value) {
    let Some(Value::Object(keys)) = map.get_mut("map") else {
        return;
    };
    let hidden = std::mem::take(keys).into_iter().enumerate();
    *keys = hidden
        .map(|(at, (_, value))| (format!("{REDACTED} {at}"), value))
        .collect();
}

/// Hides everything in a value: as in Envoy, names of files as well.
fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => fields.values_mut().for_each(hide),
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
                {"privateKey": {"inlineBytes": "UzI="}, "password": {"filename": "S18"}},
                {"private_key": {"filename": "S19"}, "pkcs12": "S3", "certificate_chain": {"filename": "/chain.pem"}},
            ],
            "initial_metadata": [
                {"key": "x-api-key", "value": "S4"},
                {"key": "Authorization", "rawValue": "S5"},
                {"key": "x-shown", "value": "shown"},
                {"key": "apikey", "value": "S6"},
                {"key": "x-auth", "value": "S7"},
                {"key": "X-SECRET-KEY", "value": "S8"},
                {"key": "X-Access-Key", "value": "S9"},
                {"key": "x-keyed", "value": "keyed"},
                {"key": "monkey", "value": "ape"},
            ],
            "headers": [
                {"name": "authorization", "string_match": {"exact": "S10"}},
                {"name": "authorization", "exactMatch": "S11"},
                {"name": "x-tenant", "string_match": {"exact": "tenant"}},
            ],
            "matcher_tree": {
                "input": {"name": "i", "typed_config": {"header_name": "x-api-key"}},
                "exact_match_map": {"map": {
                    "S12": {"action": {"name": "first"}},
                    "S13": {"action": {"name": "second"}},
                }},
            },
            "single_predicate": {
                "input": {"name": "i", "typedConfig": {"queryParam": "access_token"}},
                "valueMatch": {"exact": "S14"},
            },
            "other_tree": {
                "input": {"name": "i", "typed_config": {"header_name": "x-tenant"}},
                "exact_match_map": {"map": {"acme": {"action": {"name": "third"}}}},
            },
            "clusters": [{"name": "token-service", "type": "STATIC", "connect_timeout": "3s"}],
            "uri": "https://user:S15@idp.example/keys?api_key=S16&shape=round",
            "call_credentials": [{"access_token": "S17"}],
        });
        redact(&mut value);
        let text = value.to_string();
        for secret in (1..=19).map(|number| format!("S{number}\"")).chain([
            "UzI=".into(),
            "S15".into(),
            "S16".into(),
        ]) {
            assert!(!text.contains(&secret), "{secret} in {text}");
        }
        for shown in [
            "public",
            "/chain.pem",
            "shown",
            "keyed",
            "ape",
            "tenant",
            "first",
            "second",
            "acme",
            "STATIC",
            "https://idp.example/keys?api_key=[redacted]&shape=round",
        ] {
            assert!(text.contains(shown), "no {shown} in {text}");
        }
    }
}
