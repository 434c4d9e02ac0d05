//! The ProtoJSON form of the filter's configuration, as it is read. [`check`](super::check) turns it
//! into [`FilterConfig`](super::FilterConfig).

use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    ProcessingMode, RouteCacheAction,
    matcher::{RawMatcher, RawRegex},
    retry::RawRetryPolicy,
};
use crate::text::protojson::{ProtoDuration, enum_number};

/// Statuses that `status_on_error` may name: the values of `envoy.type.v3.StatusCode`.
pub(super) const NAMED_STATUSES: &[u16] = &[
    100, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308,
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421,
    422, 423, 424, 426, 428, 429, 431, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawFilter {
    #[serde(alias = "grpcService")]
    pub(super) grpc_service: Option<RawGrpcService>,
    #[serde(alias = "httpService")]
    pub(super) http_service: Option<RawExtProcHttpService>,
    #[serde(alias = "failureModeAllow")]
    pub(super) failure_mode_allow: bool,
    #[serde(alias = "processingMode")]
    pub(super) processing_mode: ProcessingMode,
    #[serde(alias = "requestAttributes")]
    pub(super) request_attributes: Vec<String>,
    #[serde(alias = "responseAttributes")]
    pub(super) response_attributes: Vec<String>,
    #[serde(alias = "messageTimeout")]
    pub(super) message_timeout: Option<ProtoDuration>,
    #[serde(alias = "maxMessageTimeout")]
    pub(super) max_message_timeout: Option<ProtoDuration>,
    #[serde(alias = "statPrefix")]
    pub(super) stat_prefix: String,
    #[serde(alias = "mutationRules")]
    pub(super) mutation_rules: RawMutationRules,
    #[serde(alias = "forwardRules")]
    pub(super) forward_rules: RawForwardRules,
    #[serde(alias = "filterMetadata")]
    pub(super) filter_metadata: Option<Value>,
    #[serde(alias = "allowModeOverride")]
    pub(super) allow_mode_override: bool,
    #[serde(alias = "allowedOverrideModes")]
    pub(super) allowed_override_modes: Vec<ProcessingMode>,
    #[serde(alias = "disableImmediateResponse")]
    pub(super) disable_immediate_response: bool,
    #[serde(alias = "metadataOptions")]
    pub(super) metadata_options: RawMetadataOptions,
    #[serde(alias = "observabilityMode")]
    pub(super) observability_mode: bool,
    #[serde(alias = "deferredCloseTimeout")]
    pub(super) deferred_close_timeout: Option<ProtoDuration>,
    #[serde(alias = "disableClearRouteCache")]
    pub(super) disable_clear_route_cache: bool,
    #[serde(alias = "routeCacheAction")]
    pub(super) route_cache_action: RawRouteCacheAction,
    #[serde(alias = "sendBodyWithoutWaitingForHeaderResponse")]
    pub(super) send_body_without_waiting_for_header_response: bool,
    #[serde(alias = "onProcessingResponse")]
    pub(super) on_processing_response: Option<Value>,
    #[serde(alias = "statusOnError")]
    pub(super) status_on_error: Option<RawHttpStatus>,
    #[serde(alias = "processingRequestModifier")]
    pub(super) processing_request_modifier: Option<RawExtension>,
    #[serde(alias = "allowContentLengthHeader")]
    pub(super) allow_content_length_header: bool,
    #[serde(alias = "emitClientSpan")]
    pub(super) emit_client_span: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawGrpcService {
    #[serde(alias = "envoyGrpc")]
    pub(super) envoy_grpc: Option<RawEnvoyGrpc>,
    #[serde(alias = "googleGrpc")]
    pub(super) google_grpc: Option<RawGoogleGrpc>,
    pub(super) timeout: Option<ProtoDuration>,
    #[serde(alias = "initialMetadata")]
    pub(super) initial_metadata: Vec<RawHeader>,
    #[serde(alias = "retryPolicy")]
    pub(super) retry_policy: Option<RawRetryPolicy>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEnvoyGrpc {
    #[serde(alias = "clusterName")]
    pub(super) cluster_name: String,
    pub(super) authority: String,
    #[serde(alias = "retryPolicy")]
    pub(super) retry_policy: Option<Value>,
    #[serde(alias = "maxReceiveMessageLength")]
    pub(super) max_receive_message_length: Option<u32>,
    #[serde(alias = "skipEnvoyHeaders")]
    pub(super) skip_envoy_headers: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawGoogleGrpc {
    #[serde(alias = "targetUri")]
    pub(super) target_uri: String,
    #[serde(alias = "statPrefix")]
    pub(super) stat_prefix: String,
    #[serde(alias = "channelCredentials")]
    pub(super) channel_credentials: Option<Value>,
    #[serde(alias = "channelArgs")]
    pub(super) channel_args: Option<Value>,
    /// Has no effect: bytes that wait for a slow processor have bounds of their own.
    #[serde(
        alias = "perStreamBufferLimitBytes",
        rename = "per_stream_buffer_limit_bytes"
    )]
    pub(super) _per_stream_buffer_limit_bytes: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHeader {
    pub(super) key: String,
    pub(super) value: String,
    #[serde(alias = "rawValue")]
    pub(super) raw_value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawExtProcHttpService {
    #[serde(alias = "httpService")]
    pub(super) http_service: RawHttpService,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHttpService {
    #[serde(alias = "httpUri")]
    pub(super) http_uri: RawHttpUri,
    #[serde(alias = "requestHeadersToAdd")]
    pub(super) request_headers_to_add: Vec<RawHeaderOption>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHttpUri {
    pub(super) uri: String,
    pub(super) cluster: String,
    pub(super) timeout: Option<ProtoDuration>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHeaderOption {
    pub(super) header: RawHeader,
    #[serde(alias = "appendAction")]
    pub(super) append_action: Option<Value>,
    #[serde(alias = "keepEmptyValue")]
    pub(super) keep_empty_value: bool,
    pub(super) append: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMutationRules {
    #[serde(alias = "allowAllRouting")]
    pub(super) allow_all_routing: bool,
    #[serde(alias = "allowEnvoy")]
    pub(super) allow_envoy: bool,
    #[serde(alias = "disallowSystem")]
    pub(super) disallow_system: bool,
    #[serde(alias = "disallowAll")]
    pub(super) disallow_all: bool,
    #[serde(alias = "allowExpression")]
    pub(super) allow_expression: Option<RawRegex>,
    #[serde(alias = "disallowExpression")]
    pub(super) disallow_expression: Option<RawRegex>,
    #[serde(alias = "disallowIsError")]
    pub(super) disallow_is_error: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawForwardRules {
    #[serde(alias = "allowedHeaders")]
    pub(super) allowed_headers: Option<RawMatchers>,
    #[serde(alias = "disallowedHeaders")]
    pub(super) disallowed_headers: Option<RawMatchers>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMatchers {
    pub(super) patterns: Vec<RawMatcher>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMetadataOptions {
    #[serde(alias = "forwardingNamespaces")]
    pub(super) forwarding_namespaces: Option<RawNamespaces>,
    #[serde(alias = "receivingNamespaces")]
    pub(super) receiving_namespaces: Option<RawNamespaces>,
    #[serde(alias = "clusterMetadataForwardingNamespaces")]
    pub(super) cluster_metadata_forwarding_namespaces: Option<RawNamespaces>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawNamespaces {
    pub(super) untyped: Vec<String>,
    pub(super) typed: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawRouteCacheAction(pub(super) RouteCacheAction);

impl<'de> Deserialize<'de> for RawRouteCacheAction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(
            match enum_number(deserializer, &["DEFAULT", "CLEAR", "RETAIN"])? {
                1 => RouteCacheAction::Clear,
                2 => RouteCacheAction::Retain,
                _ => RouteCacheAction::Default,
            },
        ))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHttpStatus {
    pub(super) code: StatusNumber,
}

/// A value of `envoy.type.v3.StatusCode`: a number, or a name (`InternalServerError`).
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusNumber(pub u16);

impl<'de> Deserialize<'de> for StatusNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match Value::deserialize(deserializer)? {
            Value::Number(number) => number
                .as_u64()
                .and_then(|n| u16::try_from(n).ok())
                .map(Self)
                .ok_or_else(|| Error::custom("invalid status code")),
            Value::String(name) => NAMED_STATUSES
                .iter()
                .copied()
                .find(|&code| {
                    StatusCode::from_u16(code)
                        .ok()
                        .and_then(|status| status.canonical_reason())
                        .is_some_and(|reason| {
                            reason
                                .chars()
                                .filter(char::is_ascii_alphanumeric)
                                .collect::<String>()
                                .eq_ignore_ascii_case(&name)
                        })
                })
                .map(Self)
                .ok_or_else(|| Error::custom(format!("unknown status code {name:?}"))),
            _ => Err(Error::custom("expected a status code")),
        }
    }
}

/// `TypedExtensionConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawExtension {
    pub(super) name: String,
    #[serde(alias = "typedConfig")]
    pub(super) typed_config: Option<Value>,
}
