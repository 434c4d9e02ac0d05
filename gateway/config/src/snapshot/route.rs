//! Routes: which requests go where, and what is changed about them.

use std::{sync::Arc, time::Duration};

use extproc_client::{
    FilterConfig,
    attributes::Expression,
    config::{RegexMatcher, RegexSubstitution, StringMatcher},
    host::RouteFacts,
};
use http::{HeaderName, HeaderValue, StatusCode, uri::Authority};

use super::{
    Cors, Fraction, HashPolicy, HeaderTemplate, Mirror, OnRoute, Priority, ReplyFormat, Retry,
    RouteRateLimits, RouteTracing, Template, ValueMatcher,
};

/// One change of a header map.
#[derive(Clone, Debug)]
pub enum HeaderChange {
    /// Remove all values.
    Remove(HeaderName),
    /// Remove all fields of which the name, in lower case, is as this wants it.
    RemoveMatching(StringMatcher),
    /// Add or replace.
    Set {
        /// The name.
        name: HeaderName,
        /// The value.
        value: HeaderTemplate,
        /// Action on a value that is there.
        action: AppendAction,
        /// Also if the value comes out empty.
        keep_empty: bool,
    },
}

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

impl RouteTable {
    /// All changes of headers, of all levels.
    pub fn header_changes(&self) -> impl Iterator<Item = &HeaderChange> {
        let hosts = self.virtual_hosts.iter();
        let of_hosts = hosts
            .clone()
            .flat_map(|host| [&host.request_headers, &host.response_headers]);
        let routes = hosts.flat_map(|host| &host.routes);
        let of_routes = routes
            .clone()
            .flat_map(|route| [&route.request_headers, &route.response_headers]);
        let of_clusters = routes
            .filter_map(|route| match &route.action {
                RouteAction::Forward(forward) => Some(&forward.clusters),
                _ => None,
            })
            .flatten()
            .flat_map(|cluster| [&cluster.request_headers, &cluster.response_headers]);
        [&self.request_headers, &self.response_headers]
            .into_iter()
            .chain(of_hosts)
            .chain(of_routes)
            .chain(of_clusters)
            .flatten()
    }

    /// All texts of the answers that routes give.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        let formats = routes.filter_map(|route| match &route.action {
            RouteAction::Direct { format, .. } => format.as_ref(),
            RouteAction::Forward(_) | RouteAction::Redirect(_) => None,
        });
        formats.flat_map(|format| format.format.templates())
    }

    /// All that routes say of this filter, of this cluster's one if there is a name, beside configurations of ext_proc.
    pub fn said<'a>(
        &'a self,
        cluster: Option<&'a str>,
        filter: &'a str,
    ) -> impl Iterator<Item = &'a OnRoute> {
        self.overrides()
            .filter_map(move |overrides| overrides.said(cluster, filter))
    }

    /// All that routes say of filters.
    pub fn overrides(&self) -> impl Iterator<Item = &RouteOverrides> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes.flat_map(|route| {
            let clusters = match &route.action {
                RouteAction::Forward(forward) => forward.clusters.as_slice(),
                RouteAction::Direct { .. } | RouteAction::Redirect(_) => &[],
            };
            let of_clusters = clusters
                .iter()
                .filter_map(|cluster| cluster.overrides.as_ref());
            std::iter::once(&route.overrides)
                .chain(of_clusters)
                .map(|overrides| &**overrides)
        })
    }
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
    /// `require_tls`: the redirect of requests that did not come over TLS. Changes of headers and filters' configurations of this
    /// host do not hold for it.
    pub to_tls: Option<Arc<Route>>,
    /// On requests.
    pub request_headers: Vec<HeaderChange>,
    /// On responses.
    pub response_headers: Vec<HeaderChange>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Requests that it takes.
    pub matches: RouteMatch,
    /// Action for them.
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
    /// Policy of the filter [`FilterKind::Cors`](super::FilterKind::Cors) here; it does nothing if unset.
    pub cors: Option<Arc<Cors>>,
    /// `decorator` and `tracing`.
    pub tracing: Option<Arc<RouteTracing>>,
    /// `request_body_buffer_limit`: bytes of a request that are kept for further attempts, in place of what the listener
    /// allows, and that filters may gather if it is more than that.
    pub request_buffer: Option<usize>,
    /// Descriptions of its requests, for filters that limit their rate.
    pub rate_limits: Arc<RouteRateLimits>,
}

/// Configurations of a route that differ from the filters' own. A name that a filter of the listener shares with filters of
/// clusters speaks of each of them, and each has a configuration of its own beneath.
#[derive(Clone, Debug, Default)]
pub struct RouteOverrides {
    /// Those of the listener's filters.
    pub filters: Overridden,
    /// Those of clusters' filters, by the cluster's name.
    pub of_clusters: Vec<(String, Overridden)>,
}

/// Names of filters with what is said of them; an ext_proc filter within another one may have an entry beside that.
pub type Overridden = Vec<(String, OnRoute)>;

