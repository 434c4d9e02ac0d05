//! The workspace's own programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use anyhow::Context;

use super::{profile_directory, target_directory};

static BUILT: Mutex<BTreeMap<String, Result<PathBuf, String>>> = Mutex::new(BTreeMap::new());

/// The path of a program of this workspace, built in the profile of the tests if it is not up to date.
///
/// # Errors
/// When it does not build.
pub fn workspace_binary(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    once(package, "--bin", name)
}

/// The same for an example program of the package `examples`.
///
/// # Errors
/// When it does not build.
pub fn workspace_example(name: &str) -> anyhow::Result<PathBuf> {
    once("examples", "--example", name)
}

fn once(package: &str, kind: &str, name: &str) -> anyhow::Result<PathBuf> {
    let mut built = BUILT
        .lock()
        .map_err(|_| anyhow::anyhow!("an earlier build panicked"))?;
    let entry = built
        .entry(format!("{kind} {name}"))
        .or_insert_with(|| build(package, kind, name).map_err(|error| format!("{error:#}")));
    entry.clone().map_err(anyhow::Error::msg)
}

fn build(package: &str, kind: &str, name: &str) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile_directory =
        profile_directory().context("this program is not in a target directory")?;
    let profile = match profile_directory.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", package, kind, name])
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(target_directory())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .context("cargo build")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo build -p {package}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(match kind {
        "--example" => profile_directory.join("examples").join(name),
        _ => profile_directory.join(name),
    })
}
