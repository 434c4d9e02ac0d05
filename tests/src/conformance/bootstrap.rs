//! A scenario's proxy configuration: an Envoy bootstrap with static resources only.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::scenario::{Scenario, merge};
use crate::support::script::Protocol;

const EXT_PROC: &str = "envoy.filters.http.ext_proc";
pub(crate) const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// The ports that a scenario uses, all on 127.0.0.1.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    /// The proxy's listener.
    pub listener: u16,
    /// The proxy's admin interface.
    pub admin: u16,
    /// The processor.
    pub processor: u16,
    /// The upstream of each cluster.
    pub upstreams: BTreeMap<String, u16>,
}

/// The bootstrap as text; `log` is the file of the access log where the scenario wants one.
#[must_use]
pub fn text(scenario: &Scenario, ports: &Ports, log: &str) -> String {
    let Some(file) = &scenario.spec.file else {
        return to_yaml(&render(scenario, ports, log));
    };
    let of_peers = [
        ("listener", ports.listener),
        ("admin", ports.admin),
        ("processor", ports.processor),
    ];
    let upstreams = ports.upstreams.iter();
    let upstreams = upstreams.map(|(name, port)| (name.as_str(), *port));
    let all = of_peers.into_iter().chain(upstreams);
    all.fold(file.clone(), |text, (name, port)| {
        text.replace(&format!("@{name}@"), &port.to_string())
    })
}

/// The bootstrap; `log` is the file of the access log where the scenario wants one.
#[must_use]
pub fn render(scenario: &Scenario, ports: &Ports, log: &str) -> Value {
    let spec = &scenario.spec;
    let mut clusters: Vec<Value> = scenario
        .upstreams
        .iter()
        .map(|(name, script)| {
            let port = ports.upstreams.get(name).copied().unwrap_or_default();
            let mut cluster = cluster(name, port, script.protocol == Protocol::Http2);
            if let Some(limit) = spec.limits.cluster {
                cluster["per_connection_buffer_limit_bytes"] = limit.into();
            }
            cluster
        })
        .collect();
    clusters.push(cluster("processor", ports.processor, true));
    for cluster in &mut clusters {
        let name = cluster["name"].as_str().unwrap_or_default().to_owned();
        if let Some(extra) = spec.clusters.get(&name) {
            merge(cluster, extra.clone());
        }
    }
    let mut out = json!({
        "admin": {"address": address(ports.admin)},
        "static_resources": {
            "listeners": [listener(scenario, ports, log)],
            "clusters": clusters,
        },
    });
    if let Some(extra) = &spec.bootstrap {
        merge(&mut out, extra.clone());
    }
    put_ports(&mut out, ports);
    out
}

/// Puts the port of an upstream where its name stands as `@name@`.
fn put_ports(value: &mut Value, ports: &Ports) {
    match value {
        Value::String(text) => {
            let name = text
                .strip_prefix('@')
                .and_then(|rest| rest.strip_suffix('@'));
            let port = name.and_then(|name| match name {
                "processor" => Some(ports.processor),
                name => ports.upstreams.get(name).copied(),
            });
            if let Some(port) = port {
                *value = port.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| put_ports(item, ports)),
        Value::Object(map) => map.values_mut().for_each(|item| put_ports(item, ports)),
        _ => {}
    }
}

/// Applies `change` to the configuration of every ext_proc filter.
pub fn change_filters(bootstrap: &mut Value, change: &Value) {
    match bootstrap {
        Value::Object(map) => {
            let is_filter = map
                .get("@type")
                .and_then(Value::as_str)
                .is_some_and(|t| t.ends_with(".ext_proc.v3.ExternalProcessor"));
            if is_filter {
                merge(bootstrap, change.clone());
            } else {
                map.values_mut()
                    .for_each(|value| change_filters(value, change));
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| change_filters(item, change)),
        _ => {}
    }
}

fn listener(scenario: &Scenario, ports: &Ports, log: &str) -> Value {
    let spec = &scenario.spec;
    let mut filters = spec.filters_before.clone();
    let name = spec.filter_name.as_deref().unwrap_or(EXT_PROC);
    filters.push(ext_proc(name, &spec.filter, spec.filter_disabled));
    for more in &spec.more_filters {
        filters.push(ext_proc(&more.name, &more.filter, more.disabled));
    }
    filters.extend(spec.filters_after.iter().cloned());
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": format!("{EXTENSIONS}.filters.http.router.v3.Router"),
            "suppress_envoy_headers": true,
        },
    }));
    let mut manager = json!({
        "@type": format!(
            "{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "ingress",
        "codec_type": "AUTO",
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "http_protocol_options": {"enable_trailers": true},
        "route_config": route_config(scenario),
        "http_filters": filters,
    });
    let logs = spec.log.as_ref().map(|format| {
        let mut log = json!({
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": format!("{EXTENSIONS}.access_loggers.file.v3.FileAccessLog"),
                "path": log,
                "log_format": {"text_format_source": {"inline_string": format!("{format}\n")}},
            },
        });
        if let Some(filter) = &spec.log_filter {
            log["filter"] = filter.clone();
        }
        json!([log])
    });
    if let Some(logs) = logs.clone().filter(|_| !spec.log_connections) {
        manager["access_log"] = logs;
    }
    if let Some(extra) = &spec.hcm {
        merge(&mut manager, extra.clone());
    }
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }]});
    if let Some(extra) = &spec.filter_chain {
        merge(&mut chain, extra.clone());
    }
    let mut out = json!({
        "name": "main",
        "address": address(ports.listener),
        "filter_chains": [chain],
    });
    if let Some(logs) = logs.filter(|_| spec.log_connections) {
        out["access_log"] = logs;
    }
    if let Some(limit) = spec.limits.listener {
        out["per_connection_buffer_limit_bytes"] = limit.into();
    }
    if let Some(extra) = &spec.listener {
        merge(&mut out, extra.clone());
    }
    out
}

