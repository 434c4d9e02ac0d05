//! What the program around the layer knows of an exchange, given through request and response extensions.
//!
//! All of it is optional: a bare `ExtProcLayer` in a tower stack works without. A gateway puts an
//! [`ExchangeContext`] into the request's extensions and an [`UpstreamInfo`] into the response's.

use std::{
    borrow::Cow,
    error::Error as StdError,
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{StatusCode, Version, request};

use crate::{config::FilterConfig, error::BoxError, metadata::DynamicMetadata};

/// Counts the bytes of bodies that filters hold for one exchange, so that its host can bound what it holds for all of them.
///
/// Small amounts are not told. A host that wants some back drops the exchange.
pub trait BufferAccount: fmt::Debug + Send + Sync {
    /// Adds bytes that are held from now on.
    fn hold(&self, bytes: usize);
    /// Subtracts bytes that are no longer held.
    fn release(&self, bytes: usize);
}

/// The bytes that one part of an exchange holds, as far as they were told. Dropping it gives them back.
#[derive(Debug, Default)]
pub struct Held {
    account: Option<Arc<dyn BufferAccount>>,
    told: usize,
}

impl Held {
    /// Nothing is held yet. Without an account, nothing is counted.
    pub fn new(account: Option<Arc<dyn BufferAccount>>) -> Self {
        Self { account, told: 0 }
    }

    /// The same for another part of the exchange, which holds nothing yet.
    pub(crate) fn other(&self) -> Self {
        Self::new(self.account.clone())
    }

    /// Sets the number of bytes that are held now.
    pub fn set(&mut self, bytes: usize) {
        /// Less is not told: most exchanges never hold more.
        const GRAIN: usize = 16 * 1024;
        let Some(account) = &self.account else {
            return;
        };
        let bytes = bytes - bytes % GRAIN;
        if bytes > self.told {
            account.hold(bytes - self.told);
        } else if bytes < self.told {
            account.release(self.told - bytes);
        }
        self.told = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Request extension: the surroundings of one exchange. Cheap to clone; all layers of a chain see
/// the same one.
#[derive(Clone, Debug, Default)]
pub struct ExchangeContext {
    /// The program around the layer, asked for what may change while the exchange goes on: its route.
    pub host: Option<Arc<dyn Host>>,
    /// Buffer and header limits; Envoy's defaults if unset.
    pub limits: Limits,
    /// Dynamic metadata of the exchange, shared with other filters and the access log.
    pub metadata: DynamicMetadata,
    /// Facts about connection, route and node, for attributes.
    pub facts: Arc<HostFacts>,
    /// The endpoint that the request goes to, where that is known when a layer sees the request: attributes may ask for it
    /// then. Otherwise it is known with the response, by its [`UpstreamInfo`].
    pub endpoint: Option<Arc<UpstreamInfo>>,
    /// Told how many bytes of bodies filters hold.
    pub buffers: Option<Arc<dyn BufferAccount>>,
    /// The request is answered locally before any filter saw it (a malformed request): filters see
    /// the response alone.
    pub response_only: bool,
    /// How a local reply has to look. Without it, the request as it comes to a filter decides, which an earlier one may have
    /// changed.
    pub reply_form: Option<ReplyForm>,
    /// The bytes of the request's body that came from the client, for attributes. Without it, a filter counts what comes to it.
    pub received: Option<Arc<dyn Received>>,
    /// The client waits for `100 Continue` before it sends its body: nothing is read of that before the request goes on,
    /// so that a refusal comes first. An `expect` header that is still there says the same.
    pub awaits_continue: bool,
}

impl ExchangeContext {
    /// Facts of the route that was selected last.
    pub(crate) fn route_facts(&self) -> Arc<RouteFacts> {
        self.host
            .as_ref()
            .map_or_else(Arc::default, |host| host.route_facts())
    }
}

/// The program around the layer, in one exchange. It selects routes, and a reply may have the route selected again, so that
/// each layer asks when the request comes to it.
pub trait Host: fmt::Debug + Send + Sync {
    /// Number of the exchange, the same for all its layers, for [observers](crate::observer); 0 if it has none. Asked only
    /// when an observer wants everything, so that a host may take [`next_id`](crate::observer::next_id) when it is asked first.
    fn exchange_id(&self) -> u64 {
        0
    }

    /// Configuration of the layer `filter` on the route that holds for a request with this head. The route is selected
    /// again first if it was cleared since.
    fn route(&self, filter: &str, head: &request::Parts) -> RouteConfig {
        let _ = (filter, head);
        RouteConfig::Inherit
    }

    /// Facts of the route that was selected last, for attributes.
    fn route_facts(&self) -> Arc<RouteFacts> {
        Arc::default()
    }

    /// A reply clears the route (`clear_route_cache`): it is to be selected again for whoever asks next.
    fn clear_route(&self) {}
}

/// Configuration of a layer on a route.
#[derive(Clone, Debug, Default)]
pub enum RouteConfig {
    /// The layer's own; a layer that is [disabled](crate::ExtProcLayer::disabled) does nothing.
    #[default]
    Inherit,
    /// None: the layer does nothing.
    Disabled,
    /// This one, also if the layer is disabled.
    Use(Arc<FilterConfig>),
}

/// Limits that hold for one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest buffered request body, in bytes. Default 1 MiB
    /// (`per_connection_buffer_limit_bytes` of the listener).
    pub request_buffer: usize,
    /// Largest buffered response body, in bytes. Default 1 MiB.
    pub response_buffer: usize,
    /// Request headers and trailers after a mutation.
    pub request_headers: HeaderLimits,
    /// Response headers and trailers after a mutation.
    pub response_headers: HeaderLimits,
}

/// Limits of a header map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Most entries, pseudo-headers included.
    pub count: usize,
    /// Most bytes of all names and values.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_buffer: 1024 * 1024,
            response_buffer: 1024 * 1024,
            request_headers: HeaderLimits {
                count: 100,
                bytes: 60 * 1024,
            },
            response_headers: HeaderLimits {
                count: 100,
                bytes: 80 * 1024,
            },
        }
    }
}

