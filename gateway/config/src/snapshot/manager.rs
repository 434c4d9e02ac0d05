//! The HTTP connection manager: protocols, limits, filters and logs of a filter chain.

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use extproc_client::{attributes::Expression, host::HeaderLimits};
use http::{HeaderValue, uri::Scheme};

use super::{
    Filter, FilterKind, Fraction, HeaderChange, HeaderMatch, HeaderTemplate, JsonTemplate,
    LocalReplies, RouteTable, StripPort, Substitution, Template, Tracing,
};

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

/// `scheme_header_transformation`: what `:scheme` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SchemeHeader {
    /// `https` if the client's connection has TLS, or what a trusted proxy says of it.
    #[default]
    Keep,
    /// This one, also in `x-forwarded-proto`.
    Overwrite(Scheme),
    /// `https` if the connection to the upstream has TLS; what a proxy in front says does not count.
    MatchUpstream,
}

/// The identity of this node, for `add_user_agent`.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// `node.cluster`; may be empty.
    pub cluster: HeaderValue,
    /// `node.id`, if it is not empty.
    pub id: Option<HeaderValue>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Debug)]
pub struct HttpManager {
    /// Prefix of statistics names: `http.<stat_prefix>.`.
    pub stat_prefix: String,
    /// Protocols of the connections.
    pub codec: Codec,
    /// Filters before the router, first one nearest to the client.
    pub filters: Vec<Filter>,
    /// `early_header_mutation_extensions`: changes of requests before anything else looks at their headers.
    pub early_headers: Vec<HeaderChange>,
    /// The route table.
    pub routes: RouteTable,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// `default_host_for_http_10`: the authority of HTTP/1.0 requests that name none.
    pub default_host: Option<HeaderValue>,
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
    /// Fate of the `server` response header.
    pub server_header: ServerHeader,
    /// The server name to write.
    pub server_name: String,
    /// `proxy_status_config`: tell of errors in `proxy-status`.
    pub proxy_status: Option<ProxyStatus>,
    /// Pseudonym to append to `via`; empty: none.
    pub via: String,
    /// Fate of `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// Clients are outside: take the peer's address into `x-forwarded-for`, and believe less of what they say of themselves.
    pub use_remote_address: bool,
    /// Proxies in front whose entries of `x-forwarded-for`, and whose `x-forwarded-proto`, are taken for true; with
    /// `use_remote_address`.
    pub xff_num_trusted_hops: u32,
    /// With `use_remote_address`: leave `x-forwarded-for` as it came.
    pub skip_xff_append: bool,
    /// Tell the port on which a request came in `x-forwarded-port`, unless a trusted proxy in front did.
    pub append_x_forwarded_port: bool,
    /// `add_user_agent`: tell of this node in `user-agent`, where the client says nothing of itself, and in
    /// `x-envoy-downstream-service-cluster` and `-node`.
    pub user_agent: Option<NodeIdentity>,
    /// `always_set_request_id_in_response`: tell the client the `x-request-id` of its request.
    pub request_id_in_response: bool,
    /// The value of `:scheme`.
    pub scheme_header: SchemeHeader,
    /// Believe their `x-request-id` all the same.
    pub preserve_external_request_id: bool,
    /// Upgrade types that may pass, lower case (`websocket`, `CONNECT`).
    pub upgrades: Vec<String>,
    /// Forward `expect: 100-continue` instead of answering it.
    pub proxy_100_continue: bool,
    /// Access logs.
    pub access_log: Vec<AccessLog>,
    /// `local_reply_config`.
    pub local_reply: Option<LocalReplies>,
    /// `tracing`; nothing is traced if unset.
    pub tracing: Option<Arc<Tracing>>,
    /// `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`, `headers_with_underscores_action`.
    pub normalization: Normalization,
}

/// `ProxyStatusConfig`: what `proxy-status` (RFC 9209) tells.
#[derive(Clone, Debug)]
pub struct ProxyStatus {
    /// The gateway's name in it.
    pub name: String,
    /// Tell the response code details.
    pub details: bool,
    /// Tell the response flags beside them.
    pub flags: bool,
    /// Answer with the status that is recommended for the error.
    pub recommended_status: bool,
}

