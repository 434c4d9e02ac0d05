//! Load balancing of a cluster, by its own fields or by extensions.

use serde::Deserialize;

use super::{Cluster, TypedExtensionConfig, discovery::DiscoveryType};
use crate::{
    bootstrap::{
        any::unsupported,
        hashing::{ConsistentHashing, Maglev, RingHash},
        value::{Name, ProtoEnum, Whatever},
    },
    document::{Fault, Located, NodeId, Reader},
    snapshot::{
        HostSource, LbPolicy, MetadataKey as MetadataKeyModel, OverrideHost as OverrideHostModel,
    },
};

const ROUND_ROBIN: &str = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
const LEAST_REQUEST: &str =
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest";
const RANDOM: &str = "envoy.extensions.load_balancing_policies.random.v3.Random";
const RING_HASH: &str = "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash";
const MAGLEV: &str = "envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
const CLIENT_SIDE: &str = "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
const WRR_LOCALITY: &str = "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality";
const OVERRIDE_HOST: &str =
    "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost";
const POLICIES: &[&str] = &[
    ROUND_ROBIN,
    LEAST_REQUEST,
    RANDOM,
    RING_HASH,
    MAGLEV,
    OVERRIDE_HOST,
    CLIENT_SIDE,
    WRR_LOCALITY,
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    #[default]
    RoundRobin,
    LeastRequest,
    Random,
    RingHash,
    Maglev,
    ClusterProvided,
    Config,
}

impl ProtoEnum for Policy {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("ROUND_ROBIN", 0, Ok(Self::RoundRobin)),
        ("LEAST_REQUEST", 1, Ok(Self::LeastRequest)),
        ("RING_HASH", 2, Ok(Self::RingHash)),
        ("RANDOM", 3, Ok(Self::Random)),
        ("MAGLEV", 5, Ok(Self::Maglev)),
        ("CLUSTER_PROVIDED", 6, Ok(Self::ClusterProvided)),
        ("LOAD_BALANCING_POLICY_CONFIG", 7, Ok(Self::Config)),
    ];
}

/// `envoy.config.cluster.v3.LoadBalancingPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancingPolicy {
    policies: Vec<PolicyEntry>,
}

/// `envoy.config.cluster.v3.LoadBalancingPolicy.Policy`.
#[derive(Debug, Deserialize)]
struct PolicyEntry {
    typed_extension_config: TypedExtensionConfig,
}

/// `envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost`.
#[derive(Debug, Deserialize)]
struct OverrideHost {
    override_host_sources: Located<Vec<Located<OverrideHostSource>>>,
    selected_host_key: Option<Located<MetadataKey>>,
    fallback_policy: Located<LoadBalancingPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OverrideHostSource {
    header: Option<Name>,
    metadata: Option<Located<MetadataKey>>,
}

/// `envoy.type.metadata.v3.MetadataKey`.
#[derive(Debug, Deserialize)]
struct MetadataKey {
    key: String,
    #[serde(default)]
    path: Vec<PathSegment>,
}

#[derive(Debug, Deserialize)]
struct PathSegment {
    key: String,
}

impl Located<MetadataKey> {
    fn build(&self) -> Result<MetadataKeyModel, Fault> {
        let MetadataKey { key, path } = &self.value;
        if key.is_empty() || path.is_empty() {
            return Err(Fault::at(self.node, "key and path may not be empty"));
        }
        Ok(MetadataKeyModel {
            namespace: key.clone(),
            path: path.iter().map(|segment| segment.key.clone()).collect(),
        })
    }
}

/// The policies `round_robin`, `least_request` and `random`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "PlainLbPolicy")]
struct PlainPolicy {
    locality_lb_config: LocalityLbConfig,
}

/// `envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LocalityLbConfig {
    locality_weighted_lb_config: Option<Whatever>,
}

/// `envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality`.
#[derive(Debug, Deserialize)]
struct WrrLocality {
    endpoint_picking_policy: Located<LoadBalancingPolicy>,
}

/// A policy for endpoints.
pub(super) struct Chosen {
    pub(super) policy: LbPolicy,
    /// Localities share the load of their priority by their weights.
    pub(super) by_locality: bool,
}

impl Chosen {
    fn plain(policy: LbPolicy) -> Self {
        Self {
            policy,
            by_locality: false,
        }
    }
}

impl Cluster {
    /// The cluster's settings for hashing, whatever its policy.
    fn hashing(
        &self,
        kind: DiscoveryType,
        node: NodeId,
    ) -> Result<Option<&ConsistentHashing>, Fault> {
        let common = self.common_lb_config.as_ref();
        let hashing = common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
        if hashing.is_some_and(|hashing| hashing.use_hostname_for_hashing)
            && kind != DiscoveryType::StrictDns
        {
            return Err(Fault::at(
                node,
                "use_hostname_for_hashing needs a cluster of type STRICT_DNS",
            ));
        }
        Ok(hashing)
    }

