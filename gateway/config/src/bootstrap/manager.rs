//! `HttpConnectionManager`.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use extproc_client::{
    FilterConfig,
    config::{GrpcTarget, Service},
    host::{HeaderLimits, Metadata as MetadataModel},
};
use http::{HeaderValue, uri::Scheme};
use serde::Deserialize;

use super::{
    access_log::{AccessLog, LogType},
    any::unsupported,
    cluster::TypedExtensionConfig,
    filter::{self, HttpFilter},
    header::HeaderMutation,
    local_reply::LocalReplyConfig,
    per_filter::Filters,
    protocol::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions, header_bytes},
    root::Loaded,
    route::{RouteConfiguration, Surroundings},
    tracing::Tracing,
    upgrade::{UpgradeConfig, upgrades},
    value::{Enum, ProtoEnum, Time},
};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::{
        ClientCertDetails, Codec, EscapedSlashes, Filter, ForwardClientCert, HeaderChange,
        HttpManager, NodeIdentity, Normalization, OnRoute, ProxyStatus, RouteTable, SchemeHeader,
        ServerHeader, StripPort, Timeouts, UpstreamProtocol,
    },
};

/// The name written into `server` where the file gives none.
const SERVER_NAME: &str = "gateway";

/// Longest wait for a request head where the file sets none. Envoy has no limit there, which lets a
/// client hold a connection for as long as it likes.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Debug, Deserialize)]
pub(super) struct HttpConnectionManager {
    #[serde(default)]
    codec_type: Enum<Codec>,
    stat_prefix: String,
    route_config: Option<RouteConfiguration>,
    http_filters: Located<Vec<Located<HttpFilter>>>,
    #[serde(default)]
    common_http_protocol_options: HttpProtocolOptions,
    #[serde(default)]
    http_protocol_options: Http1ProtocolOptions,
    #[serde(default)]
    http2_protocol_options: Http2ProtocolOptions,
    #[serde(default)]
    server_name: String,
    #[serde(default)]
    server_header_transformation: Enum<ServerHeader>,
    max_request_headers_kb: Option<Located<u32>>,
    stream_idle_timeout: Option<Time>,
    request_timeout: Option<Time>,
    request_headers_timeout: Option<Time>,
    drain_timeout: Option<Time>,
    delayed_close_timeout: Option<Time>,
    #[serde(default)]
    access_log: Vec<Located<AccessLog>>,
    local_reply_config: Option<LocalReplyConfig>,
    tracing: Option<Located<Tracing>>,
    use_remote_address: Option<bool>,
    #[serde(default)]
    preserve_external_request_id: bool,
    generate_request_id: Option<bool>,
    proxy_status_config: Option<Located<ProxyStatusConfig>>,
    #[serde(default)]
    via: String,
    #[serde(default)]
    forward_client_cert_details: Enum<ForwardDetails>,
    #[serde(default)]
    set_current_client_cert_details: SetCurrentClientCertDetails,
    #[serde(default)]
    proxy_100_continue: bool,
    #[serde(default)]
    upgrade_configs: Vec<Located<UpgradeConfig>>,
    normalize_path: Option<bool>,
    #[serde(default)]
    merge_slashes: bool,
    #[serde(default)]
    path_with_escaped_slashes_action: Enum<EscapedSlashes>,
    #[serde(default)]
    strip_matching_host_port: bool,
    #[serde(default)]
    strip_any_host_port: bool,
    #[serde(default)]
    strip_trailing_host_dot: bool,
    #[serde(default)]
    xff_num_trusted_hops: u32,
    #[serde(default)]
    skip_xff_append: bool,
    #[serde(default)]
    append_x_forwarded_port: bool,
    #[serde(default)]
    add_user_agent: Option<bool>,
    #[serde(default)]
    always_set_request_id_in_response: bool,
    scheme_header_transformation: Option<Located<SchemeHeaderTransformation>>,
    #[serde(default)]
    early_header_mutation_extensions: Vec<TypedExtensionConfig>,
}

/// Changes of requests before anything else looks at them.
const EARLY: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";

/// `envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation`.
#[derive(Debug, Deserialize)]
struct EarlyHeaderMutation {
    mutations: Vec<Located<HeaderMutation>>,
}

