//! `HTTPRoute`.

use serde::Deserialize;

use super::{GATEWAY_API, Metadata, Unknown};
use crate::manifests::objects::or_default;

/// `gateway.networking.k8s.io` `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HttpRoute {
    /// The object's metadata.
    pub metadata: Metadata,
    /// Its specification.
    pub spec: HttpRouteSpec,
}

/// `HTTPRouteSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// Objects that it attaches to.
    #[serde(deserialize_with = "or_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Host names; the listener's if empty.
    #[serde(deserialize_with = "or_default")]
    pub hostnames: Vec<String>,
    /// Treatment of requests.
    #[serde(deserialize_with = "or_default")]
    pub rules: Vec<HttpRouteRule>,
}

/// `ParentReference`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ParentRef {
    /// The group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace; the route's if unset.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// One listener.
    pub section_name: Option<String>,
    /// Listeners on this port.
    pub port: Option<u16>,
}

impl Default for ParentRef {
    fn default() -> Self {
        Self {
            group: GATEWAY_API.into(),
            kind: "Gateway".into(),
            namespace: None,
            name: String::new(),
            section_name: None,
            port: None,
        }
    }
}

/// `HTTPRouteRule`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// The name, by which policies and logs know it.
    pub name: Option<String>,
    /// Any of these; all requests if empty.
    #[serde(deserialize_with = "or_default")]
    pub matches: Vec<RouteMatch>,
    /// In order.
    #[serde(deserialize_with = "or_default")]
    pub filters: Vec<HttpRouteFilter>,
    /// Destinations, by weight.
    #[serde(deserialize_with = "or_default")]
    pub backend_refs: Vec<BackendRef>,
    /// Time limits.
    #[serde(deserialize_with = "or_default")]
    pub timeouts: RouteTimeouts,
    /// Fields that are not known here.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `HTTPRouteMatch`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteMatch {
    /// The path.
    #[serde(deserialize_with = "or_default")]
    pub path: RoutePath,
    /// All of these.
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<ValueMatch>,
    /// All of these.
    #[serde(deserialize_with = "or_default")]
    pub query_params: Vec<ValueMatch>,
    /// The method.
    pub method: Option<String>,
}

/// `HTTPPathMatch`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct RoutePath {
    /// Comparison.
    #[serde(rename = "type")]
    pub kind: PathType,
    /// With what.
    pub value: String,
}

impl Default for RoutePath {
    fn default() -> Self {
        Self {
            kind: PathType::PathPrefix,
            value: "/".into(),
        }
    }
}

/// `PathMatchType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathType {
    /// The same.
    Exact,
    /// By whole segments.
    #[default]
    PathPrefix,
    /// The whole path.
    RegularExpression,
}

/// `HTTPHeaderMatch` and `HTTPQueryParamMatch`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ValueMatch {
    /// Comparison.
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: MatchType,
    /// Of what.
    pub name: String,
    /// With what.
    pub value: String,
}

/// `HeaderMatchType` and `QueryParamMatchType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum MatchType {
    /// The same.
    #[default]
    Exact,
    /// The whole value.
    RegularExpression,
}

/// `HTTPRouteTimeouts`: durations such as `10s` or `1h30m`; zero is no limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteTimeouts {
    /// From the request to the end of the response.
    pub request: Option<String>,
    /// One attempt.
    pub backend_request: Option<String>,
}

/// `BackendObjectReference`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct ObjectRef {
    /// The group; empty for core kinds.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; the referrer's if unset.
    pub namespace: Option<String>,
    /// The Service's port.
    pub port: Option<u16>,
}

impl Default for ObjectRef {
    fn default() -> Self {
        Self {
            group: String::new(),
            kind: "Service".into(),
            name: String::new(),
            namespace: None,
            port: None,
        }
    }
}

