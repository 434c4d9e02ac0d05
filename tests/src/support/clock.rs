//! Time as scripts count it: while somebody who takes part waits for a processor core, it stands still.
//!
//! A script says "pause for 30 ms" and means "long enough for all that was caused before to have happened". On a machine
//! with other work to do 30 ms may be too short for that, and then scripts see another order of events, of which proxies
//! make another exchange: a chunk of a body that comes before the reply to the headers is joined to the one before it. So
//! a moment counts only if the proxy had nothing to do in it, and if this program was woken in time.
//!
//! The state of the proxy's threads is read from `/proc`; where there is none, only the second holds. Without a
//! proxy to watch, time is what it always is: so it has to be where a script races the proxy's own timers.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::{sync::watch, task::JoinSet};

/// Time between two looks at the proxy: time passes in such steps.
const TICK: Duration = Duration::from_millis(5);

/// The longest that a wait takes, in multiples of what it should: a proxy that is always at work stops no script for good.
const LONGEST: u32 = 20;

/// Being woken that late is no sign of a busy machine: the runtime's timer counts whole milliseconds.
const LATE: Duration = Duration::from_millis(3);

/// The clock of one scenario. All who take part have the same time, so that their pauses keep their order.
#[derive(Debug, Default)]
pub struct Clock {
    passed: watch::Sender<Duration>,
    /// Task that lets time pass, while there is a proxy to watch. It ends with the clock.
    ticker: Mutex<JoinSet<()>>,
}

/// State of the proxy's threads.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Time that they have waited for a core, all together.
    waited: Duration,
    /// One of them runs or waits for a core now.
    busy: bool,
}

impl Clock {
    /// The proxy is this process.
    pub fn watch(&self, process: Option<u32>) {
        if let Ok(mut ticker) = self.ticker.lock() {
            *ticker = JoinSet::new();
            if let Some(id) = process {
                let threads = PathBuf::from(format!("/proc/{id}/task"));
                ticker.spawn(tick(threads, self.passed.clone()));
            }
        }
    }

    /// Waits.
    pub async fn sleep(&self, time: Duration) {
        if self.ticker.lock().is_ok_and(|ticker| ticker.is_empty()) {
            return tokio::time::sleep(time).await;
        }
        let mut passed = self.passed.subscribe();
        let until = *passed.borrow() + time;
        let reached = passed.wait_for(|passed| *passed >= until);
        // The proxy may always be at work.
        let _ = tokio::time::timeout(time * LONGEST, reached).await;
    }

    /// Waits, in milliseconds.
    pub async fn pause(&self, milliseconds: u64) {
        self.sleep(Duration::from_millis(milliseconds)).await;
    }
}

/// Lets time pass while nobody waits for a core.
async fn tick(threads: PathBuf, passed: watch::Sender<Duration>) {
    let mut before = load(&threads);
    loop {
        let slept = Instant::now();
        tokio::time::sleep(TICK).await;
        let late = slept.elapsed().saturating_sub(TICK);
        let now = load(&threads);
        let waited = now.waited.saturating_sub(before.waited);
        before = now;
        if !now.busy && late < LATE {
            passed.send_modify(|passed| *passed += TICK.saturating_sub(waited));
        }
    }
}

fn load(threads: &Path) -> Load {
    let mut load = Load::default();
    for thread in std::fs::read_dir(threads).into_iter().flatten().flatten() {
        let read = |name| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        load.waited += waited(&read("schedstat"));
        load.busy |= is_busy(&read("stat"));
    }
    load
}

/// The second number of `schedstat`, in nanoseconds (Linux: `Documentation/scheduler/sched-stats.rst`).
fn waited(schedstat: &str) -> Duration {
    let nanoseconds = schedstat.split(' ').nth(1).and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// The state in `stat` stands behind the name, which is in parentheses (`proc_pid_stat(5)`).
fn is_busy(stat: &str) -> bool {
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|rest| rest.starts_with('R'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        assert_eq!(
            waited("151760332 514180114 315\n"),
            Duration::from_nanos(514_180_114)
        );
        assert_eq!(waited(""), Duration::ZERO);
        assert!(is_busy("12 (a) S (b) R 1 12 12 0"));
        assert!(!is_busy("12 (R) S 1 12 12 0"));
        assert!(!is_busy(""));
    }

    /// Of two waits that begin at the same moment, the longer one ends later, however busy the machine is.
    #[tokio::test]
    async fn pauses_keep_their_order() {
        let clock = Clock::default();
        clock.watch(Some(std::process::id()));
        let order = Mutex::new(Vec::new());
        let pause = async |milliseconds| {
            for _ in 0..4 {
                clock.pause(milliseconds).await;
            }
            order.lock().unwrap().push(milliseconds);
        };
        tokio::join!(pause(20), pause(5));
        assert_eq!(*order.lock().unwrap(), [5, 20]);
    }

    /// Time does not pass while the watched process has its hands full, and a wait ends all the same.
    #[tokio::test]
    async fn a_busy_proxy_stops_the_clock() -> anyhow::Result<()> {
        if !Path::new("/proc/self/task").exists() {
            eprintln!("skipped: without /proc nothing is known of a process");
            return Ok(());
        }
        let mut busy = tokio::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .kill_on_drop(true)
            .spawn()?;
        let clock = Clock::default();
        let measured = async || {
            let begun = Instant::now();
            clock.pause(10).await;
            begun.elapsed()
        };
        clock.watch(busy.id());
        assert!(measured().await >= Duration::from_millis(10) * LONGEST);
        busy.kill().await?;
        clock.watch(None);
        assert!(measured().await >= Duration::from_millis(10));
        Ok(())
    }
}
