//! A proxy with one processor: our gateway or a real Envoy, both started with the same bootstrap file.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::{
    provision,
    support::{
        peers::{self, Peer},
        ports,
        process::Process,
    },
};

const START: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Gateway,
    Envoy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Envoy => "envoy",
        })
    }
}

/// Values that a bootstrap needs.
pub(crate) struct Setup {
    pub(crate) processor: SocketAddr,
    /// The clusters that routes may name; without routes the first one takes all.
    pub(crate) upstreams: Vec<(&'static str, SocketAddr)>,
    pub(crate) routes: Option<Value>,
    /// The fields of the filter beside its service.
    pub(crate) filter: Value,
}

impl Setup {
    pub(crate) fn new(processor: &Peer, upstream: SocketAddr, filter: Value) -> Self {
        Self {
            processor: processor.address,
            upstreams: vec![("upstream", upstream)],
            routes: None,
            filter,
        }
    }

    pub(crate) async fn start(&self, kind: Kind) -> anyhow::Result<Peer> {
        let program = match kind {
            Kind::Gateway => provision::workspace_binary("gateway", "gateway")?,
            Kind::Envoy => provision::envoy()?,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
        let log = peers::log_file(&format!("example-{kind}"), address.port());
        let file = log.with_extension("json");
        std::fs::create_dir_all(file.parent().context("no directory")?)?;
        std::fs::write(&file, self.bootstrap(address).to_string())?;
        let file = file.display().to_string();
        let arguments: &[&str] = match kind {
            Kind::Gateway => &["--config", &file],
            Kind::Envoy => &[
                "-c",
                &file,
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "warn",
            ],
        };
        let process = Process::spawn(program, arguments, &log)?;
        Ok(Peer {
            address,
            process: process.listening(address, START).await?,
        })
    }

    fn bootstrap(&self, listener: SocketAddr) -> Value {
        let mut filter = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "processor"}},
            // Machines that run tests are busy.
            "message_timeout": "10s",
        });
        if let (Some(filter), Some(more)) = (filter.as_object_mut(), self.filter.as_object()) {
            filter.extend(more.clone());
        }
        let default_route =
            json!([{"match": {"prefix": "/"}, "route": {"cluster": self.upstreams[0].0}}]);
        let routes = self.routes.clone().unwrap_or(default_route);
        let mut clusters = vec![cluster("processor", self.processor)];
        clusters.extend(self.upstreams.iter().map(|(name, at)| cluster(name, *at)));
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "main",
            "route_config": {
                "name": "local",
                "virtual_hosts": [{"name": "everything", "domains": ["*"], "routes": routes}],
            },
            "http_filters": [
                {"name": "envoy.filters.http.ext_proc", "typed_config": filter},
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    },
                },
            ],
        });
        json!({
            "static_resources": {
                "listeners": [{
                    "name": "main",
                    "address": socket_address(listener),
                    "filter_chains": [{"filters": [{
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }]}],
                }],
                "clusters": clusters,
            },
        })
    }
}

fn cluster(name: &str, at: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(at)}}]}],
        },
    })
}

fn socket_address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
}

/// Starts an example program that listens.
pub(crate) async fn example(name: &str, more: &[&str]) -> anyhow::Result<Peer> {
    let program = provision::workspace_example(name)?;
    let arguments = |at: SocketAddr| {
        let listen = ["--listen".to_owned(), at.to_string()];
        listen
            .into_iter()
            .chain(more.iter().map(|word| (*word).to_owned()))
            .collect()
    };
    peers::start(name, program, arguments, &[]).await
}
