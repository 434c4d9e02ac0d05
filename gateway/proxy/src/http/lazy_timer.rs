//! A timer for what hardly ever takes too long.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

/// A timer that is set again and again, mostly to a later time, before it fires: that costs nothing, because what
/// was set first is looked at again only when it fires.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Fires at this time and no other. Has to be polled for that.
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = Some(at);
        if let Some(sleep) = &mut self.sleep
            && sleep.deadline() > at
        {
            sleep.as_mut().reset(at);
        }
    }

    /// Ready from the time on that was set.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at || Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_set_last_counts() {
        let seconds = Duration::from_secs;
        let begun = Instant::now();
        let mut alarm = LazyTimer::default();
        let unset = poll_fn(|cx| alarm.poll(cx));
        assert!(tokio::time::timeout(seconds(9), unset).await.is_err());
        for (first, then) in [(20, 30), (60, 40), (50, 45)] {
            for at in [first, then] {
                alarm.set(begun + seconds(at));
                let early = poll_fn(|cx| alarm.poll(cx));
                let short = tokio::time::timeout(seconds(1), early);
                assert!(short.await.is_err());
            }
            poll_fn(|cx| alarm.poll(cx)).await;
            assert_eq!(begun.elapsed().as_secs(), then);
            // It stays so.
            poll_fn(|cx| alarm.poll(cx)).await;
        }
    }
}
