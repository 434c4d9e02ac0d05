//! Dynamic metadata of an exchange, and what of it travels to and from the processor.
//!
//! Dynamic metadata is `envoy.config.core.v3.Metadata`: namespaces, each with JSON-like content
//! ([`Struct`]) or with a typed message ([`Any`]). Filters write it, other filters and the access
//! log read it. It ends with the exchange; it is not a header and reaches neither client nor
//! upstream.
//!
//! Which namespaces a processor sees and may write is [`MetadataOptions`].
//!
//! ```
//! use extproc_client::metadata::{DynamicMetadata, struct_from_json};
//!
//! let metadata = DynamicMetadata::default();
//! let content = struct_from_json(&serde_json::json!({"user": {"id": 7}})).unwrap();
//! metadata.merge("auth", content);
//! assert_eq!(metadata.json("auth", &["user", "id"]), Some(serde_json::json!(7)));
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::{
    Message,
    encoding::{encode_key, encode_varint, encoded_len_varint, key_len},
};
use prost_types::{Any, ListValue, Struct, Value, value::Kind};

use crate::{config::MetadataOptions, host::Metadata, wire::Reply};

/// Dynamic metadata of one exchange: namespaces with content, shared by all who hold a clone.
#[derive(Clone, Debug, Default)]
pub struct DynamicMetadata {
    inner: Arc<Mutex<Metadata>>,
}

impl DynamicMetadata {
    /// Metadata that begins with this content.
    pub fn new(content: Metadata) -> Self {
        Self {
            inner: Arc::new(Mutex::new(content)),
        }
    }

    /// The content of a namespace.
    pub fn get(&self, namespace: &str) -> Option<Struct> {
        self.lock().filter_metadata.get(namespace).cloned()
    }

    /// Replaces the content of a namespace.
    pub fn set(&self, namespace: impl Into<String>, content: Struct) {
        self.lock()
            .filter_metadata
            .insert(namespace.into(), content);
    }

    /// Adds content to a namespace. A field that exists is replaced as a whole, as protobuf merges
    /// maps.
    pub fn merge(&self, namespace: impl Into<String>, content: Struct) {
        merge(&mut self.lock(), namespace.into(), content);
    }

    /// The typed content of a namespace.
    pub fn get_typed(&self, namespace: &str) -> Option<Any> {
        self.lock().typed_filter_metadata.get(namespace).cloned()
    }

    /// Replaces the typed content of a namespace.
    pub fn set_typed(&self, namespace: impl Into<String>, content: Any) {
        self.lock()
            .typed_filter_metadata
            .insert(namespace.into(), content);
    }

    /// Removes a namespace, typed and untyped.
    pub fn remove(&self, namespace: &str) {
        let mut metadata = self.lock();
        metadata.filter_metadata.remove(namespace);
        metadata.typed_filter_metadata.remove(namespace);
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> Metadata {
        self.lock().clone()
    }

    /// The value at `path` within a namespace, as JSON; the whole namespace for an empty path.
    /// This is what `%DYNAMIC_METADATA(namespace:path…)%` prints.
    pub fn json(&self, namespace: &str, path: &[&str]) -> Option<serde_json::Value> {
        let metadata = self.lock();
        let content = metadata.filter_metadata.get(namespace)?;
        let Some((first, rest)) = path.split_first() else {
            return Some(struct_to_json(content));
        };
        let mut value = content.fields.get(*first)?;
        for name in rest {
            let Some(Kind::StructValue(inner)) = &value.kind else {
                return None;
            };
            value = inner.fields.get(*name)?;
        }
        Some(value_to_json(value))
    }

    /// Looks at the content without copying it. Do not call other methods of the same metadata
    /// within.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&Metadata) -> R) -> R {
        look(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Metadata> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`Struct`] as JSON. Whole numbers are printed without a fraction, as ProtoJSON does.
pub fn struct_to_json(content: &Struct) -> serde_json::Value {
    content
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), value_to_json(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A JSON object as [`Struct`]; `None` if `json` is not an object.
pub fn struct_from_json(json: &serde_json::Value) -> Option<Struct> {
    let fields = json.as_object()?;
    Some(Struct {
        fields: fields
            .iter()
            .map(|(name, value)| (name.clone(), value_from_json(value)))
            .collect(),
    })
}

fn value_to_json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::StructValue(value)) => struct_to_json(value),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_to_json).collect(),
        Some(Kind::NumberValue(number)) => number_to_json(*number),
    }
}