/// The form of local replies, which the request as it came from the client decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyForm {
    /// It is one of gRPC: the status goes into `grpc-status`.
    pub grpc: bool,
    /// It is a HEAD: there is no content.
    pub head: bool,
}

/// A count of what has come from the client.
pub trait Received: fmt::Debug + Send + Sync {
    /// Bytes of the request's body so far.
    fn body_bytes(&self) -> u64;
}

/// Facts of the connection that attributes may ask for.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// `connection.id`.
    pub connection_id: u64,
    /// `source.address`, `source.port`.
    pub source: Option<SocketAddr>,
    /// `destination.address`, `destination.port`.
    pub destination: Option<SocketAddr>,
    /// The version that the client speaks, for `request.protocol`; without it, that of the request is taken. Over HTTP/1 a
    /// processor of a streamed body is told the end apart from the last bytes, as by Envoy.
    pub version: Option<Version>,
    /// `request.time`: when the first byte of the request arrived.
    pub start: Option<SystemTime>,
    /// `connection.requested_server_name`; empty without TLS.
    pub requested_server_name: String,
    /// `connection.tls_version`, with TLS only.
    pub tls_version: Option<String>,
    /// `connection.mtls`.
    pub mtls: bool,
}

/// Facts of the selected route.
#[derive(Clone, Debug, Default)]
pub struct RouteFacts {
    /// `xds.cluster_name`; empty if the route has none.
    pub cluster_name: String,
    /// `xds.route_name`.
    pub route_name: String,
    /// `xds.virtual_host_name`.
    pub virtual_host_name: String,
    /// `xds.filter_chain_name`.
    pub filter_chain_name: String,
    /// `upstream.num_endpoints`.
    pub endpoints: u64,
    /// `xds.route_metadata`.
    pub route_metadata: Metadata,
    /// `xds.virtual_host_metadata`.
    pub virtual_host_metadata: Metadata,
    /// `xds.cluster_metadata`, also the source of `cluster_metadata_forwarding_namespaces`.
    pub cluster_metadata: Metadata,
    /// `xds.listener_metadata`.
    pub listener_metadata: Metadata,
    /// `xds.node`, as JSON of `envoy.config.core.v3.Node`.
    pub node: serde_json::Value,
}

impl RouteFacts {
    /// Whether there is a route: its virtual host has a name, if not the route itself.
    pub(crate) fn is_selected(&self) -> bool {
        !self.virtual_host_name.is_empty() || !self.route_name.is_empty()
    }
}

/// `envoy.config.core.v3.Metadata` from configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// Namespaces with JSON-like content.
    pub filter_metadata: std::collections::BTreeMap<String, prost_types::Struct>,
    /// Namespaces with a typed message.
    pub typed_filter_metadata: std::collections::BTreeMap<String, prost_types::Any>,
}

