//! Dynamic metadata as configuration writes it and as logs show it.

use extproc_client::metadata::DynamicMetadata;
use prost_types::{Struct, Value, value::Kind};

use crate::config::snapshot::{MetadataKey, SetMetadata};

/// Does what one entry of a `set_metadata` filter says.
pub(crate) fn set(metadata: &DynamicMetadata, entry: &SetMetadata) {
    if let Some(value) = &entry.value {
        match metadata.get(&entry.namespace) {
            Some(_) if !entry.allow_overwrite => {}
            Some(mut known) => {
                merge(&mut known, value.clone());
                metadata.set(entry.namespace.as_str(), known);
            }
            None => metadata.set(entry.namespace.as_str(), value.clone()),
        }
    }
    if let Some(typed) = &entry.typed
        && (entry.allow_overwrite || metadata.get_typed(&entry.namespace).is_none())
    {
        metadata.set_typed(entry.namespace.as_str(), typed.clone());
    }
}

/// The text at a key.
pub(crate) fn text(metadata: &DynamicMetadata, key: &MetadataKey) -> Option<String> {
    let path: Vec<&str> = key.path.iter().map(String::as_str).collect();
    let value = metadata.json(&key.namespace, &path)?;
    value.as_str().map(str::to_owned)
}

/// Puts a text at a key.
pub(crate) fn set_text(metadata: &DynamicMetadata, key: &MetadataKey, text: String) {
    let text = Value {
        kind: Some(Kind::StringValue(text)),
    };
    let whole = key.path.iter().rev().fold(text, |inner, name| Value {
        kind: Some(Kind::StructValue(Struct {
            fields: [(name.clone(), inner)].into(),
        })),
    });
    if let Some(Kind::StructValue(content)) = whole.kind {
        metadata.merge(key.namespace.as_str(), content);
    }
}

/// Structs are merged, lists are appended, everything else is replaced.
fn merge(into: &mut Struct, from: Struct) {
    for (name, value) in from.fields {
        let known = into
            .fields
            .get_mut(&name)
            .and_then(|known| known.kind.as_mut());
        match (known, value.kind) {
            (Some(Kind::StructValue(known)), Some(Kind::StructValue(value))) => {
                merge(known, value);
            }
            (Some(Kind::ListValue(known)), Some(Kind::ListValue(value))) => {
                known.values.extend(value.values);
            }
            (_, kind) => {
                into.fields.insert(name, Value { kind });
            }
        }
    }
}

/// The value at a path of a structure.
pub(crate) fn at(content: Struct, path: &[&str]) -> Option<serde_json::Value> {
    let mut value = Value {
        kind: Some(Kind::StructValue(content)),
    };
    for name in path {
        value = match value.kind? {
            Kind::StructValue(mut fields) => fields.fields.remove(*name)?,
            _ => return None,
        };
    }
    Some(json(value.kind))
}

fn json(kind: Option<Kind>) -> serde_json::Value {
    match kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
            // Whole numbers are written without a fraction.
            #[allow(clippy::cast_possible_truncation)]
            let whole = value as i64;
            whole.into()
        }
        Some(Kind::NumberValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::ListValue(list)) => list
            .values
            .into_iter()
            .map(|value| json(value.kind))
            .collect::<Vec<_>>()
            .into(),
        Some(Kind::StructValue(fields)) => {
            let fields: serde_json::Map<_, _> = fields
                .fields
                .into_iter()
                .map(|(name, value)| (name, json(value.kind)))
                .collect();
            fields.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(
        metadata: &DynamicMetadata,
        namespace: &str,
        path: &[&str],
    ) -> Option<serde_json::Value> {
        at(metadata.get(namespace)?, path)
    }

    fn entry(name: &str, number: f64, allow_overwrite: bool) -> SetMetadata {
        let value = Value {
            kind: Some(Kind::NumberValue(number)),
        };
        SetMetadata {
            namespace: "ns".into(),
            value: Some(Struct {
                fields: [(name.to_owned(), value)].into(),
            }),
            typed: None,
            allow_overwrite,
        }
    }

    #[test]
    fn set_and_show() {
        let metadata = DynamicMetadata::default();
        set(&metadata, &entry("a", 1.0, false));
        set(&metadata, &entry("a", 2.0, false));
        assert_eq!(value(&metadata, "ns", &["a"]), Some(1.into()));
        set(&metadata, &entry("b", 2.5, true));
        assert_eq!(value(&metadata, "ns", &["b"]), Some(2.5.into()));
        assert_eq!(
            value(&metadata, "ns", &[])
                .map(|all| all.to_string())
                .as_deref(),
            Some(r#"{"a":1,"b":2.5}"#)
        );
        assert_eq!(value(&metadata, "ns", &["c"]), None);
        assert_eq!(value(&metadata, "other", &[]), None);
    }
}
