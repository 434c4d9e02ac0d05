//! Roles in a Kubernetes cluster.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::{Args, Subcommand};
use gateway_config::manifests::types::Key;
use gateway_kubernetes::{
    ADMIN_PORT, ControllerSettings, DataPlaneSettings, WorkloadSettings, control, definitions,
    serve,
};
use gateway_proxy::Options;

use super::Cli;

/// Roles beside that of serving.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Keep data planes for Gateways and write statuses.
    Controller(ControllerArgs),
    /// Print the definitions of the custom resources.
    Crds,
}

/// Settings of the controller.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControllerArgs {
    /// The image of data planes.
    #[arg(long, env = "GATEWAY_IMAGE", default_value = "extproc-gateway:dev")]
    image: String,

    /// When nodes pull the image of data planes.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,

    /// Most memory of a data plane's container.
    #[arg(long, value_name = "QUANTITY", default_value = "1Gi")]
    data_plane_memory: String,

    /// The namespace of the Lease that elects a leader.
    #[arg(long, env = "POD_NAMESPACE", default_value = "agentgateway-system")]
    namespace: String,

    /// The name of this replica.
    #[arg(long, env = "POD_NAME", default_value_t = uuid::Uuid::new_v4().to_string())]
    identity: String,

    /// Address of `/ready` and `/stats`.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:15000")]
    admin: SocketAddr,

    /// Seconds for which a data plane that ends still takes connections.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_delay: u64,
}

/// Settings of a data plane.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataPlaneArgs {
    /// Serve this Gateway of the cluster, instead of a file.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = gateway_name, conflicts_with_all = ["config", "listen", "upstream", "ext_proc", "check"])]
    pub(crate) kubernetes: Option<Key>,

    /// Address of the Gateway's listeners.
    #[arg(long, value_name = "IP", requires = "kubernetes")]
    address: Option<IpAddr>,

    /// Address of `/ready` and `/stats` [default: 0.0.0.0:15000].
    #[arg(long, value_name = "IP:PORT", requires = "kubernetes")]
    admin: Option<SocketAddr>,

    /// Seconds for which connections are still taken after a signal [default: 5].
    #[arg(long, value_name = "SECONDS", requires = "kubernetes")]
    drain_delay: Option<u64>,
}

fn gateway_name(text: &str) -> Result<Key, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(Key::new(namespace, name))
        }
        _ => Err("not of the form NAMESPACE/NAME".into()),
    }
}

/// Plays the role that the command line asks for; `None` if it asks for none of Kubernetes.
pub(crate) fn run(cli: &Cli) -> Option<Result<(), String>> {
    match &cli.role {
        Some(Role::Crds) => {
            print!("{}", definitions());
            Some(Ok(()))
        }
        Some(Role::Controller(args)) => Some(control(args.settings())),
        None => {
            let gateway = cli.data_plane.kubernetes.clone()?;
            Some(serve(cli.data_plane.settings(gateway, cli)))
        }
    }
}

impl ControllerArgs {
    fn settings(&self) -> ControllerSettings {
        ControllerSettings {
            namespace: self.namespace.clone(),
            identity: self.identity.clone(),
            admin: self.admin,
            data_plane: WorkloadSettings {
                image: self.image.clone(),
                pull_policy: self.image_pull_policy.clone(),
                memory: self.data_plane_memory.clone(),
                drain_delay: self.drain_delay,
            },
        }
    }
}

impl DataPlaneArgs {
    fn settings(&self, gateway: Key, cli: &Cli) -> DataPlaneSettings {
        const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), ADMIN_PORT);
        const DELAY: u64 = 5;
        DataPlaneSettings {
            gateway,
            listen: self.address.unwrap_or(ADMIN.ip()),
            admin: self.admin.unwrap_or(ADMIN),
            drain_delay: Duration::from_secs(self.drain_delay.unwrap_or(DELAY)),
            options: Options::default().concurrency(cli.workers().get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn roles_on_the_command_line() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let cli = parse("gateway --kubernetes a/b --drain-delay 3").unwrap();
        assert_eq!(cli.data_plane.kubernetes, Some(Key::new("a", "b")));
        assert!(
            parse("gateway controller --image x:y")
                .unwrap()
                .role
                .is_some()
        );
        for wrong in [
            "gateway --kubernetes a",
            "gateway --kubernetes a/b/c",
            "gateway --kubernetes a/b --config c",
            "gateway --drain-delay 3",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
