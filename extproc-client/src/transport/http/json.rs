//! ProtoJSON to and from the wire form, for the messages that [`schema`](super::schema) describes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Buf;
use http::StatusCode;
use prost::{
    DecodeError, Message as _,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
    },
};
use prost_types::{Any, Struct};
use serde_json::{Map, Value};

use super::schema::{Field, Kind, Schema, Shape};
use crate::{
    metadata::{struct_from_json, struct_to_json},
    text::protojson::{self, LONGEST_SECONDS, ProtoDuration},
};

/// Prefix of the type URLs of the messages with a JSON form of their own.
const WELL_KNOWN: &str = "type.googleapis.com/google.protobuf.";

/// Bytes that are not the message that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(super) struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

/// The JSON form of an encoded message: proto field names, in the order of field numbers.
pub(super) fn to_json(message: &[u8], schema: &Schema) -> Result<Value, Malformed> {
    read_message(message, schema, usize::MAX)
}

/// As [`to_json`], for people: `null` if the message is malformed, and no more than `most` bytes of a body.
pub(super) fn to_shown(message: &[u8], schema: &Schema, most: usize) -> Value {
    read_message(message, schema, most).unwrap_or(Value::Null)
}

fn read_message(mut message: &[u8], schema: &Schema, most: usize) -> Result<Value, Malformed> {
    let mut values: Vec<Option<Value>> = vec![None; schema.fields.len()];
    while message.has_remaining() {
        let (number, wire) = decode_key(&mut message)?;
        let found = schema
            .fields
            .iter()
            .zip(&mut values)
            .find(|(field, _)| field.number == number);
        let Some((field, slot)) = found else {
            skip_field(wire, number, &mut message, DecodeContext::default())?;
            continue;
        };
        if field.shape == Shape::Map {
            let (key, value) = map_entry(bytes(&mut message)?, field.kind, most)?;
            if let Value::Object(map) = slot.get_or_insert_with(|| Map::new().into()) {
                map.insert(key, value);
            }
            continue;
        }
        let value = match (field.name, field.kind) {
            ("body", Kind::Bytes) => {
                let body = bytes(&mut message)?;
                STANDARD.encode(&body[..body.len().min(most)]).into()
            }
            _ => read_value(&mut message, wire, field.kind, most)?,
        };
        match (field.shape, slot.as_mut()) {
            (Shape::Many, Some(Value::Array(all))) => all.push(value),
            (Shape::Many, _) => *slot = Some(vec![value].into()),
            _ => *slot = Some(value),
        }
    }
    let named = schema.fields.iter().zip(values);
    Ok(named
        .filter_map(|(field, value)| Some((field.name.to_owned(), value?)))
        .collect::<Map<_, _>>()
        .into())
}

fn map_entry(mut entry: &[u8], kind: Kind, most: usize) -> Result<(String, Value), Malformed> {
    let (mut key, mut value) = (String::new(), Value::Null);
    while entry.has_remaining() {
        let (number, wire) = decode_key(&mut entry)?;
        match number {
            1 => key = String::from_utf8_lossy(bytes(&mut entry)?).into_owned(),
            2 => value = read_value(&mut entry, wire, kind, most)?,
            _ => skip_field(wire, number, &mut entry, DecodeContext::default())?,
        }
    }
    Ok((key, value))
}

fn read_value(
    from: &mut &[u8],
    wire: WireType,
    kind: Kind,
    most: usize,
) -> Result<Value, Malformed> {
    if wire == WireType::Varint {
        let number = decode_varint(from)?;
        return Ok(match kind {
            Kind::Bool => (number != 0).into(),
            Kind::Enum(names) => usize::try_from(number)
                .ok()
                .and_then(|index| names.get(index))
                .map_or_else(|| number.into(), |name| (*name).into()),
            _ => number.into(),
        });
    }
    let bytes = bytes(from)?;
    Ok(match kind {
        Kind::Bytes => STANDARD.encode(bytes).into(),
        Kind::Message(schema) => read_message(bytes, schema, most)?,
        Kind::BoolValue => bool::decode(bytes)?.into(),
        Kind::Duration => {
            let mut duration = prost_types::Duration::decode(bytes)?;
            // Longer ones are no durations, and the smallest number has no positive one to print.
            let longest = LONGEST_SECONDS.cast_signed();
            duration.seconds = duration.seconds.clamp(-longest, longest);
            duration.to_string().into()
        }
        Kind::Struct => struct_to_json(&Struct::decode(bytes)?),
        Kind::Any => any_to_json(&Any::decode(bytes)?),
        _ => String::from_utf8_lossy(bytes).into(),
    })
}

