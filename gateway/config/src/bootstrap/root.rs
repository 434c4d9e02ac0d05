//! `Bootstrap`: the file as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use extproc_client::config::StringMatcher;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    address::Address,
    any::unsupported,
    cluster::{Cluster, TypedExtensionConfig},
    inspect::Inspector,
    listener::Listener,
    overload::OverloadManager,
    secrets::Secrets,
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{Cluster as ClusterModel, Filter, Snapshot},
};

/// `envoy.config.bootstrap.v3.Bootstrap`.
#[derive(Debug, Deserialize)]
struct Bootstrap {
    node: Option<Node>,
    static_resources: StaticResources,
    admin: Option<Admin>,
    layered_runtime: Option<LayeredRuntime>,
    overload_manager: Option<OverloadManager>,
    #[serde(default)]
    bootstrap_extensions: Vec<TypedExtensionConfig>,
}

/// `envoy.config.bootstrap.v3.LayeredRuntime`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LayeredRuntime {
    layers: Vec<Located<RuntimeLayer>>,
}

/// `envoy.config.bootstrap.v3.RuntimeLayer`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeLayer {
    static_layer: serde_json::Map<String, Value>,
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
    listeners: Vec<Subtree>,
    clusters: Vec<Subtree>,
    secrets: Vec<Subtree>,
}

/// `envoy.config.bootstrap.v3.Admin`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Admin {
    address: Option<Located<Address>>,
    allow_paths: Vec<StringMatcher>,
    inspect: Option<Inspector>,
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

/// Key of the runtime that lets ext_proc end its streams with a half-close.
const GRACEFUL_CLOSE: &str = "envoy.reloadable_features.ext_proc_graceful_grpc_close";

/// Key of the runtime for the time that the processor then has to end its side, in milliseconds.
const REMOTE_CLOSE_TIMEOUT: &str = "envoy.filters.http.ext_proc.remote_close_timeout_milliseconds";

impl LayeredRuntime {
    /// Reads the keys of ext_proc from the runtime. Later layers win.
    fn graceful_close(&self) -> Option<Duration> {
        let value = |key| {
            let layers = self.layers.iter().rev();
            let mut found = layers.filter_map(|layer| lookup(&layer.value.static_layer, key));
            found.next()
        };
        let on = value(GRACEFUL_CLOSE).and_then(Value::as_bool)?;
        let timeout = value(REMOTE_CLOSE_TIMEOUT).and_then(Value::as_u64);
        on.then(|| Duration::from_millis(timeout.unwrap_or(1000)))
    }

    /// Tells of all that is not read.
    fn note_others(&self, reader: &Reader<'_>) {
        for layer in &self.layers {
            let mut keys = Vec::new();
            all_keys(&layer.value.static_layer, "", &mut keys);
            for key in keys {
                let instead = match key.as_str() {
                    GRACEFUL_CLOSE | REMOTE_CLOSE_TIMEOUT => continue,
                    "overload.global_downstream_max_connections" => {
                        "; say max_active_downstream_connections in overload_manager"
                    }
                    "upstream.healthy_panic_threshold" => {
                        "; say healthy_panic_threshold in common_lb_config of the clusters"
                    }
                    key if key.starts_with("circuit_breakers.") => {
                        "; say it in circuit_breakers of the cluster"
                    }
                    _ => "",
                };
                reader.note(
                    layer.node,
                    format!("the runtime key {key} has no effect in this gateway{instead}"),
                );
            }
        }
    }
}

/// A key of a static layer, which is written whole or nested at any of its dots.
fn lookup<'a>(layer: &'a serde_json::Map<String, Value>, key: &str) -> Option<&'a Value> {
    layer.iter().find_map(|(name, value)| {
        let rest = key.strip_prefix(name.as_str())?;
        match (rest.strip_prefix('.'), value) {
            (None, value) if rest.is_empty() => Some(value),
            (Some(rest), Value::Object(nested)) => lookup(nested, rest),
            _ => None,
        }
    })
}

