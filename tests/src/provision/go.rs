//! Parts in Go.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::lock::{execute, once, program};
use super::{Missing, peers_directory};

const GO_HTTPBIN: &str = "github.com/mccutchen/go-httpbin/v2/cmd/go-httpbin@v2.26.0";

/// go-httpbin.
///
/// # Errors
/// When it cannot be built.
pub fn go_httpbin() -> Result<PathBuf, Missing> {
    static PROGRAM: OnceLock<Result<PathBuf, Missing>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let directory = peers_directory().join("go");
            once(&directory, GO_HTTPBIN, |directory| {
                execute(
                    &format!("go install {GO_HTTPBIN}"),
                    Command::new(program("go")?)
                        .args(["install", GO_HTTPBIN])
                        .env("GOBIN", directory)
                        .env("CGO_ENABLED", "0"),
                )
            })?;
            Ok(directory.join("go-httpbin"))
        })
        .clone()
}
