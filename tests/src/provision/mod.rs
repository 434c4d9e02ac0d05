//! Fetches the real parts that the suites run with, into `target/peers/`, once.
//!
//! Python parts go into virtual environments of their own, Go parts are built with `go install` or `go build`. A lock file
//! makes it safe for several test programs at once. What cannot be had (no `python3`, no `go`, no network) is [`Missing`]: the
//! tests that need it are ignored with the reason, or fail with `EXTPROC_PEERS=require`.

mod build;
mod go;
mod lock;
mod python;

use std::path::{Path, PathBuf};

use libtest_mimic::{Completion, Failed};

pub use build::{
    has_binary_with, workspace_binary, workspace_binary_with, workspace_example, workspace_test,
};
pub use go::{
    DatadogCallout, InferenceExtension, datadog_callout, gateway_api, go_httpbin, h2spec,
    has_kubernetes, inference_extension, kubernetes,
};
pub use lock::program;
pub use python::{PythonPart, envoy, httpbin, third_party_processor, traced_processor};

/// A part that cannot be had, and why.
#[derive(Debug, Clone)]
pub struct Missing(pub String);

impl Missing {
    /// The outcome of a test that needs the part.
    ///
    /// # Errors
    /// With `EXTPROC_PEERS=require`.
    pub fn completion(&self) -> Result<Completion, Failed> {
        if std::env::var("EXTPROC_PEERS").as_deref() == Ok("require") {
            Err(Failed::from(format!(
                "EXTPROC_PEERS=require, but {}",
                self.0
            )))
        } else {
            Ok(Completion::ignored_with(&self.0))
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// The workspace's target directory.
#[must_use]
pub fn target_directory() -> PathBuf {
    let profile = profile_directory();
    let found = profile.as_deref().and_then(Path::parent);
    found.map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    )
}

/// Folder with the programs of the profile that this one was built in.
fn profile_directory() -> Option<PathBuf> {
    // <target>/<profile>/<program>, or <target>/<profile>/deps/<test program>
    let own = std::env::current_exe().ok()?;
    let directory = own.parent()?;
    Some(match directory.ends_with("deps") {
        true => directory.parent()?.to_owned(),
        false => directory.to_owned(),
    })
}

fn peers_directory() -> PathBuf {
    target_directory().join("peers")
}
