//! The configuration of a gateway, and its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Rig;
use crate::provision;
use crate::support::peers::log_file;
use crate::support::ports;
use crate::support::process::Process;

/// Configuration of a gateway, beside addresses.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    /// The upstream.
    pub upstream: Option<SocketAddr>,
    /// The processor; no filter without one.
    pub processor: Option<SocketAddr>,
    /// Further endpoints of the processor's cluster.
    pub more_processors: Vec<SocketAddr>,
    /// Fields of the filter's `grpc_service`, as `timeout: 1s`.
    pub service: String,
    /// Lines of the connection manager.
    pub manager: String,
    /// Lines of the filter.
    pub filter: String,
    /// Fields of every route action, as `timeout: 1s`.
    pub route: String,
    /// Lines of the bootstrap.
    pub bootstrap: String,
    /// Speak HTTP/2 to the upstream.
    pub upstream_http2: bool,
    /// Further clusters without a filter, each behind the route `/NAME`.
    pub further: Vec<(&'static str, SocketAddr)>,
    /// The limit of open files, soft and hard.
    pub open_files: Option<u32>,
}

impl Setup {
    /// The bootstrap, which a real Envoy takes too. Below `/open` the filter's failure mode is to go on.
    #[must_use]
    pub fn yaml(&self, listen: u16, admin: u16) -> String {
        let indented = |text: &str, by: usize| -> String {
            text.lines()
                .map(|line| format!("{}{line}\n", " ".repeat(by)))
                .collect()
        };
        let endpoint = |at: &SocketAddr| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
                at.port()
            )
        };
        let nobody = [SocketAddr::from(([127, 0, 0, 1], 1))];
        let cluster = |name: &str, at: &[SocketAddr], http2: bool| {
            let at = if at.is_empty() { &nobody } else { at };
            let protocol = if http2 {
                "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}"
            } else {
                ""
            };
            format!(
                "
  - name: {name}
    connect_timeout: 1s
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{}]}}]{protocol}",
                at.iter().map(endpoint).collect::<Vec<_>>().join(", ")
            )
        };
        let further = |fields: &str| match fields {
            "" => String::new(),
            fields => format!(", {fields}"),
        };
        let service = further(&self.service);
        let filter = match self.processor {
            None => String::new(),
            Some(_) => format!(
                "
          - name: ext_proc
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {{envoy_grpc: {{cluster_name: processor}}{service}}}
{}",
                indented(&self.filter, 14)
            ),
        };
        let open = match self.processor {
            None => "",
            Some(_) => {
                "
                typed_per_filter_config:
                  ext_proc:
                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                    overrides: {failure_mode_allow: true}"
            }
        };
        let route = further(&self.route);
        let off = match self.processor {
            None => "",
            Some(_) => {
                "
                typed_per_filter_config:
                  ext_proc:
                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                    disabled: true"
            }
        };
        let mut routes = String::new();
        let mut clusters = String::new();
        for (name, at) in &self.further {
            routes.push_str(&format!(
                "
              - match: {{prefix: /{name}}}
                route: {{cluster: {name}{route}}}{off}"
            ));
            clusters.push_str(&cluster(name, &[*at], false));
        }
        let mut processors = Vec::from_iter(self.processor);
        processors.extend(&self.more_processors);
        format!(
            "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
{bootstrap}static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: {listen}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
{manager}          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:{routes}
              - match: {{prefix: /open}}
                route: {{cluster: upstream{route}}}{open}
              - match: {{prefix: /}}
                route: {{cluster: upstream{route}}}
          http_filters:{filter}
          - name: router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:{upstream}{processor}{clusters}
",
            bootstrap = indented(&self.bootstrap, 0),
            manager = indented(&self.manager, 10),
            upstream = cluster("upstream", self.upstream.as_slice(), self.upstream_http2),
            processor = cluster("processor", &processors, true),
        )
    }

    /// Starts the gateway, or what `EXTPROC_ABUSE_PROXY` names (a real Envoy), with one worker.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(&self) -> anyhow::Result<Rig> {
        let [listen, admin] = [ports::free()?, ports::free()?];
        let log = log_file("rig", listen);
        let config = log.with_extension("yaml");
        if let Some(directory) = config.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&config, self.yaml(listen, admin))?;
        let config = config.to_string_lossy().into_owned();
        let (program, arguments) = match std::env::var_os("EXTPROC_ABUSE_PROXY") {
            Some(envoy) => (
                PathBuf::from(envoy),
                vec![
                    "-c".to_owned(),
                    config,
                    "--base-id".to_owned(),
                    listen.to_string(),
                    "--concurrency".to_owned(),
                    "1".to_owned(),
                    "-l".to_owned(),
                    "error".to_owned(),
                ],
            ),
            None => (
                provision::workspace_binary("gateway", "gateway")?,
                vec![
                    "--config".to_owned(),
                    config,
                    "--concurrency".to_owned(),
                    "1".to_owned(),
                ],
            ),
        };
        let (program, arguments) = match self.open_files {
            None => (program, arguments),
            Some(files) => {
                let mut shell = vec![
                    "-c".to_owned(),
                    format!("ulimit -n {files}; exec \"$0\" \"$@\""),
                    program.to_string_lossy().into_owned(),
                ];
                shell.extend(arguments);
                (PathBuf::from("sh"), shell)
            }
        };
        let address = SocketAddr::from(([127, 0, 0, 1], listen));
        let process = Process::spawn(program, arguments, &log)?
            .listening(address, Duration::from_secs(30))
            .await?;
        Ok(Rig {
            address,
            admin: SocketAddr::from(([127, 0, 0, 1], admin)),
            process,
        })
    }
}
