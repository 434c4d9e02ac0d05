//! What the gateway serves, whatever front end it came from.
//!
//! A [`Snapshot`] is immutable and checked: names are resolved, regular expressions compiled,
//! per-route filter configurations merged. It is swapped as a whole; an exchange keeps the one it
//! began with.

mod cluster;
mod listener;
mod policy;

use std::{
    collections::BTreeMap, net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc,
    time::Duration,
};

use extproc_client::{
    FilterConfig,
    attributes::Expression,
    config::StringMatcher,
    host::{HeaderLimits, RouteFacts, RouteOverrides},
};
use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

pub use self::cluster::{
    Cluster, Discovery, DnsFamily, Endpoint, EndpointAddress, LbPolicy, SubjectAltName,
    UpstreamProtocol, UpstreamTls,
};
pub use self::listener::{
    Certificate, ChainMatch, ClientValidation, DownstreamTls, FilterChain, HANDSHAKE_TIMEOUT,
    Listener, TransportProtocol,
};
pub use self::policy::{Cors, Fraction, Mirror, StripPort};

/// Everything that is served.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Where `/stats`, `/stats/prometheus` and `/ready` are; no admin server if unset.
    pub admin: Option<SocketAddr>,
    /// Listeners. No two may have the same address.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters by name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// Files that the configuration was made from beside the one that was named: certificates and the
    /// like. They are watched with it.
    pub files: Vec<PathBuf>,
    /// `overload_manager`; unset: limits from what the system gives the process.
    pub overload: Option<OverloadLimits>,
    /// What the configuration asks for and this gateway does not do, one line each with its place;
    /// to be logged once.
    pub warnings: Vec<String>,
}

/// `envoy.config.overload.v3.OverloadManager`: what the process as a whole may hold.
#[derive(Clone, Copy, Debug)]
pub struct OverloadLimits {
    /// Client connections of all listeners; those beyond are closed at once. `None` is no limit.
    pub connections: Option<usize>,
    /// Resident bytes that are taken for all there is; `None` is no limit.
    pub memory: Option<u64>,
    /// The part of `memory` from which on requests are answered 503. Default 0.9; `None` is never.
    pub stop_requests: Option<f64>,
    /// The part of `memory` from which on connections are closed at once. Default 0.95; `None` is never.
    pub stop_connections: Option<f64>,
    /// How often memory is looked at. Default 100 ms (Envoy: 1 s).
    pub refresh: Duration,
}

impl Default for OverloadLimits {
    fn default() -> Self {
        Self {
            connections: None,
            memory: None,
            stop_requests: Some(0.9),
            stop_connections: Some(0.95),
            refresh: Duration::from_millis(100),
        }
    }
}

/// `codec_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// By the first bytes of the connection.
    #[default]
    Auto,
    /// HTTP/1 alone.
    Http1,
    /// HTTP/2 with prior knowledge alone.
    Http2,
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Replace by ours.
    #[default]
    Overwrite,
    /// Add ours if there is none.
    AppendIfAbsent,
    /// Leave as it is.
    PassThrough,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Debug)]
pub struct HttpManager {
    /// Prefix of statistics names: `http.<stat_prefix>.`.
    pub stat_prefix: String,
    /// Which protocols are spoken.
    pub codec: Codec,
    /// Filters before the router, first one nearest to the client.
    pub filters: Vec<Filter>,
    /// The route table.
    pub routes: RouteTable,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// Time limits.
    pub timeouts: Timeouts,
    /// `max_request_headers_kb` and `common_http_protocol_options.max_headers_count`, in bytes and entries.
    pub request_headers: HeaderLimits,
    /// `common_http_protocol_options.max_requests_per_connection`; `None` is no limit.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// Add `x-request-id` where the client sent none.
    pub generate_request_id: bool,
    /// Add `x-forwarded-proto` where the client sent none. Only the flags leave it out, so that an upstream
    /// sees what the client and the processor wrote and nothing else.
    pub add_forwarded_proto: bool,
    /// What becomes of the `server` response header.
    pub server_header: ServerHeader,
    /// The server name to write.
    pub server_name: String,
    /// Pseudonym to append to `via`; empty: none.
    pub via: String,
    /// Clients are outside: take the peer's address into `x-forwarded-for`, and believe less of what they say of themselves.
    pub use_remote_address: bool,
    /// Believe their `x-request-id` all the same.
    pub preserve_external_request_id: bool,
    /// Upgrade types that may pass, lower case (`websocket`, `CONNECT`).
    pub upgrades: Vec<String>,
    /// Forward `expect: 100-continue` instead of answering it.
    pub proxy_100_continue: bool,
    /// Access logs.
    pub access_log: Vec<AccessLog>,
    /// `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`, `headers_with_underscores_action`.
    pub normalization: Normalization,
}