/// Changes and refusals in a request's head before routing.
#[derive(Clone, Debug, Default)]
pub struct Normalization {
    /// Resolve dot segments and percent-encoded unreserved characters (RFC 3986 §6.2.2).
    pub normalize_path: bool,
    /// With `normalize_path`: refuse what an upstream could read as another path, and write escapes in upper case, as
    /// the paths of routes have them.
    pub one_reading: bool,
    /// Join adjacent slashes.
    pub merge_slashes: bool,
    /// Treatment of `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// Treatment of header names that hold an underscore.
    pub underscores: Underscores,
    /// Take the port out of the authority, for the router and for everything behind it.
    pub strip_port: StripPort,
    /// `strip_trailing_host_dot`: take the dot of an absolute name out of the authority, for the router and for
    /// everything behind it.
    pub strip_host_dot: bool,
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
    /// Buffer limit in place of the listener's, in bytes.
    pub stream_buffer: Option<usize>,
    /// Extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// `connection_keepalive`; `None` is no pings.
    pub keepalive: Option<Keepalive>,
    /// Limits for a client's frames that say little.
    pub floods: Floods,
}

/// Frames that a client may send before its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floods {
    /// `max_inbound_priority_frames_per_stream`.
    pub priority: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`.
    pub window_updates: u32,
}

impl Floods {
    /// Defaults of Envoy.
    pub const ENVOY: Self = Self {
        priority: 100,
        window_updates: 10,
    };
}

/// The largest window (RFC 9113 §6.9.1).
const LARGEST: u32 = 0x7fff_ffff;

impl Http2Options {
    /// Bytes that a connection of a client may hold of its streams' bodies, received or gathered: as much as four streams, but not
    /// little.
    #[must_use]
    pub fn connection_buffer(stream: usize) -> usize {
        const LEAST: usize = 64 * 1024 * 1024;
        stream.saturating_mul(4).max(LEAST)
    }

    /// Defaults towards clients. The window of a connection is that of many streams, so that a few that are not read do not
    /// close it for the others.
    #[must_use]
    pub fn towards_clients(mut self) -> Self {
        let stream = usize::try_from(self.initial_stream_window_size).unwrap_or(usize::MAX);
        self.initial_connection_window_size =
            u32::try_from(Self::connection_buffer(stream)).map_or(LARGEST, |all| all.min(LARGEST));
        self
    }

    /// Defaults towards endpoints, where the streams of a connection belong to different clients. The window of a
    /// connection is that of all its streams, so that clients that do not read cannot close it for the others, and an endpoint of
    /// which nothing is heard is pinged.
    #[must_use]
    pub fn towards_endpoints(mut self) -> Self {
        let stream = self.initial_stream_window_size.max(1);
        self.max_concurrent_streams = self.max_concurrent_streams.min(LARGEST / stream);
        self.initial_connection_window_size = stream
            .saturating_mul(self.max_concurrent_streams)
            .max(self.initial_connection_window_size);
        self.keepalive = Some(Keepalive::default());
        self
    }
}

/// When an HTTP/2 connection is pinged, and how long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Pings at fixed intervals.
    pub interval: Option<Interval>,
    /// `connection_idle_interval`: a ping when a stream is open and nothing was read for this time.
    pub silence: Option<Duration>,
    /// Longest time without a byte of the peer after a ping.
    pub timeout: Duration,
}

/// Pings at fixed intervals, whether streams are open or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Time from one to the next.
    pub period: Duration,
    /// Longest random time that is added to it.
    pub jitter: Duration,
}

impl Default for Keepalive {
    /// A ping after 10 s of silence, with 20 s for the answer.
    fn default() -> Self {
        Self {
            interval: None,
            silence: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(20),
        }
    }
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

/// One access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Sink of the lines.
    pub sink: LogSink,
    /// Content of a line; Envoy's default format if unset.
    pub format: LogFormat,
    /// Exchanges that are logged; `None` is all of them.
    pub filter: Option<LogFilter>,
    /// `omit_empty_values`: what has no value is left out, and not `-` or null.
    pub omit_empty: bool,
}

/// `envoy.config.accesslog.v3.AccessLogFilter`.
#[derive(Clone, Debug)]
pub enum LogFilter {
    /// All of them have to hold.
    And(Vec<Self>),
    /// One of them has to hold.
    Or(Vec<Self>),
    /// The response's status.
    Status(Comparison),
    /// Milliseconds that the exchange took.
    Duration(Comparison),
    /// A share of exchanges.
    Fraction(Fraction),
    /// A header of the request.
    Header(Arc<HeaderMatch>),
    /// One of these response flags; any if empty.
    Flags(u64),
    /// The gRPC status is one of these, or is none of these.
    Grpc {
        /// The statuses.
        statuses: Vec<u64>,
        /// None of them.
        exclude: bool,
    },
    /// `ExpressionFilter`: true of the exchange.
    Cel(Arc<Expression>),
    /// All that asks for nothing here: `not_health_check_filter`, since no exchange is a health check of the filter.
    Any,
}

/// `ComparisonFilter`.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Comparison.
    pub operator: Operator,
    /// With what.
    pub value: u64,
}

/// `ComparisonFilter.Op`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operator {
    /// The same.
    #[default]
    Equal,
    /// The same or more.
    AtLeast,
    /// The same or less.
    AtMost,
    /// Another one.
    Other,
}

impl Comparison {
    /// Returns true if `value` is as it has to be.
    pub fn holds(self, value: u64) -> bool {
        match self.operator {
            Operator::Equal => value == self.value,
            Operator::AtLeast => value >= self.value,
            Operator::AtMost => value <= self.value,
            Operator::Other => value != self.value,
        }
    }
}

/// Destination of log lines.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, line end included.
    Text(Template),
    /// JSON.
    Json(JsonTemplate),
}

impl Default for LogFormat {
    /// Envoy's default line.
    fn default() -> Self {
        const LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
            %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
            %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
            \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";
        Self::Text(Template::parse(LINE).unwrap_or_default())
    }
}

impl LogFormat {
    /// All texts of it.
    pub fn templates(&self) -> Vec<&Template> {
        let mut all = Vec::new();
        match self {
            Self::Text(template) => all.push(template),
            Self::Json(template) => template.templates(&mut all),
        }
        all
    }
}

/// `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Removed.
    #[default]
    Sanitize,
    /// Kept of clients that showed a certificate, removed of others.
    ForwardOnly,
    /// Kept.
    AlwaysForwardOnly,
    /// Extended by facts of the client's certificate, of clients that showed one; removed of others.
    AppendForward(ClientCertDetails),
    /// Replaced by facts of the client's certificate, of clients that showed one; removed of others.
    SanitizeSet(ClientCertDetails),
}

