//! Instructions per request, counted by `valgrind --tool=callgrind`. They do not depend on how busy the
//! machine is, so a change can be judged by them; what the kernel does is not in them.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{process::Command, time::timeout};

use super::{Bench, Target, client::Connection, mode::Mode};
use crate::provision;
use crate::support::wait;

const FEW: usize = 500;
const MANY: usize = 1500;

/// Valgrind is about fifty times slower than the machine.
const START: Duration = Duration::from_secs(60);

impl Bench {
    /// Instructions that the gateway executes for one request, one at a time on one connection.
    ///
    /// # Errors
    /// There is no valgrind, or the gateway fails.
    pub async fn instructions(&self, mode: &'static Mode) -> anyhow::Result<f64> {
        let [_, gateway] = &self.targets;
        self.instructions_per_request(gateway, mode).await
    }

    /// The same for the other build that [`Bench::new`] was given.
    ///
    /// # Errors
    /// There is no valgrind, or the other build fails.
    pub async fn instructions_beside(&self, mode: &'static Mode) -> anyhow::Result<f64> {
        let [other, _] = &self.targets;
        self.instructions_per_request(other, mode).await
    }

    async fn instructions_per_request(
        &self,
        target: &Target,
        mode: &'static Mode,
    ) -> anyhow::Result<f64> {
        // Start and end cancel out.
        let few = self.instructions_of(target, mode, FEW).await?;
        let many = self.instructions_of(target, mode, MANY).await?;
        Ok(many.saturating_sub(few) as f64 / (MANY - FEW) as f64)
    }

    async fn instructions_of(
        &self,
        target: &Target,
        mode: &'static Mode,
        requests: usize,
    ) -> anyhow::Result<u64> {
        let valgrind = provision::program("valgrind")
            .ok()
            .context("valgrind is needed: apt-get install valgrind")?;
        let (config, address) = self.configure(target, mode)?;
        let out = format!("callgrind.{}.{}", target.name, mode.name);
        let out = self.directory.join(out);
        let mut child = Command::new(valgrind)
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", out.display()))
            .args(super::words(target, &config))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().context("valgrind is gone")?;
        wait::until("the gateway under valgrind", START, async || {
            Ok(tokio::net::TcpStream::connect(address).await?)
        })
        .await?;
        tokio::task::spawn_blocking(move || {
            let mut connection = Connection::open(address, mode)?;
            (0..requests).try_for_each(|_| connection.exchange())
        })
        .await??;
        // The counts are written when the program ends by itself.
        let ended = Command::new("kill").arg(pid.to_string()).status().await?;
        anyhow::ensure!(ended.success(), "kill {pid}");
        timeout(START, child.wait()).await??;
        total(&out)
    }
}

fn total(path: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("totals:")
                .or_else(|| line.strip_prefix("summary:"))
        })
        .and_then(|value| value.trim().parse().ok())
        .with_context(|| format!("no total in {}", path.display()))
}