/// What is changed or refused in a request's head before routing.
#[derive(Clone, Debug, Default)]
pub struct Normalization {
    /// Resolve dot segments and percent-encoded unreserved characters (RFC 3986 §6.2.2).
    pub normalize_path: bool,
    /// Join adjacent slashes.
    pub merge_slashes: bool,
    /// What to do with `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// What to do with header names that hold an underscore.
    pub underscores: Underscores,
    /// Take the port out of the authority, for the router and for everything behind it.
    pub strip_port: StripPort,
}

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Leave them.
    #[default]
    Keep,
    /// Answer 400.
    Reject,
    /// Decode and redirect.
    UnescapeAndRedirect,
    /// Decode and go on.
    UnescapeAndForward,
}

/// `headers_with_underscores_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Let them pass.
    #[default]
    Allow,
    /// Answer 400.
    Reject,
    /// Drop the header.
    Drop,
}

/// `http_protocol_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// Forward trailers; otherwise they are dropped.
    pub enable_trailers: bool,
    /// Accept HTTP/1.0 requests without more ado.
    pub accept_http_10: bool,
}

/// `http2_protocol_options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Options {
    /// Concurrent streams of a connection.
    pub max_concurrent_streams: u32,
    /// Bytes.
    pub initial_stream_window_size: u32,
    /// Bytes.
    pub initial_connection_window_size: u32,
    /// What is held of a body in place of the listener's buffer limit, in bytes.
    pub stream_buffer: Option<usize>,
    /// Extended CONNECT (RFC 8441).
    pub allow_connect: bool,
}

/// Time limits of a connection manager; `None` is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// `request_headers_timeout`: from the first byte of a head to its end.
    pub request_headers: Option<Duration>,
    /// `request_timeout`: from the first byte to the end of the request.
    pub request: Option<Duration>,
    /// `stream_idle_timeout`.
    pub stream_idle: Option<Duration>,
    /// `common_http_protocol_options.idle_timeout`: a connection without requests.
    pub connection_idle: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`.
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `drain_timeout`.
    pub drain: Duration,
    /// `delayed_close_timeout`.
    pub delayed_close: Duration,
}

/// One HTTP filter.
#[derive(Debug)]
pub struct Filter {
    /// The name it was given, the key of per-route configuration.
    pub name: String,
    /// `disabled`: only active where a route's configuration says so.
    pub disabled: bool,
    /// What it does.
    pub kind: FilterKind,
}

/// Filters that the gateway knows beside the router.
#[derive(Debug)]
#[non_exhaustive]
pub enum FilterKind {
    /// `envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor`.
    ExtProc(Arc<FilterConfig>),
    /// `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.
    HeaderMutation {
        /// On requests.
        request: Vec<HeaderChange>,
        /// On responses.
        response: Vec<HeaderChange>,
    },
    /// `envoy.extensions.filters.http.cors.v3.Cors`; what it does is said by [`Route::cors`].
    Cors,
    /// `envoy.extensions.filters.http.health_check.v3.HealthCheck`: requests with these headers are answered with 200.
    HealthCheck(Arc<[HeaderMatch]>),
    /// `envoy.extensions.filters.http.set_metadata.v3.Config`.
    SetMetadata(Vec<SetMetadata>),
    /// Decides over the [`Choice`] of a filter behind it.
    Conditions {
        /// The filter's name.
        filter: String,
        /// Choose the route again first: a filter in front may have changed the request.
        reselect: bool,
    },
}

/// One entry of a `set_metadata` filter.
#[derive(Clone, Debug)]
pub struct SetMetadata {
    /// The namespace.
    pub namespace: String,
    /// Merged or replaced content.
    pub value: Option<prost_types::Struct>,
    /// A typed message.
    pub typed: Option<prost_types::Any>,
    /// Replace what is there.
    pub allow_overwrite: bool,
}