/// `set_current_client_cert_details`: what is told of a client's certificate beside its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertDetails {
    /// Its subject.
    pub subject: bool,
    /// Itself, as PEM.
    pub cert: bool,
    /// All certificates that the client sent.
    pub chain: bool,
    /// Its DNS names.
    pub dns: bool,
    /// Its URIs.
    pub uri: bool,
}

impl HttpManager {
    /// Tells whether a log, a header or a tag of a span shows such a value.
    pub fn shows(&self, wanted: impl Fn(&Substitution) -> bool) -> bool {
        let shown = |template: &Template| template.substitutions().any(&wanted);
        let tags = self.tracing.iter().flat_map(|tracing| &tracing.custom_tags);
        let logs = self
            .access_log
            .iter()
            .flat_map(|log| log.format.templates());
        let replies = self.local_reply.iter().flat_map(LocalReplies::templates);
        logs.into_iter().any(shown)
            || replies.into_iter().any(shown)
            || self.routes.templates().any(shown)
            || tags.map(|tag| &tag.value).any(shown)
            || self.header_changes().any(|change| match change {
                HeaderChange::Set {
                    value: HeaderTemplate::Template(template),
                    ..
                } => shown(template),
                HeaderChange::Set { .. }
                | HeaderChange::Remove(_)
                | HeaderChange::RemoveMatching(_) => false,
            })
    }

    /// All changes of headers that routes and filters make.
    fn header_changes(&self) -> impl Iterator<Item = &HeaderChange> {
        let filters = self.filters.iter().flat_map(|filter| match &filter.kind {
            FilterKind::HeaderMutation { request, response } => request.iter().chain(response),
            _ => [].iter().chain(&[]),
        });
        let replies = self.local_reply.iter();
        let replies = replies.flat_map(LocalReplies::header_changes);
        let early = self.early_headers.iter();
        let others = filters.chain(replies).chain(early);
        self.routes.header_changes().chain(others)
    }
}