fn bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(decode_varint(from)?).unwrap_or(usize::MAX);
    match from.split_at_checked(length) {
        Some((bytes, rest)) => {
            *from = rest;
            Ok(bytes)
        }
        None => Err(Malformed),
    }
}

fn any_to_json(any: &Any) -> Value {
    let bytes = any.value.as_slice();
    let value = match any.type_url.strip_prefix(WELL_KNOWN) {
        Some("Struct") => Struct::decode(bytes).ok().map(|v| struct_to_json(&v)),
        Some("StringValue") => String::decode(bytes).ok().map(Into::into),
        Some("BoolValue") => bool::decode(bytes).ok().map(Into::into),
        _ => None,
    };
    let value = value.unwrap_or_else(|| STANDARD.encode(bytes).into());
    serde_json::json!({"@type": any.type_url, "value": value})
}

/// The wire form of a message in JSON.
///
/// Names may be in snake case or lower camel case; `null` is the same as absent.
///
/// # Errors
/// A name that the message does not have, a value of the wrong kind, or two of a kind where one is
/// allowed; the text names the place.
pub(super) fn from_json(json: &Value, schema: &Schema) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    write_message(&mut out, json, schema).map_err(|error| error.to_string())?;
    Ok(out)
}

/// A fault and its place.
#[derive(Debug)]
struct Invalid {
    path: String,
    reason: String,
}

impl Invalid {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            reason: reason.into(),
        }
    }

    /// The same, one level up.
    fn within(mut self, name: &str) -> Self {
        let separator = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{name}{separator}{}", self.path);
        self
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.reason),
            false => write!(f, "{}: {}", self.path, self.reason),
        }
    }
}

fn write_message(out: &mut Vec<u8>, json: &Value, schema: &Schema) -> Result<(), Invalid> {
    let object = json
        .as_object()
        .ok_or_else(|| Invalid::new("expected an object"))?;
    let mut chosen = None;
    for (name, value) in object {
        let field = schema
            .fields
            .iter()
            .find(|field| field.name == name || is_camel(field.name, name))
            .ok_or_else(|| Invalid::new(format!("unknown field {name:?}")))?;
        if value.is_null() {
            continue;
        }
        if schema.one_of.contains(&field.number)
            && let Some(other) = chosen.replace(field.name)
        {
            return Err(Invalid::new(format!(
                "only one of {other:?} and {:?} may be set",
                field.name
            )));
        }
        write_field(out, field, value).map_err(|error| error.within(name))?;
    }
    Ok(())
}

fn write_field(out: &mut Vec<u8>, field: &Field, value: &Value) -> Result<(), Invalid> {
    match field.shape {
        Shape::One => write_value(out, field.number, field.kind, value),
        Shape::Many => {
            let values = value
                .as_array()
                .ok_or_else(|| Invalid::new("expected an array"))?;
            values.iter().enumerate().try_for_each(|(index, value)| {
                write_value(out, field.number, field.kind, value)
                    .map_err(|error| error.within(&index.to_string()))
            })
        }
        Shape::Map => {
            let map = value
                .as_object()
                .ok_or_else(|| Invalid::new("expected an object"))?;
            map.iter().try_for_each(|(key, value)| {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                write_value(&mut entry, 2, field.kind, value).map_err(|error| error.within(key))?;
                put_bytes(out, field.number, &entry);
                Ok(())
            })
        }
    }
}