/// Names of all values of a static layer, nested ones with their dots. An empty value, and a fraction, is one by itself.
fn all_keys(layer: &serde_json::Map<String, Value>, before: &str, keys: &mut Vec<String>) {
    for (name, value) in layer {
        let key = format!("{before}{name}");
        match value {
            Value::Object(nested) if !nested.is_empty() && !nested.contains_key("numerator") => {
                all_keys(nested, &format!("{key}."), keys);
            }
            _ => keys.push(key),
        }
    }
}

/// Listeners of this kind are refused where they stand; by itself it does nothing.
const INTERNAL_LISTENER: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";

/// Parts of the bootstrap that listeners are built with.
pub(super) struct Loaded<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) clusters: BTreeMap<String, Arc<ClusterModel>>,
    /// Names of clusters that cannot be used; to name them is no fault of its own. An empty one stands for those whose names
    /// were not read.
    pub(super) refused: BTreeSet<String>,
    pub(super) node: Value,
    pub(super) graceful_close: Option<Duration>,
    pub(super) secrets: Secrets,
    pub(super) cluster_filters: BTreeMap<String, Arc<[Filter]>>,
}

/// The bootstrap at `root`.
pub(super) fn load(reader: &Reader<'_>, root: NodeId) -> Result<Snapshot, Fault> {
    let Bootstrap {
        node,
        static_resources,
        admin,
        layered_runtime,
        overload_manager,
        bootstrap_extensions,
    } = reader.read(root)?;
    if let Some(runtime) = &layered_runtime {
        runtime.note_others(reader);
    }
    for extension in bootstrap_extensions {
        let node = extension.typed_config.node;
        let name = reader.type_of(node)?;
        if name != INTERNAL_LISTENER {
            reader.refuse(unsupported(node, name, &[INTERNAL_LISTENER]))?;
        }
    }
    let graceful_close = layered_runtime.and_then(|runtime| runtime.graceful_close());
    let secrets = Secrets::read(reader, &static_resources.secrets)?;
    let mut clusters = BTreeMap::new();
    let mut cluster_filters = BTreeMap::new();
    let mut refused = BTreeSet::new();
    for tree in static_resources.clusters {
        let cluster: Located<Cluster> = match reader.read(tree.node) {
            Ok(cluster) => cluster,
            Err(fault) => {
                reader.refuse(fault)?;
                refused.insert(String::new());
                continue;
            }
        };
        let name = cluster.value.name.clone();
        let cluster = match cluster.build(reader, &secrets, graceful_close) {
            Ok((cluster, filters)) => {
                if !filters.is_empty() {
                    cluster_filters.insert(name.value.clone(), filters.into());
                }
                Arc::new(cluster)
            }
            Err(fault) => {
                reader.refuse(fault)?;
                refused.insert(name.value);
                continue;
            }
        };
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
        refused,
        node: node.map_or(Value::Null, |node| node.build()),
        graceful_close,
        secrets,
        cluster_filters,
    };
    let admin = admin.unwrap_or_default();
    let mut listeners = Vec::with_capacity(static_resources.listeners.len());
    for tree in static_resources.listeners {
        let built = reader
            .read::<Located<Listener>>(tree.node)
            .and_then(|listener| listener.build(&loaded));
        match built {
            Ok(built) => listeners.extend(built.into_iter().map(Arc::new)),
            Err(fault) => reader.refuse(fault)?,
        }
    }
    Ok(Snapshot {
        admin: match admin.address {
            Some(address) => Some(address.to_listen()?),
            None => None,
        },
        admin_paths: admin.allow_paths,
        inspect: admin.inspect.map(|inspect| inspect.build()).transpose()?,
        listeners,
        clusters: loaded.clusters,
        cluster_filters: loaded.cluster_filters,
        files: Vec::new(),
        source: Value::Null,
        overload: overload_manager
            .map(|manager| manager.build(reader))
            .transpose()?,
        warnings: Vec::new(),
        ignored: Vec::new(),
    })
}
