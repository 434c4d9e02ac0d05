//! `ClusterLoadAssignment`: the endpoints of a cluster.

use std::sync::Arc;

use http::uri::Authority;
use serde::Deserialize;

use super::{
    address::Address,
    any::Metadata,
    sockets::{self, SocketMatch},
    value::{Enum, ProtoEnum},
};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::{Endpoint as Model, EndpointAddress, EndpointCheck, Standing},
};

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Debug, Deserialize)]
pub(super) struct ClusterLoadAssignment {
    cluster_name: Located<String>,
    #[serde(default)]
    endpoints: Vec<LocalityLbEndpoints>,
    policy: Option<AssignmentPolicy>,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment.Policy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "AssignmentPolicy")]
struct AssignmentPolicy {
    overprovisioning_factor: Option<Located<u32>>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LocalityLbEndpoints {
    lb_endpoints: Vec<Located<LbEndpoint>>,
    priority: Option<Located<u32>>,
    metadata: Metadata,
    load_balancing_weight: Option<Located<u32>>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LbEndpoint {
    endpoint: Option<Endpoint>,
    health_status: Enum<Standing>,
    metadata: Option<Metadata>,
    load_balancing_weight: Option<Located<u32>>,
}

/// `envoy.config.endpoint.v3.Endpoint`.
#[derive(Debug, Deserialize)]
struct Endpoint {
    address: Located<Address>,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    health_check_config: HealthCheckConfig,
}

/// `envoy.config.endpoint.v3.Endpoint.HealthCheckConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HealthCheckConfig {
    port_value: Option<u16>,
    hostname: Option<Located<String>>,
    address: Option<Located<Address>>,
    disable_active_health_check: bool,
}

impl HealthCheckConfig {
    fn build(&self) -> Result<EndpointCheck, Fault> {
        let mut port = self.port_value.filter(|port| *port != 0);
        let mut other = None;
        if let Some(address) = &self.address {
            match address.to_connect(false)? {
                EndpointAddress::Socket(socket) => {
                    other = Some(socket.ip());
                    port = port.or_else(|| Some(socket.port()).filter(|port| *port != 0));
                }
                _ => return Err(Fault::at(address.node, "has to be an IP address")),
            }
        }
        let given = self.hostname.as_ref();
        let hostname = given.filter(|hostname| !hostname.value.is_empty());
        if let Some(hostname) = hostname
            && hostname.value.parse::<Authority>().is_err()
        {
            return Err(Fault::at(hostname.node, "is no host"));
        }
        Ok(EndpointCheck {
            port,
            address: other,
            hostname: hostname.map_or_else(String::new, |hostname| hostname.value.clone()),
            disabled: self.disable_active_health_check,
        })
    }
}

impl ProtoEnum for Standing {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("UNKNOWN", 0, Ok(Self::Healthy)),
        ("HEALTHY", 1, Ok(Self::Healthy)),
        ("UNHEALTHY", 2, Ok(Self::Unhealthy)),
        ("DRAINING", 3, Ok(Self::Unhealthy)),
        ("TIMEOUT", 4, Ok(Self::Unhealthy)),
        ("DEGRADED", 5, Ok(Self::Degraded)),
    ];
}

impl ClusterLoadAssignment {
    /// The share of 100 of its load that a priority with so many healthy endpoints of 100 takes.
    pub(super) fn overprovisioning(&self) -> Result<Option<u32>, Fault> {
        let policy = self.policy.as_ref();
        match policy.and_then(|policy| policy.overprovisioning_factor.as_ref()) {
            Some(Located { node, value: 0 }) => Err(Fault::at(*node, "has to be 1 or more")),
            factor => Ok(factor.map(|factor| factor.value)),
        }
    }

    /// All endpoints; `names` says whether addresses may be names, `by_locality` whether localities have weights.
    pub(super) fn build(
        &self,
        reader: &Reader<'_>,
        names: bool,
        by_locality: bool,
        sockets: &[SocketMatch],
    ) -> Result<Vec<Model>, Fault> {
        if self.cluster_name.value.is_empty() {
            return Err(Fault::at(self.cluster_name.node, "may not be empty"));
        }
        let mut endpoints = Vec::new();
        for locality in &self.endpoints {
            let priority = match &locality.priority {
                None => 0,
                Some(Located { node, value: 129.. }) => {
                    return Err(Fault::at(*node, "may be at most 128"));
                }
                Some(priority) => priority.value,
            };
            let of_locality = locality.metadata.build(reader)?;
            let first = endpoints.len();
            for endpoint in &locality.lb_endpoints {
                let Some(target) = &endpoint.value.endpoint else {
                    return Err(Fault::at(endpoint.node, "missing field \"endpoint\""));
                };
                let weight = match &endpoint.value.load_balancing_weight {
                    None => 1,
                    Some(Located { node, value: 0 }) => {
                        return Err(Fault::at(*node, "has to be 1 or more"));
                    }
                    Some(weight) => weight.value,
                };
                let metadata = match &endpoint.value.metadata {
                    Some(metadata) => Some(Arc::new(metadata.build(reader)?)),
                    None => None,
                };
                endpoints.push(Model {
                    address: target.address.to_connect(names)?,
                    weight,
                    socket: sockets::choose(sockets, metadata.as_deref(), Some(&of_locality)),
                    metadata,
                    hostname: target.hostname.clone(),
                    priority,
                    standing: endpoint.value.health_status.0,
                    check: target.health_check_config.build()?,
                });
            }
            let share = match &locality.load_balancing_weight {
                Some(Located { node, value: 0 }) => {
                    return Err(Fault::at(*node, "has to be 1 or more"));
                }
                weight => weight.as_ref().map(|weight| weight.value),
            };
            // Where none of a priority has a share, they are one list.
            let shared = self.endpoints.iter().any(|other| {
                let same = other.priority.as_ref().map_or(0, |own| own.value) == priority;
                same && other.load_balancing_weight.is_some()
            });
            if by_locality && shared {
                weigh(&mut endpoints, first, share);
            }
        }
        Ok(endpoints)
    }
}

/// Gives the endpoints from `first` on, which are those of a locality, the weights that make up the locality's `share`. One without
/// a share gets nothing, as in Envoy.
fn weigh(endpoints: &mut Vec<Model>, first: usize, share: Option<u32>) {
    /// Factor that lets the endpoints of a locality be told apart where its share is small.
    const SCALE: u64 = 1000;
    let Some(share) = share else {
        endpoints.truncate(first);
        return;
    };
    let own = endpoints.get_mut(first..).unwrap_or_default();
    let total: u64 = own.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    for endpoint in own {
        let scaled = u128::from(share) * u128::from(endpoint.weight) * u128::from(SCALE);
        let weight = scaled / u128::from(total.max(1));
        endpoint.weight = u32::try_from(weight.max(1)).unwrap_or(u32::MAX);
    }
}