impl RouteOverrides {
    /// All that is said, with the names of the filters.
    pub fn all(&self) -> impl Iterator<Item = (&str, &OnRoute)> {
        let of_clusters = self.of_clusters.iter().map(|(_, overridden)| overridden);
        let all = std::iter::once(&self.filters).chain(of_clusters);
        all.flatten().map(|(filter, said)| (filter.as_str(), said))
    }

    /// Configuration of this filter, of this cluster's one if there is a name, beside a configuration of ext_proc.
    pub fn said(&self, cluster: Option<&str>, filter: &str) -> Option<&OnRoute> {
        let overridden = match cluster {
            Some(cluster) => find(&self.of_clusters, cluster)?,
            None => &self.filters,
        };
        let mut all = overridden.iter().filter(|(name, _)| name == filter);
        all.find_map(|(_, said)| match said {
            OnRoute::Processor(_) => None,
            said => Some(said),
        })
    }

    /// Configuration of this filter of the listener: `None` if the route says nothing of it.
    pub fn of(&self, filter: &str) -> Option<Option<&Arc<FilterConfig>>> {
        processor(&self.filters, filter)
    }

    /// Configuration of this filter of a cluster: `None` if the route says nothing of it.
    pub fn of_cluster(&self, cluster: &str, filter: &str) -> Option<Option<&Arc<FilterConfig>>> {
        processor(find(&self.of_clusters, cluster)?, filter)
    }
}

fn processor<'a>(
    overridden: &'a Overridden,
    filter: &str,
) -> Option<Option<&'a Arc<FilterConfig>>> {
    let mut all = overridden.iter().filter(|(name, _)| name == filter);
    all.find_map(|(_, said)| match said {
        OnRoute::Processor(config) => Some(config.as_ref()),
        OnRoute::Off => Some(None),
        OnRoute::On | OnRoute::As(_) => None,
    })
}

fn find<'a, T>(list: &'a [(String, T)], name: &str) -> Option<&'a T> {
    let mut all = list.iter();
    all.find(|(known, _)| known == name).map(|(_, value)| value)
}

/// The configurations of a filter among which a request decides.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The filter's name.
    pub filter: String,
    /// The first whose condition holds; the filter is off if none does.
    pub cases: Arc<[Case]>,
    /// The configuration where a condition takes too many steps to say.
    pub undecided: Arc<FilterConfig>,
}

/// One configuration with what belongs to it.
#[derive(Debug)]
pub struct Case {
    /// When it holds; always if unset.
    pub condition: Option<Expression>,
    /// Configuration of the filter.
    pub config: Arc<FilterConfig>,
    /// Dynamic metadata to set before: namespace, and name with value.
    pub metadata: Vec<(String, Vec<(String, Expression)>)>,
    /// Metadata of the gRPC call: name and value.
    pub initial_metadata: Vec<(String, Expression)>,
}

/// Requests that a route takes.
#[derive(Debug)]
pub struct RouteMatch {
    /// A share of requests; unset: all of them.
    pub fraction: Option<Fraction>,
    /// The path.
    pub path: PathMatch,
    /// All of these.
    pub headers: Vec<HeaderMatch>,
    /// All of these.
    pub query: Vec<QueryMatch>,
    /// All of these.
    pub cookies: Vec<CookieMatch>,
    /// All of these, of the dynamic metadata that filters have set when the route is selected.
    pub metadata: Vec<MetadataMatch>,
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
    Regex(RegexMatcher),
    /// CONNECT requests.
    Connect,
}

/// `HeaderMatcher`; pseudo-headers by their `:` names.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// Condition for the value.
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
    /// Condition for its value.
    pub value: ValueMatch,
}

/// `RouteMatch.CookieMatcher`.
#[derive(Debug)]
pub struct CookieMatch {
    /// The cookie; its case counts.
    pub name: String,
    /// Condition for its value; a request without the cookie does not meet it.
    pub value: StringMatcher,
    /// The opposite.
    pub invert: bool,
}

/// `envoy.type.matcher.v3.MetadataMatcher`.
#[derive(Debug)]
pub struct MetadataMatch {
    /// The namespace.
    pub namespace: String,
    /// Names of fields, from the outermost one.
    pub path: Vec<String>,
    /// Condition for the value.
    pub value: ValueMatcher,
    /// The opposite.
    pub invert: bool,
}

/// A condition on a value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// There is one (or, if false, none).
    Present(bool),
    /// A string matcher; several values of a header are joined by `,` first.
    String(StringMatcher),
    /// An integer in `start..end`.
    Range(i64, i64),
}

/// Action of a route.
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
        /// `body_format`: form of the body.
        format: Option<Arc<ReplyFormat>>,
    },
    /// `redirect`.
    Redirect(Redirect),
}