fn route_config(scenario: &Scenario) -> Value {
    let spec = &scenario.spec;
    let name = spec.filter_name.as_deref().unwrap_or(EXT_PROC);
    let mut routes = spec.routes.clone();
    if routes.is_empty() {
        let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}});
        if let Some(extra) = &spec.route {
            merge(&mut route, extra.clone());
        }
        let mut own = Map::new();
        if let Some(config) = &spec.per_route {
            own.insert(name.to_owned(), per_route(config));
        }
        for more in &spec.more_filters {
            if let Some(config) = &more.per_route {
                own.insert(more.name.clone(), per_route(config));
            }
        }
        if !own.is_empty() {
            route["typed_per_filter_config"] = Value::Object(own);
        }
        routes.push(route);
    }
    for route in &mut routes {
        if let Some(config) = route
            .as_object_mut()
            .and_then(|r| r.shift_remove("per_route"))
        {
            route["typed_per_filter_config"][name] = per_route(&config);
        }
        // The same for filters by name.
        let named = route
            .as_object_mut()
            .and_then(|r| r.shift_remove("per_filter"));
        for (filter, config) in named.iter().filter_map(Value::as_object).flatten() {
            route["typed_per_filter_config"][filter] = per_route(config);
        }
    }
    let mut host = json!({"name": "everything", "domains": ["*"], "routes": routes});
    if let Some(config) = &spec.per_vhost {
        host["typed_per_filter_config"] = json!({name: per_route(config)});
    }
    if let Some(extra) = &spec.vhost {
        merge(&mut host, extra.clone());
    }
    let mut out = json!({"name": "routes", "virtual_hosts": [host]});
    if let Some(config) = &spec.per_route_config {
        out["typed_per_filter_config"] = json!({name: per_route(config)});
    }
    out
}

pub(crate) fn ext_proc(name: &str, config: &Map<String, Value>, disabled: bool) -> Value {
    let mut full = json!({
        "@type": format!("{EXTENSIONS}.filters.http.ext_proc.v3.ExternalProcessor"),
        "grpc_service": {"envoy_grpc": {"cluster_name": "processor"}},
        "message_timeout": "3s",
    });
    merge(&mut full, Value::Object(config.clone()));
    let mut out = json!({"name": name, "typed_config": full});
    if disabled {
        out["disabled"] = true.into();
    }
    out
}

fn per_route(config: &Value) -> Value {
    let mut out = json!({
        "@type": format!("{EXTENSIONS}.filters.http.ext_proc.v3.ExtProcPerRoute"),
    });
    merge(&mut out, config.clone());
    out
}

pub(crate) fn cluster(name: &str, port: u16, http2: bool) -> Value {
    let protocol = if http2 {
        json!({"http2_protocol_options": {}})
    } else {
        json!({"http_protocol_options": {"enable_trailers": true}})
    };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": protocol,
            },
        },
    })
}

pub(crate) fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// The value as block-style YAML. Every text is in quotes, so that no reader takes it for something else.
///
/// # Panics
/// Never: a JSON value has a form in YAML.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { quote_all: true };
    serde_saphyr::to_string_with_options(value, options).expect("a JSON value has a form in YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yaml_reads_back_as_the_same_value() {
        let value = json!({"a": [{"b": "on", "c": []}, [1, [2]], {}], "d": {"e": null, "f\n": true}, "g": "\"1e3\""});
        let back: Result<Value, _> = serde_saphyr::from_str(&to_yaml(&value));
        assert_eq!(back.ok(), Some(value));
    }
}
