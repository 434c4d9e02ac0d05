//! From the messages of `envoy-types`.
//!
//! A message becomes the same raw form that ProtoJSON is read into, so that both pass the same
//! checks and mean the same.

use base64::Engine;
use envoy_types::pb::{
    envoy::{
        config::{
            common::mutation_rules::v3::HeaderMutationRules,
            core::v3::{self as core, grpc_service::TargetSpecifier, http_uri::HttpUpstreamType},
        },
        extensions::{
            filters::http::ext_proc::v3 as pb,
            http::ext_proc::processing_request_modifiers::mapped_attribute_builder::v3::MappedAttributeBuilder,
        },
        r#type::matcher::v3::{ListStringMatcher, RegexMatcher},
    },
    google::protobuf::{Any, BoolValue, Duration},
};
use prost::{Message, Name};
use serde_json::{Value, json};

use super::{
    BodyMode, ConfigError, FilterConfig, ForwardRules, GrpcService, MetadataOverrides, Overrides,
    PerRoute, ProcessingMode, RouteCacheAction, SendMode, StringMatcher,
    check::{attributes, metadata_entry},
    matcher::RawRegex,
    raw::{
        RawEnvoyGrpc, RawExtProcHttpService, RawExtension, RawFilter, RawGoogleGrpc,
        RawGrpcService, RawHeader, RawHeaderOption, RawHttpService, RawHttpStatus, RawHttpUri,
        RawMetadataOptions, RawMutationRules, RawNamespaces, RawRouteCacheAction, StatusNumber,
    },
    retry::{RawBackOff, RawRetryPolicy},
};
use crate::text::protojson::ProtoDuration;

impl TryFrom<pb::ExternalProcessor> for FilterConfig {
    type Error = ConfigError;

    /// # Errors
    /// As from ProtoJSON: names the field that is out of its range or at odds with another.
    fn try_from(message: pb::ExternalProcessor) -> Result<Self, ConfigError> {
        let forward_rules = message.forward_rules.map(forward_rules).transpose()?;
        let raw = RawFilter {
            grpc_service: message.grpc_service.map(grpc_service).transpose()?,
            http_service: message.http_service.map(http_service),
            failure_mode_allow: message.failure_mode_allow,
            processing_mode: match message.processing_mode {
                Some(mode) => processing_mode("processing_mode", mode)?,
                None => ProcessingMode::default(),
            },
            request_attributes: message.request_attributes,
            response_attributes: message.response_attributes,
            message_timeout: message.message_timeout.map(duration),
            max_message_timeout: message.max_message_timeout.map(duration),
            stat_prefix: message.stat_prefix,
            mutation_rules: message
                .mutation_rules
                .map(mutation_rules)
                .unwrap_or_default(),
            allow_mode_override: message.allow_mode_override,
            allowed_override_modes: message
                .allowed_override_modes
                .into_iter()
                .map(|mode| processing_mode("allowed_override_modes", mode))
                .collect::<Result<_, _>>()?,
            disable_immediate_response: message.disable_immediate_response,
            metadata_options: message
                .metadata_options
                .map(metadata_options)
                .unwrap_or_default(),
            observability_mode: message.observability_mode,
            deferred_close_timeout: message.deferred_close_timeout.map(duration),
            disable_clear_route_cache: message.disable_clear_route_cache,
            route_cache_action: RawRouteCacheAction(match message.route_cache_action {
                0 => RouteCacheAction::Default,
                1 => RouteCacheAction::Clear,
                2 => RouteCacheAction::Retain,
                other => return Err(unknown("route_cache_action", other)),
            }),
            send_body_without_waiting_for_header_response: message
                .send_body_without_waiting_for_header_response,
            status_on_error: message.status_on_error.map(|status| RawHttpStatus {
                // 0 is no named code, as is whatever does not fit.
                code: StatusNumber(u16::try_from(status.code).unwrap_or(0)),
            }),
            processing_request_modifier: message.processing_request_modifier.map(extension),
            allow_content_length_header: message.allow_content_length_header,
            emit_client_span: message.emit_client_span.map(|value| value.value),
            // Neither of these has an effect here, whatever it says.
            filter_metadata: message.filter_metadata.map(|_| Value::Null),
            on_processing_response: message.on_processing_response.map(|_| Value::Null),
            ..RawFilter::default()
        };
        let config = Self::try_from(raw)?;
        Ok(Self {
            forward_rules: forward_rules.unwrap_or_default(),
            ..config
        })
    }
}

impl TryFrom<pb::ExtProcPerRoute> for PerRoute {
    type Error = ConfigError;

