//! The checks that turn the [raw form](super::raw) of a configuration into
//! [`FilterConfig`](super::FilterConfig), whichever front end it came from.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::Engine;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    ConfigError, FilterConfig, ForwardRules, MetadataOptions, MutationRules, RetryPolicy,
    RouteCacheAction, Service, StringMatcher,
    matcher::RawRegex,
    route::{MetadataOverrides, Namespaces},
    service::{GrpcService, GrpcTarget, HttpService, MetadataEntry, Template},
};
use crate::attributes::AttributeSet;
use crate::attributes::Expression;
use crate::text::protojson::ProtoDuration;

use super::raw::*;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawMappedAttributes {
    #[serde(rename = "@type")]
    type_url: String,
    #[serde(alias = "mappedRequestAttributes")]
    mapped_request_attributes: BTreeMap<String, String>,
    #[serde(alias = "mappedResponseAttributes")]
    mapped_response_attributes: BTreeMap<String, String>,
}

pub(super) const MAPPED_ATTRIBUTES: &str = "type.googleapis.com/envoy.extensions.http.ext_proc.\
                                 processing_request_modifiers.mapped_attribute_builder.v3.\
                                 MappedAttributeBuilder";

impl TryFrom<RawFilter> for FilterConfig {
    type Error = ConfigError;

    fn try_from(raw: RawFilter) -> Result<Self, ConfigError> {
        let mode = raw.processing_mode;
        let service = match (raw.grpc_service, raw.http_service) {
            (Some(grpc), None) => Service::Grpc(grpc.try_into()?),
            (None, Some(http)) => Service::Http(http.http_service.try_into()?),
            _ => {
                return Err(ConfigError::new(
                    "grpc_service",
                    "one and only one of grpc_service and http_service has to be set",
                ));
            }
        };
        let route_cache_action = match (raw.disable_clear_route_cache, raw.route_cache_action.0) {
            (true, RouteCacheAction::Default) => RouteCacheAction::Retain,
            (true, _) => {
                return Err(ConfigError::new(
                    "route_cache_action",
                    "only one of disable_clear_route_cache and route_cache_action may be set",
                ));
            }
            (false, action) => action,
        };
        let (request_attributes, response_attributes) = attributes(
            &raw.request_attributes,
            &raw.response_attributes,
            raw.processing_request_modifier,
        )?;
        Self {
            service,
            failure_mode_allow: raw.failure_mode_allow,
            mode,
            filter_mode: mode,
            request_attributes,
            response_attributes,
            message_timeout: timeout("message_timeout", raw.message_timeout)?
                .unwrap_or(Duration::from_millis(200)),
            max_message_timeout: timeout("max_message_timeout", raw.max_message_timeout)?
                .filter(|max| !max.is_zero()),
            stat_prefix: raw.stat_prefix,
            mutation_rules: raw.mutation_rules.try_into()?,
            forward_rules: raw.forward_rules.try_into()?,
            allow_mode_override: raw.allow_mode_override,
            allowed_override_modes: raw.allowed_override_modes,
            disable_immediate_response: raw.disable_immediate_response,
            metadata: raw.metadata_options.into(),
            observability_mode: raw.observability_mode,
            deferred_close_timeout: match raw.deferred_close_timeout {
                None => Duration::from_secs(5),
                Some(given) => given.positive().ok_or_else(|| {
                    ConfigError::new("deferred_close_timeout", "has to be 0 s or longer")
                })?,
            },
            route_cache_action,
            send_body_without_waiting: raw.send_body_without_waiting_for_header_response,
            status_on_error: status_on_error(raw.status_on_error)?,
            allow_content_length_header: raw.allow_content_length_header,
            emit_client_span: raw.emit_client_span.unwrap_or(true),
            graceful_close: None,
        }
        .check()
    }
}

impl<'de> Deserialize<'de> for FilterConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawFilter::deserialize(deserializer)?
            .try_into()
            .map_err(serde::de::Error::custom)
    }
}

