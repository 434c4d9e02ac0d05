//! Script actions to `ProcessingResponse` messages.

use std::collections::HashMap;

use anyhow::{Context, bail};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{
    BodySendMode, HeaderSendMode,
};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::common_response::ResponseStatus;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::streamed_immediate_response::Response as LocalPart;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMutation, HeadersResponse,
    HttpHeaders, ImmediateResponse, ProcessingRequest, ProcessingResponse, StreamedBodyResponse,
    StreamedImmediateResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind as ProtoKind;
use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration, ListValue, Struct, Value as ProtoValue,
};
use serde_json::Value;

use super::Kind;
use super::script::{Action, Common, Immediate, Local, Mode, SetField};
use crate::support::http1::bytes_of;
use crate::support::script::{Field, split_line};

/// The reply that changes nothing; a body gets its own bytes back as `streamed_response` where the mode asks for it.
pub(crate) fn unchanged(
    message: &ProcessingRequest,
    duplex_request: bool,
    duplex_response: bool,
) -> Option<ProcessingResponse> {
    let body = |body: &envoy_types::pb::envoy::service::ext_proc::v3::HttpBody, duplex: bool| {
        let common = duplex.then(|| CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(StreamedBodyResponse {
                    body: body.body.clone(),
                    end_of_stream: body.end_of_stream,
                    end_of_stream_without_message: body.end_of_stream_without_message,
                    grpc_message_compressed: body.grpc_message_compressed,
                    ..StreamedBodyResponse::default()
                })),
            }),
            ..CommonResponse::default()
        });
        BodyResponse { response: common }
    };
    let response = match message.request.as_ref()? {
        Request::RequestHeaders(_) => Response::RequestHeaders(HeadersResponse::default()),
        Request::ResponseHeaders(_) => Response::ResponseHeaders(HeadersResponse::default()),
        Request::RequestBody(b) => Response::RequestBody(body(b, duplex_request)),
        Request::ResponseBody(b) => Response::ResponseBody(body(b, duplex_response)),
        Request::RequestTrailers(_) => Response::RequestTrailers(TrailersResponse::default()),
        Request::ResponseTrailers(_) => Response::ResponseTrailers(TrailersResponse::default()),
    };
    Some(ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    })
}