    /// # Errors
    /// As from ProtoJSON.
    fn try_from(message: pb::ExtProcPerRoute) -> Result<Self, ConfigError> {
        use pb::ext_proc_per_route::Override;
        match message.r#override {
            Some(Override::Disabled(true)) => Ok(Self::Disabled),
            Some(Override::Disabled(false)) => {
                Err(ConfigError::new("disabled", "may only be true"))
            }
            Some(Override::Overrides(overrides)) => {
                Ok(Self::Overrides(Box::new(overrides.try_into()?)))
            }
            None => Err(ConfigError::new(
                "overrides",
                "one and only one of disabled and overrides has to be set",
            )),
        }
    }
}

impl TryFrom<pb::ExtProcOverrides> for Overrides {
    type Error = ConfigError;

    /// # Errors
    /// As from ProtoJSON.
    fn try_from(message: pb::ExtProcOverrides) -> Result<Self, ConfigError> {
        Ok(Self {
            processing_mode: message
                .processing_mode
                .map(|mode| processing_mode("overrides.processing_mode", mode))
                .transpose()?,
            grpc_service: message
                .grpc_service
                .map(|service| grpc_service(service).and_then(GrpcService::try_from))
                .transpose()?,
            grpc_initial_metadata: message
                .grpc_initial_metadata
                .into_iter()
                .map(|entry| metadata_entry("overrides.grpc_initial_metadata", &header(entry)))
                .collect::<Result<_, _>>()?,
            metadata_options: message
                .metadata_options
                .map(|options| MetadataOverrides::from(metadata_options(options))),
            failure_mode_allow: message.failure_mode_allow.map(|value| value.value),
            emit_client_span: message.emit_client_span.map(|value| value.value),
            mapped: message
                .processing_request_modifier
                .map(|modifier| attributes(&[], &[], Some(extension(modifier))))
                .transpose()?,
        })
    }
}

fn processing_mode(
    field: &'static str,
    message: pb::ProcessingMode,
) -> Result<ProcessingMode, ConfigError> {
    let send = |number| SendMode::from_number(number).ok_or_else(|| unknown(field, number));
    let body = |number| BodyMode::from_number(number).ok_or_else(|| unknown(field, number));
    Ok(ProcessingMode {
        request_header_mode: send(message.request_header_mode)?,
        response_header_mode: send(message.response_header_mode)?,
        request_body_mode: body(message.request_body_mode)?,
        response_body_mode: body(message.response_body_mode)?,
        request_trailer_mode: send(message.request_trailer_mode)?,
        response_trailer_mode: send(message.response_trailer_mode)?,
    })
}

fn unknown(field: &'static str, number: i32) -> ConfigError {
    ConfigError::new(field, format!("unknown value {number}"))
}

fn grpc_service(message: core::GrpcService) -> Result<RawGrpcService, ConfigError> {
    let (envoy_grpc, google_grpc) = match message.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) => (
            Some(RawEnvoyGrpc {
                cluster_name: envoy.cluster_name,
                authority: envoy.authority,
                max_receive_message_length: envoy
                    .max_receive_message_length
                    .map(|length| length.value),
                skip_envoy_headers: envoy.skip_envoy_headers,
                ..RawEnvoyGrpc::default()
            }),
            None,
        ),
        Some(TargetSpecifier::GoogleGrpc(google)) => (None, Some(google_grpc(google)?)),
        None => (None, None),
    };
    Ok(RawGrpcService {
        envoy_grpc,
        google_grpc,
        timeout: message.timeout.map(duration),
        initial_metadata: message.initial_metadata.into_iter().map(header).collect(),
        retry_policy: message.retry_policy.map(retry_policy),
    })
}

/// `channel_args` have no effect. What would have one is refused, by the check or, where ProtoJSON does not know the field
/// either, here.
fn google_grpc(message: core::grpc_service::GoogleGrpc) -> Result<RawGoogleGrpc, ConfigError> {
    use core::grpc_service::google_grpc::channel_credentials::CredentialSpecifier;
    for (field, is_set) in [
        (
            "grpc_service.google_grpc.channel_credentials_plugin",
            !message.channel_credentials_plugin.is_empty(),
        ),
        (
            "grpc_service.google_grpc.call_credentials",
            !message.call_credentials.is_empty(),
        ),
        (
            "grpc_service.google_grpc.call_credentials_plugin",
            !message.call_credentials_plugin.is_empty(),
        ),
        (
            "grpc_service.google_grpc.credentials_factory_name",
            !message.credentials_factory_name.is_empty(),
        ),
        ("grpc_service.google_grpc.config", message.config.is_some()),
    ] {
        if is_set {
            return Err(ConfigError::new(field, "is not supported"));
        }
    }
    let credentials = message
        .channel_credentials
        .and_then(|credentials| credentials.credential_specifier)
        .map(|specifier| match specifier {
            CredentialSpecifier::SslCredentials(_) => json!({"ssl_credentials": {}}),
            CredentialSpecifier::GoogleDefault(_) => json!({"google_default": {}}),
            CredentialSpecifier::LocalCredentials(_) => json!({"local_credentials": {}}),
        });
    Ok(RawGoogleGrpc {
        target_uri: message.target_uri,
        stat_prefix: message.stat_prefix,
        channel_credentials: credentials,
        channel_args: message.channel_args.map(|_| Value::Null),
        _per_stream_buffer_limit_bytes: None,
    })
}