pub(super) fn attributes(
    request: &[String],
    response: &[String],
    modifier: Option<RawExtension>,
) -> Result<(AttributeSet, AttributeSet), ConfigError> {
    let plain = |field, list: &[String]| {
        AttributeSet::compile(field, list.iter().map(|text| (text.clone(), text.as_str())))
    };
    let Some(modifier) = modifier else {
        return Ok((
            plain("request_attributes", request)?,
            plain("response_attributes", response)?,
        ));
    };
    const FIELD: &str = "processing_request_modifier";
    let config: RawMappedAttributes =
        serde_json::from_value(modifier.typed_config.unwrap_or_default())
            .map_err(|error| ConfigError::new(FIELD, error.to_string()))?;
    if config.type_url != MAPPED_ATTRIBUTES {
        return Err(ConfigError::new(
            FIELD,
            format!("unsupported extension {:?}", config.type_url),
        ));
    }
    let mapped = |map: &BTreeMap<String, String>| {
        AttributeSet::compile(
            FIELD,
            map.iter().map(|(n, text)| (n.clone(), text.as_str())),
        )
    };
    // A direction for which nothing is mapped keeps its list.
    let either = |map: &BTreeMap<String, String>, field, list: &[String]| match map.is_empty() {
        true => plain(field, list),
        false => mapped(map),
    };
    Ok((
        either(
            &config.mapped_request_attributes,
            "request_attributes",
            request,
        )?,
        either(
            &config.mapped_response_attributes,
            "response_attributes",
            response,
        )?,
    ))
}

impl AttributeSet {
    pub(super) fn compile<'a>(
        field: &'static str,
        expressions: impl Iterator<Item = (String, &'a str)>,
    ) -> Result<Self, ConfigError> {
        let entries: Result<Vec<_>, _> = expressions
            .map(|(name, text)| match Expression::compile(text) {
                Ok(expression) => Ok((name, expression)),
                Err(error) => Err(ConfigError::new(field, format!("{text:?}: {error}"))),
            })
            .collect();
        Ok(Self {
            entries: Arc::from(entries?),
        })
    }
}

pub(super) fn timeout(
    field: &'static str,
    given: Option<ProtoDuration>,
) -> Result<Option<Duration>, ConfigError> {
    given
        .map(|given| {
            given
                .positive()
                .ok_or_else(|| ConfigError::new(field, "has to be between 0 s and 3600 s"))
        })
        .transpose()
}

