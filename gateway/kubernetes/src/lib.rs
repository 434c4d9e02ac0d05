//! The roles in a Kubernetes cluster.
//!
//! `gateway controller` keeps, for each Gateway of our classes, the objects that serve it, and writes the
//! statuses of all that is ours. `gateway --kubernetes NAMESPACE/NAME` serves one Gateway. Both follow the
//! API server by watches and give what they see to [`manifests::translate`](gateway_config::manifests::translate),
//! so that what is said of an object and what is done with it come from one place.
//!
//! There is nothing here that another replica would have to know: a data plane depends on the API server
//! alone, and only to learn of changes.

#![forbid(unsafe_code)]

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

use kube::Client;
use tokio::runtime;

use self::signals::Signals;
pub use self::{
    controller::Settings as ControllerSettings,
    crd::definitions,
    data_plane::Settings as DataPlaneSettings,
    owned::{ADMIN_PORT, Settings as WorkloadSettings},
};

/// Keeps a data plane for each Gateway of our classes, and writes statuses, until a signal.
///
/// # Errors
/// The API server's address or credentials cannot be had, or the admin server cannot listen.
pub fn control(settings: ControllerSettings) -> Result<(), String> {
    block_on(async {
        let mut signals = Signals::new().map_err(|error| error.to_string())?;
        controller::run(client().await?, settings, &mut signals).await
    })
}

/// Serves one Gateway, as the API server has it, until a signal; then lets everything under way finish.
///
/// # Errors
/// The API server's address or credentials cannot be had, or the gateway cannot start.
pub fn serve(settings: DataPlaneSettings) -> Result<(), String> {
    block_on(async {
        let mut signals = Signals::new().map_err(|error| error.to_string())?;
        data_plane::run(client().await?, settings, &mut signals).await
    })
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