fn retry_policy(message: core::RetryPolicy) -> RawRetryPolicy {
    RawRetryPolicy {
        retry_back_off: message.retry_back_off.map(|back_off| RawBackOff {
            base_interval: back_off.base_interval.map(duration),
            max_interval: back_off.max_interval.map(duration),
        }),
        num_retries: message.num_retries.map(|retries| retries.value),
        retry_on: message.retry_on,
        ..RawRetryPolicy::default()
    }
}

fn http_service(message: pb::ExtProcHttpService) -> RawExtProcHttpService {
    let service = message.http_service.unwrap_or_default();
    let uri = service.http_uri.unwrap_or_default();
    RawExtProcHttpService {
        http_service: RawHttpService {
            http_uri: RawHttpUri {
                uri: uri.uri,
                cluster: uri
                    .http_upstream_type
                    .map(|HttpUpstreamType::Cluster(name)| name)
                    .unwrap_or_default(),
                timeout: uri.timeout.map(duration),
            },
            request_headers_to_add: service
                .request_headers_to_add
                .into_iter()
                .map(|option| RawHeaderOption {
                    header: option.header.map(header).unwrap_or_default(),
                    append_action: Some(option.append_action.into()),
                    keep_empty_value: option.keep_empty_value,
                    ..RawHeaderOption::default()
                })
                .collect(),
        },
    }
}

fn header(message: core::HeaderValue) -> RawHeader {
    RawHeader {
        key: message.key,
        value: message.value,
        raw_value: (!message.raw_value.is_empty())
            .then(|| base64::engine::general_purpose::STANDARD.encode(message.raw_value)),
    }
}

fn duration(message: Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: message.seconds,
        nanos: message.nanos,
    }
}

fn mutation_rules(message: HeaderMutationRules) -> RawMutationRules {
    let flag = |value: Option<BoolValue>| value.is_some_and(|value| value.value);
    let regex = |value: Option<RegexMatcher>| value.map(|value| RawRegex::new(value.regex));
    RawMutationRules {
        allow_all_routing: flag(message.allow_all_routing),
        allow_envoy: flag(message.allow_envoy),
        disallow_system: flag(message.disallow_system),
        disallow_all: flag(message.disallow_all),
        allow_expression: regex(message.allow_expression),
        disallow_expression: regex(message.disallow_expression),
        disallow_is_error: flag(message.disallow_is_error),
    }
}

fn forward_rules(message: pb::HeaderForwardingRules) -> Result<ForwardRules, ConfigError> {
    let compile = |field, list: Option<ListStringMatcher>| {
        let Some(list) = list else {
            return Ok(Vec::new());
        };
        if list.patterns.is_empty() {
            return Err(ConfigError::new(field, "has to hold at least one pattern"));
        }
        list.patterns
            .into_iter()
            .map(|pattern| {
                StringMatcher::try_from(pattern)
                    .map_err(|error| ConfigError::new(field, error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(ForwardRules {
        allowed: compile("forward_rules.allowed_headers", message.allowed_headers)?,
        disallowed: compile(
            "forward_rules.disallowed_headers",
            message.disallowed_headers,
        )?,
    })
}

fn metadata_options(message: pb::MetadataOptions) -> RawMetadataOptions {
    let namespaces = |value: Option<pb::metadata_options::MetadataNamespaces>| {
        value.map(|value| RawNamespaces {
            untyped: value.untyped,
            typed: value.typed,
        })
    };
    RawMetadataOptions {
        forwarding_namespaces: namespaces(message.forwarding_namespaces),
        receiving_namespaces: namespaces(message.receiving_namespaces),
        cluster_metadata_forwarding_namespaces: namespaces(
            message.cluster_metadata_forwarding_namespaces,
        ),
    }
}

/// An extension in its ProtoJSON form. One that is not known keeps its type alone, which is what
/// the refusal names.
fn extension(message: core::TypedExtensionConfig) -> RawExtension {
    RawExtension {
        name: message.name,
        typed_config: message.typed_config.map(|any| typed_config(&any)),
    }
}

fn typed_config(any: &Any) -> Value {
    let mut json = json!({"@type": any.type_url});
    let known = any.type_url == MappedAttributeBuilder::type_url();
    if known && let Ok(builder) = MappedAttributeBuilder::decode(any.value.as_slice()) {
        json["mapped_request_attributes"] = json!(builder.mapped_request_attributes);
        json["mapped_response_attributes"] = json!(builder.mapped_response_attributes);
    }
    json
}

#[cfg(test)]
mod tests;