fn write_value(out: &mut Vec<u8>, number: u32, kind: Kind, value: &Value) -> Result<(), Invalid> {
    match kind {
        Kind::Bool => put_varint(out, number, boolean(value)?.into()),
        Kind::BoolValue => {
            let mut inner = Vec::new();
            put_varint(&mut inner, 1, boolean(value)?.into());
            put_bytes(out, number, &inner);
        }
        Kind::Integer => put_varint(out, number, integer(value)?),
        Kind::Enum(names) => put_varint(out, number, enumerated(value, names)?),
        Kind::Status => put_varint(out, number, status(value)?),
        Kind::Text => put_bytes(out, number, text(value)?.as_bytes()),
        Kind::Bytes => put_bytes(out, number, &base64(text(value)?)?),
        Kind::Message(schema) => {
            let mut inner = Vec::new();
            write_message(&mut inner, value, schema)?;
            put_bytes(out, number, &inner);
        }
        Kind::Struct => put_bytes(out, number, &content(value)?.encode_to_vec()),
        Kind::Duration => {
            let duration: ProtoDuration = text(value)?.parse().map_err(Invalid::new)?;
            let duration = prost_types::Duration {
                seconds: duration.seconds,
                nanos: duration.nanos,
            };
            put_bytes(out, number, &duration.encode_to_vec());
        }
        Kind::Any => put_bytes(out, number, &any(value)?.encode_to_vec()),
    }
    Ok(())
}

/// An `Any` of one of the messages with a JSON form of their own; the others are not known here.
fn any(value: &Value) -> Result<Any, Invalid> {
    let object = value
        .as_object()
        .ok_or_else(|| Invalid::new("expected an object"))?;
    let type_url = object
        .get("@type")
        .and_then(Value::as_str)
        .ok_or_else(|| Invalid::new("expected \"@type\""))?;
    if let Some(unknown) = object
        .keys()
        .find(|key| !["@type", "value"].contains(&key.as_str()))
    {
        return Err(Invalid::new(format!("unknown field {unknown:?}")));
    }
    let inner = object.get("value").unwrap_or(&Value::Null);
    let encoded = match type_url.strip_prefix(WELL_KNOWN) {
        Some("Struct") => content(inner)?.encode_to_vec(),
        Some("StringValue") => text(inner)?.to_owned().encode_to_vec(),
        Some("BoolValue") => boolean(inner)?.encode_to_vec(),
        _ => return Err(Invalid::new(format!("unknown type {type_url:?}"))),
    };
    Ok(Any {
        type_url: type_url.to_owned(),
        value: encoded,
    })
}

fn content(value: &Value) -> Result<Struct, Invalid> {
    struct_from_json(value).ok_or_else(|| Invalid::new("expected an object"))
}

fn boolean(value: &Value) -> Result<bool, Invalid> {
    value
        .as_bool()
        .ok_or_else(|| Invalid::new("expected true or false"))
}

fn text(value: &Value) -> Result<&str, Invalid> {
    value
        .as_str()
        .ok_or_else(|| Invalid::new("expected a string"))
}

/// A number, or a string of one; negative ones as the wire has them.
fn integer(value: &Value) -> Result<u64, Invalid> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number
        .map(i64::cast_unsigned)
        .ok_or_else(|| Invalid::new("expected an integer"))
}

fn enumerated(value: &Value, names: &[&str]) -> Result<u64, Invalid> {
    let Value::String(text) = value else {
        return integer(value);
    };
    names
        .iter()
        .position(|name| name == text)
        .map(|index| index as u64)
        .ok_or_else(|| Invalid::new(format!("{text:?} is none of {}", names.join(", "))))
}

fn status(value: &Value) -> Result<u64, Invalid> {
    let Value::String(text) = value else {
        return integer(value);
    };
    (100..600)
        .find(|code| {
            StatusCode::from_u16(*code)
                .ok()
                .and_then(|status| status.canonical_reason())
                .is_some_and(|reason| {
                    let letters = reason.chars().filter(char::is_ascii_alphanumeric);
                    letters.eq(text.chars())
                })
        })
        .map(u64::from)
        .ok_or_else(|| Invalid::new(format!("unknown status {text:?}")))
}