fn number_to_json(number: f64) -> serde_json::Value {
    /// Beyond this, not every whole number has a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        // Whole and within 2^53: the cast loses nothing.
        return (number as i64).into();
    }
    match serde_json::Number::from_f64(number) {
        Some(number) => number.into(),
        None if number.is_nan() => "NaN".into(),
        None if number > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

fn value_from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(value_from_json).collect(),
        }),
        Json::Object(_) => Kind::StructValue(struct_from_json(json).unwrap_or_default()),
    };
    Value { kind: Some(kind) }
}

/// Encodes `metadata_context` (`envoy.config.core.v3.Metadata`) into `out`, without tag and length.
///
/// A namespace of the cluster is left out where the exchange has one of the same name. Nothing is
/// encoded, and nothing locked, where no namespace is configured.
pub(crate) fn encode_context(
    options: &MetadataOptions,
    dynamic: &DynamicMetadata,
    cluster: &Metadata,
    out: &mut Vec<u8>,
) {
    /// Fields of `Metadata`.
    const UNTYPED: u32 = 1;
    const TYPED: u32 = 2;

    let own = (&options.forward_untyped, &options.forward_typed);
    let of_cluster = (&options.cluster_untyped, &options.cluster_typed);
    if own.0.is_empty() && own.1.is_empty() {
        encode(
            UNTYPED,
            of_cluster.0,
            |name| cluster.filter_metadata.get(name),
            out,
        );
        encode(
            TYPED,
            of_cluster.1,
            |name| cluster.typed_filter_metadata.get(name),
            out,
        );
        return;
    }
    dynamic.with(|metadata| {
        let untyped = |name: &str| metadata.filter_metadata.get(name);
        let typed = |name: &str| metadata.typed_filter_metadata.get(name);
        encode(UNTYPED, own.0, untyped, out);
        encode(TYPED, own.1, typed, out);
        encode(
            UNTYPED,
            of_cluster.0,
            |name| match own.0.iter().any(|n| n == name) && untyped(name).is_some() {
                true => None,
                false => cluster.filter_metadata.get(name),
            },
            out,
        );
        encode(
            TYPED,
            of_cluster.1,
            |name| match own.1.iter().any(|n| n == name) && typed(name).is_some() {
                true => None,
                false => cluster.typed_filter_metadata.get(name),
            },
            out,
        );
    });
}

/// Encodes the entries of one map: the `names` that exist, each once.
fn encode<'a, M: Message + 'a>(
    field: u32,
    names: &[String],
    lookup: impl Fn(&str) -> Option<&'a M>,
    out: &mut Vec<u8>,
) {
    use prost::encoding::WireType::LengthDelimited;
    for (index, name) in names.iter().enumerate() {
        if names.iter().take(index).any(|earlier| earlier == name) {
            continue;
        }
        let Some(content) = lookup(name) else {
            continue;
        };
        let (name_length, content_length) = (name.len(), content.encoded_len());
        let entry_length = key_len(1)
            + encoded_len_varint(name_length as u64)
            + name_length
            + key_len(2)
            + encoded_len_varint(content_length as u64)
            + content_length;
        encode_key(field, LengthDelimited, out);
        encode_varint(entry_length as u64, out);
        encode_key(1, LengthDelimited, out);
        encode_varint(name_length as u64, out);
        out.extend_from_slice(name.as_bytes());
        encode_key(2, LengthDelimited, out);
        encode_varint(content_length as u64, out);
        content.encode_raw(out);
    }
}

/// Stores what `reply` carries and `options` allow; takes it out of `reply`. A top-level field of
/// `dynamic_metadata` that is not an object makes an empty namespace.
pub(crate) fn receive(options: &MetadataOptions, reply: &mut Reply, dynamic: &DynamicMetadata) {
    if let Some(content) = reply.dynamic_metadata.take()
        && !options.receive_untyped.is_empty()
    {
        for (name, value) in content.fields {
            if options.receive_untyped.contains(&name) {
                let content = match value.kind {
                    Some(Kind::StructValue(content)) => content,
                    _ => Struct::default(),
                };
                dynamic.merge(name, content);
            }
        }
    }
    if !options.receive_typed.is_empty() {
        for (name, content) in reply.typed_dynamic_metadata.drain() {
            if options.receive_typed.contains(&name) {
                dynamic.set_typed(name, content);
            }
        }
    }
}

