//! Waits for events in other programs, which tell nobody: they are asked for again and again.
//!
//! The only place of the suites that sleeps between two questions. A limit here keeps a test from hanging; it is no claim about how
//! long something takes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Limit for events of programs on this machine, on a busy one too.
pub const LONG: Duration = Duration::from_secs(60);

/// Pause between two questions, in which the program that is asked gets its turn.
const PAUSE: Duration = Duration::from_millis(5);

/// Longest pause: questions that start programs leave time to the one they ask.
const MOST: Duration = Duration::from_millis(80);

/// Leaves other programs a moment between two looks at them.
pub async fn moment() {
    sleep(PAUSE).await;
}

/// Asks again until it works.
///
/// # Errors
/// The last one, once `limit` has passed.
pub async fn until<T, F>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let end = Instant::now() + limit;
    let mut pause = PAUSE;
    loop {
        match ask().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => return Err(error.context(what.to_owned())),
            Err(_) => sleep(pause).await,
        }
        pause = (2 * pause).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn asks_until_it_works_and_tells_why_it_never_did() {
        let asked = Cell::new(0);
        let third = until("three", LONG, async || {
            asked.set(asked.get() + 1);
            ensure!(asked.get() == 3, "{asked:?}");
            Ok(asked.get())
        });
        assert_eq!(third.await.unwrap(), 3);
        let never = until("never", Duration::ZERO, async || -> anyhow::Result<()> {
            anyhow::bail!("not yet")
        });
        let error = format!("{:#}", never.await.unwrap_err());
        assert_eq!(error, "never: not yet");
    }
}