/// One change of a header map.
#[derive(Clone, Debug)]
pub enum HeaderChange {
    /// Remove all values.
    Remove(HeaderName),
    /// Add or replace.
    Set {
        /// The name.
        name: HeaderName,
        /// The value.
        value: HeaderTemplate,
        /// How it meets a value that is there.
        action: AppendAction,
        /// Also if the value comes out empty.
        keep_empty: bool,
    },
}

/// A header value that may hold substitutions such as `%REQ(x)%`.
#[derive(Clone, Debug)]
pub struct HeaderTemplate(pub String);

/// `HeaderAppendAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    /// Add another value.
    #[default]
    AppendIfExistsOrAdd,
    /// Only if there is none.
    AddIfAbsent,
    /// Replace all values or add.
    OverwriteIfExistsOrAdd,
    /// Replace all values, if there are any.
    OverwriteIfExists,
}

/// `RouteConfiguration`.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Its name.
    pub name: String,
    /// Virtual hosts; the most specific domain wins.
    pub virtual_hosts: Vec<VirtualHost>,
    /// `ignore_port_in_host_matching`: domains are compared with the authority's host alone.
    pub ignore_port: bool,
    /// `request_headers_to_remove` then `request_headers_to_add`.
    pub request_headers: Vec<HeaderChange>,
    /// The same for responses.
    pub response_headers: Vec<HeaderChange>,
}

/// `VirtualHost`.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: String,
    /// `a.example`, `*.example`, `a.*`, `*`; lower case, with or without a port.
    pub domains: Vec<String>,
    /// In order of precedence.
    pub routes: Vec<Arc<Route>>,
    /// On requests.
    pub request_headers: Vec<HeaderChange>,
    /// On responses.
    pub response_headers: Vec<HeaderChange>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Which requests.
    pub matches: RouteMatch,
    /// What happens to them.
    pub action: RouteAction,
    /// On requests.
    pub request_headers: Vec<HeaderChange>,
    /// On responses.
    pub response_headers: Vec<HeaderChange>,
    /// Filter configurations that differ here, all levels merged (route configuration, virtual host, route).
    pub overrides: Arc<RouteOverrides>,
    /// Names and metadata, for attributes.
    pub facts: Arc<RouteFacts>,
    /// Filters whose configuration depends on the request; instead of their entry in `overrides`.
    pub choices: Arc<[Choice]>,
    /// What the filter [`FilterKind::Cors`] does here; nothing if unset.
    pub cors: Option<Arc<Cors>>,
}

/// The configurations of a filter among which a request decides.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The filter's name.
    pub filter: String,
    /// The first whose condition holds; the filter is off if none does.
    pub cases: Arc<[Case]>,
}

/// One configuration with what belongs to it.
#[derive(Debug)]
pub struct Case {
    /// When it holds; always if unset.
    pub condition: Option<Expression>,
    /// What the filter runs with.
    pub config: Arc<FilterConfig>,
    /// Dynamic metadata to set before: namespace, and name with value.
    pub metadata: Vec<(String, Vec<(String, Expression)>)>,
    /// Metadata of the gRPC call: name and value.
    pub initial_metadata: Vec<(String, Expression)>,
}

/// Which requests a route takes.
#[derive(Debug)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// All of these.
    pub headers: Vec<HeaderMatch>,
    /// All of these.
    pub query: Vec<QueryMatch>,
    /// Paths are compared with regard to case.
    pub case_sensitive: bool,
}

/// `path_specifier`; the query is no part of the path.
#[derive(Debug)]
pub enum PathMatch {
    /// Begins with this.
    Prefix(String),
    /// Is this.
    Exact(String),
    /// Is this or lies below it, by whole segments.
    PathSeparatedPrefix(String),
    /// Matches as a whole.
    Regex(Regex),
    /// CONNECT requests.
    Connect,
}

/// `HeaderMatcher`; pseudo-headers by their `:` names.
#[derive(Debug)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// What the value has to be.
    pub value: ValueMatch,
    /// The opposite.
    pub invert: bool,
    /// Take a missing header for an empty one.
    pub missing_as_empty: bool,
}