pub(super) fn status_on_error(given: Option<RawHttpStatus>) -> Result<StatusCode, ConfigError> {
    const FIELD: &str = "status_on_error";
    let Some(RawHttpStatus {
        code: StatusNumber(code),
    }) = given
    else {
        return Ok(StatusCode::INTERNAL_SERVER_ERROR);
    };
    if !NAMED_STATUSES.contains(&code) {
        return Err(ConfigError::new(
            FIELD,
            format!("{code} is not a named status code"),
        ));
    }
    Ok(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

impl TryFrom<RawGrpcService> for GrpcService {
    type Error = ConfigError;

    fn try_from(raw: RawGrpcService) -> Result<Self, ConfigError> {
        let target = match (raw.envoy_grpc, raw.google_grpc) {
            (Some(envoy), None) => GrpcTarget::Cluster {
                name: envoy.cluster_name,
                authority: envoy.authority,
                skip_envoy_headers: envoy.skip_envoy_headers,
                max_receive_message_length: envoy.max_receive_message_length,
            },
            (None, Some(google)) => {
                let secured = google
                    .channel_credentials
                    .as_ref()
                    .and_then(Value::as_object)
                    .and_then(|kinds| kinds.keys().find(|kind| !kind.starts_with("local")));
                if let Some(kind) = secured {
                    return Err(ConfigError::new(
                        "grpc_service.google_grpc.channel_credentials",
                        format!(
                            "{kind} is not supported: use envoy_grpc and a cluster with a transport_socket"
                        ),
                    ));
                }
                if google.stat_prefix.is_empty() {
                    return Err(ConfigError::new(
                        "grpc_service.google_grpc.stat_prefix",
                        "has to be set",
                    ));
                }
                GrpcTarget::Uri {
                    target: google.target_uri,
                }
            }
            _ => {
                return Err(ConfigError::new(
                    "grpc_service",
                    "one and only one of envoy_grpc and google_grpc has to be set",
                ));
            }
        };
        if raw
            .timeout
            .is_some_and(|timeout| timeout.positive().is_none())
        {
            return Err(ConfigError::new(
                "grpc_service.timeout",
                "may not be negative",
            ));
        }
        let entry = |entry: &RawHeader| MetadataEntry::new(&entry.key, &entry.value);
        let retry = raw.retry_policy.map(RetryPolicy::try_from).transpose()?;
        let service = Self {
            retry: retry.filter(|_| matches!(target, GrpcTarget::Cluster { .. })),
            target,
            initial_metadata: raw.initial_metadata.iter().map(entry).collect(),
        };
        service.check()?;
        Ok(service)
    }
}

pub(super) fn metadata_entry(
    field: &'static str,
    raw: &RawHeader,
) -> Result<MetadataEntry, ConfigError> {
    let entry = MetadataEntry::new(&raw.key, &raw.value);
    entry.check(field)?;
    Ok(entry)
}

impl TryFrom<RawHttpService> for HttpService {
    type Error = ConfigError;

    fn try_from(raw: RawHttpService) -> Result<Self, ConfigError> {
        const URI: &str = "http_service.http_service.http_uri.uri";
        let uri: http::Uri = raw
            .http_uri
            .uri
            .parse()
            .map_err(|error| ConfigError::new(URI, format!("{error}")))?;
        let mut headers = Vec::with_capacity(raw.request_headers_to_add.len());
        for option in raw.request_headers_to_add {
            const HEADERS: &str = "http_service.http_service.request_headers_to_add";
            let bad = |what| ConfigError::new(HEADERS, format!("{:?}: {what}", option.header.key));
            let value = match &option.header.raw_value {
                None => option.header.value.clone().into_bytes(),
                Some(raw) => base64::engine::general_purpose::STANDARD
                    .decode(raw)
                    .map_err(|_| bad("raw_value is not base64"))?,
            };
            let value = String::from_utf8(value).map_err(|_| bad("raw_value is not UTF-8"))?;
            headers.push((
                http::HeaderName::from_bytes(option.header.key.as_bytes())
                    .map_err(|_| bad("invalid header name"))?,
                http::HeaderValue::from_str(&Template::parse(&value).without_request())
                    .map_err(|_| bad("invalid header value"))?,
            ));
        }
        Ok(Self {
            uri,
            cluster: raw.http_uri.cluster,
            timeout: timeout(
                "http_service.http_service.http_uri.timeout",
                raw.http_uri.timeout,
            )?
            .ok_or_else(|| {
                ConfigError::new(
                    "http_service.http_service.http_uri.timeout",
                    "has to be set",
                )
            })?,
            headers,
        })
    }
}

impl TryFrom<RawMutationRules> for MutationRules {
    type Error = ConfigError;

    fn try_from(raw: RawMutationRules) -> Result<Self, ConfigError> {
        let compile = |field, regex: Option<RawRegex>| {
            regex
                .map(|regex| regex.compile())
                .transpose()
                .map_err(|error| ConfigError::new(field, error.to_string()))
        };
        Ok(Self {
            allow_all_routing: raw.allow_all_routing,
            allow_envoy: raw.allow_envoy,
            disallow_system: raw.disallow_system,
            disallow_all: raw.disallow_all,
            allow_expression: compile("mutation_rules.allow_expression", raw.allow_expression)?,
            disallow_expression: compile(
                "mutation_rules.disallow_expression",
                raw.disallow_expression,
            )?,
            disallow_is_error: raw.disallow_is_error,
        })
    }
}

impl TryFrom<RawForwardRules> for ForwardRules {
    type Error = ConfigError;

    fn try_from(raw: RawForwardRules) -> Result<Self, ConfigError> {
        let compile = |field, matchers: Option<RawMatchers>| {
            let Some(matchers) = matchers else {
                return Ok(Vec::new());
            };
            if matchers.patterns.is_empty() {
                return Err(ConfigError::new(field, "has to hold at least one pattern"));
            }
            matchers
                .patterns
                .into_iter()
                .map(|matcher| {
                    StringMatcher::try_from(matcher)
                        .map_err(|error| ConfigError::new(field, error.to_string()))
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            allowed: compile("forward_rules.allowed_headers", raw.allowed_headers)?,
            disallowed: compile("forward_rules.disallowed_headers", raw.disallowed_headers)?,
        })
    }
}

impl From<RawMetadataOptions> for MetadataOptions {
    fn from(raw: RawMetadataOptions) -> Self {
        let mut options = Self::default();
        MetadataOverrides::from(raw).apply(&mut options);
        options
    }
}

impl From<RawMetadataOptions> for MetadataOverrides {
    fn from(raw: RawMetadataOptions) -> Self {
        let namespaces = |raw: Option<RawNamespaces>| {
            raw.map(|raw| Namespaces {
                untyped: raw.untyped,
                typed: raw.typed,
            })
        };
        Self {
            forwarding: namespaces(raw.forwarding_namespaces),
            receiving: namespaces(raw.receiving_namespaces),
            cluster: namespaces(raw.cluster_metadata_forwarding_namespaces),
        }
    }
}
