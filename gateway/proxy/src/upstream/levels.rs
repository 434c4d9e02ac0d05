//! Choice of the priority that a request goes to, and of the endpoints of it that may be chosen.
//!
//! As in Envoy: a priority takes as much of the load as its fit endpoints can (each of them more than its share), and the
//! next one what is left; degraded endpoints take what no healthy one can. Where too few are fit, all are used.

use std::sync::Arc;

use super::member::Host;
use crate::config::snapshot::Health as Settings;

/// Health of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitness {
    Healthy,
    Degraded,
    Unfit,
}

/// The endpoints of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    all: u32,
    healthy: u32,
    degraded: u32,
}

/// Endpoints of a level that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Among {
    All,
    Only(Fitness),
}

/// Those of `hosts` that the next request may go to, without the priorities `passed` if others are available.
pub(super) fn eligible(
    hosts: &Arc<[Arc<Host>]>,
    settings: &Settings,
    passed: &[u32],
) -> Arc<[Arc<Host>]> {
    let levels = levels(hosts);
    let (level, among) = match levels.as_slice() {
        [only] if only.healthy == only.all => return hosts.clone(),
        levels => Loads::new(levels, settings, passed).pick(rand::random_range(0..100)),
    };
    hosts
        .iter()
        .filter(|host| host.priority as usize == level)
        .filter(|host| match among {
            Among::All => true,
            Among::Only(fitness) => host.fitness() == fitness,
        })
        .cloned()
        .collect()
}

/// Returns whether a priority that is not among `passed` has endpoints that are fit.
pub(super) fn is_available_without(hosts: &[Arc<Host>], passed: &[u32]) -> bool {
    hosts
        .iter()
        .any(|host| !passed.contains(&host.priority) && host.fitness() != Fitness::Unfit)
}

fn levels(hosts: &[Arc<Host>]) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::with_capacity(1);
    for host in hosts {
        let at = host.priority as usize;
        if levels.len() <= at {
            levels.resize(at + 1, Level::default());
        }
        let Some(level) = levels.get_mut(at) else {
            continue;
        };
        level.all += 1;
        match host.fitness() {
            Fitness::Healthy => level.healthy += 1,
            Fitness::Degraded => level.degraded += 1,
            Fitness::Unfit => {}
        }
    }
    levels
}

/// The share of 100 of the load for each level.
#[derive(Debug, PartialEq, Eq)]
struct Loads {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    panic: Vec<bool>,
}

impl Loads {
    fn new(levels: &[Level], settings: &Settings, passed: &[u32]) -> Self {
        let available =
            |level: &Level, fit: u32| match level.all {
                0 => 0,
                all => (u64::from(settings.overprovisioning) * u64::from(fit) / u64::from(all))
                    .min(100) as u32,
            };
        let of = |fit: fn(&Level) -> u32| -> Vec<u32> {
            levels
                .iter()
                .map(|level| available(level, fit(level)))
                .collect()
        };
        let mut healthy = of(|level| level.healthy);
        let mut degraded = of(|level| level.degraded);
        let total = |healthy: &[u32], degraded: &[u32]| {
            healthy.iter().chain(degraded).sum::<u32>().min(100)
        };
        let whole = total(&healthy, &degraded);
        let panic: Vec<bool> = levels
            .iter()
            .map(|level| {
                let fit = f64::from(level.healthy + level.degraded) * 100.0;
                let share = match level.all {
                    0 => 0.0,
                    all => fit / f64::from(all),
                };
                whole < 100 && share < settings.panic
            })
            .collect();
        if panic.iter().all(|panic| *panic) {
            return Self::by_number(levels, panic);
        }
        for level in passed {
            let at = *level as usize;
            if let (Some(healthy), Some(degraded)) = (healthy.get_mut(at), degraded.get_mut(at)) {
                (*healthy, *degraded) = (0, 0);
            }
        }
        let total = total(&healthy, &degraded);
        let mut loads = Self {
            healthy: vec![0; levels.len()],
            degraded: vec![0; levels.len()],
            panic,
        };
        let left = distribute(&mut loads.healthy, &healthy, 100, total);
        let left = distribute(&mut loads.degraded, &degraded, left, total);
        // What was lost in rounding.
        let first = |available: &[u32]| available.iter().position(|share| *share > 0);
        let rest = match (first(&healthy), first(&degraded)) {
            (Some(at), _) => loads.healthy.get_mut(at),
            (None, Some(at)) => loads.degraded.get_mut(at),
            (None, None) => loads.healthy.first_mut(),
        };
        if let Some(rest) = rest {
            *rest += left;
        }
        loads
    }