/// `QueryParameterMatcher`.
#[derive(Debug)]
pub struct QueryMatch {
    /// The parameter.
    pub name: String,
    /// What its value has to be.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Debug)]
pub enum ValueMatch {
    /// There is one (or, if false, none).
    Present(bool),
    /// A string matcher; several values of a header are joined by `,` first.
    String(StringMatcher),
    /// An integer in `start..end`.
    Range(i64, i64),
}

/// What a route does.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the largest kind, each behind the pointer of its route"
)]
pub enum RouteAction {
    /// Forward.
    Forward(Forward),
    /// `direct_response`.
    Direct {
        /// The status.
        status: StatusCode,
        /// The body, `text/plain` if not empty and not said otherwise.
        body: bytes::Bytes,
    },
    /// `redirect`.
    Redirect(Redirect),
}

/// `envoy.config.route.v3.RouteAction`. The default forwards to nothing, without a time limit.
#[derive(Debug, Default)]
pub struct Forward {
    /// Where to; weights are relative.
    pub clusters: Vec<WeightedCluster>,
    /// Take the cluster's name from this header instead.
    pub cluster_header: Option<HeaderName>,
    /// From the end of the request to the end of the response. Default 15 s; `None` is no limit.
    pub timeout: Option<Duration>,
    /// `idle_timeout` of the stream on this route; zero is no limit. Unset: the connection manager's.
    pub idle_timeout: Option<Duration>,
    /// `max_stream_duration.max_stream_duration`; zero is no limit. Unset: the connection manager's.
    pub max_stream_duration: Option<Duration>,
    /// How often to try again.
    pub retry: Option<Retry>,
    /// Replaces what matched of the path.
    pub prefix_rewrite: Option<String>,
    /// Replaces what matches in the path.
    pub regex_rewrite: Option<(Regex, String)>,
    /// Replaces the authority.
    pub host_rewrite: Option<HeaderValue>,
    /// Replaces the authority by this header's value, if the request has one.
    pub host_rewrite_header: Option<HeaderName>,
    /// Replaces the authority by the path, of which what matches is replaced.
    pub host_rewrite_path_regex: Option<(Regex, String)>,
    /// Replaces the authority by the endpoint's host name.
    pub auto_host_rewrite: bool,
    /// Where copies of requests go.
    pub mirrors: Vec<Mirror>,
    /// The answer where the cluster is not in the snapshot (`cluster_not_found_response_code`). Default 503.
    pub missing_cluster: Option<StatusCode>,
    /// Upgrade types that this route allows or not, before the connection manager's.
    pub upgrades: Vec<(String, bool)>,
}

/// One target of a route.
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster's name; may be missing from the snapshot: 503.
    pub name: String,
    /// Relative weight.
    pub weight: u32,
    /// On requests.
    pub request_headers: Vec<HeaderChange>,
    /// On responses.
    pub response_headers: Vec<HeaderChange>,
    /// As in [`Route`], this cluster's level merged in; `None` if it has none of its own.
    pub overrides: Option<Arc<RouteOverrides>>,
    /// As in [`Route`].
    pub facts: Arc<RouteFacts>,
}

/// `RetryPolicy`.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Conditions, as written in `retry_on`.
    pub on: Vec<String>,
    /// Additional attempts.
    pub count: u32,
    /// Longest wait for one attempt.
    pub per_try_timeout: Option<Duration>,
    /// `retriable_status_codes`.
    pub status_codes: Vec<u16>,
}

/// `RedirectAction`.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// `https`.
    pub https: bool,
    /// The scheme.
    pub scheme: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The whole path.
    pub path: Option<String>,
    /// Replaces what matched.
    pub prefix_rewrite: Option<String>,
    /// Replaces what matches in the path.
    pub regex_rewrite: Option<(Regex, String)>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// Leave the query out.
    pub strip_query: bool,
    /// Leave the port of the request's authority out where `host` and `port` are unset.
    pub strip_port: bool,
}

/// One access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: LogSink,
    /// What a line holds; Envoy's default format if unset.
    pub format: LogFormat,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

/// The form of a log line.
#[derive(Clone, Debug, Default)]
pub enum LogFormat {
    /// Envoy's default line.
    #[default]
    Default,
    /// Text with `%..%` operators, line end included.
    Text(String),
    /// A JSON object whose strings hold operators.
    Json(serde_json::Value),
}