fn early(
    extensions: &[TypedExtensionConfig],
    reader: &Reader<'_>,
) -> Result<Vec<HeaderChange>, Fault> {
    let mut changes = Vec::new();
    for extension in extensions {
        let node = extension.typed_config.node;
        match reader.type_of(node)? {
            EARLY => {
                let config: EarlyHeaderMutation = reader.read_typed(node)?;
                if config.mutations.is_empty() {
                    return Err(Fault::at(node, "mutations may not be empty"));
                }
                for mutation in &config.mutations {
                    changes.extend(mutation.build()?);
                }
            }
            other => return Err(unsupported(node, other, &[EARLY])),
        }
    }
    Ok(changes)
}

/// `envoy.config.core.v3.SchemeHeaderTransformation`.
#[derive(Debug, Deserialize)]
struct SchemeHeaderTransformation {
    scheme_to_overwrite: Option<String>,
    #[serde(default)]
    match_upstream: bool,
}

impl Located<SchemeHeaderTransformation> {
    fn build(&self) -> Result<SchemeHeader, Fault> {
        let Some(scheme) = &self.value.scheme_to_overwrite else {
            return Ok(match self.value.match_upstream {
                true => SchemeHeader::MatchUpstream,
                false => SchemeHeader::Keep,
            });
        };
        match scheme.as_str() {
            "http" => Ok(SchemeHeader::Overwrite(Scheme::HTTP)),
            "https" => Ok(SchemeHeader::Overwrite(Scheme::HTTPS)),
            _ => Err(Fault::at(
                self.node,
                format!("scheme_to_overwrite: {scheme:?} is neither \"http\" nor \"https\""),
            )),
        }
    }
}

/// The identity that `add_user_agent` tells, of the node in the file.
fn node_identity(node: &serde_json::Value) -> NodeIdentity {
    let field = |name| {
        let value = node.get(name).and_then(serde_json::Value::as_str)?;
        HeaderValue::from_str(value).ok()
    };
    NodeIdentity {
        cluster: field("cluster").unwrap_or(HeaderValue::from_static("")),
        id: field("id").filter(|id| !id.is_empty()),
    }
}

/// `HttpConnectionManager.ProxyStatusConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProxyStatusConfig {
    remove_details: bool,
    remove_response_flags: bool,
    set_recommended_response_code: bool,
    use_node_id: Option<bool>,
    literal_proxy_name: Option<String>,
}

impl Located<ProxyStatusConfig> {
    /// `server_name` and `node` are what the proxy may be called.
    fn build(&self, server_name: &str, node: &serde_json::Value) -> Result<ProxyStatus, Fault> {
        let config = &self.value;
        let id = node.get("id").and_then(serde_json::Value::as_str);
        let name = match (config.use_node_id, &config.literal_proxy_name) {
            (Some(_), Some(_)) => {
                return Err(Fault::at(
                    self.node,
                    "only one of use_node_id and literal_proxy_name may be set",
                ));
            }
            (Some(_), None) => id.unwrap_or_default(),
            (None, Some(name)) => name,
            (None, None) => server_name,
        };
        Ok(ProxyStatus {
            name: name.to_owned(),
            details: !config.remove_details,
            flags: !config.remove_response_flags,
            recommended_status: config.set_recommended_response_code,
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum ForwardDetails {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

impl ProtoEnum for ForwardDetails {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("SANITIZE", 0, Ok(Self::Sanitize)),
        ("FORWARD_ONLY", 1, Ok(Self::ForwardOnly)),
        ("APPEND_FORWARD", 2, Ok(Self::AppendForward)),
        ("SANITIZE_SET", 3, Ok(Self::SanitizeSet)),
        ("ALWAYS_FORWARD_ONLY", 4, Ok(Self::AlwaysForwardOnly)),
    ];
}

/// `HttpConnectionManager.SetCurrentClientCertDetails`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SetCurrentClientCertDetails {
    subject: Option<bool>,
    cert: bool,
    chain: bool,
    dns: bool,
    uri: bool,
}

impl HttpConnectionManager {
    fn forward_client_cert(&self) -> ForwardClientCert {
        let told = &self.set_current_client_cert_details;
        let details = ClientCertDetails {
            subject: told.subject.unwrap_or_default(),
            cert: told.cert,
            chain: told.chain,
            dns: told.dns,
            uri: told.uri,
        };
        match self.forward_client_cert_details.0 {
            ForwardDetails::Sanitize => ForwardClientCert::Sanitize,
            ForwardDetails::ForwardOnly => ForwardClientCert::ForwardOnly,
            ForwardDetails::AppendForward => ForwardClientCert::AppendForward(details),
            ForwardDetails::SanitizeSet => ForwardClientCert::SanitizeSet(details),
            ForwardDetails::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
        }
    }
}

impl ProtoEnum for Codec {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("AUTO", 0, Ok(Self::Auto)),
        ("HTTP1", 1, Ok(Self::Http1)),
        ("HTTP2", 2, Ok(Self::Http2)),
        ("HTTP3", 3, Err("HTTP/3 is not supported")),
    ];
}

impl ProtoEnum for ServerHeader {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("OVERWRITE", 0, Ok(Self::Overwrite)),
        ("APPEND_IF_ABSENT", 1, Ok(Self::AppendIfAbsent)),
        ("PASS_THROUGH", 2, Ok(Self::PassThrough)),
    ];
}

impl ProtoEnum for EscapedSlashes {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("IMPLEMENTATION_SPECIFIC_DEFAULT", 0, Ok(Self::Keep)),
        ("KEEP_UNCHANGED", 1, Ok(Self::Keep)),
        ("REJECT_REQUEST", 2, Ok(Self::Reject)),
        ("UNESCAPE_AND_REDIRECT", 3, Ok(Self::UnescapeAndRedirect)),
        ("UNESCAPE_AND_FORWARD", 4, Ok(Self::UnescapeAndForward)),
    ];
}

