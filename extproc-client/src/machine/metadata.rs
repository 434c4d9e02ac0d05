//! Dynamic metadata that goes to a processor and comes from one.

use std::sync::Arc;

use prost::{
    Message,
    encoding::{encode_key, encode_varint, encoded_len_varint, key_len},
};
use prost_types::{Struct, value::Kind};

use crate::{
    config::MetadataOptions,
    host::BufferAccount,
    metadata::{DynamicMetadata, Metadata},
    wire::Reply,
};

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
/// `dynamic_metadata` that is not an object makes an empty namespace. The account is told what is held for it.
pub(crate) fn receive(
    options: &MetadataOptions,
    reply: &mut Reply,
    dynamic: &DynamicMetadata,
    account: Option<&Arc<dyn BufferAccount>>,
) {
    if let Some(content) = reply.dynamic_metadata.take()
        && !options.receive_untyped.is_empty()
    {
        for (name, value) in content.fields {
            if options.receive_untyped.contains(&name) {
                let content = match value.kind {
                    Some(Kind::StructValue(content)) => content,
                    _ => Struct::default(),
                };
                dynamic.receive(name, content, account);
            }
        }
    }
    if !options.receive_typed.is_empty() {
        for (name, content) in reply.typed_dynamic_metadata.drain() {
            if options.receive_typed.contains(&name) {
                dynamic.receive_typed(name, content, account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::Metadata as Wire;
    use serde_json::json;

    use prost_types::Any;

    use super::*;
    use crate::metadata::{struct_from_json, struct_to_json};

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

    /// Reads back the encoded metadata: untyped as JSON, typed as type URLs.
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
        receive(&options, &mut reply.clone(), &dynamic, None);
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
        receive(&options, &mut reply, &dynamic, None);
        assert_eq!(dynamic.get_typed("t"), Some(any("x")));
        dynamic.remove("t");
        assert_eq!(dynamic.snapshot().typed_filter_metadata.len(), 0);
    }
}
