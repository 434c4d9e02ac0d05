//! Protobuf's text format on one line, for the messages that attributes may be.

use std::fmt::Write as _;

use prost_types::{Struct, Value, value::Kind};

use crate::metadata::Metadata;

/// `envoy.config.core.v3.Metadata`.
pub(super) fn metadata(metadata: &Metadata) -> String {
    let mut out = String::new();
    for (name, content) in &metadata.filter_metadata {
        entry(&mut out, "filter_metadata", name, |out| {
            fields(out, content)
        });
    }
    for (name, content) in &metadata.typed_filter_metadata {
        entry(&mut out, "typed_filter_metadata", name, |out| {
            out.push_str("type_url: ");
            quoted(out, content.type_url.as_bytes());
            out.push_str(" value: ");
            quoted(out, &content.value);
            out.push(' ');
        });
    }
    out
}

/// `envoy.config.core.v3.Node`, given as JSON.
pub(super) fn node(node: &serde_json::Value) -> String {
    let mut out = String::new();
    if let Some(node) = node.as_object() {
        message(&mut out, node);
    }
    out
}

/// A message given as JSON: its fields under their names. Objects named `metadata` are `Struct`s,
/// as everywhere in `Node`.
fn message(out: &mut String, content: &serde_json::Map<String, serde_json::Value>) {
    for (name, value) in content {
        let as_struct = match name.as_str() {
            "metadata" => crate::metadata::struct_from_json(value),
            _ => None,
        };
        if let Some(content) = as_struct {
            nested(out, name, |out| fields(out, &content));
            continue;
        }
        match value {
            serde_json::Value::Array(values) => {
                for value in values {
                    field(out, name, value);
                }
            }
            value => field(out, name, value),
        }
    }
}

fn field(out: &mut String, name: &str, value: &serde_json::Value) {
    match value {
        serde_json::Value::Object(content) => nested(out, name, |out| message(out, content)),
        serde_json::Value::String(text) => {
            let _ = write!(out, "{name}: ");
            quoted(out, text.as_bytes());
            out.push(' ');
        }
        serde_json::Value::Null => {}
        other => {
            let _ = write!(out, "{name}: {other} ");
        }
    }
}

fn fields(out: &mut String, content: &Struct) {
    for (name, inner) in &content.fields {
        entry(out, "fields", name, |out| value(out, inner));
    }
}

fn value(out: &mut String, value: &Value) {
    match &value.kind {
        None => {}
        Some(Kind::NullValue(_)) => out.push_str("null_value: NULL_VALUE "),
        Some(Kind::BoolValue(value)) => {
            let _ = write!(out, "bool_value: {value} ");
        }
        Some(Kind::NumberValue(value)) => {
            let _ = write!(out, "number_value: {} ", number(*value));
        }
        Some(Kind::StringValue(text)) => {
            out.push_str("string_value: ");
            quoted(out, text.as_bytes());
            out.push(' ');
        }
        Some(Kind::StructValue(content)) => {
            nested(out, "struct_value", |out| fields(out, content));
        }
        Some(Kind::ListValue(list)) => nested(out, "list_value", |out| {
            for inner in &list.values {
                nested(out, "values", |out| self::value(out, inner));
            }
        }),
    }
}

/// The shortest form that reads back as the same double.
fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "nan".to_owned(),
        v if v.is_infinite() => if v > 0.0 { "inf" } else { "-inf" }.to_owned(),
        v if v != 0.0 && !(1e-5..1e15).contains(&v.abs()) => {
            let text = format!("{v:e}");
            match text.split_once('e') {
                Some((mantissa, exponent)) => match exponent.strip_prefix('-') {
                    Some(exponent) => format!("{mantissa}e-{exponent:0>2}"),
                    None => format!("{mantissa}e+{exponent:0>2}"),
                },
                None => text,
            }
        }
        v => v.to_string(),
    }
}

fn entry(out: &mut String, field: &str, name: &str, content: impl FnOnce(&mut String)) {
    nested(out, field, |out| {
        out.push_str("key: ");
        quoted(out, name.as_bytes());
        out.push(' ');
        nested(out, "value", content);
    });
}

fn nested(out: &mut String, field: &str, content: impl FnOnce(&mut String)) {
    out.push_str(field);
    out.push_str(" { ");
    content(out);
    out.push_str("} ");
}

/// A string literal: C escapes, and octal for what is not printable ASCII.
fn quoted(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for &byte in bytes {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' => out.push_str("\\\""),
            b'\'' => out.push_str("\\'"),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
    out.push('"');
}
