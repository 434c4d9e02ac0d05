//! kube-apiserver with nothing around it, and kubectl: the program of [`provision::kubernetes`](crate::provision::kubernetes).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::support::ports;
use crate::support::process::Process;
use crate::support::wait::until;

/// Until it is up, on a busy machine.
const START: Duration = Duration::from_secs(120);

/// A port for it with two for its etcd behind it.
///
/// # Errors
/// When there is none.
pub fn free_ports() -> anyhow::Result<u16> {
    ports::in_a_row(3)
}

/// Starts it. What it holds is kept in `folder`, where its `kubeconfig` is too.
///
/// # Errors
/// When it does not come up.
pub async fn serve(parts: &Path, folder: &Path, port: u16) -> anyhow::Result<Process> {
    let server = Process::spawn(
        parts,
        [
            "apiserver",
            &format!("--dir={}", folder.display()),
            &format!("--port={port}"),
        ],
        &folder.join("apiserver.log"),
    )?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let server = server.listening(address, START).await?;
    let ready = ["get", "--raw=/readyz"];
    until("the API server", START, || kubectl(parts, folder, &ready)).await?;
    Ok(server)
}

/// A line of kubectl to the API server of `folder`; its output.
///
/// # Errors
/// When kubectl fails.
pub async fn kubectl(parts: &Path, folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = tokio::process::Command::new(parts)
        .arg("kubectl")
        .args(arguments)
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .output()
        .await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {arguments:?}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