/// The message that an action describes; `asked` is the kind that `reply` answers.
pub(super) fn build(action: &Action, asked: Option<Kind>) -> anyhow::Result<ProcessingResponse> {
    let mut parts = Vec::new();
    if let Some(reply) = &action.reply {
        let kind = asked.context("`reply` outside of an answer to a message")?;
        parts.push(response(kind, reply)?);
    }
    for (kind, common) in [
        (Kind::RequestHeaders, &action.request_headers),
        (Kind::RequestBody, &action.request_body),
        (Kind::RequestTrailers, &action.request_trailers),
        (Kind::ResponseHeaders, &action.response_headers),
        (Kind::ResponseBody, &action.response_body),
        (Kind::ResponseTrailers, &action.response_trailers),
    ] {
        if let Some(common) = common {
            parts.push(response(kind, common)?);
        }
    }
    if let Some(reply) = &action.immediate {
        parts.push(Response::ImmediateResponse(immediate(reply)?));
    }
    if let Some(part) = &action.local {
        parts.push(Response::StreamedImmediateResponse(local(part)));
    }
    if parts.len() > 1 {
        bail!("an action with several replies");
    }
    let mut out = ProcessingResponse {
        response: parts.pop(),
        ..ProcessingResponse::default()
    };
    if let Some(mode) = &action.mode_override {
        out.mode_override = Some(processing_mode(mode)?);
    }
    if let Some(metadata) = &action.dynamic_metadata {
        out.dynamic_metadata = Some(proto_struct(metadata).context("dynamic_metadata")?);
    }
    for (namespace, value) in action.typed_dynamic_metadata.iter().flatten() {
        let any = Any {
            type_url: format!("type.googleapis.com/{}", value.r#type),
            value: value.value.bytes(),
        };
        out.typed_dynamic_metadata.insert(namespace.clone(), any);
    }
    if let Some(ms) = action.override_message_timeout {
        out.override_message_timeout = Some(Duration {
            seconds: ms / 1000,
            nanos: i32::try_from(ms % 1000)? * 1_000_000,
        });
    }
    out.request_drain_requests = action.request_drain;
    let empty = out == ProcessingResponse::default();
    if empty != action.empty {
        bail!("an action that says nothing (use `empty: true` for an empty message)");
    }
    Ok(out)
}

fn response(kind: Kind, common: &Common) -> anyhow::Result<Response> {
    let headers = || {
        Ok::<_, anyhow::Error>(HeadersResponse {
            response: common_response(common)?,
        })
    };
    let body = || {
        Ok::<_, anyhow::Error>(BodyResponse {
            response: common_response(common)?,
        })
    };
    let trailers = || {
        Ok::<_, anyhow::Error>(TrailersResponse {
            header_mutation: mutation(common)?,
        })
    };
    Ok(match kind {
        Kind::RequestHeaders => Response::RequestHeaders(headers()?),
        Kind::ResponseHeaders => Response::ResponseHeaders(headers()?),
        Kind::RequestBody => Response::RequestBody(body()?),
        Kind::ResponseBody => Response::ResponseBody(body()?),
        Kind::RequestTrailers => Response::RequestTrailers(trailers()?),
        Kind::ResponseTrailers => Response::ResponseTrailers(trailers()?),
    })
}

fn common_response(common: &Common) -> anyhow::Result<Option<CommonResponse>> {
    let body_mutation = if let Some(body) = &common.body {
        Some(Some(Mutation::Body(body.bytes())))
    } else if let Some(clear) = common.clear_body {
        Some(Some(Mutation::ClearBody(clear)))
    } else if let Some(stream) = &common.stream {
        Some(Some(Mutation::StreamedResponse(StreamedBodyResponse {
            body: stream.bytes(),
            end_of_stream: common.eos,
            ..StreamedBodyResponse::default()
        })))
    } else {
        common.empty_body_mutation.then_some(None)
    };
    let out = CommonResponse {
        status: if common.replace {
            ResponseStatus::ContinueAndReplace.into()
        } else {
            ResponseStatus::Continue.into()
        },
        header_mutation: mutation(common)?,
        body_mutation: body_mutation.map(|mutation| BodyMutation { mutation }),
        trailers: (!common.trailers.is_empty()).then(|| header_map(&common.trailers)),
        clear_route_cache: common.clear_route_cache,
    };
    Ok((common.response || out != CommonResponse::default()).then_some(out))
}

fn mutation(common: &Common) -> anyhow::Result<Option<HeaderMutation>> {
    let mut out = header_mutation(&common.set, &common.remove, common.set_many)?;
    out.remove_headers
        .extend((0..common.remove_many).map(|n| format!("x-many-{n}")));
    let empty = out == HeaderMutation::default();
    Ok((common.mutation || !empty).then_some(out))
}

fn header_mutation(
    set: &[SetField],
    remove: &[String],
    set_many: usize,
) -> anyhow::Result<HeaderMutation> {
    let mut set_headers = set.iter().map(option).collect::<anyhow::Result<Vec<_>>>()?;
    set_headers.extend((0..set_many).map(|n| HeaderValueOption {
        header: Some(header_value(&format!("x-many-{n}"), n.to_string().into())),
        ..HeaderValueOption::default()
    }));
    Ok(HeaderMutation {
        set_headers,
        remove_headers: remove.to_vec(),
    })
}

#[expect(deprecated, reason = "`append` is what Envoy obeys")]
fn option(field: &SetField) -> anyhow::Result<HeaderValueOption> {
    match field {
        SetField::Line(line) => {
            let (name, value) = split_line(line);
            Ok(HeaderValueOption {
                header: Some(header_value(name, bytes_of(value))),
                ..HeaderValueOption::default()
            })
        }
        SetField::Full(full) => {
            let action = match full.action.as_deref() {
                None => 0,
                Some(name) => HeaderAppendAction::from_str_name(name)
                    .with_context(|| format!("append_action {name}"))?
                    .into(),
            };
            let raw_value = full.value.as_ref().map(|v| v.bytes()).unwrap_or_default();
            let header = HeaderValue {
                key: full.name.clone(),
                value: full.text.clone().unwrap_or_default(),
                raw_value,
            };
            Ok(HeaderValueOption {
                header: (!full.missing).then_some(header),
                append: full.append.map(|value| BoolValue { value }),
                append_action: action,
                keep_empty_value: full.keep_empty,
            })
        }
    }
}

fn header_value(name: &str, raw_value: Vec<u8>) -> HeaderValue {
    HeaderValue {
        key: name.to_owned(),
        value: String::new(),
        raw_value,
    }
}

fn header_map(fields: &[Field]) -> HeaderMap {
    let headers = fields.iter().map(|field| {
        let (name, value) = field.pair();
        header_value(&name, value)
    });
    HeaderMap {
        headers: headers.collect(),
    }
}

fn immediate(reply: &Immediate) -> anyhow::Result<ImmediateResponse> {
    let headers = header_mutation(&reply.set, &reply.remove, reply.set_many)?;
    Ok(ImmediateResponse {
        status: reply.status.map(|code| HttpStatus { code }),
        headers: (headers != HeaderMutation::default()).then_some(headers),
        body: reply.body.as_ref().map(|b| b.bytes()).unwrap_or_default(),
        grpc_status: reply.grpc.map(|status| GrpcStatus { status }),
        details: reply.details.clone(),
    })
}

fn local(part: &Local) -> StreamedImmediateResponse {
    let response = if let Some(headers) = &part.headers {
        Some(LocalPart::HeadersResponse(HttpHeaders {
            headers: Some(header_map(headers)),
            end_of_stream: part.eos,
            attributes: HashMap::new(),
        }))
    } else if let Some(body) = &part.body {
        Some(LocalPart::BodyResponse(StreamedBodyResponse {
            body: body.bytes(),
            end_of_stream: part.eos,
            ..StreamedBodyResponse::default()
        }))
    } else {
        part.trailers
            .as_ref()
            .map(|trailers| LocalPart::TrailersResponse(header_map(trailers)))
    };
    StreamedImmediateResponse { response }
}

fn processing_mode(mode: &Mode) -> anyhow::Result<ProcessingMode> {
    let header = |name: &Option<String>| match name {
        None => Ok(0),
        Some(name) => HeaderSendMode::from_str_name(name)
            .map(i32::from)
            .with_context(|| format!("header mode {name}")),
    };
    let body = |name: &Option<String>| match name {
        None => Ok(0),
        Some(name) => BodySendMode::from_str_name(name)
            .map(i32::from)
            .with_context(|| format!("body mode {name}")),
    };
    Ok(ProcessingMode {
        request_header_mode: header(&mode.request_header_mode)?,
        response_header_mode: header(&mode.response_header_mode)?,
        request_body_mode: body(&mode.request_body_mode)?,
        response_body_mode: body(&mode.response_body_mode)?,
        request_trailer_mode: header(&mode.request_trailer_mode)?,
        response_trailer_mode: header(&mode.response_trailer_mode)?,
    })
}

fn proto_struct(value: &Value) -> anyhow::Result<Struct> {
    let fields = value.as_object().context("not an object")?;
    Ok(Struct {
        fields: fields
            .iter()
            .map(|(name, value)| (name.clone(), proto_value(value)))
            .collect(),
    })
}

fn proto_value(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => ProtoKind::NullValue(0),
        Value::Bool(b) => ProtoKind::BoolValue(*b),
        Value::Number(n) => ProtoKind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => ProtoKind::StringValue(s.clone()),
        Value::Array(items) => ProtoKind::ListValue(ListValue {
            values: items.iter().map(proto_value).collect(),
        }),
        Value::Object(fields) => ProtoKind::StructValue(Struct {
            fields: fields
                .iter()
                .map(|(name, value)| (name.clone(), proto_value(value)))
                .collect(),
        }),
    };
    ProtoValue { kind: Some(kind) }
}
