//! The API server, what is installed on it, and the lines of kubectl.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tests::provision::{self, Missing};
use tests::support::apiserver;
pub(crate) use tests::support::apiserver::serve;
use tests::support::ports;
use tests::support::process::Process;
use tests::support::trial::OnlyWhen;
pub(crate) use tests::support::wait::until;

/// The file that a user applies.
pub(crate) const INSTALL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../gateway/deploy/install.yaml"
);
/// Until something has happened that nobody times.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An API server with what a user installs, and a controller.
pub(crate) struct Cluster {
    pub(crate) parts: PathBuf,
    pub(crate) gateway: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) server: Option<Process>,
    /// An address of this machine that EndpointSlices may hold; loopback they may not.
    pub(crate) host: Ipv4Addr,
    _controller: Process,
    /// Those that live until the end.
    pub(crate) data_planes: Vec<Process>,
}

impl Cluster {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let built =
            provision::has_kubernetes() && provision::has_binary_with("gateway", "kubernetes");
        if !built && std::env::var_os("EXTPROC_KUBERNETES").is_none() {
            let how = "EXTPROC_KUBERNETES=1, once: kube-apiserver takes minutes to build";
            return Err(OnlyWhen(how).into());
        }
        let parts = provision::kubernetes()?;
        let definitions = provision::gateway_api()?;
        let gateway = provision::workspace_binary_with("gateway", "gateway", "kubernetes")?;
        let host = own_address()?;
        let port = apiserver::free_ports()?;
        let folder = provision::target_directory().join(format!("kubernetes-{port}"));
        std::fs::create_dir_all(&folder)?;
        let server = serve(&parts, &folder, port).await?;
        let kubeconfig = folder.join("kubeconfig");
        let controller = Process::spawn_with(
            &gateway,
            [
                "controller",
                "--admin=127.0.0.1:0",
                "--namespace=agentgateway-system",
                "--drain-delay=0",
            ],
            &[("KUBECONFIG", &kubeconfig.to_string_lossy())],
            &folder.join("controller.log"),
        )?;
        let cluster = Self {
            parts,
            gateway,
            folder,
            port,
            server: Some(server),
            host,
            _controller: controller,
            data_planes: Vec::new(),
        };
        let definitions = definitions.to_string_lossy().into_owned();
        cluster
            .kubectl(&["apply", "--server-side", "-f", &definitions])
            .await?;
        // A custom resource is known a moment after its definition.
        until("the installation", PATIENCE, async || {
            cluster
                .kubectl(&["apply", "--server-side", "-f", INSTALL])
                .await
        })
        .await?;
        Ok(cluster)
    }

    pub(crate) fn kubeconfig(&self) -> String {
        self.folder
            .join("kubeconfig")
            .to_string_lossy()
            .into_owned()
    }

    /// A line of kubectl; its output.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        apiserver::kubectl(&self.parts, &self.folder, arguments).await
    }

    /// `kubectl apply -f-`.
    pub(crate) async fn apply(&self, name: &str, manifests: &str) -> anyhow::Result<String> {
        let file = self.folder.join(format!("{name}.yaml"));
        std::fs::write(&file, manifests)?;
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
            .await
    }

    pub(crate) async fn get(&self, namespace: &str, object: &str) -> anyhow::Result<Value> {
        let text = self
            .kubectl(&["get", "-n", namespace, object, "-o", "json"])
            .await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A data plane as a pod would run it, but for its address.
    pub(crate) async fn data_plane(&self, gateway: &str, port: u16) -> anyhow::Result<Process> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let admin = format!("--admin=127.0.0.1:{}", ports::free()?);
        let process = Process::spawn_with(
            &self.gateway,
            [
                "--kubernetes",
                gateway,
                "--address=127.0.0.1",
                "--drain-delay=0",
                &admin,
            ],
            &[("KUBECONFIG", &self.kubeconfig())],
            &self.folder.join(format!("data-plane-{port}.log")),
        )?;
        process.listening(address, PATIENCE).await
    }

    /// A Service with one endpoint, as a cluster would have it.
    pub(crate) async fn service(
        &self,
        namespace: &str,
        name: &str,
        at: SocketAddr,
    ) -> anyhow::Result<()> {
        let manifests = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{ports: [{{port: 8000, targetPort: {port}}}]}}
---
{slice}",
            port = at.port(),
            slice = slice(namespace, name, at),
        );
        self.apply(name, &manifests).await.map(drop)
    }
}

pub(crate) fn slice(namespace: &str, service: &str, at: SocketAddr) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}}}]
ports: [{{port: {port}, protocol: TCP}}]
",
        ip = at.ip(),
        port = at.port(),
    )
}

pub(crate) fn gateway(namespace: &str, name: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  gatewayClassName: agentgateway
  listeners: [{{name: http, protocol: HTTP, port: {port}, allowedRoutes: {{namespaces: {{from: All}}}}}}]
"
    )
}

pub(crate) fn route(
    namespace: &str,
    name: &str,
    gateway: &str,
    service: &str,
    port: u16,
) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: {gateway}, namespace: agentgateway-system}}]
  hostnames: [www.example.com]
  rules: [{{backendRefs: [{{name: {service}, port: {port}}}]}}]
"
    )
}

/// The address from which this machine would reach others. Nothing is sent.
pub(crate) fn own_address() -> anyhow::Result<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let routed = socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr());
    match routed.map(|address| address.ip()) {
        Ok(std::net::IpAddr::V4(address)) if !address.is_loopback() => Ok(address),
        _ => Err(Missing("this machine has no address but loopback".into()).into()),
    }
}

/// The status of a condition, in any list of conditions below `object`.
pub(crate) fn condition(object: &Value, at: &str, kind: &str) -> Value {
    let list = object.pointer(at).and_then(Value::as_array);
    let mut list = list.into_iter().flatten();
    let found = list.find(|condition| condition["type"] == kind);
    found
        .map(|condition| condition["status"].clone())
        .unwrap_or_default()
}
