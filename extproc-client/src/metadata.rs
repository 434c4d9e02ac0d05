//! Dynamic metadata of an exchange, and what of it travels to and from the processor.
//!
//! Dynamic metadata is `envoy.config.core.v3.Metadata`: namespaces, each with JSON-like content
//! ([`Struct`]) or with a typed message ([`Any`]). Filters write it, other filters and the access
//! log read it. It ends with the exchange; it is not a header and reaches neither client nor
//! upstream.
//!
//! [`MetadataOptions`](crate::config::MetadataOptions) names the namespaces that a processor sees and may write.
//!
//! ```
//! use extproc_client::metadata::{DynamicMetadata, struct_from_json};
//!
//! let metadata = DynamicMetadata::default();
//! let content = struct_from_json(&serde_json::json!({"user": {"id": 7}})).unwrap();
//! metadata.merge("auth", content);
//! assert_eq!(metadata.json("auth", &["user", "id"]), Some(serde_json::json!(7)));
//! ```

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use prost_types::{Any, ListValue, Struct, Value, value::Kind};

use crate::types::buffers::{BufferAccount, HeldByOwner};

/// `envoy.config.core.v3.Metadata` from configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// Namespaces with JSON-like content.
    pub filter_metadata: std::collections::BTreeMap<String, Struct>,
    /// Namespaces with a typed message.
    pub typed_filter_metadata: std::collections::BTreeMap<String, Any>,
}

/// Dynamic metadata of one exchange: namespaces with content, shared by all who hold a clone.
#[derive(Clone, Debug, Default)]
pub struct DynamicMetadata {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    content: Mutex<Metadata>,
    /// Bytes of memory, roughly, that processors added.
    received: AtomicUsize,
    /// These, as long as they are here.
    held: Mutex<HeldByOwner>,
}

impl DynamicMetadata {
    /// Metadata that begins with this content.
    pub fn new(content: Metadata) -> Self {
        Self {
            inner: Arc::new(Inner {
                content: Mutex::new(content),
                ..Inner::default()
            }),
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

    /// [Merges](Self::merge) what a processor says, which counts as held until all of this is dropped.
    pub(crate) fn receive(
        &self,
        namespace: String,
        content: Struct,
        account: Option<&Arc<dyn BufferAccount>>,
    ) {
        let mut metadata = self.lock();
        let namespace = metadata.filter_metadata.entry(namespace).or_default();
        let (mut added, mut removed) = (0, 0);
        for (name, value) in content.fields {
            let length = name.len();
            added += length + size(&value);
            if let Some(old) = namespace.fields.insert(name, value) {
                removed += length + size(&old);
            }
        }
        drop(metadata);
        self.count(added, removed, account);
    }

    /// [Sets](Self::set_typed) what a processor says, counted as in [`receive`](Self::receive).
    pub(crate) fn receive_typed(
        &self,
        namespace: String,
        content: Any,
        account: Option<&Arc<dyn BufferAccount>>,
    ) {
        let size = |any: &Any| any.type_url.len() + any.value.len();
        let added = size(&content);
        let old = self.lock().typed_filter_metadata.insert(namespace, content);
        self.count(added, old.as_ref().map_or(0, size), account);
    }

    fn count(&self, added: usize, removed: usize, account: Option<&Arc<dyn BufferAccount>>) {
        let Inner { received, held, .. } = &*self.inner;
        let change = |bytes: usize| Some((bytes + added).saturating_sub(removed));
        let _ = received.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        if let Some(account) = account {
            // A number is all that changes under the lock.
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.set(account, received.load(Ordering::Relaxed));
        }
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
        json_at(metadata.filter_metadata.get(namespace)?, path)
    }

    /// Looks at the content without copying it. Do not call other methods of the same metadata
    /// within.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&Metadata) -> R) -> R {
        look(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Metadata> {
        let content = &self.inner.content;
        content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value at `path` within a structure, as JSON; all of it for an empty path.
pub fn json_at(content: &Struct, path: &[&str]) -> Option<serde_json::Value> {
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
    json.as_object().map(struct_from_object)
}

/// The members of a JSON object as [`Struct`].
pub fn struct_from_object(members: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct {
        fields: members
            .iter()
            .map(|(name, value)| (name.clone(), value_from_json(value)))
            .collect(),
    }
}

/// A [`Value`] as JSON, as [`struct_to_json`].
pub fn value_to_json(value: &Value) -> serde_json::Value {
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

/// A JSON value as [`Value`].
pub fn value_from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(value_from_json).collect(),
        }),
        Json::Object(members) => Kind::StructValue(struct_from_object(members)),
    };
    Value { kind: Some(kind) }
}

/// Bytes of memory, roughly, that a value takes.
fn size(value: &Value) -> usize {
    /// An entry of a map or list, with its allocation.
    const ENTRY: usize = 64;
    let content: usize = match &value.kind {
        Some(Kind::StringValue(text)) => text.len(),
        Some(Kind::StructValue(content)) => content
            .fields
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum(),
        Some(Kind::ListValue(list)) => list.values.iter().map(size).sum(),
        _ => 0,
    };
    ENTRY + content
}

fn merge(metadata: &mut Metadata, namespace: String, content: Struct) {
    metadata
        .filter_metadata
        .entry(namespace)
        .or_default()
        .fields
        .extend(content.fields);
}