    /// As many endpoints as a level has, whatever is known of them.
    fn by_number(levels: &[Level], panic: Vec<bool>) -> Self {
        let all: u32 = levels.iter().map(|level| level.all).sum();
        let mut healthy: Vec<u32> = levels
            .iter()
            .map(|level| 100 * level.all / all.max(1))
            .collect();
        let left = 100 - healthy.iter().sum::<u32>();
        let first = levels.iter().position(|level| level.all > 0);
        if let Some(rest) = healthy.get_mut(first.unwrap_or_default()) {
            *rest += left;
        }
        Self {
            degraded: vec![0; levels.len()],
            healthy,
            panic,
        }
    }

    /// The level at `at` of 100, and what of it may be chosen.
    fn pick(&self, at: u32) -> (usize, Among) {
        let shares = |loads: &[u32], fitness| {
            let loads: Vec<_> = loads.iter().copied().enumerate().collect();
            loads
                .into_iter()
                .map(move |(level, load)| (level, load, fitness))
        };
        let mut end = 0;
        for (level, load, fitness) in
            shares(&self.healthy, Fitness::Healthy).chain(shares(&self.degraded, Fitness::Degraded))
        {
            end += load;
            if at < end {
                return match self.panic.get(level) {
                    Some(true) => (level, Among::All),
                    _ => (level, Among::Only(fitness)),
                };
            }
        }
        (0, Among::Only(Fitness::Healthy))
    }
}

/// Gives each level what it can take of the load, the first ones first. Returns what is left.
fn distribute(loads: &mut [u32], available: &[u32], mut left: u32, total: u32) -> u32 {
    for (load, available) in loads.iter_mut().zip(available) {
        *load = (available * 100 / total.max(1)).min(left);
        left -= *load;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of levels with 100 endpoints each: healthy and degraded ones.
    fn loads(levels: &[(u32, u32)], panic: f64, passed: &[u32]) -> Loads {
        let levels: Vec<Level> = levels
            .iter()
            .map(|(healthy, degraded)| Level {
                all: 100,
                healthy: *healthy,
                degraded: *degraded,
            })
            .collect();
        let settings = Settings {
            panic,
            ..Settings::default()
        };
        Loads::new(&levels, &settings, passed)
    }

    /// The tables of Envoy's documentation on priority levels and degraded endpoints.
    #[test]
    fn the_next_level_takes_what_is_left() {
        for (levels, healthy, degraded) in [
            (&[(100, 0), (100, 0)][..], &[100, 0][..], &[0, 0][..]),
            (&[(72, 0), (72, 0)], &[100, 0], &[0, 0]),
            (&[(71, 0), (71, 0)], &[99, 1], &[0, 0]),
            (&[(50, 0), (60, 0)], &[70, 30], &[0, 0]),
            (&[(25, 0), (100, 0)], &[35, 65], &[0, 0]),
            (&[(0, 0), (100, 0)], &[0, 100], &[0, 0]),
            (&[(0, 0), (0, 0), (100, 0)], &[0, 0, 100], &[0, 0, 0]),
            (&[(25, 0), (25, 0)], &[50, 50], &[0, 0]),
            (&[(5, 65)], &[8], &[92]),
            (&[(0, 100), (5, 0)], &[0, 7], &[93, 0]),
        ] {
            let loads = loads(levels, 0.0, &[]);
            assert_eq!(
                (&*loads.healthy, &*loads.degraded),
                (healthy, degraded),
                "{levels:?}"
            );
        }
    }

    #[test]
    fn panic_only_where_the_whole_is_short() {
        assert_eq!(loads(&[(20, 0), (100, 0)], 50.0, &[]).panic, [false, false]);
        assert_eq!(loads(&[(20, 0), (40, 0)], 50.0, &[]).panic, [true, true]);
        assert_eq!(loads(&[(60, 0), (5, 0)], 50.0, &[]).panic, [false, true]);
        let all = loads(&[(0, 0), (0, 0)], 50.0, &[]);
        assert_eq!((all.healthy[0], all.healthy[1]), (50, 50));
        assert_eq!(all.pick(60), (1, Among::All));
        let none = loads(&[(0, 0)], 0.0, &[]);
        assert_eq!(none.pick(5), (0, Among::Only(Fitness::Healthy)));
    }

    #[test]
    fn priorities_that_were_tried_are_left_out() {
        assert_eq!(loads(&[(100, 0), (100, 0)], 50.0, &[0]).pick(0).0, 1);
    }
}
