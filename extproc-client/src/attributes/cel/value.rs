//! Attributes as CEL values, for expressions that are more than a name.

use std::{borrow::Cow, collections::HashMap};

use cel::{ExecutionError, Value, objects::Key};
use prost_types::{Any, ListValue, Struct, value::Kind};

use super::{
    Headers, Joins, View,
    budget::{Meter, size},
    print,
};
use crate::{
    attributes::{Encoded, lookup::Item, vocabulary},
    metadata::Metadata,
};

/// The map that a root is.
pub(super) fn of_root(view: &View<'_>, root: &str) -> Option<Value> {
    match root {
        "metadata" => Some(view.metadata.with(of_metadata)),
        "filter_state" => Some(map([])),
        "upstream_filter_state" => view.upstream.map(|_| map([])),
        root => Some(map(fields(root).iter().filter_map(|field| {
            let item = view.lookup(root, Some(field))?;
            Some(((*field).to_owned(), of_item(view, item)))
        }))),
    }
}

/// The fields of each root, in the order of Envoy's documentation.
fn fields(root: &str) -> &'static [&'static str] {
    match root {
        "request" => &[
            "path",
            "url_path",
            "host",
            "scheme",
            "method",
            "headers",
            "referer",
            "useragent",
            "time",
            "id",
            "protocol",
            "query",
            "size",
            "total_size",
            "headers_bytes",
            vocabulary::URI,
        ],
        "response" => &[
            "code",
            "code_details",
            "flags",
            "grpc_status",
            "headers",
            "trailers",
            "size",
            "total_size",
            "headers_bytes",
            "backend_latency",
        ],
        "source" | "destination" => &["address", "port", vocabulary::IP],
        "connection" => &[
            "id",
            "mtls",
            "requested_server_name",
            "tls_version",
            "peer_certificate_valid",
            "subject_peer_certificate",
            "subject_local_certificate",
            "uri_san_peer_certificate",
            "uri_san_local_certificate",
            "dns_san_peer_certificate",
            "dns_san_local_certificate",
            "sha256_peer_certificate_digest",
        ],
        "upstream" => &[
            "address",
            "port",
            "local_address",
            "transport_failure_reason",
            "request_attempt_count",
            "cx_pool_ready_duration",
            "locality",
            "num_endpoints",
        ],
        "xds" => &[
            "node",
            "cluster_name",
            "cluster_metadata",
            "listener_direction",
            "listener_metadata",
            "route_name",
            "route_metadata",
            "virtual_host_name",
            "virtual_host_metadata",
            "upstream_host_metadata",
            "upstream_host_locality_metadata",
            "filter_chain_name",
        ],
        _ => &[],
    }
}

fn of_item(view: &View<'_>, item: Item<'_>) -> Value {
    match item {
        Item::Bool(value) => Value::Bool(value),
        // Every number that an attribute is is a count.
        Item::Number(value) => Value::Int(value as i64),
        Item::Text(text) => text_value(text),
        Item::Time(time) => Value::Timestamp(chrono::DateTime::<chrono::Utc>::from(time).into()),
        Item::Duration(duration) => match chrono::Duration::from_std(duration) {
            Ok(duration) => Value::Duration(duration),
            Err(_) => Value::Null,
        },
        Item::Headers(headers) => of_headers(view, headers),
        Item::Metadata(metadata) => of_metadata(&metadata),
        Item::Node(node) => of_node(node),
        Item::Null => Value::Null,
        Item::Map => map([]),
        Item::Data(value) => of_kind(value.kind.as_ref()),
    }
}

fn of_headers(view: &View<'_>, headers: Headers) -> Value {
    let mut joined: HashMap<String, String> = HashMap::new();
    view.each_header(headers, |name, value| {
        let value = String::from_utf8_lossy(value);
        joined
            .entry(String::from_utf8_lossy(name).into_owned())
            .and_modify(|all| {
                all.push(',');
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    });
    map(joined
        .into_iter()
        .map(|(name, value)| (name, text_value(value.into()))))
}

fn of_metadata(metadata: &Metadata) -> Value {
    let untyped = map(metadata
        .filter_metadata
        .iter()
        .map(|(name, content)| (name.clone(), of_struct(content))));
    let typed = map(metadata
        .typed_filter_metadata
        .iter()
        .map(|(name, content)| (name.clone(), of_any(content))));
    map([
        ("filter_metadata".to_owned(), untyped),
        ("typed_filter_metadata".to_owned(), typed),
    ])
}

/// The wrapper messages are what they wrap, others a map of their parts.
fn of_any(any: &Any) -> Value {
    use prost::Message;
    let bytes = any.value.as_slice();
    let wrapped = match any.type_url.rsplit('/').next().unwrap_or_default() {
        "google.protobuf.StringValue" => String::decode(bytes).map(|v| text_value(v.into())).ok(),
        "google.protobuf.BoolValue" => bool::decode(bytes).map(Value::Bool).ok(),
        "google.protobuf.DoubleValue" => f64::decode(bytes).map(Value::Float).ok(),
        "google.protobuf.Int64Value" => i64::decode(bytes).map(Value::Int).ok(),
        "google.protobuf.UInt64Value" => u64::decode(bytes).map(Value::UInt).ok(),
        "google.protobuf.Struct" => Struct::decode(bytes).map(|v| of_struct(&v)).ok(),
        _ => None,
    };
    wrapped.unwrap_or_else(|| {
        map([
            (
                "type_url".to_owned(),
                text_value(Cow::Borrowed(&any.type_url)),
            ),
            ("value".to_owned(), Value::Bytes(any.value.clone().into())),
        ])
    })
}

fn of_struct(content: &Struct) -> Value {
    map(content
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), of_kind(value.kind.as_ref()))))
}

