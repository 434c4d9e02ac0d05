//! Gateways for tests, of bootstraps in the parts that tests vary.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use gateway_config as config;
use gateway_proxy::{Gateway, Options, Running};
use tokio::net::TcpListener;

/// An address on a port that the system chooses.
const ANY: &str = "{socket_address: {address: 127.0.0.1, port_value: 0}}";

/// A bootstrap with the listener `main`. All parts are in flow style.
#[derive(Default)]
pub(crate) struct Bootstrap<'a> {
    /// Fields of the listener.
    pub(crate) listener: &'a [&'a str],
    /// Fields of its filter chain.
    pub(crate) chain: &'a [&'a str],
    /// Fields of the connection manager.
    pub(crate) manager: &'a [&'a str],
    pub(crate) routes: &'a [&'a str],
    /// HTTP filters in front of the router.
    pub(crate) filters: &'a [&'a str],
    pub(crate) clusters: &'a [String],
    /// Fields of the bootstrap.
    pub(crate) rest: &'a [&'a str],
}

impl Bootstrap<'_> {
    /// The bootstrap as a file.
    pub(crate) fn text(&self) -> String {
        const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";
        let router = format!(
            r#"{{name: router, typed_config: {{"@type": {TYPES}.http.router.v3.Router}}}}"#
        );
        let filters = [self.filters, &[router.as_str()]].concat();
        let routes = format!(
            r#"route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{}]}}]}}"#,
            list(self.routes)
        );
        let kind = format!(
            r#""@type": {TYPES}.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: main"#
        );
        let filters = format!("http_filters: [{}]", list(&filters));
        let manager = [self.manager, &[&kind, &routes, &filters]].concat();
        let manager = format!(
            "filters: [{{name: http, typed_config: {{{}}}}}]",
            list(&manager)
        );
        let chain = [self.chain, &[manager.as_str()]].concat();
        let chains = format!("filter_chains: [{{{}}}]", list(&chain));
        let address = format!("address: {ANY}");
        // A field of the test's takes the place of one of these.
        let address = match self.listener.iter().any(|own| own.starts_with("address:")) {
            true => "",
            false => &address,
        };
        let listener = [self.listener, &["name: main", address, &chains]].concat();
        let resources = format!(
            "static_resources: {{listeners: [{{{}}}], clusters: [{}]}}",
            list(&listener),
            self.clusters.join(", ")
        );
        format!("{{{}}}", list(&[self.rest, &[&resources]].concat()))
    }

    /// A gateway with one worker, and the address of its listener.
    pub(crate) fn start(&self) -> (Running, SocketAddr) {
        let snapshot = config::parse_envoy("test.yaml", &self.text()).unwrap();
        assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
        let running = Gateway::start(snapshot, Options::default().concurrency(1)).unwrap();
        let address = running.local_addr("main").unwrap();
        (running, address)
    }
}

/// Parts that are not empty, as a list.
fn list(parts: &[&str]) -> String {
    let parts = parts.iter().copied().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(", ")
}

/// The admin server on any port, a field of the bootstrap.
pub(crate) fn admin() -> String {
    format!("admin: {{address: {ANY}}}")
}

/// A cluster with one endpoint and these fields.
pub(crate) fn cluster(name: &str, at: SocketAddr, fields: &[&str]) -> String {
    let endpoint = format!(
        "load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [\
         {{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}",
        at.ip(),
        at.port()
    );
    let name = format!("name: {name}");
    let fields = [&[name.as_str(), "type: STATIC", &endpoint], fields].concat();
    format!("{{{}}}", list(&fields))
}

/// `HttpProtocolOptions` with these fields, a field of a cluster.
pub(crate) fn protocol(fields: &str) -> String {
    const TYPE: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    format!(
        r#"typed_extension_protocol_options: {{{TYPE}: {{"@type": type.googleapis.com/{TYPE}, {fields}}}}}"#
    )
}

/// A gateway with these fields of the connection manager and these routes, in front of the cluster `upstream` with these fields
/// of `HttpProtocolOptions`.
pub(crate) fn start(
    manager: &[&str],
    routes: &[&str],
    upstream: SocketAddr,
    options: &str,
) -> (Running, SocketAddr) {
    let options = protocol(options);
    let upstream = cluster("upstream", upstream, &["connect_timeout: 1s", &options]);
    Bootstrap {
        manager,
        routes,
        clusters: &[upstream],
        ..Bootstrap::default()
    }
    .start()
}

/// A server on a thread of its own.
pub(crate) fn serve<F>(server: impl FnOnce(TcpListener) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()>,
{
    let (address, bound) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            server(listener).await;
        });
    });
    bound.recv_timeout(PATIENCE).unwrap()
}

/// Limit for what takes a moment, on a busy machine too: it keeps a test from hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until it is so.
pub(crate) fn until(mut done: impl FnMut() -> bool, what: &str) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::yield_now();
    }
}
