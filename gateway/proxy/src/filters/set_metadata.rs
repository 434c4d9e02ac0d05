//! The filter `envoy.filters.http.set_metadata`.

use extproc_client::metadata::DynamicMetadata;
use http::Request;
use prost_types::{Struct, value::Kind};

use super::{Chain, ResponseFuture, Serve};
use crate::{config::snapshot::SetMetadata, exchange::host::Passage, http::body::Body};

/// `set_metadata`.
pub(super) struct MetadataFilter {
    pub(super) entries: Vec<SetMetadata>,
    pub(super) inner: Chain,
}

impl Serve for MetadataFilter {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        if let Some(passage) = Passage::of(&request)
            && passage.answer.is_none()
        {
            for entry in &self.entries {
                set(&passage.exchange.metadata, entry);
            }
        }
        self.inner.call(request)
    }
}

/// Does what one entry of a `set_metadata` filter says.
fn set(metadata: &DynamicMetadata, entry: &SetMetadata) {
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
                into.fields.insert(name, prost_types::Value { kind });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Value;

    use super::*;

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
        assert_eq!(metadata.json("ns", &["a"]), Some(1.into()));
        set(&metadata, &entry("b", 2.5, true));
        assert_eq!(metadata.json("ns", &["b"]), Some(2.5.into()));
        assert_eq!(
            metadata
                .json("ns", &[])
                .map(|all| all.to_string())
                .as_deref(),
            Some(r#"{"a":1,"b":2.5}"#)
        );
        assert_eq!(metadata.json("ns", &["c"]), None);
        assert_eq!(metadata.json("other", &[]), None);
    }
}