impl Located<HttpConnectionManager> {
    pub(super) fn build(
        &self,
        loaded: &Loaded<'_>,
        filter_chain_name: &str,
        listener_metadata: &MetadataModel,
    ) -> Result<HttpManager, Fault> {
        let manager = &self.value;
        if manager.stat_prefix.is_empty() {
            return Err(Fault::at(self.node, "stat_prefix may not be empty"));
        }
        let use_remote_address = manager.use_remote_address.unwrap_or_default();
        if manager.xff_num_trusted_hops > 0 && !use_remote_address {
            return Err(Fault::at(
                self.node,
                "xff_num_trusted_hops is only supported with use_remote_address",
            ));
        }
        let filters = filter::chain(
            loaded.reader,
            filter::Owner::ConnectionManager,
            &manager.http_filters,
            loaded.graceful_close,
        )?;
        let no_routes = RouteConfiguration::default();
        let route_config = match &manager.route_config {
            Some(config) => config,
            None => {
                let fault = Fault::at(self.node, "missing field \"route_config\"");
                loaded.reader.refuse(fault)?;
                &no_routes
            }
        };
        let routes = route_config.build(&Surroundings {
            reader: loaded.reader,
            clusters: &loaded.clusters,
            refused: &loaded.refused,
            filters: Filters {
                of_listener: &filters,
                of_clusters: &loaded.cluster_filters,
            },
            filter_chain_name,
            listener_metadata,
            node: &loaded.node,
            graceful_close: loaded.graceful_close,
        })?;
        for filter in &filters {
            self.check_processor(filter, &routes, loaded);
        }
        let common = &manager.common_http_protocol_options;
        let server_name = match manager.server_name.as_str() {
            "" => SERVER_NAME,
            name => name,
        };
        Ok(HttpManager {
            stat_prefix: manager.stat_prefix.clone(),
            codec: manager.codec_type.0,
            filters,
            early_headers: early(&manager.early_header_mutation_extensions, loaded.reader)?,
            routes,
            http1: manager.http_protocol_options.build()?,
            default_host: manager.http_protocol_options.default_host()?,
            http2: manager.http2_protocol_options.build_downstream()?,
            timeouts: manager.timeouts(),
            request_headers: HeaderLimits {
                count: common.header_count(loaded.reader)?,
                bytes: match &manager.max_request_headers_kb {
                    None => 60 * 1024,
                    Some(size) => header_bytes(size)?,
                },
            },
            max_requests_per_connection: common
                .max_requests_per_connection
                .and_then(NonZeroU32::new),
            generate_request_id: manager.generate_request_id.unwrap_or(true),
            add_forwarded_proto: true,
            server_header: manager.server_header_transformation.0,
            server_name: server_name.to_owned(),
            proxy_status: manager
                .proxy_status_config
                .as_ref()
                .map(|config| config.build(server_name, &loaded.node))
                .transpose()?,
            via: manager.via.clone(),
            forward_client_cert: manager.forward_client_cert(),
            use_remote_address,
            xff_num_trusted_hops: manager.xff_num_trusted_hops,
            skip_xff_append: manager.skip_xff_append,
            append_x_forwarded_port: manager.append_x_forwarded_port,
            user_agent: manager
                .add_user_agent
                .unwrap_or_default()
                .then(|| node_identity(&loaded.node)),
            request_id_in_response: manager.always_set_request_id_in_response,
            scheme_header: match &manager.scheme_header_transformation {
                Some(transformation) => transformation.build()?,
                None => SchemeHeader::Keep,
            },
            preserve_external_request_id: manager.preserve_external_request_id,
            upgrades: upgrades(&manager.upgrade_configs)?
                .into_iter()
                .filter_map(|(name, enabled)| enabled.then_some(name))
                .collect(),
            proxy_100_continue: manager.proxy_100_continue,
            access_log: manager
                .access_log
                .iter()
                .map(|log| log.build(LogType::DownstreamEnd, loaded.reader))
                .collect::<Result<_, _>>()?,
            local_reply: manager
                .local_reply_config
                .as_ref()
                .map(|config| config.build(loaded.reader))
                .transpose()?,
            tracing: match &manager.tracing {
                Some(tracing) => tracing.build(loaded)?.map(Arc::new),
                None => None,
            },
            normalization: Normalization {
                normalize_path: manager.normalize_path.unwrap_or_default(),
                one_reading: false,
                merge_slashes: manager.merge_slashes,
                escaped_slashes: manager.path_with_escaped_slashes_action.0,
                underscores: common.headers_with_underscores_action.0,
                strip_port: match (
                    manager.strip_matching_host_port,
                    manager.strip_any_host_port,
                ) {
                    (false, false) => StripPort::No,
                    (true, false) => StripPort::Matching,
                    (false, true) => StripPort::Any,
                    (true, true) => {
                        return Err(Fault::at(
                            self.node,
                            "only one of strip_matching_host_port and strip_any_host_port may be set",
                        ));
                    }
                },
                strip_host_dot: manager.strip_trailing_host_dot,
            },
        })
    }
}

