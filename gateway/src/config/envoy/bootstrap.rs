//! `Bootstrap`: the file as a whole.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{address::Address, cluster::Cluster, listener::Listener};
use crate::config::{
    document::{Fault, Located, NodeId, Reader},
    snapshot::{Cluster as ClusterModel, Snapshot},
};

/// `envoy.config.bootstrap.v3.Bootstrap`.
#[derive(Debug, Deserialize)]
struct Bootstrap {
    node: Option<Node>,
    static_resources: StaticResources,
    admin: Option<Admin>,
}

/// `envoy.config.core.v3.Node`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    id: String,
    cluster: String,
    metadata: serde_json::Map<String, Value>,
    locality: Option<Locality>,
}

/// `envoy.config.core.v3.Locality`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Locality {
    region: String,
    zone: String,
    sub_zone: String,
}

/// `envoy.config.bootstrap.v3.Bootstrap.StaticResources`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StaticResources {
    listeners: Vec<Located<Listener>>,
    clusters: Vec<Located<Cluster>>,
}

/// `envoy.config.bootstrap.v3.Admin`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Admin {
    address: Option<Located<Address>>,
}

impl Node {
    /// ProtoJSON with the names of the proto; for the attribute `xds.node`.
    fn build(self) -> Value {
        let mut node = json!({ "id": self.id, "cluster": self.cluster });
        if let Value::Object(fields) = &mut node {
            if !self.metadata.is_empty() {
                fields.insert("metadata".into(), self.metadata.into());
            }
            if let Some(Locality {
                region,
                zone,
                sub_zone,
            }) = self.locality
            {
                let locality = json!({ "region": region, "zone": zone, "sub_zone": sub_zone });
                fields.insert("locality".into(), locality);
            }
        }
        node
    }
}

/// What listeners are built with.
pub(super) struct Loaded<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) clusters: BTreeMap<String, Arc<ClusterModel>>,
    pub(super) node: Value,
}

/// The bootstrap at `root`.
pub(super) fn load(reader: &Reader<'_>, root: NodeId) -> Result<Snapshot, Fault> {
    let Bootstrap {
        node,
        static_resources,
        admin,
    } = reader.read(root)?;
    let mut clusters = BTreeMap::new();
    for cluster in static_resources.clusters {
        let name = cluster.value.name.clone();
        let cluster = Arc::new(cluster.build(reader)?);
        if clusters.insert(name.value.clone(), cluster).is_some() {
            return Err(Fault::at(
                name.node,
                format!("another cluster is named {:?}, too", name.value),
            ));
        }
    }
    let loaded = Loaded {
        reader,
        clusters,
        node: node.map_or(Value::Null, |node| node.build()),
    };
    let mut listeners = Vec::with_capacity(static_resources.listeners.len());
    for listener in &static_resources.listeners {
        let built = listener.build(&loaded)?;
        listeners.extend(built.into_iter().map(Arc::new));
    }
    Ok(Snapshot {
        admin: match admin.and_then(|admin| admin.address) {
            Some(address) => Some(address.to_listen()?),
            None => None,
        },
        listeners,
        clusters: loaded.clusters,
        warnings: Vec::new(),
    })
}
