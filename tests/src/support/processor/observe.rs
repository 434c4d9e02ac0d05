//! A `ProcessingRequest` in the form that observations keep: JSON with short names, bytes as Latin-1 text.

use envoy_types::pb::envoy::config::core::v3::HeaderMap;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, ProcessingRequest};
use envoy_types::pb::google::protobuf::value::Kind as ProtoKind;
use envoy_types::pb::google::protobuf::{Any, Struct, Value as ProtoValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::http1::latin1;

/// The kinds of messages that a processor gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `request_headers`
    RequestHeaders,
    /// `request_body`
    RequestBody,
    /// `request_trailers`
    RequestTrailers,
    /// `response_headers`
    ResponseHeaders,
    /// `response_body`
    ResponseBody,
    /// `response_trailers`
    ResponseTrailers,
}

impl Kind {
    /// The kind of a message, if it has one.
    #[must_use]
    pub fn of(message: &ProcessingRequest) -> Option<Self> {
        Some(match message.request.as_ref()? {
            Request::RequestHeaders(_) => Self::RequestHeaders,
            Request::RequestBody(_) => Self::RequestBody,
            Request::RequestTrailers(_) => Self::RequestTrailers,
            Request::ResponseHeaders(_) => Self::ResponseHeaders,
            Request::ResponseBody(_) => Self::ResponseBody,
            Request::ResponseTrailers(_) => Self::ResponseTrailers,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
            Self::RequestBody => "request_body",
            Self::RequestTrailers => "request_trailers",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body",
            Self::ResponseTrailers => "response_trailers",
        }
    }
}

/// Everything that a message says; what has its default value is left out, except `eos`.
pub(super) fn describe(message: &ProcessingRequest) -> Value {
    let mut out = Map::new();
    let kind = Kind::of(message).map_or("none", Kind::name);
    out.insert("kind".into(), kind.into());
    match &message.request {
        Some(Request::RequestHeaders(h) | Request::ResponseHeaders(h)) => {
            describe_headers(h.headers.as_ref(), &mut out);
            out.insert("eos".into(), h.end_of_stream.into());
            if !h.attributes.is_empty() {
                out.insert("attributes_in_headers".into(), true.into());
            }
        }
        Some(Request::RequestBody(b) | Request::ResponseBody(b)) => describe_body(b, &mut out),
        Some(Request::RequestTrailers(t) | Request::ResponseTrailers(t)) => {
            describe_headers(t.trailers.as_ref(), &mut out);
        }
        None => {}
    }
    match &message.metadata_context {
        None => {
            out.insert("metadata".into(), Value::Null);
        }
        Some(m) if m.filter_metadata.is_empty() && m.typed_filter_metadata.is_empty() => {}
        Some(m) => {
            let mut namespaces: Map<String, Value> = m
                .filter_metadata
                .iter()
                .map(|(name, value)| (name.clone(), struct_json(value)))
                .collect();
            for (name, value) in &m.typed_filter_metadata {
                namespaces.insert(format!("{name} (typed)"), any_json(value));
            }
            out.insert("metadata".into(), sorted(namespaces));
        }
    }
    if !message.attributes.is_empty() {
        let attributes = message
            .attributes
            .iter()
            .map(|(name, value)| (name.clone(), struct_json(value)))
            .collect();
        out.insert("attributes".into(), sorted(attributes));
    }
    if message.observability_mode {
        out.insert("observability_mode".into(), true.into());
    }
    if let Some(config) = &message.protocol_config {
        let shown = json!({
            "request_body_mode": config.request_body_mode,
            "response_body_mode": config.response_body_mode,
            "send_body_without_waiting": config.send_body_without_waiting_for_header_response,
        });
        out.insert("protocol_config".into(), shown);
    }
    if message.flow_control_init.is_some() || message.client_window_update.is_some() {
        out.insert("flow_control".into(), true.into());
    }
    Value::Object(out)
}

fn describe_headers(map: Option<&HeaderMap>, out: &mut Map<String, Value>) {
    let headers = map.map(|m| m.headers.as_slice()).unwrap_or_default();
    let fields = headers
        .iter()
        .map(|h| json!([h.key, latin1(&h.raw_value)]))
        .collect();
    out.insert("headers".into(), Value::Array(fields));
    if headers.iter().any(|h| !h.value.is_empty()) {
        out.insert("uses_value".into(), true.into());
    }
}

fn describe_body(body: &HttpBody, out: &mut Map<String, Value>) {
    out.insert("body".into(), latin1(&body.body).into());
    out.insert("eos".into(), body.end_of_stream.into());
    for (name, set) in [
        (
            "end_of_stream_without_message",
            body.end_of_stream_without_message,
        ),
        ("grpc_message_compressed", body.grpc_message_compressed),
        ("drain_complete", body.drain_complete),
    ] {
        if set {
            out.insert(name.into(), true.into());
        }
    }
}

fn struct_json(value: &Struct) -> Value {
    let fields = value
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), value_json(value)))
        .collect();
    sorted(fields)
}

fn value_json(value: &ProtoValue) -> Value {
    match &value.kind {
        None | Some(ProtoKind::NullValue(_)) => Value::Null,
        Some(ProtoKind::BoolValue(b)) => (*b).into(),
        // whole numbers without a point, so that a golden file reads like the configuration
        Some(ProtoKind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 1e15 => {
            json!(*n as i64)
        }
        Some(ProtoKind::NumberValue(n)) => json!(n),
        Some(ProtoKind::StringValue(s)) => s.clone().into(),
        Some(ProtoKind::StructValue(s)) => struct_json(s),
        Some(ProtoKind::ListValue(l)) => l.values.iter().map(value_json).collect(),
    }
}

fn any_json(any: &Any) -> Value {
    json!({"type": any.type_url, "value": latin1(&any.value)})
}

fn sorted(map: Map<String, Value>) -> Value {
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(entries.into_iter().collect())
}
