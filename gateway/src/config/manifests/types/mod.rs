//! The kinds of Kubernetes objects that the gateway reads, as typed values.
//!
//! Only what the gateway uses is here; fields it does not know are skipped, as the API server has
//! checked them (the file front end does the same with the published schemas). Defaults are those of
//! the API server.

mod backend;
mod core;
mod gateway;
mod meta;
mod policy;
mod route;

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