/// `HTTPBackendRef`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BackendRef {
    /// Object that it refers to.
    #[serde(flatten)]
    pub target: ObjectRef,
    /// Its share of the sum of weights. Default 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// For requests that go there.
    #[serde(default, deserialize_with = "or_default")]
    pub filters: Vec<HttpRouteFilter>,
}

fn one() -> u32 {
    1
}

/// `HTTPRouteFilter`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteFilter {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: FilterType,
    /// For [`FilterType::RequestHeaderModifier`].
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For [`FilterType::ResponseHeaderModifier`].
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    /// For [`FilterType::RequestMirror`].
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
    /// For [`FilterType::RequestRedirect`].
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    /// For [`FilterType::UrlRewrite`].
    #[serde(default)]
    pub url_rewrite: Option<UrlRewrite>,
    /// For [`FilterType::Cors`].
    #[serde(default)]
    pub cors: Option<Cors>,
}

/// `HTTPRouteFilterType`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum FilterType {
    /// Changes request headers.
    RequestHeaderModifier,
    /// Changes response headers.
    ResponseHeaderModifier,
    /// Sends a copy elsewhere.
    RequestMirror,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes host or path.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Cross-origin resource sharing.
    #[serde(rename = "CORS")]
    Cors,
    /// One that is not known here: requests are refused.
    #[serde(untagged)]
    Other(String),
}

/// `HTTPHeaderFilter`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Replaced or added.
    #[serde(deserialize_with = "or_default")]
    pub set: Vec<HeaderValue>,
    /// Added.
    #[serde(deserialize_with = "or_default")]
    pub add: Vec<HeaderValue>,
    /// Removed.
    #[serde(deserialize_with = "or_default")]
    pub remove: Vec<String>,
}

/// `HTTPHeader`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderValue {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// `HTTPRequestMirrorFilter`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    /// Destination.
    pub backend_ref: ObjectRef,
    /// Percentage of the requests.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Fraction of the requests.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// `Fraction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Fraction {
    /// Number of requests out of `denominator`.
    pub numerator: u32,
    /// Whole that `numerator` is a part of; default 100.
    #[serde(default = "hundred")]
    pub denominator: u32,
}

fn hundred() -> u32 {
    100
}

/// `HTTPRequestRedirectFilter`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestRedirect {
    /// The scheme; the request's if unset.
    pub scheme: Option<String>,
    /// The host; the request's if unset.
    pub hostname: Option<String>,
    /// The path; the request's if unset.
    pub path: Option<PathModifier>,
    /// The port; the scheme's or the listener's if unset.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308. Default 302.
    pub status_code: Option<u16>,
}

/// `HTTPPathModifier`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// The new path.
    #[serde(default)]
    pub replace_full_path: Option<String>,
    /// Replacement of the prefix that matched.
    #[serde(default)]
    pub replace_prefix_match: Option<String>,
}

/// `HTTPPathModifierType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PathModifierType {
    /// The whole path.
    ReplaceFullPath,
    /// The part that matched.
    ReplacePrefixMatch,
}

/// `HTTPURLRewriteFilter`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct UrlRewrite {
    /// The new host.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathModifier>,
}

/// `HTTPCORSFilter`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cors {
    /// Origins; `*` alone, or as the first label of a host.
    #[serde(deserialize_with = "or_default")]
    pub allow_origins: Vec<String>,
    /// Allows credentials (`Access-Control-Allow-Credentials`).
    pub allow_credentials: Option<bool>,
    /// Methods; `*` for any.
    #[serde(deserialize_with = "or_default")]
    pub allow_methods: Vec<String>,
    /// Request headers; `*` for any.
    #[serde(deserialize_with = "or_default")]
    pub allow_headers: Vec<String>,
    /// Response headers; `*` for any.
    #[serde(deserialize_with = "or_default")]
    pub expose_headers: Vec<String>,
    /// Seconds that an answer may be kept. Default 5.
    pub max_age: Option<u32>,
}
