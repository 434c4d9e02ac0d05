//! Configuration that is served now, for whoever operates the gateway: `/certs`, `/config_dump`, `/listeners`,
//! `/clusters`.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use extproc_client::config::StringMatcher;
use serde_json::{Value, json};

use super::certs::Certificates;
use crate::{
    config::snapshot::{Cluster, Snapshot, Thresholds},
    upstream::{Host, Upstream, Upstreams},
};

/// Configuration that is served.
#[derive(Debug)]
pub(crate) struct Served {
    /// The answer of `/config_dump`.
    config_dump: Bytes,
    certificates: Certificates,
    /// The node of a bootstrap; null without one.
    node: Value,
    /// Paths that are answered; all if empty.
    paths: Vec<StringMatcher>,
    listeners: Vec<(String, SocketAddr)>,
    /// The clusters of each worker.
    workers: Vec<Arc<Upstreams>>,
}

/// An endpoint of a cluster, as all workers together see it.
struct Endpoint {
    host: Arc<Host>,
    active: usize,
}

impl Served {
    pub(crate) fn new(
        snapshot: &Snapshot,
        listeners: Vec<(String, SocketAddr)>,
        workers: Vec<Arc<Upstreams>>,
    ) -> Self {
        Self {
            config_dump: config_dump(&snapshot.source),
            certificates: Certificates::of(snapshot),
            node: field(&snapshot.source, "node").clone(),
            paths: snapshot.admin_paths.clone(),
            listeners,
            workers,
        }
    }

    /// Tells whether this path, with its query, is answered.
    pub(super) fn allows(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|allowed| allowed.matches(path))
    }

    pub(super) fn config_dump(&self) -> Bytes {
        self.config_dump.clone()
    }

    pub(super) fn certificates(&self) -> Value {
        self.certificates.json()
    }

    pub(super) fn node(&self) -> &Value {
        &self.node
    }

    pub(super) fn listeners(&self) -> String {
        let mut text = String::new();
        for (name, address) in &self.listeners {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}::{address}");
        }
        text
    }

    pub(super) fn listeners_json(&self) -> Value {
        let status = |(name, address): &(String, SocketAddr)| json!({ "name": name, "local_address": socket_address(*address) });
        json!({ "listener_statuses": self.listeners.iter().map(status).collect::<Vec<_>>() })
    }

    /// The clusters whose names `wanted` takes, by name.
    fn clusters(&self, wanted: impl Fn(&str) -> bool) -> Vec<(&Arc<Cluster>, Vec<Endpoint>)> {
        let Some(first) = self.workers.first() else {
            return Vec::new();
        };
        let mut names: Vec<(&str, &Upstream)> = first.iter().collect();
        names.retain(|(name, _)| wanted(name));
        names.sort_by_key(|(name, _)| *name);
        names
            .into_iter()
            .map(|(name, upstream)| (&upstream.cluster, self.endpoints(name)))
            .collect()
    }

    fn endpoints(&self, cluster: &str) -> Vec<Endpoint> {
        let workers = self.workers.iter().filter_map(|worker| worker.get(cluster));
        let hosts: Vec<Arc<Host>> = workers
            .flat_map(|upstream| upstream.hosts().to_vec())
            .collect();
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let mut places = HashMap::new();
        for host in &hosts {
            let place = *places
                .entry((&host.address, host.priority))
                .or_insert(endpoints.len());
            let active = host.active.load(Ordering::Relaxed);
            match endpoints.get_mut(place) {
                Some(known) => known.active += active,
                None => endpoints.push(Endpoint {
                    host: host.clone(),
                    active,
                }),
            }
        }
        endpoints
    }

    pub(super) fn clusters_text(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        for (cluster, endpoints) in self.clusters(wanted) {
            let name = &cluster.name;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}::observability_name::{name}");
            for (priority, limits) in thresholds(cluster) {
                for (what, most) in limits_of(limits) {
                    let _ = writeln!(text, "{name}::{priority}_priority::{what}::{most}");
                }
            }
            let _ = writeln!(text, "{name}::added_via_api::false");
            for Endpoint { host, active } in endpoints {
                let at = format!("{name}::{}", host.address);
                for (what, value) in [
                    ("rq_active", active.to_string()),
                    ("hostname", host.hostname.clone()),
                    ("health_flags", health_flags(&host)),
                    ("weight", host.weight.to_string()),
                    ("priority", host.priority.to_string()),
                ] {
                    let _ = writeln!(text, "{at}::{what}::{value}");
                }
            }
        }
        text
    }

    pub(super) fn clusters_json(&self, wanted: impl Fn(&str) -> bool) -> Value {
        let status = |(cluster, endpoints): (&Arc<Cluster>, Vec<Endpoint>)| {
            let hosts = endpoints.iter().map(|Endpoint { host, active }| {
                json!({
                    "address": match host.socket() {
                        Some(address) => socket_address(address),
                        None => json!({ "pipe": { "path": host.address.to_string() } }),
                    },
                    "stats": [{ "type": "GAUGE", "name": "rq_active", "value": active.to_string() }],
                    "health_status": health_status(host),
                    "weight": host.weight,
                    "hostname": host.hostname,
                    "priority": host.priority,
                    "locality": {},
                })
            });
            let limits = thresholds(cluster).map(|(priority, limits)| {
                let mut shown = json!({ "priority": priority.to_uppercase() });
                for (what, most) in limits_of(limits) {
                    shown[what] = most.into();
                }
                shown
            });
            json!({
                "name": cluster.name,
                "observability_name": cluster.name,
                "host_statuses": hosts.collect::<Vec<_>>(),
                "circuit_breakers": { "thresholds": limits },
            })
        };
        let clusters = self.clusters(wanted).into_iter();
        json!({ "cluster_statuses": clusters.map(status).collect::<Vec<_>>() })
    }
}

