//! Messages and ProtoJSON mean the same.

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

/// The message refuses all that ProtoJSON refuses.
#[test]
fn refusals_within_the_service_and_the_rules() {
    use envoy_types::pb::envoy::config::core::v3::grpc_service::{GoogleGrpc, google_grpc::*};
    let google = |change: fn(&mut GoogleGrpc)| {
        let mut google = GoogleGrpc {
            target_uri: "processor:50051".to_owned(),
            stat_prefix: "p".to_owned(),
            ..Default::default()
        };
        change(&mut google);
        FilterConfig::try_from(pb::ExternalProcessor {
            grpc_service: Some(core::GrpcService {
                target_specifier: Some(TargetSpecifier::GoogleGrpc(google)),
                ..Default::default()
            }),
            ..Default::default()
        })
        .map_err(|error| error.field())
    };
    let credentials = |specifier| {
        Some(ChannelCredentials {
            credential_specifier: Some(specifier),
        })
    };
    assert!(google(|_| {}).is_ok());
    google(|g| g.channel_credentials = Some(Default::default())).unwrap();
    let secured = core::GrpcService {
        target_specifier: Some(TargetSpecifier::GoogleGrpc(GoogleGrpc {
            target_uri: "processor:50051".to_owned(),
            stat_prefix: "p".to_owned(),
            channel_credentials: credentials(
                channel_credentials::CredentialSpecifier::SslCredentials(Default::default()),
            ),
            ..Default::default()
        })),
        ..Default::default()
    };
    let refused = |message: pb::ExternalProcessor| FilterConfig::try_from(message).unwrap_err();
    let message = pb::ExternalProcessor {
        grpc_service: Some(secured),
        ..Default::default()
    };
    assert_eq!(
        refused(message).field(),
        "grpc_service.google_grpc.channel_credentials"
    );
    assert_eq!(
        google(|g| g.call_credentials = vec![Default::default()]).unwrap_err(),
        "grpc_service.google_grpc.call_credentials"
    );
    assert_eq!(
        google(|g| g.credentials_factory_name = "f".to_owned()).unwrap_err(),
        "grpc_service.google_grpc.credentials_factory_name"
    );
    for (rules, field) in [
        (
            pb::HeaderForwardingRules {
                allowed_headers: Some(Default::default()),
                ..Default::default()
            },
            "forward_rules.allowed_headers",
        ),
        (
            pb::HeaderForwardingRules {
                disallowed_headers: Some(Default::default()),
                ..Default::default()
            },
            "forward_rules.disallowed_headers",
        ),
    ] {
        let message = pb::ExternalProcessor {
            grpc_service: Some(cluster("p")),
            forward_rules: Some(rules),
            ..Default::default()
        };
        assert_eq!(refused(message).field(), field);
    }
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