/// `envoy.config.route.v3.RouteAction`. The default forwards to nothing, without a time limit.
#[derive(Debug, Default)]
pub struct Forward {
    /// Destinations; weights are relative.
    pub clusters: Vec<WeightedCluster>,
    /// Take the cluster's name from this header instead.
    pub cluster_header: Option<HeaderName>,
    /// From the end of the request to the end of the response. Default 15 s; `None` is no limit.
    pub timeout: Option<Duration>,
    /// `priority`, which selects among the cluster's circuit breakers.
    pub priority: Priority,
    /// `idle_timeout` of the stream on this route; zero is no limit. Unset: the connection manager's.
    pub idle_timeout: Option<Duration>,
    /// `max_stream_duration.max_stream_duration`; zero is no limit. Unset: the connection manager's.
    pub max_stream_duration: Option<Duration>,
    /// `grpc-timeout` in place of `max_stream_duration`.
    pub grpc_duration: Option<GrpcTimeout>,
    /// `grpc-timeout` in place of `timeout`, where `max_stream_duration` is unset.
    pub grpc_timeout: Option<GrpcTimeout>,
    /// `hash_policy`, for clusters that choose endpoints by a hash.
    pub hash_policy: Vec<HashPolicy>,
    /// Rules for further attempts.
    pub retry: Option<Retry>,
    /// Tell the upstream, in `x-envoy-attempt-count`, the number of each attempt.
    pub count_for_upstream: bool,
    /// Tell the client how many attempts were made, likewise.
    pub count_for_client: bool,
    /// Redirects of the upstream that are followed here.
    pub internal_redirect: Option<InternalRedirect>,
    /// Replaces what matched of the path.
    pub prefix_rewrite: Option<String>,
    /// Replaces what matches in the path.
    pub regex_rewrite: Option<RegexSubstitution>,
    /// Replaces the authority.
    pub host_rewrite: Option<HeaderValue>,
    /// Replaces the authority by this header's value, if the request has one.
    pub host_rewrite_header: Option<HeaderName>,
    /// Replaces the authority by the path, of which what matches is replaced.
    pub host_rewrite_path_regex: Option<RegexSubstitution>,
    /// Replaces the authority by the endpoint's host name.
    pub auto_host_rewrite: bool,
    /// Adds the authority that is replaced to `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// Destinations of copies of requests.
    pub mirrors: Vec<Mirror>,
    /// The answer where the cluster is not in the snapshot (`cluster_not_found_response_code`). Default 503.
    pub missing_cluster: Option<StatusCode>,
    /// Upgrade types that this route allows or not, before the connection manager's.
    pub upgrades: Vec<(String, bool)>,
}

/// `InternalRedirectPolicy`: redirects of an upstream that the gateway follows itself, as a new request.
#[derive(Debug)]
pub struct InternalRedirect {
    /// Largest number in a row.
    pub most: u32,
    /// Statuses of responses that are followed.
    pub codes: Vec<StatusCode>,
    /// Also from `http` to `https` and the other way round.
    pub cross_scheme: bool,
    /// Fields of the response that take the place of those of the request.
    pub copied: Vec<HeaderName>,
    /// All of these have to hold.
    pub predicates: Vec<RedirectPredicate>,
}

/// A condition of an [`InternalRedirect`].
#[derive(Debug)]
pub enum RedirectPredicate {
    /// The new route has one of these names.
    AllowedRoutes(Vec<String>),
    /// No redirect of this route has led to the new one before.
    OtherRoutes,
    /// Only to `https` if the request came over TLS.
    SafeCrossScheme,
}

/// Limits of a client's `grpc-timeout`.
#[derive(Clone, Copy, Debug)]
pub struct GrpcTimeout {
    /// The most; `None` is no limit.
    pub max: Option<Duration>,
    /// Taken off what the client asks for.
    pub offset: Duration,
}

impl GrpcTimeout {
    /// Returns the limit for a `grpc-timeout`; `None` is no limit. A request that asks for none gets the most.
    pub fn limit(&self, asked: Option<Duration>) -> Option<Duration> {
        let asked = asked.filter(|asked| !asked.is_zero());
        let reduced = asked.map(|asked| match asked > self.offset {
            true => asked - self.offset,
            false => asked,
        });
        match (reduced, self.max) {
            (Some(asked), Some(max)) => Some(asked.min(max)),
            (asked, max) => asked.or(max),
        }
    }
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
    /// `host_rewrite_literal`: replaces the authority, unless the route does.
    pub host_rewrite: Option<Authority>,
    /// As in [`Route`], this cluster's level merged in; `None` if it has none of its own.
    pub overrides: Option<Arc<RouteOverrides>>,
    /// As in [`Route`].
    pub facts: Arc<RouteFacts>,
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
    pub regex_rewrite: Option<RegexSubstitution>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// Leave the query out.
    pub strip_query: bool,
    /// Leave the port of the request's authority out where `host` and `port` are unset.
    pub strip_port: bool,
    /// Keep it then, also if it is that of the other scheme.
    pub keep_port: bool,
}
