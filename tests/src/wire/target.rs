//! The proxy that the cases run against: one process with a listener and a cluster for every case.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::case::{Case, FilterOf};
use crate::conformance::bootstrap::{EXTENSIONS, address, cluster, ext_proc, to_yaml};
use crate::conformance::run::Target;
use crate::conformance::scenario::merge;
use crate::support::activity::Activity;
use crate::support::ports;
use crate::support::process::Process;
use crate::support::processor::Processor;
use crate::support::script::Protocol;

/// A case with its sockets.
pub struct Prepared {
    /// The case.
    pub case: Arc<Case>,
    /// The proxy's listener.
    pub proxy: SocketAddr,
    /// The upstream's socket, already bound.
    pub upstream: TcpListener,
    processor: Option<TcpListener>,
}

impl Prepared {
    /// Takes ports for a case.
    ///
    /// # Errors
    /// No port is left.
    pub fn new(case: Case) -> anyhow::Result<Self> {
        let bind = || -> anyhow::Result<TcpListener> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        Ok(Self {
            proxy: SocketAddr::from(([127, 0, 0, 1], ports::free()?)),
            upstream: bind()?,
            processor: case.filter.is_some().then(bind).transpose()?,
            case: Arc::new(case),
        })
    }

    /// Starts the case's processor, if it has one.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn processor(&self) -> anyhow::Result<Option<Processor>> {
        let Some(listener) = &self.processor else {
            return Ok(None);
        };
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let script = self.case.processor.clone();
        let activity = Arc::<Activity>::default();
        Ok(Some(Processor::start(listener, script, activity)))
    }

    /// The upstream's socket for use.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn upstream(&self) -> anyhow::Result<tokio::net::TcpListener> {
        Ok(tokio::net::TcpListener::from_std(
            self.upstream.try_clone()?,
        )?)
    }
}

/// Starts a proxy for these cases; its files go to `directory`.
///
/// # Errors
/// It does not come up.
pub async fn start(
    target: &Target,
    cases: &[Prepared],
    directory: &Path,
) -> anyhow::Result<Process> {
    std::fs::create_dir_all(directory)?;
    let file =
        |extension: &str| -> PathBuf { directory.join(format!("{}.{extension}", target.name)) };
    let admin = ports::free()?;
    let config = file("yaml");
    std::fs::write(&config, to_yaml(&bootstrap(cases, admin)?))?;
    let words: Vec<String> = target
        .command
        .iter()
        .map(|word| word.replace("{config}", &config.display().to_string()))
        .collect();
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut process = Process::spawn(program, arguments, &file("log"))?;
    for prepared in cases {
        process = process
            .listening(prepared.proxy, Duration::from_secs(60))
            .await?;
    }
    Ok(process)
}

fn bootstrap(cases: &[Prepared], admin: u16) -> anyhow::Result<Value> {
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for (index, prepared) in cases.iter().enumerate() {
        let case = &prepared.case;
        let name = format!("case-{index}");
        let port = prepared.upstream.local_addr()?.port();
        let mut own = cluster(&name, port, case.to == Protocol::Http2);
        let mut filters = Vec::new();
        if let (Some(filter), Some(socket)) = (&case.filter, &prepared.processor) {
            let processor = format!("processor-{index}");
            clusters.push(cluster(&processor, socket.local_addr()?.port(), true));
            let mut config = filter.clone();
            let service = json!({"envoy_grpc": {"cluster_name": processor}});
            config.insert("grpc_service".into(), service);
            let filter = ext_proc("envoy.filters.http.ext_proc", &config, false);
            match case.filter_of {
                FilterOf::Listener => filters.push(filter),
                FilterOf::Cluster => merge(&mut own, of_cluster(filter)),
            }
        }
        merge_some(&mut own, &case.cluster);
        clusters.push(own);
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": format!("{EXTENSIONS}.filters.http.router.v3.Router"),
                "suppress_envoy_headers": true,
            },
        }));
        listeners.push(listener(&name, prepared, &filters));
    }
    Ok(json!({
        "admin": {"address": address(admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }))
}

/// The part of a cluster that has this filter in front of its codec.
fn of_cluster(filter: Value) -> Value {
    let codec = json!({
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": format!("{EXTENSIONS}.filters.http.upstream_codec.v3.UpstreamCodec")},
    });
    json!({"typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"http_filters": [filter, codec]},
    }})
}

fn listener(name: &str, prepared: &Prepared, filters: &[Value]) -> Value {
    let case = &prepared.case;
    let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": name}});
    merge_some(&mut route, &case.route);
    // CONNECT and `OPTIONS *` have no path that a prefix could match.
    let connect = json!({"match": {"connect_matcher": {}}, "route": route["route"]});
    let mut host = json!({"name": name, "domains": ["*"], "routes": [connect, route]});
    merge_some(&mut host, &case.vhost);
    let mut manager = json!({
        "@type": format!(
            "{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": name,
        "codec_type": "AUTO",
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "http_protocol_options": {"enable_trailers": true},
        "route_config": {"name": name, "virtual_hosts": [host]},
        "http_filters": filters,
    });
    merge_some(&mut manager, &case.hcm);
    let mut out = json!({
        "name": name,
        "address": address(prepared.proxy.port()),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    });
    merge_some(&mut out, &case.listener);
    out
}

fn merge_some(base: &mut Value, over: &Value) {
    if !over.is_null() {
        merge(base, over.clone());
    }
}
