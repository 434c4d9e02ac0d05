//! State of a process as the kernel shows it.

use std::time::Duration;

use anyhow::Context;

/// CPU time that the process has used, user and system.
pub(super) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    /// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Rust runs on.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/pid/stat")?;
    let mut ticks = fields.split_whitespace().skip(11);
    let mut next = || ticks.next().and_then(|value| value.parse::<u64>().ok());
    let (user, system) = (next(), next());
    let ticks = user.context("utime")? + system.context("stime")?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Resident memory in bytes.
pub(super) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix("kB"))
        .and_then(|value| value.trim().parse().ok())
        .context("VmRSS")?;
    Ok(kib * 1024)
}

/// The machine, for the head of the table.
pub(super) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let release = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}", release.trim())
}
