//! `google.protobuf.Any`, `Struct` and `envoy.config.core.v3.Metadata` as data.

use extproc_client::{
    host::Metadata as Model,
    metadata::{struct_from_object, value_from_json},
    text::protojson::base64,
};
use prost::Message;
use prost_types::{Any, ListValue, Struct};
use serde::Deserialize;
use serde_json::Value as Json;

use super::value::ByName;
use crate::document::{Fault, Reader, Subtree};

/// `envoy.config.core.v3.Metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    filter_metadata: ByName<StructValue>,
    typed_filter_metadata: ByName<Subtree>,
}

/// `google.protobuf.Struct`.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct StructValue(serde_json::Map<String, Json>);

impl Metadata {
    pub(super) fn build(&self, reader: &Reader<'_>) -> Result<Model, Fault> {
        let mut model = Model::default();
        for (namespace, content) in &self.filter_metadata {
            model
                .filter_metadata
                .insert(namespace.clone(), content.build());
        }
        for (namespace, message) in &self.typed_filter_metadata {
            model
                .typed_filter_metadata
                .insert(namespace.clone(), any(reader, message)?);
        }
        Ok(model)
    }
}

impl StructValue {
    pub(super) fn build(&self) -> Struct {
        struct_from_object(&self.0)
    }
}

/// Messages that can be encoded without their descriptor.
const MESSAGES: &[&str] = &[
    "google.protobuf.BoolValue",
    "google.protobuf.BytesValue",
    "google.protobuf.DoubleValue",
    "google.protobuf.FloatValue",
    "google.protobuf.Int32Value",
    "google.protobuf.Int64Value",
    "google.protobuf.ListValue",
    "google.protobuf.StringValue",
    "google.protobuf.Struct",
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.Value",
    "google.protobuf.Empty",
];

#[derive(Deserialize)]
struct WellKnown<T> {
    value: T,
}

/// A message as data. In ProtoJSON a well-known type stands under `value` beside its `@type`.
pub(super) fn any(reader: &Reader<'_>, tree: &Subtree) -> Result<Any, Fault> {
    let node = tree.node;
    let name = reader.type_of(node)?;
    macro_rules! encode {
        ($type:ty) => {
            reader
                .read_typed::<WellKnown<$type>>(node)?
                .value
                .encode_to_vec()
        };
    }
    let content = match name {
        "google.protobuf.BoolValue" => encode!(bool),
        "google.protobuf.DoubleValue" => encode!(f64),
        "google.protobuf.FloatValue" => encode!(f32),
        "google.protobuf.Int32Value" => encode!(i32),
        "google.protobuf.Int64Value" => encode!(i64),
        "google.protobuf.StringValue" => encode!(String),
        "google.protobuf.UInt32Value" => encode!(u32),
        "google.protobuf.UInt64Value" => encode!(u64),
        "google.protobuf.BytesValue" => {
            let text = reader.read_typed::<WellKnown<String>>(node)?.value;
            base64(&text)
                .ok_or_else(|| Fault::at(node, "invalid base64"))?
                .encode_to_vec()
        }
        "google.protobuf.Empty" => {
            reader.read_typed::<Empty>(node)?;
            Vec::new()
        }
        "google.protobuf.Struct" => reader
            .read_typed::<WellKnown<StructValue>>(node)?
            .value
            .build()
            .encode_to_vec(),
        "google.protobuf.Value" => {
            value_from_json(&reader.read_typed::<WellKnown<Json>>(node)?.value).encode_to_vec()
        }
        "google.protobuf.ListValue" => {
            let values = reader.read_typed::<WellKnown<Vec<Json>>>(node)?.value;
            ListValue {
                values: values.iter().map(value_from_json).collect(),
            }
            .encode_to_vec()
        }
        _ => return Err(unsupported(node, name, MESSAGES)),
    };
    Ok(Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: content,
    })
}

#[derive(Deserialize)]
struct Empty {}

/// The refusal of a `typed_config` whose type is not known here.
pub(super) fn unsupported(node: crate::document::NodeId, name: &str, supported: &[&str]) -> Fault {
    Fault::at(
        node,
        format!(
            "unsupported \"@type\" {name}, supported here: {}",
            supported.join(", ")
        ),
    )
}