fn of_kind(kind: Option<&Kind>) -> Value {
    match kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(value)) => Value::Float(*value),
        Some(Kind::StringValue(text)) => text_value(Cow::Borrowed(text)),
        Some(Kind::StructValue(content)) => of_struct(content),
        Some(Kind::ListValue(list)) => {
            let values: Vec<_> = list
                .values
                .iter()
                .map(|v| of_kind(v.kind.as_ref()))
                .collect();
            Value::List(values.into())
        }
    }
}

/// A `Node`: its text fields are empty rather than absent, as a message's are.
fn of_node(node: &serde_json::Value) -> Value {
    let given = crate::metadata::struct_from_json(node).unwrap_or_default();
    let empty = ["id", "cluster", "user_agent_name", "user_agent_version"]
        .into_iter()
        .filter(|name| !given.fields.contains_key(*name))
        .map(|name| (name.to_owned(), text_value("".into())));
    let given = given
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), of_kind(value.kind.as_ref())));
    map(empty.chain(given))
}

/// `+`, which in Envoy does not join texts, bytes and lists.
pub(super) fn add(
    joins: Joins,
    meter: &Meter,
    left: Value,
    right: Value,
) -> Result<Value, ExecutionError> {
    match (&left, joins) {
        (Value::String(_) | Value::Bytes(_) | Value::List(_), Joins::No) => Err(
            ExecutionError::function_error("+", "joins nothing in Envoy's CEL"),
        ),
        (Value::String(_) | Value::Bytes(_) | Value::List(_), Joins::Yes) => {
            meter.pay(size(&left) + size(&right))?;
            left + right
        }
        _ => left + right,
    }
}

/// Result of an expression as data, if it is a list, a map or null; otherwise as it is printed. Costs a step for each part, and
/// for every 64 bytes of text: parts may be there many times.
pub(super) fn kept<'a>(value: Value, meter: &Meter) -> Option<Item<'a>> {
    match value {
        Value::List(_) | Value::Map(_) | Value::Null => Some(Item::Data(data(&value, meter)?)),
        value => Some(print::item(value)),
    }
}

fn data(value: &Value, meter: &Meter) -> Option<prost_types::Value> {
    meter.pay(1).ok()?;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Float(number) => Kind::NumberValue(*number),
        Value::List(list) => {
            let values = list.iter().map(|part| data(part, meter));
            Kind::ListValue(ListValue {
                values: values.collect::<Option<_>>()?,
            })
        }
        Value::Map(map) => {
            let entries = map.map.iter().map(|(key, part)| {
                let key = key.to_string();
                meter.pay(key.len() as i64 / 64).ok()?;
                Some((key, data(part, meter)?))
            });
            Kind::StructValue(Struct {
                fields: entries.collect::<Option<_>>()?,
            })
        }
        Value::String(text) => {
            meter.pay(text.len() as i64 / 64).ok()?;
            Kind::StringValue(text.to_string())
        }
        other => match print::item(other.clone()).encoded() {
            Encoded::Bool(value) => Kind::BoolValue(value),
            Encoded::Number(value) => Kind::NumberValue(value),
            Encoded::Text(text) => Kind::StringValue(text.into_owned()),
            Encoded::Data(value) => return Some(value),
        },
    };
    Some(prost_types::Value { kind: Some(kind) })
}

pub(super) fn text_value(text: Cow<'_, str>) -> Value {
    Value::String(text.into_owned().into())
}

fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    let entries: HashMap<Key, Value> = entries
        .into_iter()
        .map(|(name, value)| (Key::from(name), value))
        .collect();
    Value::Map(cel::objects::Map {
        map: entries.into(),
    })
}
