//! Circuit breakers: the resources that requests of a cluster may have at a time, counted over all workers.
//!
//! The numbers live as long as the gateway, by the cluster's name: a new configuration sets other limits and goes on
//! counting what is open.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;

use crate::config::snapshot::{CircuitBreakers, Priority, Thresholds};

/// A thing that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// A connection, from when it begins to connect.
    Connection,
    /// A request that waits for a connection.
    Pending,
    /// A request on a connection.
    Request,
    /// A request that is sent again, from the decision until its response begins.
    Retry,
}

/// The circuit breakers of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Breakers {
    used: [Used; 2],
    limits: ArcSwap<CircuitBreakers>,
    /// Requests that are copies of others (`request_mirror_policies`), in whatever state.
    copies: AtomicU32,
    /// Bytes that they are behind their originals.
    behind: AtomicUsize,
}

/// Bytes that all copies for a cluster may be behind together.
const BEHIND: usize = 64 * 1024 * 1024;

/// One of the copies of requests for a cluster.
#[derive(Debug)]
pub(crate) struct CopyPlace(Arc<Breakers>);

impl CopyPlace {
    /// A place, unless there are as many copies as the cluster may have requests, on connections and waiting for one.
    pub(crate) fn take(breakers: &Arc<Breakers>) -> Option<Self> {
        let limits = breakers.limits.load();
        let limits = limits.of(Priority::Default);
        let most = limits.requests.saturating_add(limits.pending);
        let taken = breakers.copies.fetch_add(1, Ordering::Relaxed);
        // Given back by the drop, also where there is none.
        let place = Self(breakers.clone());
        (taken < most).then_some(place)
    }
}

impl Drop for CopyPlace {
    fn drop(&mut self) {
        self.0.copies.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that one copy is behind its original, in the number of those of its cluster.
#[derive(Debug)]
pub(crate) struct BehindBytes {
    own: AtomicUsize,
    breakers: Arc<Breakers>,
}

impl BehindBytes {
    pub(crate) fn new(breakers: &Arc<Breakers>) -> Self {
        Self {
            own: AtomicUsize::new(0),
            breakers: breakers.clone(),
        }
    }

    /// Adds bytes. Gives how many there are; `None` if those of the cluster are too many.
    pub(crate) fn add(&self, bytes: usize) -> Option<usize> {
        let own = self.own.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = self.breakers.behind.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (all <= BEHIND).then_some(own)
    }

    /// Subtracts bytes. Gives how many are left.
    pub(crate) fn remove(&self, bytes: usize) -> usize {
        self.breakers.behind.fetch_sub(bytes, Ordering::Relaxed);
        self.own.fetch_sub(bytes, Ordering::Relaxed) - bytes
    }
}

impl Drop for BehindBytes {
    fn drop(&mut self) {
        let own = *self.own.get_mut();
        self.breakers.behind.fetch_sub(own, Ordering::Relaxed);
    }
}

/// Resources in use by requests of one priority.
#[derive(Debug, Default)]
struct Used([AtomicU32; 4]);

/// A resource that is given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    breakers: Arc<Breakers>,
    priority: Priority,
    resource: Resource,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.breakers.give_back(self.priority, self.resource);
    }
}

impl Place {
    /// Gives back when dropped what the caller has taken.
    pub(crate) fn new(breakers: &Arc<Breakers>, priority: Priority, resource: Resource) -> Self {
        Self {
            breakers: breakers.clone(),
            priority,
            resource,
        }
    }
}

/// A number that is shown, under Envoy's name below `circuit_breakers`.
pub(crate) type Gauge = (&'static str, &'static str, u64);

impl Breakers {
    /// Takes other limits. What is open beyond them goes on.
    pub(crate) fn set(&self, limits: &CircuitBreakers) {
        self.limits.store(Arc::new(limits.clone()));
    }