fn merge(metadata: &mut Metadata, namespace: String, content: Struct) {
    metadata
        .filter_metadata
        .entry(namespace)
        .or_default()
        .fields
        .extend(content.fields);
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::Metadata as Wire;
    use serde_json::json;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn content(json: serde_json::Value) -> Struct {
        struct_from_json(&json).unwrap()
    }

    fn any(url: &str) -> Any {
        Any {
            type_url: url.to_owned(),
            value: vec![8, 1],
        }
    }

    /// What is encoded, read back: untyped as JSON, typed as type URLs.
    fn context(
        options: &MetadataOptions,
        dynamic: &DynamicMetadata,
        cluster: &Metadata,
    ) -> serde_json::Value {
        let mut out = Vec::new();
        encode_context(options, dynamic, cluster, &mut out);
        let wire = Wire::decode(out.as_slice()).unwrap();
        let mut entries: Vec<_> = wire
            .filter_metadata
            .iter()
            .map(|(name, value)| {
                let value = Struct::decode(value.encode_to_vec().as_slice()).unwrap();
                (name.clone(), struct_to_json(&value))
            })
            .chain(
                wire.typed_filter_metadata
                    .iter()
                    .map(|(name, value)| (name.clone(), value.type_url.as_str().into())),
            )
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
            .into_iter()
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    #[test]
    fn forwarding() {
        let dynamic = DynamicMetadata::default();
        dynamic.set("a", content(json!({"x": 1})));
        dynamic.set("hidden", content(json!({"x": 2})));
        dynamic.set_typed("t", any("own"));
        let mut cluster = Metadata::default();
        for name in ["a", "b", "hidden"] {
            let value = content(json!({"cluster": true}));
            cluster.filter_metadata.insert(name.to_owned(), value);
        }
        for name in ["t", "u"] {
            cluster
                .typed_filter_metadata
                .insert(name.to_owned(), any("cluster"));
        }
        let mut options = MetadataOptions::default();
        let mut out = Vec::new();
        encode_context(&options, &dynamic, &cluster, &mut out);
        assert!(out.is_empty());

        options.cluster_untyped = names(&["a", "b", "hidden", "none"]);
        options.cluster_typed = names(&["u"]);
        assert_eq!(
            context(&options, &dynamic, &cluster),
            json!({"a": {"cluster": true}, "b": {"cluster": true}, "hidden": {"cluster": true}, "u": "cluster"})
        );
        options.forward_untyped = names(&["a", "a", "missing"]);
        options.forward_typed = names(&["t"]);
        options.cluster_typed = names(&["t", "u"]);
        assert_eq!(
            context(&options, &dynamic, &cluster),
            json!({"a": {"x": 1}, "b": {"cluster": true}, "hidden": {"cluster": true}, "t": "own", "u": "cluster"})
        );
    }

    #[test]
    fn receiving() {
        let dynamic = DynamicMetadata::default();
        dynamic.set("a", content(json!({"old": 1, "both": {"x": 1}})));
        let mut options = MetadataOptions {
            receive_untyped: names(&["a", "scalar"]),
            ..MetadataOptions::default()
        };
        let mut reply = Reply {
            dynamic_metadata: Some(content(json!({
                "a": {"both": {"y": 2}, "new": [1, 2.5, null]}, "scalar": 3, "other": {}
            }))),
            ..Reply::default()
        };
        reply
            .typed_dynamic_metadata
            .insert("t".to_owned(), any("x"));
        receive(&options, &mut reply.clone(), &dynamic);
        assert_eq!(
            dynamic.json("a", &[]),
            Some(json!({"both": {"y": 2}, "new": [1, 2.5, null], "old": 1}))
        );
        assert_eq!(dynamic.json("a", &["both", "y"]), Some(json!(2)));
        assert_eq!(dynamic.json("a", &["old", "y"]), None);
        assert_eq!(dynamic.json("scalar", &[]), Some(json!({})));
        assert_eq!(dynamic.get("other"), None);
        assert_eq!(dynamic.get_typed("t"), None);
        options.receive_typed = names(&["t"]);
        receive(&options, &mut reply, &dynamic);
        assert_eq!(dynamic.get_typed("t"), Some(any("x")));
        dynamic.remove("t");
        assert_eq!(dynamic.snapshot().typed_filter_metadata.len(), 0);
    }
}
