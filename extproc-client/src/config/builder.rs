//! A configuration built in code.

use std::time::Duration;

use http::StatusCode;

use super::{
    BodyMode, ConfigError, FilterConfig, ForwardRules, MetadataOptions, MutationRules,
    ProcessingMode, RouteCacheAction, Service,
};
use crate::attributes::AttributeSet;
use crate::attributes::Expression;

/// Builds a [`FilterConfig`]; see [`FilterConfig::builder`]. What is not set has Envoy's default.
#[derive(Clone, Debug)]
pub struct FilterConfigBuilder {
    config: FilterConfig,
    request_attributes: Attributes,
    response_attributes: Attributes,
}

/// Each with its name; not compiled yet, or compiled by the caller.
#[derive(Clone, Debug)]
enum Attributes {
    Texts(Vec<String>),
    Named(Vec<(String, Expression)>),
}

impl Attributes {
    fn compile(&self, field: &'static str) -> Result<AttributeSet, ConfigError> {
        match self {
            Self::Texts(texts) => {
                let named = texts.iter().map(|text| (text.clone(), text.as_str()));
                AttributeSet::compile(field, named)
            }
            Self::Named(entries) => Ok(AttributeSet {
                entries: entries.as_slice().into(),
            }),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident => $($field:ident).+ : $type:ty;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, value: $type) -> Self {
                self.config.$($field).+ = value;
                self
            }
        )*
    };
}

impl FilterConfigBuilder {
    pub(super) fn new(service: Service) -> Self {
        Self {
            config: FilterConfig {
                service,
                failure_mode_allow: false,
                mode: ProcessingMode::default(),
                filter_mode: ProcessingMode::default(),
                request_attributes: AttributeSet::default(),
                response_attributes: AttributeSet::default(),
                message_timeout: Duration::from_millis(200),
                max_message_timeout: None,
                stat_prefix: String::new(),
                mutation_rules: MutationRules::default(),
                forward_rules: ForwardRules::default(),
                allow_mode_override: false,
                allowed_override_modes: Vec::new(),
                disable_immediate_response: false,
                metadata: MetadataOptions::default(),
                observability_mode: false,
                deferred_close_timeout: Duration::from_secs(5),
                route_cache_action: RouteCacheAction::Default,
                send_body_without_waiting: false,
                status_on_error: StatusCode::INTERNAL_SERVER_ERROR,
                allow_content_length_header: false,
                emit_client_span: true,
                graceful_close: None,
            },
            request_attributes: Attributes::Texts(Vec::new()),
            response_attributes: Attributes::Texts(Vec::new()),
        }
    }

    setters! {
        /// Go on without the processor when it fails. Default false.
        failure_mode_allow => failure_mode_allow: bool;
        /// Parts of a message that the processor sees. Default: both header blocks, nothing else.
        processing_mode => mode: ProcessingMode;
        /// Longest time for a reply, 0 to 3600 s. Default 200 ms. No limit to full duplex and GRPC bodies, to responses that the
        /// processor streams, and in observability mode.
        message_timeout => message_timeout: Duration;
        /// Headers that the processor may change. Default: all but routing headers and `x-envoy-*`.
        mutation_rules => mutation_rules: MutationRules;
        /// Headers that the processor sees. Default: all.
        forward_rules => forward_rules: ForwardRules;
        /// Let replies change the processing mode. Default false.
        allow_mode_override => allow_mode_override: bool;
        /// If not empty, the only modes that a reply may change to.
        allowed_override_modes => allowed_override_modes: Vec<ProcessingMode>;
        /// Treat an immediate response as an error. Default false.
        disable_immediate_response => disable_immediate_response: bool;
        /// Namespaces of dynamic metadata that are exchanged. Default: none.
        metadata_options => metadata: MetadataOptions;
        /// Send copies and ignore replies. Default false.
        observability_mode => observability_mode: bool;
        /// In observability mode, how long the stream outlives the exchange. Default 5 s.
        deferred_close_timeout => deferred_close_timeout: Duration;
        /// Selects the route again after a reply. Default: when the reply says so.
        route_cache_action => route_cache_action: RouteCacheAction;
        /// STREAMED only: send the body while the reply to the headers is outstanding. Default false.
        send_body_without_waiting_for_header_response => send_body_without_waiting: bool;
        /// The status of a failed exchange (timeouts are always 504). Default 500; codes outside
        /// 4xx and 5xx mean 500.
        status_on_error => status_on_error: StatusCode;
        /// Keep `content-length` in the modes that otherwise remove it. Default false.
        allow_content_length_header => allow_content_length_header: bool;
        /// Record a span of each side stream, where there is somebody who records any. Default true.
        emit_client_span => emit_client_span: bool;
        /// An extra segment of statistics names. Default empty.
        stat_prefix => stat_prefix: String;
    }

