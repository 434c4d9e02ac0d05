//! `ClusterLoadAssignment`: the endpoints of a cluster.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    address::Address,
    any::Metadata,
    value::{Enum, ProtoEnum},
};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::Endpoint as Model,
};

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Debug, Deserialize)]
pub(super) struct ClusterLoadAssignment {
    cluster_name: Located<String>,
    #[serde(default)]
    endpoints: Vec<LocalityLbEndpoints>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LocalityLbEndpoints {
    lb_endpoints: Vec<Located<LbEndpoint>>,
    priority: Option<Located<u32>>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LbEndpoint {
    endpoint: Option<Endpoint>,
    health_status: Enum<Health>,
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

/// Whether an endpoint takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Health(bool);

impl Default for Health {
    fn default() -> Self {
        Self(true)
    }
}

impl ProtoEnum for Health {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("UNKNOWN", 0, Ok(Self(true))),
        ("HEALTHY", 1, Ok(Self(true))),
        ("UNHEALTHY", 2, Ok(Self(false))),
        ("DRAINING", 3, Ok(Self(false))),
        ("TIMEOUT", 4, Ok(Self(false))),
        ("DEGRADED", 5, Ok(Self(true))),
    ];
}

impl ClusterLoadAssignment {
    /// All endpoints but those said to be unhealthy; `names` says whether addresses may be names.
    pub(super) fn build(&self, reader: &Reader<'_>, names: bool) -> Result<Vec<Model>, Fault> {
        if self.cluster_name.value.is_empty() {
            return Err(Fault::at(self.cluster_name.node, "may not be empty"));
        }
        let mut endpoints = Vec::new();
        for locality in &self.endpoints {
            if let Some(priority) = &locality.priority
                && priority.value > 0
            {
                return Err(Fault::at(priority.node, "priorities are not supported"));
            }
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
                let model = Model {
                    address: target.address.to_connect(names)?,
                    weight,
                    metadata: match &endpoint.value.metadata {
                        Some(metadata) => Some(Arc::new(metadata.build(reader)?)),
                        None => None,
                    },
                    hostname: target.hostname.clone(),
                };
                if endpoint.value.health_status.0 == Health(true) {
                    endpoints.push(model);
                }
            }
        }
        Ok(endpoints)
    }
}