    /// Takes a resource beyond the limit.
    pub(crate) fn take_anyway(&self, priority: Priority, resource: Resource) {
        self.counter(priority, resource)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a resource; `false` if the limit is reached.
    pub(crate) fn take(&self, priority: Priority, resource: Resource) -> bool {
        let most = self.most(self.limits.load().of(priority), priority, resource);
        let one_more = |used: u32| used.checked_add(1).filter(|_| used < most);
        self.counter(priority, resource)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, priority: Priority, resource: Resource) {
        self.counter(priority, resource)
            .fetch_sub(1, Ordering::Relaxed);
    }

    /// Number in use at all priorities.
    pub(crate) fn in_use(&self, resource: Resource) -> u32 {
        let of = |priority| self.count(priority, resource);
        of(Priority::Default).saturating_add(of(Priority::High))
    }

    fn counter(&self, priority: Priority, resource: Resource) -> &AtomicU32 {
        let [default, high] = &self.used;
        let Used([connections, pending, requests, retries]) = match priority {
            Priority::Default => default,
            Priority::High => high,
        };
        match resource {
            Resource::Connection => connections,
            Resource::Pending => pending,
            Resource::Request => requests,
            Resource::Retry => retries,
        }
    }

    fn count(&self, priority: Priority, resource: Resource) -> u32 {
        self.counter(priority, resource).load(Ordering::Relaxed)
    }

    fn most(&self, limits: &Thresholds, priority: Priority, resource: Resource) -> u32 {
        match (resource, &limits.retry_budget) {
            (Resource::Connection, _) => limits.connections,
            (Resource::Pending, _) => limits.pending,
            (Resource::Request, _) => limits.requests,
            (Resource::Retry, None) => limits.retries,
            (Resource::Retry, Some(budget)) => {
                let active = f64::from(self.count(priority, Resource::Request))
                    + f64::from(self.count(priority, Resource::Pending));
                let share = (active * budget.percent / 100.0) as u32;
                share.max(budget.least)
            }
        }
    }

    /// A gauge for each limit that says whether it is reached, and with `track_remaining` one for what is left.
    pub(crate) fn gauges(&self) -> Vec<Gauge> {
        const NAMES: [(Resource, &str, &str); 4] = [
            (Resource::Connection, "cx_open", "remaining_cx"),
            (Resource::Pending, "rq_pending_open", "remaining_pending"),
            (Resource::Request, "rq_open", "remaining_rq"),
            (Resource::Retry, "rq_retry_open", "remaining_retries"),
        ];
        let limits = self.limits.load();
        let mut gauges = Vec::new();
        for (priority, called) in [(Priority::Default, "default"), (Priority::High, "high")] {
            let thresholds = limits.of(priority);
            for (resource, open, remaining) in NAMES {
                let most = self.most(thresholds, priority, resource);
                let used = self.count(priority, resource);
                gauges.push((called, open, u64::from(used >= most)));
                if thresholds.track_remaining {
                    gauges.push((called, remaining, most.saturating_sub(used).into()));
                }
            }
        }
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::snapshot::RetryBudget;

    fn place(breakers: &Arc<Breakers>, priority: Priority, resource: Resource) -> Option<Place> {
        let taken = breakers.take(priority, resource);
        taken.then(|| Place::new(breakers, priority, resource))
    }

    fn limits(thresholds: Thresholds) -> CircuitBreakers {
        CircuitBreakers {
            default: thresholds,
            ..CircuitBreakers::default()
        }
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let breakers = Arc::<Breakers>::default();
        breakers.set(&limits(Thresholds {
            requests: 1,
            ..Thresholds::default()
        }));
        let request = |priority| place(&breakers, priority, Resource::Request);
        let first = request(Priority::Default).unwrap();
        assert!(request(Priority::Default).is_none());
        let _high = request(Priority::High).unwrap();
        breakers.take_anyway(Priority::Default, Resource::Request);
        let beyond = Place::new(&breakers, Priority::Default, Resource::Request);
        assert_eq!(breakers.in_use(Resource::Request), 3);
        drop((first, beyond));
        assert!(request(Priority::Default).is_some());
    }

    #[test]
    fn lower_limits_hold_for_what_comes_next() {
        let breakers = Arc::<Breakers>::default();
        let _both =
            [(); 2].map(|()| place(&breakers, Priority::Default, Resource::Pending).unwrap());
        breakers.set(&limits(Thresholds {
            pending: 1,
            track_remaining: true,
            ..Thresholds::default()
        }));
        assert!(!breakers.take(Priority::Default, Resource::Pending));
        let gauges = breakers.gauges();
        assert!(gauges.contains(&("default", "rq_pending_open", 1)));
        assert!(gauges.contains(&("default", "remaining_pending", 0)));
        assert!(gauges.contains(&("high", "rq_pending_open", 0)));
    }

    #[test]
    fn a_retry_budget_grows_with_the_requests() {
        let breakers = Arc::<Breakers>::default();
        breakers.set(&limits(Thresholds {
            retry_budget: Some(RetryBudget {
                percent: 50.0,
                least: 1,
            }),
            ..Thresholds::default()
        }));
        let retry = || place(&breakers, Priority::Default, Resource::Retry);
        let _one = retry().unwrap();
        assert!(retry().is_none());
        let _requests =
            [(); 4].map(|()| place(&breakers, Priority::Default, Resource::Request).unwrap());
        let _two = retry().unwrap();
        assert!(retry().is_none());
    }
}
