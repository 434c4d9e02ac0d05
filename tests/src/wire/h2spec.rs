//! h2spec, the conformance tool for HTTP/2 servers, against the gateway's listener.

use anyhow::ensure;

use crate::provision::{self, Missing};
use crate::support::rig::{Setup, Upstream};

/// Runs all cases, the strict ones too. Every one has to pass.
///
/// # Errors
/// The failures, in h2spec's words.
pub async fn run() -> anyhow::Result<Result<(), Missing>> {
    let program = match provision::h2spec() {
        Ok(program) => program,
        Err(missing) => return Ok(Err(missing)),
    };
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        // A listener that detects the protocol answers a broken preface as the HTTP/1 that it is then.
        manager: "codec_type: HTTP2\n".to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    let output = tokio::process::Command::new(program)
        .args(["--strict", "--timeout", "5", "--host", "127.0.0.1"])
        .args(["--port", &rig.address.port().to_string()])
        // Cases about windows need a body to be bounded.
        .args(["--path", "/big/100"])
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().rev().find(|line| line.contains(" tests, "));
    let count = count.unwrap_or("no result");
    println!("h2spec: {count}");
    let all = count.starts_with("146 tests, 146 passed, ");
    let failures = text.rsplit_once("Failures:").map_or(&*text, |(_, all)| all);
    ensure!(
        all && output.status.success(),
        "{count}: {failures}{errors}"
    );
    Ok(Ok(()))
}