/// The configuration in the parts that Envoy shows it in, as it was written; null, without other parts, if it is no bootstrap.
fn config_dump(source: &Value) -> Bytes {
    const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";
    let now = DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Millis, true);
    let dump = |kind: &str, parts: Value| {
        let mut dump = json!({ "@type": format!("{ADMIN}{kind}") });
        if let (Some(dump), Value::Object(parts)) = (dump.as_object_mut(), parts) {
            dump.extend(parts);
        }
        dump
    };
    // A member for each resource, with the type that Envoy gives it in an `Any`.
    let all = |member: &str, kind: &str, resources: Vec<&Value>| -> Value {
        let each = resources.into_iter().map(|resource| {
            let mut any = json!({ "@type": format!("type.googleapis.com/envoy.config.{kind}") });
            if let (Some(any), Some(fields)) = (any.as_object_mut(), resource.as_object()) {
                any.extend(fields.clone());
            }
            json!({ member: any, "last_updated": now })
        });
        each.collect()
    };
    let mut configs = vec![dump(
        "BootstrapConfigDump",
        json!({ "bootstrap": source, "last_updated": now }),
    )];
    if !source.is_null() {
        let resources = field(source, "static_resources");
        let mut clusters = items(field(resources, "clusters"));
        clusters.sort_by_key(|cluster| field(cluster, "name").as_str());
        let listeners = items(field(resources, "listeners"));
        let mut routes = Vec::new();
        for listener in &listeners {
            let chains = items(field(listener, "filter_chains")).into_iter();
            let default = Some(field(listener, "default_filter_chain"));
            for chain in chains.chain(default) {
                let filters = items(field(chain, "filters")).into_iter();
                let tables =
                    filters.map(|filter| field(field(filter, "typed_config"), "route_config"));
                routes.extend(tables.filter(|table| table.is_object()));
            }
        }
        let clusters = all("cluster", "cluster.v3.Cluster", clusters);
        let listeners = all("listener", "listener.v3.Listener", listeners);
        let routes = all("route_config", "route.v3.RouteConfiguration", routes);
        configs.push(dump(
            "ClustersConfigDump",
            json!({ "static_clusters": clusters }),
        ));
        configs.push(dump(
            "ListenersConfigDump",
            json!({ "static_listeners": listeners }),
        ));
        configs.push(dump(
            "RoutesConfigDump",
            json!({ "static_route_configs": routes }),
        ));
    }
    format!("{:#}\n", json!({ "configs": configs })).into()
}

/// A field of a message, by its name in the proto or in lower camel case; null if it is not there.
fn field<'a>(message: &'a Value, name: &str) -> &'a Value {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    let found = message.get(name).or_else(|| message.get(&camel));
    found.unwrap_or(&Value::Null)
}

fn items(list: &Value) -> Vec<&Value> {
    list.as_array().into_iter().flatten().collect()
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn thresholds(cluster: &Cluster) -> [(&'static str, &Thresholds); 2] {
    let breakers = &cluster.circuit_breakers;
    [("default", &breakers.default), ("high", &breakers.high)]
}

fn limits_of(limits: &Thresholds) -> [(&'static str, u32); 4] {
    [
        ("max_connections", limits.connections),
        ("max_pending_requests", limits.pending),
        ("max_requests", limits.requests),
        ("max_retries", limits.retries),
    ]
}

/// Envoy's words for what keeps requests from an endpoint.
fn health_flags(host: &Host) -> String {
    let mut flags = String::new();
    for (set, flag) in [
        (host.health.is_failed(), "/failed_active_hc"),
        (host.health.is_ejected(), "/failed_outlier_check"),
        (host.health.is_degraded(), "/degraded_active_hc"),
    ] {
        if set {
            flags.push_str(flag);
        }
    }
    match flags.is_empty() {
        true => "healthy".to_owned(),
        false => flags,
    }
}

fn health_status(host: &Host) -> Value {
    let mut status = json!({ "eds_health_status": "HEALTHY" });
    for (set, name) in [
        (host.health.is_failed(), "failed_active_health_check"),
        (host.health.is_ejected(), "failed_outlier_check"),
        (host.health.is_degraded(), "failed_active_degraded_check"),
    ] {
        if set {
            status[name] = true.into();
        }
    }
    status
}