fn base64(text: &str) -> Result<Vec<u8>, Invalid> {
    protojson::base64(text).ok_or_else(|| Invalid::new("expected base64"))
}

/// Returns whether `name` is `snake` in lower camel case.
fn is_camel(snake: &str, name: &str) -> bool {
    let mut name = name.chars();
    let mut upper = false;
    for c in snake.chars() {
        if c == '_' {
            upper = true;
            continue;
        }
        let expected = if upper { c.to_ascii_uppercase() } else { c };
        upper = false;
        if name.next() != Some(expected) {
            return false;
        }
    }
    name.next().is_none()
}

fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::ext_proc::v3 as pb;
    use serde_json::json;

    use super::{
        super::schema::{REQUEST, RESPONSE},
        *,
    };

    #[test]
    fn a_request() {
        let message = pb::ProcessingRequest {
            request: Some(pb::processing_request::Request::RequestHeaders(
                pb::HttpHeaders {
                    headers: Some(envoy_types::pb::envoy::config::core::v3::HeaderMap {
                        headers: vec![envoy_types::pb::envoy::config::core::v3::HeaderValue {
                            key: ":path".into(),
                            raw_value: b"/".to_vec(),
                            ..Default::default()
                        }],
                    }),
                    end_of_stream: true,
                    ..Default::default()
                },
            )),
            metadata_context: Some(Default::default()),
            protocol_config: Some(pb::ProtocolConfiguration {
                request_body_mode: 2,
                ..Default::default()
            }),
            ..Default::default()
        };
        let json = to_json(&message.encode_to_vec(), &REQUEST).unwrap();
        assert_eq!(
            json.to_string(),
            r#"{"request_headers":{"headers":{"headers":[{"key":":path","raw_value":"Lw=="}]},"end_of_stream":true},"metadata_context":{},"protocol_config":{"request_body_mode":"BUFFERED"}}"#
        );
    }

    #[test]
    fn metadata_and_attributes() {
        let json = json!({
            "metadata_context": {
                "filter_metadata": {"ns": {"k": ["v", 1, null, {"x": true}]}},
                "typed_filter_metadata": {"t": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue", "value": "tv",
                }},
            },
            "attributes": {"envoy.filters.http.ext_proc": {"request.path": "/"}},
            "observability_mode": true,
        });
        let wire = from_json(&json, &REQUEST).unwrap();
        pb::ProcessingRequest::decode(wire.as_slice()).unwrap();
        assert_eq!(to_json(&wire, &REQUEST).unwrap(), json);
    }

    /// Every field of an answer, under both spellings, against the generated types.
    #[test]
    fn answers() {
        let snake = json!({
            "request_headers": {"response": {
                "status": "CONTINUE_AND_REPLACE",
                "header_mutation": {
                    "set_headers": [{
                        "header": {"key": "a", "raw_value": "_-8"},
                        "append": true,
                        "append_action": "OVERWRITE_IF_EXISTS",
                        "keep_empty_value": true,
                    }],
                    "remove_headers": ["b", "c"],
                },
                "body_mutation": {"body": "aGk="},
                "clear_route_cache": true,
            }},
            "dynamic_metadata": {"ns": {"k": 1.5}},
            "mode_override": {"request_body_mode": "STREAMED", "response_header_mode": 2},
            "override_message_timeout": "0.25s",
            "server_window_update": {"window_increment_downstream_to_sidestream": "12"},
        });
        let wire = from_json(&snake, &RESPONSE).unwrap();
        let message = pb::ProcessingResponse::decode(wire.as_slice()).unwrap();
        assert_eq!(message.encoded_len(), wire.len());
        let Some(pb::processing_response::Response::RequestHeaders(reply)) = &message.response
        else {
            panic!("not a header reply");
        };
        let common = reply.response.as_ref().unwrap();
        assert_eq!(common.status, 1);
        let mutation = common.header_mutation.as_ref().unwrap();
        assert_eq!(mutation.set_headers[0].append_action, 3);
        assert_eq!(
            mutation.set_headers[0].header.as_ref().unwrap().raw_value,
            [0xff, 0xef]
        );
        assert_eq!(message.override_message_timeout.unwrap().nanos, 250_000_000);
        assert_eq!(message.mode_override.unwrap().response_header_mode, 2);
        for (seconds, text) in [(i64::MIN, "-315576000000s"), (i64::MAX, "315576000000s")] {
            let wire = pb::ProcessingResponse {
                override_message_timeout: Some(envoy_types::pb::google::protobuf::Duration {
                    seconds,
                    nanos: 0,
                }),
                ..Default::default()
            };
            let shown = to_json(&wire.encode_to_vec(), &RESPONSE).unwrap();
            assert_eq!(shown["override_message_timeout"], text);
        }
        let camel = json!({
            "requestHeaders": {"response": {
                "status": 1,
                "headerMutation": {
                    "setHeaders": [{
                        "header": {"key": "a", "rawValue": "/+8="},
                        "append": true,
                        "appendAction": 3,
                        "keepEmptyValue": true,
                    }],
                    "removeHeaders": ["b", "c"],
                },
                "bodyMutation": {"body": "aGk"},
                "clearRouteCache": true,
            }},
            "dynamicMetadata": {"ns": {"k": 1.5}},
            "modeOverride": {"requestBodyMode": 1, "responseHeaderMode": "SKIP"},
            "overrideMessageTimeout": "0.250s",
            "serverWindowUpdate": {"windowIncrementDownstreamToSidestream": 12},
            "requestDrain": null,
        });
        let other = from_json(&camel, &RESPONSE).unwrap();
        // The order of fields within a message is free.
        assert_eq!(
            to_json(&other, &RESPONSE).unwrap(),
            to_json(&wire, &RESPONSE).unwrap()
        );
        let immediate = json!({"immediate_response": {
            "status": {"code": "Forbidden"}, "body": "bm8=", "grpc_status": {"status": 7},
        }});
        let wire = from_json(&immediate, &RESPONSE).unwrap();
        let message = pb::ProcessingResponse::decode(wire.as_slice()).unwrap();
        let Some(pb::processing_response::Response::ImmediateResponse(reply)) = message.response
        else {
            panic!("not an immediate response");
        };
        assert_eq!(reply.status.unwrap().code, 403);
        assert!(from_json(&json!({}), &RESPONSE).unwrap().is_empty());
    }

    #[test]
    fn refusals() {
        for (json, error) in [
            (json!([]), "expected an object"),
            (json!({"nope": 1}), "unknown field \"nope\""),
            (
                json!({"request_headers": {"response": {"x": 1}}}),
                "request_headers.response: unknown field \"x\"",
            ),
            (
                json!({"request_headers": {}, "response_headers": {}}),
                "only one of \"request_headers\" and \"response_headers\" may be set",
            ),
            (
                json!({"requestTrailers": {"header_mutation": {"remove_headers": ["a", 1]}}}),
                "requestTrailers.header_mutation.remove_headers.1: expected a string",
            ),
            (
                json!({"immediate_response": {"body": "§"}}),
                "immediate_response.body: expected base64",
            ),
            (
                json!({"immediate_response": {"status": {"code": "Nope"}}}),
                "immediate_response.status.code: unknown status \"Nope\"",
            ),
            (
                json!({"typed_dynamic_metadata": {"t": {"@type": "x/y"}}}),
                "typed_dynamic_metadata.t: unknown type \"x/y\"",
            ),
        ] {
            assert_eq!(from_json(&json, &RESPONSE).unwrap_err(), error);
        }
        assert!(to_json(&[0x12, 0x05, 0x00], &REQUEST).is_err());
    }
}
