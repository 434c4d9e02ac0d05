//! Kubernetes manifests: Gateway API and agentgateway objects as a [`Snapshot`].
//!
//! [`Objects`] holds what is known, [`translate`] makes of it what is served and what is to be said
//! of each object. Both come from one pass, so that traffic and status cannot disagree. Nothing here
//! speaks to an API server: objects come from files ([`load`](crate::load)) or from whoever watches
//! them.
//!
//! An object that cannot be used never takes another one down: it ends in a status, and requests that
//! it would have decided on are refused with 500.

mod attach;
mod backends;
mod compiled;
pub(crate) mod files;
mod gateways;
mod hostname;
mod listeners;
mod objects;
mod policies;
mod routes;
mod schema;
mod status;
mod translate;
pub mod types;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use self::types::Key;
pub use self::{
    files::FileOptions,
    gateways::{Referrer, granted},
    objects::{Kind, Objects, Resource},
    status::{
        AncestorStatus, Condition, GatewayStatus, ListenerStatus, RouteParentStatus, Statuses,
    },
    translate::{Translator, translate},
};
use crate::snapshot::{EndpointAddress, Snapshot};

/// The `controllerName` of the GatewayClasses that this gateway implements.
pub const CONTROLLER: &str = "extproc.dev/gateway-controller";

/// The GatewayClass that the installation makes.
pub const CLASS: &str = "agentgateway";

/// The annotation of a Gateway that says how many proxies in front of it are trusted
/// (`xff_num_trusted_hops`). Default 0.
pub const TRUSTED_HOPS: &str = "extproc.dev/xff-num-trusted-hops";

/// Features of Gateway API that a GatewayClass's status names, sorted.
pub const SUPPORTED_FEATURES: &[&str] = &[
    "Gateway",
    "GatewayHTTPListenerIsolation",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
];

/// Selection of the Gateways that are served, and their settings.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Selection of the Gateways.
    pub serve: Serve,
    /// The controller name by which classes are ours.
    pub controller: String,
    /// The address that listeners are bound to.
    pub address: IpAddr,
    /// Ports to bind in place of those of the manifests.
    pub listen_ports: BTreeMap<u16, u16>,
    /// The port of the admin server, which no listener can have.
    pub admin_port: Option<u16>,
    /// Endpoints of a Service's port, in place of its EndpointSlices.
    pub endpoints: BTreeMap<(Key, u16), Vec<EndpointAddress>>,
    /// Backends may be on the gateway's own machine: loopback and link-local addresses, Unix sockets.
    pub local_backends: bool,
}

/// Selection of the Gateways that a translation serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serve {
    /// Every Gateway of our classes, each on its own; the snapshot is that of none. What a controller
    /// needs for the statuses.
    Each,
    /// This Gateway alone, if it is of our classes.
    One(Key),
    /// Every Gateway, whatever its class, in one snapshot, where they share ports. What files need.
    Together,
}

impl Scope {
    /// A scope with our controller name, on all addresses of IPv4.
    pub fn new(serve: Serve) -> Self {
        Self {
            serve,
            controller: CONTROLLER.into(),
            address: Ipv4Addr::UNSPECIFIED.into(),
            listen_ports: BTreeMap::new(),
            admin_port: None,
            endpoints: BTreeMap::new(),
            local_backends: false,
        }
    }
}

/// A duration as Gateway API writes them (GEP-2257): `1h30m`, `10s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit)?;
        let number: u32 = number.parse().ok()?;
        total += match unit {
            "h" => Duration::from_secs(3600) * number,
            "m" => Duration::from_secs(60) * number,
            "s" => Duration::from_secs(number.into()),
            "ms" => Duration::from_millis(number.into()),
            _ => return None,
        };
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// Result of a translation.
#[derive(Debug, Default)]
pub struct Translation {
    /// Snapshot to serve.
    pub snapshot: Snapshot,
    /// Statuses of the objects.
    pub statuses: Statuses,
    /// Ports of Services that are referred to and have neither an EndpointSlice nor an entry in
    /// [`Scope::endpoints`].
    pub without_endpoints: Vec<(Key, u16)>,
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