    /// The longest time that `override_message_timeout` may ask for. Default: it may not.
    #[must_use]
    pub fn max_message_timeout(mut self, value: Duration) -> Self {
        self.config.max_message_timeout = Some(value).filter(|value| !value.is_zero());
        self
    }

    /// Ends a side stream that has nothing left to do with a half-close, and resets it only if the
    /// processor has not ended its side after `timeout`. A stream that failed is reset at once in any
    /// case. It costs a task for each exchange. Default: every stream is reset at once, as Envoy
    /// does unless its runtime sets `envoy.reloadable_features.ext_proc_graceful_grpc_close`.
    #[must_use]
    pub fn graceful_close(mut self, timeout: Duration) -> Self {
        self.config.graceful_close = Some(timeout);
        self
    }

    /// CEL expressions sent with the first message of the request direction.
    #[must_use]
    pub fn request_attributes<I: Into<String>>(
        mut self,
        expressions: impl IntoIterator<Item = I>,
    ) -> Self {
        self.request_attributes =
            Attributes::Texts(expressions.into_iter().map(Into::into).collect());
        self
    }

    /// Expressions sent with the first message of the request direction, each under a name of its own.
    #[must_use]
    pub fn named_request_attributes(
        mut self,
        expressions: impl IntoIterator<Item = (String, Expression)>,
    ) -> Self {
        self.request_attributes = Attributes::Named(expressions.into_iter().collect());
        self
    }

    /// Expressions sent with the first message of the response direction, each under a name of its own.
    #[must_use]
    pub fn named_response_attributes(
        mut self,
        expressions: impl IntoIterator<Item = (String, Expression)>,
    ) -> Self {
        self.response_attributes = Attributes::Named(expressions.into_iter().collect());
        self
    }

    /// CEL expressions sent with the first message of the response direction.
    #[must_use]
    pub fn response_attributes<I: Into<String>>(
        mut self,
        expressions: impl IntoIterator<Item = I>,
    ) -> Self {
        self.response_attributes =
            Attributes::Texts(expressions.into_iter().map(Into::into).collect());
        self
    }

    /// Checks the whole and gives the configuration.
    ///
    /// # Errors
    /// Names the field that is out of its range or at odds with another.
    pub fn build(mut self) -> Result<FilterConfig, ConfigError> {
        self.config.request_attributes = self.request_attributes.compile("request_attributes")?;
        self.config.response_attributes =
            self.response_attributes.compile("response_attributes")?;
        self.config.check()
    }
}

impl FilterConfig {
    /// The rules between fields, the same for every way to make a configuration.
    pub(super) fn check(mut self) -> Result<Self, ConfigError> {
        self.service.check()?;
        self.filter_mode = self.mode;
        const LONGEST: Duration = Duration::from_secs(3600);
        if matches!(self.service, Service::Http(_)) && self.mode.has_body_or_trailers() {
            return Err(ConfigError::new(
                "processing_mode",
                "with http_service every body mode has to be NONE and no trailer mode SEND",
            ));
        }
        let (request, response) = (self.mode.request(), self.mode.response());
        for (mode, field) in [
            (request, "processing_mode.request_trailer_mode"),
            (response, "processing_mode.response_trailer_mode"),
        ] {
            if mode.body == BodyMode::FullDuplexStreamed && !mode.trailers {
                return Err(ConfigError::new(
                    field,
                    "has to be SEND where the body mode is FULL_DUPLEX_STREAMED",
                ));
            }
        }
        for (field, value) in [
            ("message_timeout", Some(self.message_timeout)),
            ("max_message_timeout", self.max_message_timeout),
        ] {
            if value.is_some_and(|value| value > LONGEST) {
                return Err(ConfigError::new(field, "has to be between 0 s and 3600 s"));
            }
        }
        if !(self.status_on_error.is_client_error() || self.status_on_error.is_server_error()) {
            self.status_on_error = StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GrpcService, HttpService, MetadataEntry};

    /// Refuses a service that no other way to make a configuration lets through.
    #[test]
    fn services_are_checked() {
        let field = |service| FilterConfig::builder(service).build().unwrap_err().field();
        assert_eq!(
            field(Service::Grpc(GrpcService::cluster(""))),
            "grpc_service.envoy_grpc.cluster_name"
        );
        assert_eq!(
            field(Service::Grpc(GrpcService::uri(""))),
            "grpc_service.google_grpc.target_uri"
        );
        for (key, value) in [("bad name", "v"), ("k", "a\nb")] {
            let mut service = GrpcService::cluster("p");
            service.initial_metadata = vec![MetadataEntry::new(key, value)];
            assert_eq!(
                field(Service::Grpc(service)),
                "grpc_service.initial_metadata"
            );
        }
        assert_eq!(
            field(Service::Http(HttpService {
                uri: http::Uri::from_static("/process"),
                cluster: "p".into(),
                timeout: Duration::from_secs(1),
                headers: Vec::new(),
            })),
            "http_service.http_service.http_uri.uri"
        );
    }
}
