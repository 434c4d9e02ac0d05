//! The roles in a Kubernetes cluster.
//!
//! `gateway controller` keeps, for each Gateway of our classes, the objects that serve it, and writes the
//! statuses of all that is ours. `gateway --kubernetes NAMESPACE/NAME` serves one Gateway. Both follow the
//! API server by watches and give what they see to [`manifests::translate`](crate::config::manifests::translate),
//! so that what is said of an object and what is done with it come from one place.
//!
//! There is nothing here that another replica would have to know: a data plane depends on the API server
//! alone, and only to learn of changes.

mod certificates;
mod controller;
mod crd;
mod data_plane;
mod keeper;
mod kinds;
mod lease;
mod mirror;
mod owned;
mod signals;
mod status;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::{Args, Subcommand};
use kube::Client;
use tokio::runtime;

use self::signals::Signals;
use crate::{Options, cli::Cli, config::manifests::types};

/// Roles beside that of serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Role {
    /// Keep data planes for Gateways and write statuses.
    Controller(ControllerArgs),
    /// Print the definitions of the custom resources.
    Crds,
}

/// Settings of the controller.
#[derive(Clone, Debug, Args)]
pub struct ControllerArgs {
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

    /// Where `/ready` and `/stats` are.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:15000")]
    admin: SocketAddr,

    /// Seconds for which a data plane that ends still takes connections.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_delay: u64,
}

/// Settings of a data plane.
#[derive(Clone, Debug, Default, Args)]
pub struct DataPlaneArgs {
    /// Serve this Gateway of the cluster, instead of a file.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = gateway_name, conflicts_with_all = ["config", "listen", "upstream", "ext_proc", "check"])]
    pub kubernetes: Option<types::Key>,

    /// Where the Gateway's listeners listen.
    #[arg(long, value_name = "IP", requires = "kubernetes")]
    address: Option<IpAddr>,

    /// Where `/ready` and `/stats` are [default: 0.0.0.0:15000].
    #[arg(long, value_name = "IP:PORT", requires = "kubernetes")]
    admin: Option<SocketAddr>,

    /// Seconds for which connections are still taken after a signal [default: 5].
    #[arg(long, value_name = "SECONDS", requires = "kubernetes")]
    drain_delay: Option<u64>,
}

fn gateway_name(text: &str) -> Result<types::Key, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(types::Key::new(namespace, name))
        }
        _ => Err("not of the form NAMESPACE/NAME".into()),
    }
}

/// Plays the role that the command line asks for; `None` if it asks for none of Kubernetes.
pub fn run(cli: &Cli) -> Option<Result<(), String>> {
    match &cli.role {
        Some(Role::Crds) => {
            print!("{}", crd::definitions());
            Some(Ok(()))
        }
        Some(Role::Controller(args)) => Some(block_on(controller(args))),
        None => {
            let gateway = cli.data_plane.kubernetes.clone()?;
            Some(block_on(data_plane(cli, gateway)))
        }
    }
}

fn block_on(role: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(role)
}

async fn client() -> Result<Client, String> {
    Client::try_default()
        .await
        .map_err(|error| format!("no way to the API server: {error}"))
}

async fn controller(args: &ControllerArgs) -> Result<(), String> {
    let settings = controller::Settings {
        namespace: args.namespace.clone(),
        identity: args.identity.clone(),
        admin: args.admin,
        data_plane: owned::Settings {
            image: args.image.clone(),
            pull_policy: args.image_pull_policy.clone(),
            memory: args.data_plane_memory.clone(),
            drain_delay: args.drain_delay,
        },
    };
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    controller::run(client().await?, settings, &mut signals).await
}

async fn data_plane(cli: &Cli, gateway: types::Key) -> Result<(), String> {
    const ADMIN: SocketAddr = SocketAddr::new(
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        owned::ADMIN_PORT,
    );
    const DELAY: u64 = 5;
    let args = &cli.data_plane;
    let settings = data_plane::Settings {
        gateway,
        listen: args.address.unwrap_or(ADMIN.ip()),
        admin: args.admin.unwrap_or(ADMIN),
        drain_delay: Duration::from_secs(args.drain_delay.unwrap_or(DELAY)),
        options: Options::default().concurrency(cli.workers().get()),
    };
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    data_plane::run(client().await?, settings, &mut signals).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn roles_on_the_command_line() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let cli = parse("gateway --kubernetes a/b --drain-delay 3").unwrap();
        assert_eq!(cli.data_plane.kubernetes, Some(types::Key::new("a", "b")));
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