impl Located<HttpConnectionManager> {
    /// Tells of a processor's cluster that does not say what gRPC needs, also where a route's tree alone asks the processor.
    fn check_processor(&self, filter: &Filter, routes: &RouteTable, loaded: &Loaded<'_>) {
        let mut all: Vec<&Arc<FilterConfig>> = Vec::new();
        let mut take = |config| {
            if !all.iter().any(|known| Arc::ptr_eq(known, config)) {
                all.push(config);
            }
        };
        filter.kind.each_ext_proc(&mut take);
        for said in routes.said(None, &filter.name) {
            if let OnRoute::As(kind) = said {
                kind.each_ext_proc(&mut take);
            }
        }
        for config in all {
            self.check_service(&filter.name, config, loaded);
        }
    }

    fn check_service(&self, filter: &str, config: &FilterConfig, loaded: &Loaded<'_>) {
        let Service::Grpc(service) = config.service() else {
            return;
        };
        if let GrpcTarget::Cluster { name, .. } = &service.target
            && let Some(cluster) = loaded.clusters.get(name)
            && cluster.protocol == UpstreamProtocol::Http1
        {
            loaded.reader.note(
                self.node,
                format!(
                    "the cluster {name:?} of the filter {:?} has no http2_protocol_options: HTTP/2 is spoken to it all \
                     the same, where Envoy fails each request",
                    filter
                ),
            );
        }
    }
}

impl HttpConnectionManager {
    fn timeouts(&self) -> Timeouts {
        const MINUTE: Duration = Duration::from_secs(60);
        let common = &self.common_http_protocol_options;
        let limit = |given: Option<Time>, default| given.map_or(default, Time::limit);
        Timeouts {
            request_headers: limit(self.request_headers_timeout, Some(REQUEST_HEADERS_TIMEOUT)),
            request: limit(self.request_timeout, None),
            stream_idle: limit(self.stream_idle_timeout, Some(5 * MINUTE)),
            connection_idle: limit(common.idle_timeout, Some(60 * MINUTE)),
            max_connection_duration: limit(common.max_connection_duration, None),
            max_stream_duration: limit(common.max_stream_duration, None),
            drain: self
                .drain_timeout
                .map_or(Duration::from_secs(5), |time| time.0),
            delayed_close: self
                .delayed_close_timeout
                .map_or(Duration::from_secs(1), |time| time.0),
        }
    }
}
