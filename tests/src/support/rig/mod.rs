//! A gateway in a process of its own between an upstream and a processor of this process, watched: what abuse and
//! lifecycle suites run against.

mod answers;
mod setup;
mod upstream;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;

pub use self::answers::{answer, exchange, full_answer, get};
pub use self::setup::Setup;
pub use self::upstream::{Seen, Upstream, listen, message};
use super::process::Process;
use super::wait;

/// Factor by which the suites are larger than usual: `EXTPROC_ABUSE_SCALE`, default 1.
#[must_use]
pub fn scale() -> usize {
    std::env::var("EXTPROC_ABUSE_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// A gateway that runs.
#[derive(Debug)]
pub struct Rig {
    /// Its listener.
    pub address: SocketAddr,
    /// Its admin server.
    pub admin: SocketAddr,
    /// The program.
    pub process: Process,
}

impl Rig {
    /// Resident memory in KiB.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let status = self.proc("status");
        status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    }

    /// The most that was resident ever, in KiB.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let status = self.proc("status");
        status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    }

    /// Processor time used, in units of 10 ms.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let field = |at: usize| -> u64 { fields.get(at).and_then(|f| f.parse().ok()).unwrap_or(0) };
        field(11) + field(12)
    }

    fn proc(&self, file: &str) -> String {
        let id = self.process.id().unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default()
    }

    /// Sends a signal, `TERM` for example.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.process.id().context("it has ended")?.to_string();
        let signal = format!("-{name}");
        let status = tokio::process::Command::new("kill")
            .args([&signal, &id])
            .status()
            .await?;
        anyhow::ensure!(status.success(), "kill {signal} {id}");
        Ok(())
    }

    /// A statistic of the admin server; 0 if there is none of this name.
    ///
    /// # Errors
    /// When the admin server does not answer.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let (_, text) = get(self.admin, "/stats").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| *known == name)
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(0))
    }

    /// Waits until a statistic is as `wanted`.
    ///
    /// # Errors
    /// When it never is, or the admin server does not answer.
    pub async fn until(&self, name: &str, wanted: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        wait::until(name, wait::LONG, async || {
            let value = self.stat(name).await?;
            anyhow::ensure!(wanted(value), "it stays at {value}");
            Ok(())
        })
        .await
    }

    /// Asks like anybody else and gives the time until the whole answer was there.
    ///
    /// # Errors
    /// When there is no 200 within 10 s.
    pub async fn normal_client(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let (status, _) = tokio::time::timeout(Duration::from_secs(10), get(self.address, "/good"))
            .await
            .context("a normal client got no answer within 10 s")??;
        anyhow::ensure!(status == 200, "a normal client got {status}");
        Ok(begun.elapsed())
    }

    /// Follows memory and processor time of what comes now.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            memory: self.memory(),
            ticks: self.ticks(),
            begun: Instant::now(),
        }
    }
}

/// The figures before an attack.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    memory: u64,
    ticks: u64,
    begun: Instant,
}

impl Watch {
    /// Asks as a normal client, prints the figures, and checks that memory never grew by more than `most` KiB.
    ///
    /// # Errors
    /// When it did, or the normal client was not served.
    pub async fn check(self, rig: &Rig, what: &str, most: u64) -> anyhow::Result<()> {
        let client = rig.normal_client().await?;
        let grown = rig.peak().saturating_sub(self.memory);
        eprintln!(
            "    {what}: {:.1} s, memory {:.1} -> peak {:.1} MiB, now {:.1} MiB, processor time {} ms, a normal client \
             beside it {} ms",
            self.begun.elapsed().as_secs_f64(),
            self.memory as f64 / 1024.0,
            rig.peak() as f64 / 1024.0,
            rig.memory() as f64 / 1024.0,
            rig.ticks().saturating_sub(self.ticks) * 10,
            client.as_millis(),
        );
        anyhow::ensure!(
            grown <= most,
            "{what}: memory grew by {grown} KiB, more than {most}"
        );
        Ok(())
    }
}