/// Response extension: how the response came about. Absent, or without a [response](Self::responded) of an endpoint: made
/// locally.
#[derive(Clone, Debug, Default)]
pub struct UpstreamInfo {
    /// `upstream.address`, `upstream.port`: the endpoint that was chosen last.
    pub address: Option<SocketAddr>,
    /// That endpoint gave no response; this one says why.
    pub failed: bool,
    /// `upstream.local_address`.
    pub local_address: Option<SocketAddr>,
    /// `upstream.request_attempt_count`.
    pub attempts: u64,
    /// `upstream.cx_pool_ready_duration`.
    pub pool_ready: Option<Duration>,
    /// When the request began to be sent, for `response.backend_latency`.
    pub begun: Option<Instant>,
    /// `upstream.transport_failure_reason`.
    pub transport_failure_reason: String,
    /// `xds.upstream_host_metadata`.
    pub host_metadata: Option<Arc<Metadata>>,
    /// Limits of this endpoint's response headers; those of [`Limits`] if unset.
    pub response_headers: Option<HeaderLimits>,
    /// The head of the request as it was sent, where [`KeepSent`] asked for it: response attributes
    /// speak of it.
    pub sent: Option<Arc<request::Parts>>,
}

impl UpstreamInfo {
    /// Whether the response is an endpoint's.
    pub fn responded(&self) -> bool {
        self.address.is_some() && !self.failed
    }
}

/// Request extension, set by a layer: response attributes are configured, so the head that goes to
/// the upstream is to be kept for them in [`UpstreamInfo::sent`].
#[derive(Clone, Copy, Debug)]
pub struct KeepSent;

/// Error of an upstream's body, or a source of it: which answer fits as long as the head of the
/// response has not gone on. Without it that is 502.
#[derive(Debug)]
pub struct UpstreamFailure {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its response code details.
    pub details: Cow<'static, str>,
    /// Its response flags.
    pub flags: ResponseFlags,
    /// What happened.
    pub source: Option<BoxError>,
}

impl UpstreamFailure {
    /// The first one in a chain of errors.
    pub(crate) fn of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref() {
                return Some(failure);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for UpstreamFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.details)
    }
}

impl StdError for UpstreamFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

/// Response extension: `%RESPONSE_CODE_DETAILS%`, why the response is what it is, such as
/// `via_upstream`. Set by whoever makes a response; white space is already replaced by `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseDetails(pub Cow<'static, str>);

/// Response extension: `%RESPONSE_FLAGS%` as Envoy's bit set, 0 if absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFlags(pub u64);

/// Response extension: no response can be given, since the upstream's was lost after it had begun and
/// before its head went out. The host should cut the connection (HTTP/1) or reset the stream
/// (HTTP/2), as Envoy does; one that does not sends the 502 that carries this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// Response extension: a filter made this response while another one was already on its way back.
/// As in Envoy, filters nearer to the client do not see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectReply;

/// Response extension: a filter made this response before the request went on. Envoy shows it to the
/// filters that lie behind as well, which never saw the request; a host with a chain of them may call
/// them for it, with [`ExchangeContext::response_only`].
#[derive(Clone, Debug)]
pub struct AnsweredEarly {
    /// Head of the request, as the filter has left it.
    pub request: Box<request::Parts>,
}

/// Response extension: a filter made this response after the request had gone on, and before a response came back. Envoy
/// shows it to the filters that lie behind as the response to the request that they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnsweredLate;

/// Response extension: a local reply. It takes the place of an upstream's response, and what is left of the request goes
/// nowhere, so that filters do not show it to processors either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalReply;

/// Response extension, set by the layer: what the processor did until the response's head went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeSummary {
    /// Messages sent to the processor.
    pub sent: u32,
    /// Replies accepted.
    pub received: u32,
    /// Replies that changed something.
    pub changed: u32,
    /// The processor, or the filter for it, answered in the upstream's place.
    pub answered: bool,
    /// The processor failed, and the exchange went on without it.
    pub failed_open: bool,
}

impl fmt::Display for ExchangeSummary {
    /// Such as `2/2 changed=1`: replies of messages, and what else is to be said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.received, self.sent)?;
        if self.changed > 0 {
            write!(f, " changed={}", self.changed)?;
        }
        if self.answered {
            f.write_str(" answered")?;
        }
        if self.failed_open {
            f.write_str(" failed-open")?;
        }
        Ok(())
    }
}
