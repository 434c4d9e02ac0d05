//! The real curl, as a reader of the documentation would type it.

use std::process::{Output, Stdio};

use anyhow::Context;
use serde_json::Value;
use tokio::process::Command;

use crate::provision::{Missing, program};

/// An answer as curl printed it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Checks that there is a curl.
///
/// # Errors
/// When there is none.
pub fn available() -> Result<(), Missing> {
    program("curl").map(drop)
}

/// End of a run of curl.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// curl's own exit code: 0, or what was wrong with the transfer.
    pub code: i32,
    /// Response that it printed, if that is HTTP; perhaps not the whole of it.
    pub answer: Option<Answer>,
}

/// Runs `curl -s -i <arguments>`. No request takes longer than 20 s.
///
/// # Errors
/// When curl fails or prints no HTTP.
pub async fn curl(arguments: &[&str]) -> anyhow::Result<Answer> {
    let output = run(arguments).await?;
    anyhow::ensure!(
        output.status.success(),
        "curl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    parse(&output.stdout)
}

/// [`curl`] for transfers that may fail.
///
/// # Errors
/// When curl cannot be run or is killed.
pub async fn curl_to_its_end(arguments: &[&str]) -> anyhow::Result<Outcome> {
    let output = run(arguments).await?;
    Ok(Outcome {
        code: output.status.code().context("curl was killed")?,
        answer: parse(&output.stdout).ok(),
    })
}

async fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    Command::new("curl")
        .args(["-sS", "-i", "--max-time", "20", "--noproxy", "*"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("curl")
}

fn parse(printed: &[u8]) -> anyhow::Result<Answer> {
    let end = printed
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("no end of head")?;
    let head = String::from_utf8_lossy(&printed[..end]).into_owned();
    let body = printed[end + 4..].to_vec();
    let mut lines = head.lines();
    let status: u16 = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .context("no status line")?;
    if status / 100 == 1 && status != 101 {
        return parse(&body);
    }
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(n, v)| (n.to_lowercase(), v.trim().to_owned()))
        .collect();
    Ok(Answer {
        status,
        headers,
        body,
    })
}
