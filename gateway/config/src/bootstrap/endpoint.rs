//! `ClusterLoadAssignment`: the endpoints of a cluster.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    address::Address,
    any::Metadata,
    sockets::SocketMatch,
    value::{Enum, ProtoEnum},
};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::{Endpoint as Model, Standing},
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

    /// All endpoints; `names` says whether addresses may be names.
    pub(super) fn build(
        &self,
        reader: &Reader<'_>,
        names: bool,
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
                    socket: sockets.iter().position(|socket| {
                        let own = metadata.as_deref().into_iter();
                        let mut either = own.chain([&of_locality]);
                        either.any(|metadata| socket.value.matches(metadata))
                    }),
                    metadata,
                    hostname: target.hostname.clone(),
                    priority,
                    standing: endpoint.value.health_status.0,
                });
            }
        }
        Ok(endpoints)
    }
}
