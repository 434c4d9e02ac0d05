//! The fields of Envoy's messages that the gateway knows of but has no use for.
//!
//! One table, [`FIELDS`]. A field that is neither in its struct nor here does not exist for the
//! gateway and is refused as unknown. The rule for a row: what cannot change an answer, a message to
//! a processor or a log line is ignored; what tunes something that the gateway does its own way, or
//! not at all, is noted; what would change which request goes where, in what form or to whom is
//! refused. Fields at a value that asks for nothing (`false`, `0`, empty) pass, but for messages whose mere presence asks
//! for something.

use crate::document::{
    Treatment::{self, Ignore, Note, NotePresence, Refuse, RefusePresence},
    is_field,
};

const NO_XDS: &str = "discovery services (xDS) are not supported";
const UNSUPPORTED: &str = "not supported";
const NOT_DONE: &str = "has no effect in this gateway";
const NO_WEIGHTS: &str =
    "localities have no weights here, all endpoints of a priority are one list";

/// Returns the treatment of a field that the struct named `message` lacks; `None` if Envoy's message has no such field, or one
/// that was never looked at.
pub(super) fn treatment(message: &str, field: &str) -> Option<Treatment> {
    FIELDS
        .iter()
        .filter(|(owner, ..)| *owner == message)
        .find(|(.., fields)| fields.iter().any(|known| is_field(known, field)))
        .map(|(_, treatment, _)| *treatment)
}

