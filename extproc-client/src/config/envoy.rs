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
    BodyMode, ConfigError, FilterConfig, ForwardRules, GrpcService, MetadataOptions, Overrides,
    PerRoute, ProcessingMode, RouteCacheAction, SendMode, StringMatcher,
    json::ProtoDuration,
    matcher::RawRegex,
    raw::{
        RawEnvoyGrpc, RawExtProcHttpService, RawExtension, RawFilter, RawGoogleGrpc,
        RawGrpcService, RawHeader, RawHeaderOption, RawHttpService, RawHttpStatus, RawHttpUri,
        RawMetadataOptions, RawMutationRules, RawNamespaces, RawRouteCacheAction, StatusNumber,
        attributes, metadata_entry,
    },
};

impl TryFrom<pb::ExternalProcessor> for FilterConfig {
    type Error = ConfigError;

    /// # Errors
    /// As from ProtoJSON: names the field that is out of its range or at odds with another.
    fn try_from(message: pb::ExternalProcessor) -> Result<Self, ConfigError> {
        let forward_rules = message.forward_rules.map(forward_rules).transpose()?;
        let raw = RawFilter {
            grpc_service: message.grpc_service.map(grpc_service),
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
            // Neither of these has an effect here, whatever it says.
            filter_metadata: message.filter_metadata.map(|_| Value::Null),
            on_processing_response: message.on_processing_response.map(|_| Value::Null),
            emit_client_span: message.emit_client_span.map(|value| value.value),
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
                .map(|service| GrpcService::try_from(grpc_service(service)))
                .transpose()?,
            grpc_initial_metadata: message
                .grpc_initial_metadata
                .into_iter()
                .map(|entry| metadata_entry("overrides.grpc_initial_metadata", &header(entry)))
                .collect::<Result<_, _>>()?,
            metadata_options: message
                .metadata_options
                .map(|options| MetadataOptions::from(metadata_options(options))),
            failure_mode_allow: message.failure_mode_allow.map(|value| value.value),
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

fn grpc_service(message: core::GrpcService) -> RawGrpcService {
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
        Some(TargetSpecifier::GoogleGrpc(google)) => (
            None,
            Some(RawGoogleGrpc {
                target_uri: google.target_uri,
                stat_prefix: google.stat_prefix,
                ..RawGoogleGrpc::default()
            }),
        ),
        None => (None, None),
    };
    RawGrpcService {
        envoy_grpc,
        google_grpc,
        timeout: message.timeout.map(duration),
        initial_metadata: message.initial_metadata.into_iter().map(header).collect(),
        ..RawGrpcService::default()
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
        list.unwrap_or_default()
            .patterns
            .into_iter()
            .map(|pattern| {
                StringMatcher::try_from(pattern).map_err(|error| ConfigError::new(field, error))
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
        let value = value.unwrap_or_default();
        RawNamespaces {
            untyped: value.untyped,
            typed: value.typed,
        }
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
mod tests {
    use envoy_types::pb::{
        envoy::r#type::matcher::v3::{StringMatcher as WireMatcher, string_matcher::MatchPattern},
        google::protobuf::UInt32Value,
    };

    use super::*;

    /// Both forms mean the same, down to the last field.
    fn same(message: pb::ExternalProcessor, json: Value) {
        let from_message = FilterConfig::try_from(message).unwrap();
        let from_json: FilterConfig = serde_json::from_value(json).unwrap();
        assert_eq!(format!("{from_message:#?}"), format!("{from_json:#?}"));
    }

    fn cluster(name: &str) -> core::GrpcService {
        core::GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
                cluster_name: name.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    fn seconds(seconds: i64) -> Option<Duration> {
        Some(Duration { seconds, nanos: 0 })
    }

    fn yes() -> Option<BoolValue> {
        Some(BoolValue { value: true })
    }

    fn entry(key: &str, value: &str) -> core::HeaderValue {
        core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }
    }

    fn modifier() -> core::TypedExtensionConfig {
        let builder = MappedAttributeBuilder {
            mapped_request_attributes: [("path".to_owned(), "request.path".to_owned())].into(),
            ..Default::default()
        };
        core::TypedExtensionConfig {
            name: "mapped".to_owned(),
            typed_config: Some(Any {
                type_url: MappedAttributeBuilder::type_url(),
                value: builder.encode_to_vec(),
            }),
        }
    }

    #[test]
    fn defaults() {
        let message = pb::ExternalProcessor {
            grpc_service: Some(cluster("p")),
            ..Default::default()
        };
        same(
            message,
            json!({"grpc_service": {"envoy_grpc": {"cluster_name": "p"}}}),
        );
    }

    #[test]
    fn everything() {
        let pattern = |pattern| WireMatcher {
            match_pattern: Some(pattern),
            ignore_case: true,
        };
        let names = |untyped: &str, typed: &str| {
            Some(pb::metadata_options::MetadataNamespaces {
                untyped: vec![untyped.to_owned()],
                typed: vec![typed.to_owned()],
            })
        };
        let mut service = cluster("p");
        if let Some(TargetSpecifier::EnvoyGrpc(envoy)) = &mut service.target_specifier {
            envoy.authority = "a.b".to_owned();
            envoy.skip_envoy_headers = true;
            envoy.max_receive_message_length = Some(UInt32Value { value: 100 });
        }
        service.initial_metadata = vec![entry("X-A", "%REQ(x-b)%")];
        let message = pb::ExternalProcessor {
            grpc_service: Some(service),
            failure_mode_allow: true,
            processing_mode: Some(pb::ProcessingMode {
                request_header_mode: 1,
                response_header_mode: 2,
                request_body_mode: 4,
                response_body_mode: 3,
                request_trailer_mode: 1,
                response_trailer_mode: 0,
            }),
            response_attributes: vec!["response.code".to_owned()],
            message_timeout: Some(Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            max_message_timeout: seconds(3),
            stat_prefix: "s".to_owned(),
            mutation_rules: Some(HeaderMutationRules {
                allow_all_routing: yes(),
                disallow_is_error: yes(),
                allow_expression: Some(RegexMatcher {
                    regex: "x-.*".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            forward_rules: Some(pb::HeaderForwardingRules {
                allowed_headers: Some(ListStringMatcher {
                    patterns: vec![pattern(MatchPattern::Prefix("X-".to_owned()))],
                }),
                disallowed_headers: None,
            }),
            allow_mode_override: true,
            allowed_override_modes: vec![pb::ProcessingMode {
                request_body_mode: 1,
                ..Default::default()
            }],
            disable_immediate_response: true,
            metadata_options: Some(pb::MetadataOptions {
                forwarding_namespaces: names("fu", "ft"),
                receiving_namespaces: names("ru", "rt"),
                cluster_metadata_forwarding_namespaces: names("cu", "ct"),
            }),
            observability_mode: true,
            deferred_close_timeout: seconds(7),
            route_cache_action: 2,
            send_body_without_waiting_for_header_response: true,
            status_on_error: Some(envoy_types::pb::envoy::r#type::v3::HttpStatus { code: 503 }),
            allow_content_length_header: true,
            emit_client_span: yes(),
            ..Default::default()
        };
        same(
            message,
            json!({
                "grpc_service": {
                    "envoy_grpc": {
                        "cluster_name": "p", "authority": "a.b", "skip_envoy_headers": true,
                        "max_receive_message_length": 100,
                    },
                    "initial_metadata": [{"key": "X-A", "value": "%REQ(x-b)%"}],
                },
                "failure_mode_allow": true,
                "processing_mode": {
                    "request_header_mode": "SEND", "response_header_mode": "SKIP",
                    "request_body_mode": "FULL_DUPLEX_STREAMED",
                    "response_body_mode": "BUFFERED_PARTIAL", "request_trailer_mode": "SEND",
                },
                "response_attributes": ["response.code"],
                "message_timeout": "1.5s",
                "max_message_timeout": "3s",
                "stat_prefix": "s",
                "mutation_rules": {
                    "allow_all_routing": true, "disallow_is_error": true,
                    "allow_expression": {"regex": "x-.*"},
                },
                "forward_rules": {
                    "allowed_headers": {"patterns": [{"prefix": "X-", "ignore_case": true}]},
                },
                "allow_mode_override": true,
                "allowed_override_modes": [{"request_body_mode": "STREAMED"}],
                "disable_immediate_response": true,
                "metadata_options": {
                    "forwarding_namespaces": {"untyped": ["fu"], "typed": ["ft"]},
                    "receiving_namespaces": {"untyped": ["ru"], "typed": ["rt"]},
                    "cluster_metadata_forwarding_namespaces": {"untyped": ["cu"], "typed": ["ct"]},
                },
                "observability_mode": true,
                "deferred_close_timeout": "7s",
                "route_cache_action": "RETAIN",
                "send_body_without_waiting_for_header_response": true,
                "status_on_error": {"code": "ServiceUnavailable"},
                "allow_content_length_header": true,
                "emit_client_span": true,
            }),
        );
    }

    #[test]
    fn http_services_and_modifiers() {
        let message = pb::ExternalProcessor {
            http_service: Some(pb::ExtProcHttpService {
                http_service: Some(core::HttpService {
                    http_uri: Some(core::HttpUri {
                        uri: "http://p:80/x".to_owned(),
                        timeout: seconds(2),
                        http_upstream_type: Some(HttpUpstreamType::Cluster("c".to_owned())),
                    }),
                    request_headers_to_add: vec![core::HeaderValueOption {
                        header: Some(entry("x-a", "1")),
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
            }),
            processing_request_modifier: Some(modifier()),
            disable_clear_route_cache: true,
            ..Default::default()
        };
        same(
            message,
            json!({
                "http_service": {"http_service": {
                    "http_uri": {"uri": "http://p:80/x", "timeout": "2s", "cluster": "c"},
                    "request_headers_to_add": [{"header": {"key": "x-a", "value": "1"}}],
                }},
                "processing_request_modifier": {"name": "mapped", "typed_config": {
                    "@type": MappedAttributeBuilder::type_url(),
                    "mapped_request_attributes": {"path": "request.path"},
                }},
                "disable_clear_route_cache": true,
            }),
        );
    }

    #[test]
    fn refusals() {
        let field = |change: fn(&mut pb::ExternalProcessor)| {
            let mut message = pb::ExternalProcessor {
                grpc_service: Some(cluster("p")),
                ..Default::default()
            };
            change(&mut message);
            FilterConfig::try_from(message).unwrap_err().field()
        };
        assert_eq!(field(|m| m.grpc_service = None), "grpc_service");
        assert_eq!(
            field(|m| m.grpc_service = Some(Default::default())),
            "grpc_service"
        );
        assert_eq!(field(|m| m.route_cache_action = 9), "route_cache_action");
        assert_eq!(
            field(|m| m.message_timeout = seconds(-1)),
            "message_timeout"
        );
        assert_eq!(
            field(|m| m.message_timeout = seconds(3601)),
            "message_timeout"
        );
        assert_eq!(
            field(|m| m.status_on_error = Some(Default::default())),
            "status_on_error"
        );
        assert_eq!(
            field(|m| {
                m.processing_mode = Some(pb::ProcessingMode {
                    request_body_mode: 9,
                    ..Default::default()
                });
            }),
            "processing_mode"
        );
        assert_eq!(
            field(|m| {
                m.processing_request_modifier = Some(core::TypedExtensionConfig {
                    typed_config: Some(Any {
                        type_url: "x/y".to_owned(),
                        value: Vec::new(),
                    }),
                    ..Default::default()
                });
            }),
            "processing_request_modifier"
        );
    }

    #[test]
    fn per_route() {
        use pb::ext_proc_per_route::Override;
        let parse = |value| PerRoute::try_from(pb::ExtProcPerRoute { r#override: value });
        assert!(matches!(
            parse(Some(Override::Disabled(true))),
            Ok(PerRoute::Disabled)
        ));
        assert!(parse(Some(Override::Disabled(false))).is_err());
        assert!(parse(None).is_err());
        let message = parse(Some(Override::Overrides(pb::ExtProcOverrides {
            processing_mode: Some(Default::default()),
            grpc_service: Some(cluster("other")),
            grpc_initial_metadata: vec![entry("k", "v")],
            metadata_options: Some(Default::default()),
            failure_mode_allow: Some(BoolValue { value: false }),
            processing_request_modifier: Some(modifier()),
            request_attributes: vec!["ignored".to_owned()],
            ..Default::default()
        })))
        .unwrap();
        let json: PerRoute = serde_json::from_value(json!({"overrides": {
            "processing_mode": {},
            "grpc_service": {"envoy_grpc": {"cluster_name": "other"}},
            "grpc_initial_metadata": [{"key": "k", "value": "v"}],
            "metadata_options": {},
            "failure_mode_allow": false,
            "processing_request_modifier": {"name": "mapped", "typed_config": {
                "@type": MappedAttributeBuilder::type_url(),
                "mapped_request_attributes": {"path": "request.path"},
            }},
            "request_attributes": ["ignored"],
        }}))
        .unwrap();
        assert_eq!(format!("{message:#?}"), format!("{json:#?}"));
    }
}
