//! The kinds of Kubernetes objects that the gateway reads, as typed values.
//!
//! Only what the gateway uses is here; fields it does not know are skipped, as the API server has
//! checked them (the file front end does the same with the published schemas). Those that would be
//! settings of a policy, a backend, a route's rule or a Gateway's TLS are kept as [`Unknown`], so that nothing is
//! served without them.
//! Defaults are those of the API server.

mod backend;
mod core;
mod gateway;
mod meta;
mod policy;
mod route;

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

/// Fields of an object that are not known here.
pub type Unknown = BTreeMap<String, IgnoredAny>;

/// The paths of unknown fields: of the parts of an object, each with what stands before its fields.
fn paths<'a>(parts: impl IntoIterator<Item = (&'a str, Option<&'a Unknown>)>) -> Vec<String> {
    let mut all = Vec::new();
    for (place, part) in parts {
        let names = part.into_iter().flat_map(BTreeMap::keys);
        all.extend(names.map(|name| format!("{place}{name}")));
    }
    all
}

pub use self::{
    backend::{
        AgentgatewayBackend, AgentgatewayBackendSpec, BackendHttp, BackendPolicies, BackendTcp,
        BackendTls, HttpVersion, StaticBackend,
    },
    core::{
        Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Namespace, Secret, Service,
        ServicePort, ServiceSpec,
    },
    gateway::{
        AllowedRoutes, FromNamespaces, Gateway, GatewayClass, GatewayClassSpec, GatewaySpec,
        GatewayTls, GrantFrom, GrantTo, Infrastructure, LabelSelector, Listener, Protocol,
        ReferenceGrant, ReferenceGrantSpec, Requirement, RouteGroupKind, RouteNamespaces,
        SecretRef, SelectorOperator, TlsMode,
    },
    meta::{AGENTGATEWAY, GATEWAY_API, Key, Metadata},
    policy::{
        AgentgatewayPolicy, AgentgatewayPolicySpec, BodySendMode, Conditional, ExtProc,
        ExtProcCase, FailureMode, Frontend, FrontendHttp, HeaderSendMode, Inheritance, Phase,
        ProcessingOptions, Strategy, TargetRef, TargetSelector, Traffic,
    },
    route::{
        BackendRef, Cors, FilterType, Fraction, HeaderModifier, HeaderValue, HttpRoute,
        HttpRouteFilter, HttpRouteRule, HttpRouteSpec, MatchType, ObjectRef, ParentRef,
        PathModifier, PathModifierType, PathType, RequestMirror, RequestRedirect, RouteMatch,
        RoutePath, RouteTimeouts, UrlRewrite, ValueMatch,
    },
};
