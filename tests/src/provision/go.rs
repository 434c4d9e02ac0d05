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

/// The body-based router of later versions asks the API server for objects.
const INFERENCE_EXTENSION: &str = "sigs.k8s.io/gateway-api-inference-extension@v1.0.0";

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

/// The processors of the Gateway API Inference Extension.
#[derive(Debug, Clone)]
pub struct InferenceExtension {
    /// Names the model of a body in a header.
    pub body_based_router: PathBuf,
    /// Names the endpoint that is to have a request.
    pub endpoint_picker: PathBuf,
    /// The folder of the module.
    pub module: PathBuf,
}

/// The processors of the Gateway API Inference Extension, built from the files of its module: a matter of minutes.
///
/// # Errors
/// When they cannot be built.
pub fn inference_extension() -> Result<InferenceExtension, Missing> {
    let directory = peers_directory().join("inference-extension");
    once(&directory, INFERENCE_EXTENSION, |directory| {
        let go = program("go")?;
        let module = module(&go, directory, INFERENCE_EXTENSION)?;
        execute(
            &format!("go build {INFERENCE_EXTENSION}"),
            Command::new(go)
                .args(["build", "-C"])
                .arg(module)
                .args(["-mod=readonly", "-ldflags=-s -w", "-o"])
                .arg(directory)
                .args(["./cmd/bbr", "./cmd/epp"])
                .env("CGO_ENABLED", "0"),
        )
    })?;
    Ok(InferenceExtension {
        body_based_router: directory.join("bbr"),
        endpoint_picker: directory.join("epp"),
        module: module(&program("go")?, &directory, INFERENCE_EXTENSION)?,
    })
}

/// Datadog's callout, and where it may be started.
#[derive(Debug, Clone)]
pub struct DatadogCallout {
    /// The program.
    pub program: PathBuf,
    /// A folder with the certificate that it wants beside itself.
    pub folder: PathBuf,
    tracer: PathBuf,
}

impl DatadogCallout {
    /// A file of rules that its own tests run with.
    #[must_use]
    pub fn rules(&self, name: &str) -> PathBuf {
        self.tracer.join("internal/appsec/testdata").join(name)
    }
}

/// Datadog's callout with its WAF, a matter of minutes. As its own image, it needs a C compiler.
///
/// # Errors
/// When it cannot be built.
pub fn datadog_callout() -> Result<DatadogCallout, Missing> {
    const MODULE: &str = concat!(
        include_str!("../../peers/datadog/go.mod"),
        include_str!("../../peers/datadog/go.sum")
    );
    const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/datadog");
    const PACKAGE: &str = "github.com/DataDog/dd-trace-go/contrib/envoyproxy/go-control-plane/v2/cmd/serviceextensions";
    const TRACER: &str = "github.com/DataDog/dd-trace-go/v2";
    const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/tests/tls/a");
    let folder = peers_directory().join("datadog-callout");
    let program = folder.join("serviceextensions");
    once(&folder, MODULE, |folder| {
        for (from, to) in [("pem", "crt"), ("key", "key")] {
            let from = format!("{CERTIFICATE}.{from}");
            std::fs::copy(&from, folder.join("localhost").with_extension(to))
                .map_err(|error| Missing(format!("{from}: {error}")))?;
        }
        execute(
            "go build of Datadog's callout",
            Command::new(super::program("go")?)
                .args(["build", "-tags=appsec", "-o"])
                .arg(&program)
                .arg(PACKAGE)
                .current_dir(SOURCE)
                .env("CGO_ENABLED", "1"),
        )
    })?;
    let output = Command::new(super::program("go")?)
        .args(["list", "-m", "-f", "{{.Dir}}", TRACER])
        .current_dir(SOURCE)
        .output()
        .map_err(|error| Missing(format!("go list {TRACER}: {error}")))?;
    Ok(DatadogCallout {
        program,
        folder,
        tracer: String::from_utf8_lossy(&output.stdout).trim().into(),
    })
}

/// Sources of the program of [`kubernetes`].
const KUBERNETES: &str = concat!(
    include_str!("../../peers/kubernetes/go.sum"),
    include_str!("../../peers/kubernetes/main.go")
);

/// Tells whether [`kubernetes`] has been built.
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