    pub(super) fn policy(
        &self,
        kind: DiscoveryType,
        reader: &Reader<'_>,
        node: NodeId,
    ) -> Result<Chosen, Fault> {
        let provided = self.lb_policy.0 == Policy::ClusterProvided;
        let original = kind == DiscoveryType::OriginalDst;
        if let Some(policy) = &self.load_balancing_policy {
            return policy.build(reader);
        }
        let common = self.common_lb_config.as_ref();
        let plain = |policy| Chosen {
            policy,
            by_locality: common.is_some_and(|common| common.locality_weighted_lb_config.is_some()),
        };
        match self.lb_policy.0 {
            Policy::ClusterProvided if original => Ok(Chosen::plain(LbPolicy::RoundRobin)),
            _ if provided != original => Err(Fault::at(
                node,
                "type ORIGINAL_DST and lb_policy CLUSTER_PROVIDED only go together",
            )),
            Policy::RoundRobin | Policy::ClusterProvided => Ok(plain(LbPolicy::RoundRobin)),
            Policy::LeastRequest => Ok(plain(LbPolicy::LeastRequest)),
            Policy::Random => Ok(plain(LbPolicy::Random)),
            Policy::RingHash => {
                let common = self.hashing(kind, node)?;
                let hashing = match &self.ring_hash_lb_config {
                    Some(own) => own.build(node, common)?,
                    None => RingHash::default().build(node, common)?,
                };
                Ok(Chosen::plain(LbPolicy::Hash(hashing)))
            }
            Policy::Maglev => {
                let common = self.hashing(kind, node)?;
                let hashing = match &self.maglev_lb_config {
                    Some(own) => own.build(node, common)?,
                    None => Maglev::default().build(node, common)?,
                };
                Ok(Chosen::plain(LbPolicy::Hash(hashing)))
            }
            Policy::Config => Err(Fault::at(node, "missing field \"load_balancing_policy\"")),
        }
    }
}

impl Located<LoadBalancingPolicy> {
    /// The first policy that is known here, as Envoy chooses.
    fn build(&self, reader: &Reader<'_>) -> Result<Chosen, Fault> {
        let mut unknown = None;
        for entry in &self.value.policies {
            let node = entry.typed_extension_config.typed_config.node;
            let policy = match reader.type_of(node)? {
                OVERRIDE_HOST => return reader.read_typed::<OverrideHost>(node)?.build(reader),
                WRR_LOCALITY => {
                    let own: WrrLocality = reader.read_typed(node)?;
                    return own.build(reader);
                }
                CLIENT_SIDE => {
                    let _: Whatever = reader.read_typed(node)?;
                    reader.note(
                        node,
                        "endpoints are not asked for their load, each weighs what the configuration says",
                    );
                    return Ok(Chosen::plain(LbPolicy::RoundRobin));
                }
                ROUND_ROBIN => LbPolicy::RoundRobin,
                LEAST_REQUEST => LbPolicy::LeastRequest,
                RANDOM => LbPolicy::Random,
                RING_HASH => {
                    let policy: RingHash = reader.read_typed(node)?;
                    return Ok(Chosen::plain(LbPolicy::Hash(policy.build(node, None)?)));
                }
                MAGLEV => {
                    let policy: Maglev = reader.read_typed(node)?;
                    return Ok(Chosen::plain(LbPolicy::Hash(policy.build(node, None)?)));
                }
                other => {
                    unknown.get_or_insert_with(|| unsupported(node, other, POLICIES));
                    continue;
                }
            };
            let own: PlainPolicy = reader.read_typed(node)?;
            let locality = own.locality_lb_config;
            return Ok(Chosen {
                policy,
                by_locality: locality.locality_weighted_lb_config.is_some(),
            });
        }
        Err(unknown.unwrap_or_else(|| Fault::at(self.node, "policies may not be empty")))
    }
}

impl WrrLocality {
    /// As in Envoy 1.40, one policy alone may choose the endpoint.
    fn build(&self, reader: &Reader<'_>) -> Result<Chosen, Fault> {
        let inner = &self.endpoint_picking_policy;
        for entry in &inner.value.policies {
            let node = entry.typed_extension_config.typed_config.node;
            let found = reader.type_of(node)?;
            if found != CLIENT_SIDE {
                return Err(unsupported(node, found, &[CLIENT_SIDE]));
            }
        }
        Ok(Chosen {
            by_locality: true,
            ..inner.build(reader)?
        })
    }
}

impl OverrideHost {
    fn build(&self, reader: &Reader<'_>) -> Result<Chosen, Fault> {
        let sources = self.override_host_sources.value.iter().map(|source| {
            match (&source.value.header, &source.value.metadata) {
                (Some(name), None) => Ok(HostSource::Header(name.0.clone())),
                (None, Some(key)) => Ok(HostSource::Metadata(key.build()?)),
                _ => Err(Fault::at(
                    source.node,
                    "one and only one of header and metadata has to be set",
                )),
            }
        });
        let sources: Vec<HostSource> = sources.collect::<Result<_, _>>()?;
        if sources.is_empty() {
            return Err(Fault::at(
                self.override_host_sources.node,
                "may not be empty",
            ));
        }
        let Chosen {
            policy: fallback,
            by_locality,
        } = self.fallback_policy.build(reader)?;
        if matches!(fallback, LbPolicy::OverrideHost(_)) {
            return Err(Fault::at(
                self.fallback_policy.node,
                "has to be another policy",
            ));
        }
        let policy = LbPolicy::OverrideHost(OverrideHostModel {
            sources,
            selected: match &self.selected_host_key {
                Some(key) => Some(key.build()?),
                None => None,
            },
            fallback: Box::new(fallback),
        });
        Ok(Chosen {
            policy,
            by_locality,
        })
    }
}