/// Message, treatment, fields.
#[rustfmt::skip]
pub(super) const FIELDS: &[(&str, Treatment, &[&str])] = &[
    // envoy.config.bootstrap.v3
    ("Bootstrap", Ignore, &[
        "node_context_params", "flags_path", "stats_config", "stats_flush_interval",
        "stats_flush_on_admin", "stats_eviction_interval", "deferred_stat_options", "watchdog",
        "watchdogs", "stats_server_version_override",
        "use_tcp_for_dns_lookups", "dns_resolution_config", "typed_dns_resolver_config",
        "fatal_actions", "default_socket_interface", "enable_dispatcher_stats",
        "perf_tracing_file_path", "default_regex_engine", "application_log_config",
        "grpc_async_client_manager_config", "memory_allocator_manager", "cluster_manager",
        "default_config_source", "listener_manager", "xds_delegate_extension",
        "xds_config_tracker_extension", "certificate_provider_instances",
    ]),
    ("Bootstrap", Note(NOT_DONE), &[
        "stats_sinks", "tracing", "header_prefix", "inline_headers",
    ]),
    ("Bootstrap", Refuse(NO_XDS), &["dynamic_resources", "config_sources"]),
    ("Bootstrap", RefusePresence(NO_XDS), &["hds_config"]),
    ("OverloadManager", Note(NOT_DONE), &["loadshed_points", "buffer_factory_config"]),
    ("OverloadAction", Refuse(UNSUPPORTED), &["typed_config"]),
    ("ScaledTrigger", Ignore, &["scaling_threshold"]),
    ("Secret", RefusePresence(UNSUPPORTED), &["session_ticket_keys"]),
    ("SdsSecretConfig", RefusePresence(NO_XDS), &["sds_config"]),
    ("RuntimeLayer", Ignore, &["name", "admin_layer"]),
    ("RuntimeLayer", Note(NOT_DONE), &["disk_layer"]),
    ("RuntimeLayer", Refuse(NO_XDS), &["rtds_layer"]),
    ("Admin", Ignore, &[
        "access_log_path", "profile_path", "socket_options", "ignore_global_conn_limit",
    ]),
    ("Admin", Note(NOT_DONE), &["access_log"]),

    // envoy.config.core.v3
    ("Node", Ignore, &[
        "dynamic_parameters", "user_agent_name", "user_agent_version", "user_agent_build_version",
        "extensions", "client_features", "listening_addresses",
    ]),
    ("SocketAddress", Refuse(UNSUPPORTED), &[
        "named_port", "resolver_name", "network_namespace_filepath",
    ]),
    ("Pipe", Ignore, &["mode"]),
    ("Address", Refuse(UNSUPPORTED), &["envoy_internal_address"]),
    ("DataSource", Ignore, &["watched_directory"]),
    ("SubstitutionFormatString", Ignore, &["json_format_options"]),
    ("TransportSocket", Ignore, &["name"]),
    ("TypedExtensionConfig", Ignore, &["name"]),
    ("Http1ProtocolOptions", Ignore, &[
        "use_balsa_parser", "allow_custom_methods", "override_stream_error_on_invalid_http_message",
    ]),
    ("Http1ProtocolOptions", Note(NOT_DONE), &["header_key_format", "ignore_http_11_upgrade"]),
    ("Http1ProtocolOptions", Refuse(UNSUPPORTED), &[
        "allow_chunked_length", "send_fully_qualified_url",
    ]),
    ("Http2ProtocolOptions", Ignore, &[
        "hpack_table_size", "max_outbound_frames", "max_outbound_control_frames",
        "max_consecutive_inbound_frames_with_empty_payload",
        "stream_error_on_invalid_http_messaging", "override_stream_error_on_invalid_http_message",
        "use_oghttp2_codec", "max_metadata_size", "enable_huffman_encoding",
    ]),
    ("UpstreamConnectionOptions", Ignore, &[
        "set_local_interface_name_on_upstream_connections", "happy_eyeballs_config",
    ]),
    ("Http2ProtocolOptions", Note(NOT_DONE), &[
        "allow_metadata", "custom_settings_parameters",
    ]),

    // envoy.config.listener.v3
    ("Listener", Ignore, &[
        "stat_prefix", "listener_filters_timeout",
        "continue_on_listener_filters_timeout", "traffic_direction", "reuse_port",
        "enable_reuse_port", "tcp_backlog_size", "drain_type", "deprecated_v1",
        "connection_balance_config", "max_connections_to_accept_per_socket_event",
        "ignore_global_conn_limit", "bypass_overload_manager", "tcp_fast_open_queue_length",
    ]),
    ("Listener", Note(NOT_DONE), &[
        "socket_options", "enable_mptcp", "tcp_keepalive",
    ]),
    ("Listener", Refuse(UNSUPPORTED), &[
        "transparent", "freebind", "fcds_config",
    ]),
    ("Listener", RefusePresence(UNSUPPORTED), &[
        "udp_listener_config", "api_listener", "internal_listener", "filter_chain_matcher",
    ]),
    ("AdditionalAddress", Note(NOT_DONE), &["socket_options", "tcp_keepalive"]),
    ("FilterChain", Ignore, &["metadata", "on_demand_configuration"]),
    ("FilterChain", Refuse(UNSUPPORTED), &["use_proxy_proto"]),
    ("FilterChainMatch", Refuse(UNSUPPORTED), &[
        "prefix_ranges", "address_suffix", "suffix_len", "source_type",
        "source_prefix_ranges", "direct_source_prefix_ranges", "source_ports",
    ]),
    ("NetworkFilter", Refuse(NO_XDS), &["config_discovery"]),
    ("ListenerFilter", Ignore, &["name", "filter_disabled"]),
    ("ListenerFilter", Refuse(NO_XDS), &["config_discovery"]),

    // envoy.extensions.filters.network.http_connection_manager.v3
    ("HttpConnectionManager", Ignore, &[
        "http3_protocol_options", "http1_safe_max_connection_duration", "stream_flush_timeout",
        "access_log_options", "access_log_flush_interval", "flush_access_log_on_new_request",
        "flush_log_on_tunnel_successfully_established",
        "represent_ipv4_remote_address_as_ipv4_mapped_ipv6",
        "stream_error_on_invalid_http_message", "typed_header_validation_config",
        "add_proxy_protocol_connection_state", "append_local_overload", "request_id_extension",
    ]),
    ("HttpConnectionManager", Note("no request is internal in this gateway"), &[
        "internal_address_config",
    ]),
    ("HttpConnectionManager", Refuse(NO_XDS), &["rds", "scoped_routes"]),
    ("HttpConnectionManager", Refuse(UNSUPPORTED), &[
        "original_ip_detection_extensions", "path_normalization_options", "forward_client_cert_matcher",
    ]),
    ("ProxyStatusConfig", Ignore, &["remove_connection_termination_details"]),
    ("UpgradeConfig", Refuse(UNSUPPORTED), &["filters"]),
    ("HttpFilter", Refuse(NO_XDS), &["config_discovery"]),

    // envoy.extensions.filters.http
    ("Router", Ignore, &[
        "dynamic_stats", "start_child_span", "suppress_envoy_headers",
        "suppress_grpc_request_failure_code_stats", "upstream_log_options",
        "respect_expected_rq_timeout", "reject_connect_request_early_data",
    ]),
    ("Router", Note(NOT_DONE), &["upstream_log"]),
    ("Router", Refuse(UNSUPPORTED), &["strict_check_headers", "upstream_http_filters"]),
    ("HTTPFault", Refuse(UNSUPPORTED), &[
        "delay", "abort", "upstream_cluster", "headers", "downstream_nodes", "response_rate_limit",
    ]),
    ("HTTPFault", Ignore, &[
        "max_active_faults", "delay_percent_runtime", "abort_percent_runtime", "delay_duration_runtime",
        "abort_http_status_runtime", "max_active_faults_runtime", "response_rate_limit_percent_runtime",
        "abort_grpc_status_runtime", "disable_downstream_cluster_stats", "filter_metadata",
    ]),
    ("HealthCheck", Refuse(UNSUPPORTED), &["cache_time", "cluster_min_healthy_percentages"]),
    ("HeaderMutation", Ignore, &["most_specific_header_mutations_wins"]),
    ("Mutations", Refuse(UNSUPPORTED), &[
        "query_parameter_mutations", "request_trailers_mutations", "response_trailers_mutations",
    ]),

    ("LocalRateLimit", Ignore, &["max_dynamic_descriptors"]),
    ("LocalRateLimit", Refuse(UNSUPPORTED), &[
        "local_rate_limit_per_downstream_connection", "enable_retry_after_header",
    ]),
    ("RateLimit", Ignore, &["disable_key"]),
    ("RateLimit", RefusePresence(UNSUPPORTED), &["limit", "hits_addend"]),
    ("RateLimit", Refuse(UNSUPPORTED), &["apply_on_stream_done"]),
    ("RateLimitActionOf", RefusePresence(UNSUPPORTED), &[
        "dynamic_metadata", "extension", "query_parameter_value_match", "remote_address_match",
    ]),
    ("LocalRateLimitDescriptor", Refuse(UNSUPPORTED), &["shadow_mode"]),
    ("LocalRateLimit", RefusePresence(UNSUPPORTED), &["local_cluster_rate_limit"]),

    ("Compressor", Refuse("say it in response_direction_config"), &[
        "content_length", "content_type", "disable_on_etag_header", "remove_accept_encoding_header",
        "runtime_enabled",
    ]),
    ("CompressorResponseDirection", Note(NOT_DONE), &["status_header_enabled"]),
    ("CompressorOverrides", RefusePresence(UNSUPPORTED), &["compressor_library"]),
    ("RuntimeFeatureFlag", Ignore, &["runtime_key"]),
    ("GzipCompressor", Ignore, &[
        "memory_level", "compression_strategy", "window_bits", "chunk_size",
    ]),
    ("BrotliCompressor", Ignore, &[
        "encoder_mode", "input_block_bits", "chunk_size", "disable_literal_context_modeling",
    ]),
    ("DecompressionLibrary", Ignore, &[
        "window_bits", "chunk_size", "disable_ring_buffer_reallocation",
    ]),

    // Match trees.
    ("IpInputMatcher", Ignore, &["stat_prefix"]),
    ("MatcherTree", Refuse(UNSUPPORTED), &["custom_match"]),
    ("OnMatch", Refuse(UNSUPPORTED), &["keep_matching"]),
    ("CelParsedExpr", Ignore, &["source_info", "reference_map", "type_map", "expr_version"]),
    ("CelExpr", Ignore, &["id"]),
    ("CelExpr", RefusePresence(UNSUPPORTED), &["struct_expr", "comprehension_expr"]),
    ("CelConstant", Refuse(UNSUPPORTED), &["bytes_value", "duration_value", "timestamp_value"]),
    ("CelList", Ignore, &["optional_indices"]),
    ("ExecuteFilterAction", RefusePresence(NO_XDS), &["dynamic_config"]),

    // envoy.config.route.v3
    ("RouteConfiguration", Ignore, &["metadata"]),
    ("RouteConfiguration", Note(NOT_DONE), &["internal_only_headers"]),
    ("RouteConfiguration", Refuse(NO_XDS), &["vhds"]),
    ("RouteConfiguration", Refuse(UNSUPPORTED), &[
        "most_specific_header_mutations_wins", "cluster_specifier_plugins",
        "ignore_path_parameters_in_path_matching",
    ]),
    ("VirtualHost", Ignore, &["virtual_clusters"]),
    ("VirtualHost", Note(NOT_DONE), &[
        "include_is_timeout_retry_header", "hedge_policy",
    ]),
    ("VirtualHost", Refuse(UNSUPPORTED), &["cors", "retry_policy_typed_config"]),
    ("VirtualHost", RefusePresence(UNSUPPORTED), &["matcher"]),
    ("Route", Ignore, &["stat_prefix"]),
    ("Decorator", Ignore, &["propagate"]),
    ("Route", RefusePresence(UNSUPPORTED), &["filter_action"]),
    ("RouteMatch", Refuse(UNSUPPORTED), &[
        "path_match_policy", "tls_context", "filter_state",
    ]),
    ("RouteAction", Ignore, &[
        "early_data_policy", "flush_timeout",
    ]),
    ("RouteAction", Note(NOT_DONE), &["hedge_policy"]),
    ("RouteAction", Refuse(UNSUPPORTED), &[
        "cluster_specifier_plugin", "inline_cluster_specifier_plugin",
        "metadata_match", "path_rewrite_policy", "path_rewrite", "host_rewrite",
        "retry_policy_typed_config", "cors", "internal_redirect_action", "max_internal_redirects",
    ]),
    ("WeightedCluster", Ignore, &["total_weight", "runtime_key_prefix"]),
    ("WeightedCluster", Refuse(UNSUPPORTED), &["header_name", "use_hash_policy"]),
    ("ClusterWeight", Refuse(UNSUPPORTED), &["cluster_header", "metadata_match"]),
    ("RetryPolicy", Note(NOT_DONE), &["rate_limited_retry_back_off", "per_try_idle_timeout"]),
    ("RetryPolicy", Refuse(UNSUPPORTED), &["retry_options_predicates"]),
    ("RetryHostPredicate", Ignore, &["name"]),
    ("RetryPriority", Ignore, &["name"]),
    ("Predicate", Ignore, &["name"]),
    ("RequestMirrorPolicy", Ignore, &["trace_sampled"]),
    ("RequestMirrorPolicy", Refuse(UNSUPPORTED), &[
        "cluster_header", "request_headers_mutations", "host_rewrite_literal", "runtime_key",
    ]),
    ("RuntimeFraction", Ignore, &["runtime_key"]),
    ("CorsPolicy", Note(NOT_DONE), &["shadow_enabled"]),
    ("RegexMatcher", Ignore, &["google_re2"]),

    // envoy.config.trace.v3
    ("TracingProvider", Ignore, &["name"]),
    ("OpenTelemetryConfig", Ignore, &[
        "set_telemetry_sdk_resource_attributes", "set_service_name_resource_attribute",
        "set_instrumentation_scope",
    ]),
    ("OpenTelemetryConfig", Refuse(UNSUPPORTED), &["exporter"]),
    ("CollectorService", Ignore, &["retry_policy"]),
    ("CollectorService", RefusePresence("use envoy_grpc and a cluster"), &["google_grpc"]),
    ("CollectorGrpc", Ignore, &[
        "retry_policy", "max_receive_message_length", "skip_envoy_headers",
    ]),

    // envoy.config.accesslog.v3
    ("AccessLog", Ignore, &["name"]),
    ("AccessLogFilter", RefusePresence(UNSUPPORTED), &["metadata_filter", "traceable_filter"]),
    ("ExtensionFilter", Ignore, &["name"]),
    ("RuntimeUInt32", Ignore, &["runtime_key"]),
    ("RuntimeFilter", Ignore, &["runtime_key", "use_independent_randomness"]),

    // envoy.config.cluster.v3
    ("Cluster", Ignore, &[
        "alt_stat_name", "dns_refresh_rate", "dns_jitter", "dns_failure_refresh_rate",
        "respect_dns_ttl", "use_tcp_for_dns_lookups", "dns_resolution_config",
        "typed_dns_resolver_config", "dns_resolvers", "wait_for_warm_on_init", "cleanup_interval",
        "close_connections_on_host_health_failure",
        "ignore_health_on_host_removal", "track_timeout_budgets", "track_cluster_stats",
        "preconnect_policy", "least_request_lb_config", "round_robin_lb_config", "lrs_server",
        "lrs_report_endpoint_metrics", "warm_hosts",
    ]),
    ("CustomClusterType", Ignore, &["name"]),
    ("DnsCluster", Ignore, &[
        "dns_refresh_rate", "dns_failure_refresh_rate", "respect_dns_ttl", "dns_jitter", "typed_dns_resolver_config",
    ]),
    ("Cluster", Note(NOT_DONE), &["connection_pool_per_downstream_connection"]),
    ("ClusterHealthCheck", Ignore, &[
        "initial_jitter", "interval_jitter", "interval_jitter_percent", "reuse_connection",
        "no_traffic_interval", "no_traffic_healthy_interval", "unhealthy_interval",
        "unhealthy_edge_interval", "healthy_edge_interval", "event_log_path", "event_logger",
        "event_service", "always_log_health_check_failures", "always_log_health_check_success",
    ]),
    ("ClusterHealthCheck", Refuse(UNSUPPORTED), &["alt_port"]),
    ("ClusterHealthCheck", Note(NOT_DONE), &["tls_options", "transport_socket_match_criteria"]),
    ("ClusterHealthCheck", RefusePresence(UNSUPPORTED), &["custom_health_check"]),
    ("HttpHealthCheck", Ignore, &["codec_client_type"]),
    ("HttpHealthCheck", Note(NOT_DONE), &[
        "request_headers_to_add", "request_headers_to_remove", "service_name_matcher",
        "retriable_statuses",
    ]),
    ("TcpHealthCheck", RefusePresence(UNSUPPORTED), &["proxy_protocol_config"]),
    ("GrpcHealthCheck", Note(NOT_DONE), &["initial_metadata"]),
    ("OutlierDetection", Ignore, &["interval", "monitors", "max_ejection_time_jitter"]),
    ("OutlierDetection", Note(NOT_DONE), &[
        "enforcing_success_rate", "success_rate_minimum_hosts", "success_rate_request_volume",
        "success_rate_stdev_factor", "split_external_local_origin_errors",
        "consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure",
        "enforcing_local_origin_success_rate", "failure_percentage_threshold",
        "enforcing_failure_percentage", "enforcing_failure_percentage_local_origin",
        "failure_percentage_minimum_hosts", "failure_percentage_request_volume",
        "successful_active_health_check_uneject_host", "detect_degraded_hosts",
    ]),
    ("CommonLbConfig", Ignore, &[
        "update_merge_window", "close_connections_on_host_set_change", "zone_aware_lb_config",
    ]),
    ("CommonLbConfig", Note(NOT_DONE), &[
        "ignore_new_hosts_until_first_hc", "override_host_status",
    ]),
    ("CircuitBreakers", Refuse("limits of single endpoints are not supported"), &[
        "per_host_thresholds",
    ]),
    ("Thresholds", Note(NOT_DONE), &["max_connection_pools"]),
    ("Cluster", Refuse(NO_XDS), &["eds_cluster_config"]),
    ("Cluster", Refuse(UNSUPPORTED), &[
        "upstream_bind_config", "lb_subset_config", "filters",
    ]),
    ("Cluster", RefusePresence(UNSUPPORTED), &["transport_socket_matcher", "upstream_config"]),
    ("OriginalDstLbConfig", Refuse(UNSUPPORTED), &["metadata_key"]),
    ("HashPolicy", RefusePresence("there is no filter state of others"), &["filter_state"]),
    ("HashHeader", RefusePresence(UNSUPPORTED), &["regex_rewrite"]),
    ("RingHash", NotePresence(NO_WEIGHTS), &["locality_weighted_lb_config"]),
    ("RingHash", Refuse(UNSUPPORTED), &["hash_balance_factor"]),
    ("Maglev", NotePresence(NO_WEIGHTS), &["locality_weighted_lb_config"]),
    ("ConsistentHashing", Refuse(UNSUPPORTED), &["hash_balance_factor"]),
    ("LocalityLbConfig", Ignore, &["zone_aware_lb_config"]),
    ("PlainLbPolicy", Ignore, &[
        "slow_start_config", "choice_count", "active_request_bias",
        "enable_full_scan", "selection_method",
    ]),
    ("UpstreamProtocolOptions", Ignore, &["header_validation_config"]),
    ("AutoHttpConfig", RefusePresence("HTTP/3 is not supported"), &["http3_protocol_options"]),
    ("AutoHttpConfig", Ignore, &["alternate_protocols_cache_options"]),
    ("TransportSocketMatch", Ignore, &["name"]),
    ("UpstreamProtocolOptions", Note(NOT_DONE), &["outlier_detection"]),
    ("UpstreamProtocolOptions", Refuse(UNSUPPORTED), &["retry_policy", "request_mirror_policies", "hash_policy"]),
    ("UpstreamHttpProtocolOptions", Note("the certificate has to bear the name that is connected to"), &[
        "auto_san_validation",
    ]),
    ("UpstreamHttpProtocolOptions", Refuse(UNSUPPORTED), &["override_auto_sni_header"]),
    ("ExplicitHttpConfig", RefusePresence("HTTP/3 is not supported"), &["http3_protocol_options"]),
    ("UseDownstreamHttpConfig", Ignore, &["http3_protocol_options"]),

    // envoy.config.endpoint.v3
    ("AssignmentPolicy", Ignore, &["endpoint_stale_after"]),
    ("AssignmentPolicy", Note(NOT_DONE), &["drop_overloads", "weighted_priority_health"]),
    ("ClusterLoadAssignment", Refuse(UNSUPPORTED), &["named_endpoints"]),
    ("LocalityLbEndpoints", Ignore, &["locality", "proximity"]),
    ("LocalityLbEndpoints", Refuse(NO_XDS), &["load_balancer_endpoints", "leds_cluster_locality_config"]),
    ("LbEndpoint", Refuse(UNSUPPORTED), &["endpoint_name"]),
    ("Endpoint", Note(NOT_DONE), &["additional_addresses"]),

    // envoy.extensions.transport_sockets.tls.v3
    ("UpstreamTlsContext", Ignore, &[
        "allow_renegotiation", "max_session_keys", "enforce_rsa_key_usage",
    ]),
    ("CommonTlsContext", Ignore, &["key_log"]),
    ("DownstreamTlsContext", Ignore, &[
        "full_scan_certs_on_sni_mismatch", "prefer_client_ciphers", "ocsp_staple_policy",
    ]),
    ("DownstreamTlsContext", RefusePresence("keys of tickets cannot be given, each gateway makes its own"), &[
        "session_ticket_keys", "session_ticket_keys_sds_secret_config",
    ]),
    ("DownstreamTlsContext", Refuse(UNSUPPORTED), &["require_sni"]),
    ("TlsParameters", Note(NOT_DONE), &[
        "cipher_suites", "ecdh_curves", "signature_algorithms", "compliance_policies",
    ]),
    ("CommonTlsContext", Refuse(UNSUPPORTED), &[
        "tls_certificate_provider_instance", "tls_certificate_certificate_provider",
        "tls_certificate_certificate_provider_instance", "custom_handshaker",
        "custom_tls_certificate_selector",
    ]),
    ("TlsCertificate", Ignore, &["watched_directory", "signed_certificate_timestamp"]),
    ("TlsCertificate", Refuse(UNSUPPORTED), &[
        "pkcs12", "private_key_provider", "password", "ocsp_staple",
    ]),
    ("CertificateValidationContext", Ignore, &["watched_directory"]),
    ("CertificateValidationContext", Refuse(UNSUPPORTED), &[
        "ca_certificate_provider_instance", "verify_certificate_spki",
        "verify_certificate_hash", "require_signed_certificate_timestamp", "crl",
        "allow_expired_certificate", "custom_validator_config", "only_verify_leaf_cert_crl",
        "max_verify_depth",
    ]),
    ("SubjectAltNameMatcher", Refuse(UNSUPPORTED), &["oid"]),
    ("SubjectAltNameStringMatcher", RefusePresence(UNSUPPORTED), &["custom"]),
];
