//! Attributes and metadata: what a proxy can tell beside the HTTP message.
//!
//! Both come as `google.protobuf.Struct`. The getters here return plain values and nothing where the kind is another.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::config::core::v3::Metadata as WireMetadata,
    google::protobuf::{Any, ListValue, NullValue, Struct, Value, value::Kind},
};
use serde_json::{Map, Number, Value as Json};

/// The attributes that the proxy was configured to send (`request_attributes`, `response_attributes`).
///
/// The name of an attribute is the expression in the proxy's configuration, such as `source.address` or
/// `request.headers['x']`. The proxy sends those of a direction once, with its first message; they are kept. Proxies
/// send only booleans, numbers and strings: timestamps, durations and maps arrive as printed text.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    fields: HashMap<String, Value>,
}

impl Attributes {
    pub(crate) fn extend(&mut self, received: HashMap<String, Struct>) {
        for group in received.into_values() {
            self.fields.extend(group.fields);
        }
    }

    /// An attribute that is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        text(self.fields.get(name)?)
    }

    /// An attribute that is a number.
    pub fn number(&self, name: &str) -> Option<f64> {
        number(self.fields.get(name)?)
    }

    /// An attribute that is a boolean.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        boolean(self.fields.get(name)?)
    }

    /// Every attribute received so far, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Json)> {
        self.fields
            .iter()
            .map(|(name, value)| (name.as_str(), to_json(value)))
    }

    /// True if the proxy sent none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// The dynamic metadata that the proxy was configured to forward (`metadata_options.forwarding_namespaces`).
///
/// It comes with every message and is what held when the latest message was sent.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    wire: WireMetadata,
}

impl Metadata {
    pub(crate) fn replace(&mut self, received: WireMetadata) {
        self.wire = received;
    }

    /// A string in a namespace. The path goes down through objects: `text("jwt", &["payload", "sub"])`.
    pub fn text(&self, namespace: &str, path: &[&str]) -> Option<&str> {
        text(self.find(namespace, path)?)
    }

    /// A number in a namespace; see [`text`](Self::text).
    pub fn number(&self, namespace: &str, path: &[&str]) -> Option<f64> {
        number(self.find(namespace, path)?)
    }

    /// A boolean in a namespace; see [`text`](Self::text).
    pub fn boolean(&self, namespace: &str, path: &[&str]) -> Option<bool> {
        boolean(self.find(namespace, path)?)
    }

    /// A whole namespace as a JSON object.
    pub fn namespace(&self, namespace: &str) -> Option<Json> {
        let group = self.wire.filter_metadata.get(namespace)?;
        Some(object_to_json(group))
    }

    /// The typed metadata of a namespace.
    pub fn typed(&self, namespace: &str) -> Option<&Any> {
        self.wire.typed_filter_metadata.get(namespace)
    }

    fn find(&self, namespace: &str, path: &[&str]) -> Option<&Value> {
        let (last, parents) = path.split_last()?;
        let mut group = self.wire.filter_metadata.get(namespace)?;
        for parent in parents {
            match &group.fields.get(*parent)?.kind {
                Some(Kind::StructValue(inner)) => group = inner,
                _ => return None,
            }
        }
        group.fields.get(*last)
    }
}

/// A JSON object as a `Struct` value; of anything that is not an object an empty one.
pub(crate) fn object(json: Json) -> Value {
    let kind = match json {
        Json::Object(_) => from_json(json).kind,
        _ => Some(Kind::StructValue(Struct::default())),
    };
    Value { kind }
}

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value.kind {
        Some(Kind::NumberValue(number)) => Some(number),
        _ => None,
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value.kind {
        Some(Kind::BoolValue(boolean)) => Some(boolean),
        _ => None,
    }
}

fn from_json(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(NullValue::NullValue.into()),
        Json::Bool(boolean) => Kind::BoolValue(boolean),
        // Struct knows doubles only; an integer beyond 2^53 loses digits there.
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(from_json).collect(),
        }),
        Json::Object(members) => Kind::StructValue(Struct {
            fields: members
                .into_iter()
                .map(|(name, value)| (name, from_json(value)))
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}

fn to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(boolean)) => Json::Bool(*boolean),
        Some(Kind::NumberValue(number)) => {
            Number::from_f64(*number).map_or(Json::Null, Json::Number)
        }
        Some(Kind::StringValue(text)) => Json::String(text.clone()),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StructValue(group)) => object_to_json(group),
    }
}

pub(crate) fn object_to_json(group: &Struct) -> Json {
    let members: Map<String, Json> = group
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), to_json(value)))
        .collect();
    Json::Object(members)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_goes_there_and_back() {
        let json = json!({"a": [1.0, null, true, "x"], "b": {"c": "d"}});
        assert_eq!(to_json(&object(json.clone())), json);
        assert_eq!(to_json(&object(json!(3))), json!({}));
    }

    #[test]
    fn attributes_are_typed_and_kept() {
        let group = |json| match object(json).kind {
            Some(Kind::StructValue(group)) => group,
            _ => Struct::default(),
        };
        let mut attributes = Attributes::default();
        attributes.extend(HashMap::from([(
            "envoy.filters.http.ext_proc".to_owned(),
            group(json!({"request.path": "/x", "connection.id": 7, "connection.mtls": false})),
        )]));
        attributes.extend(HashMap::from([(
            "envoy.filters.http.ext_proc".to_owned(),
            group(json!({"response.code": 200})),
        )]));
        assert_eq!(attributes.text("request.path"), Some("/x"));
        assert_eq!(attributes.number("connection.id"), Some(7.0));
        assert_eq!(attributes.boolean("connection.mtls"), Some(false));
        assert_eq!(attributes.number("response.code"), Some(200.0));
        assert_eq!(attributes.number("request.path"), None);
    }

    #[test]
    fn metadata_is_found_by_path() {
        let Some(Kind::StructValue(group)) = object(json!({"payload": {"sub": "u", "n": 1}})).kind
        else {
            panic!("an object is a struct");
        };
        let mut metadata = Metadata::default();
        metadata.replace(WireMetadata {
            filter_metadata: HashMap::from([("jwt".to_owned(), group)]),
            ..WireMetadata::default()
        });
        assert_eq!(metadata.text("jwt", &["payload", "sub"]), Some("u"));
        assert_eq!(metadata.number("jwt", &["payload", "n"]), Some(1.0));
        assert_eq!(metadata.text("jwt", &["payload", "sub", "deeper"]), None);
        assert_eq!(metadata.text("jwt", &[]), None);
        assert_eq!(metadata.namespace("none"), None);
    }
}
