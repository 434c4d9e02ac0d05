//! The workspace's own programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::Context;

use super::{profile_directory, target_directory};

/// An example beside a program lets cargo resolve the features of dependencies as for the examples, so that all of the
/// workspace's programs share one build of them.
const WITH_TESTS: [&str; 3] = ["--workspace", "--example", "httpbin"];

static BUILT: Mutex<BTreeMap<String, Result<PathBuf, String>>> = Mutex::new(BTreeMap::new());

/// The path of a program of this workspace, built in the profile of the tests if it is not up to date.
///
/// # Errors
/// When it does not build.
pub fn workspace_binary(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    once(package, "--bin", name, None)
}

/// The same with one of the package's features, under a name of its own: `NAME-FEATURE`.
///
/// # Errors
/// When it does not build.
pub fn workspace_binary_with(package: &str, name: &str, feature: &str) -> anyhow::Result<PathBuf> {
    once(package, "--bin", name, Some(feature))
}

/// Tells whether [`workspace_binary_with`] has built the program before; another build is a short one then.
#[must_use]
pub fn has_binary_with(name: &str, feature: &str) -> bool {
    profile_directory().is_some_and(|folder| with(&folder, name, feature).is_file())
}

/// Its own name: the next build without the feature takes the first one.
fn with(folder: &Path, name: &str, feature: &str) -> PathBuf {
    folder.join(format!("{name}-{feature}"))
}

/// The same for an example program of the package `examples`.
///
/// # Errors
/// When it does not build.
pub fn workspace_example(name: &str) -> anyhow::Result<PathBuf> {
    once("examples", "--example", name, None)
}

/// Builds and runs a test of this workspace that a feature turns on, with this variable in the environment of its build; the
/// output is that of the tests.
///
/// # Errors
/// When it does not build, or fails.
pub fn workspace_test(
    package: &str,
    name: &str,
    feature: &str,
    (variable, value): (&str, &Path),
) -> anyhow::Result<String> {
    let output = cargo()
        .args(["test", "--quiet", "--workspace", "--test", name])
        .arg(format!("--features={package}/{feature}"))
        .env(variable, value)
        .output()
        .context("cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "cargo test -p {package} --test {name}: {}{text}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// Cargo in this workspace.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo told this program about its package is none of the business of build scripts that look at such variables:
    // they would run again, and with them most of the build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
        .env("CARGO_TARGET_DIR", target_directory())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
}

fn once(package: &str, kind: &str, name: &str, feature: Option<&str>) -> anyhow::Result<PathBuf> {
    let mut built = BUILT
        .lock()
        .map_err(|_| anyhow::anyhow!("an earlier build panicked"))?;
    let entry = built
        .entry(format!("{kind} {name} {feature:?}"))
        .or_insert_with(|| {
            build(package, kind, name, feature).map_err(|error| format!("{error:#}"))
        });
    entry.clone().map_err(anyhow::Error::msg)
}

fn build(package: &str, kind: &str, name: &str, feature: Option<&str>) -> anyhow::Result<PathBuf> {
    let profile_directory =
        profile_directory().context("this program is not in a target directory")?;
    let profile = match profile_directory.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let mut command = cargo();
    command.args(["build", "--quiet", "--profile", profile, kind, name]);
    match (profile, kind) {
        _ if feature.is_some() => command.args(["--package", package]),
        ("dev", "--bin") => command.args(WITH_TESTS),
        ("dev", _) => command.arg("--workspace"),
        _ => command.args(["--package", package]),
    };
    let output = command
        .args(feature.iter().flat_map(|feature| ["--features", *feature]))
        .output()
        .context("cargo build")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo build -p {package}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let built = match kind {
        "--example" => profile_directory.join("examples").join(name),
        _ => profile_directory.join(name),
    };
    let Some(feature) = feature else {
        return Ok(built);
    };
    let own = with(&profile_directory, name, feature);
    let fresh = own.with_extension("new");
    std::fs::copy(&built, &fresh)?;
    std::fs::rename(&fresh, &own)?;
    Ok(own)
}
