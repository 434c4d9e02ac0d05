//! Parts in Go.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::lock::{execute, is_done, once, program};
use super::{Missing, peers_directory};

const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.4.1";
const GO_HTTPBIN: &str = "github.com/mccutchen/go-httpbin/v2/cmd/go-httpbin@v2.26.0";

/// Later versions are no modules that the proxy has.
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// Of the Gateway API Inference Extension. Later versions ask the API server for objects.
const BODY_BASED_ROUTER: &str = "sigs.k8s.io/gateway-api-inference-extension@v1.0.0";

/// go-httpbin.
///
/// # Errors
/// When it cannot be built.
pub fn go_httpbin() -> Result<PathBuf, Missing> {
    static PROGRAM: OnceLock<Result<PathBuf, Missing>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| installed("go", GO_HTTPBIN, "go-httpbin"))
        .clone()
}

/// h2spec, a conformance tool for HTTP/2 servers.
///
/// # Errors
/// When it cannot be built.
pub fn h2spec() -> Result<PathBuf, Missing> {
    installed("h2spec", H2SPEC, "h2spec")
}

/// A program that `go install` makes.
fn installed(directory: &str, module: &str, name: &str) -> Result<PathBuf, Missing> {
    let directory = peers_directory().join(directory);
    once(&directory, module, |directory| {
        execute(
            &format!("go install {module}"),
            Command::new(program("go")?)
                .args(["install", module])
                .env("GOBIN", directory)
                .env("CGO_ENABLED", "0"),
        )
    })?;
    Ok(directory.join(name))
}

/// The body-based router of the Gateway API Inference Extension, built from the files of its module: a matter of minutes.
///
/// # Errors
/// When it cannot be built.
pub fn body_based_router() -> Result<PathBuf, Missing> {
    let directory = peers_directory().join("body-based-router");
    let made = directory.join("bbr");
    once(&directory, BODY_BASED_ROUTER, |directory| {
        let go = program("go")?;
        let module = module(&go, directory, BODY_BASED_ROUTER)?;
        execute(
            &format!("go build {BODY_BASED_ROUTER}"),
            Command::new(go)
                .args(["build", "-C"])
                .arg(module)
                .args(["-mod=readonly", "-o"])
                .arg(&made)
                .arg("./cmd/bbr")
                .env("CGO_ENABLED", "0"),
        )
    })?;
    Ok(made)
}

/// What the program of [`kubernetes`] is made of.
const KUBERNETES: &str = concat!(
    include_str!("../../peers/kubernetes/go.sum"),
    include_str!("../../peers/kubernetes/main.go")
);

/// Whether [`kubernetes`] has been built.
#[must_use]
pub fn has_kubernetes() -> bool {
    is_done(&peers_directory().join("kubernetes"), KUBERNETES)
}

/// kube-apiserver with its etcd, and kubectl, in one program: `kubernetes apiserver`, `kubernetes kubectl`. A matter of
/// minutes.
///
/// # Errors
/// When it cannot be built.
pub fn kubernetes() -> Result<PathBuf, Missing> {
    const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/kubernetes");
    let directory = peers_directory().join("kubernetes");
    let binary = directory.join("kubernetes");
    once(&directory, KUBERNETES, |_| {
        execute(
            "go build of kube-apiserver and kubectl",
            Command::new(program("go")?)
                .args(["build", "-ldflags=-s -w", "-o"])
                .arg(&binary)
                .arg(".")
                .current_dir(SOURCE)
                .env("CGO_ENABLED", "0"),
        )
    })?;
    Ok(binary)
}

/// The folder with Gateway API's own definitions, standard channel.
///
/// # Errors
/// When the module cannot be had.
pub fn gateway_api() -> Result<PathBuf, Missing> {
    let directory = peers_directory().join("kubernetes");
    let module = module(&program("go")?, &directory, GATEWAY_API)?;
    Ok(module.join("config/crd/standard"))
}

/// The directory of a module in the module cache. (`go install` wants the list of its versions too, which not every proxy
/// gives.)
fn module(go: &Path, directory: &Path, module: &str) -> Result<PathBuf, Missing> {
    let what = format!("go mod download {module}");
    let output = Command::new(go)
        .args(["mod", "download", "-json", module])
        .current_dir(directory)
        .output()
        .map_err(|error| Missing(format!("{what}: {error}")))?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match answer["Dir"].as_str() {
        Some(path) => Ok(path.into()),
        None => Err(Missing(format!("{what} failed: {}", answer["Error"]))),
    }
}
