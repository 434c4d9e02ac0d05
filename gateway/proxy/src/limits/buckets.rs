//! Tokens of the filter `local_ratelimit`.
//!
//! They belong to the process: who has used them up has none after a new configuration either, unless that says
//! something else of this very bucket.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use crate::config::snapshot::{Filter, FilterKind, LocalRateLimit, OnRoute, Snapshot, TokenBucket};

/// Tokens that are left.
#[derive(Debug)]
pub(crate) struct Bucket {
    max: f64,
    per_second: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    fn new(settings: &TokenBucket) -> Self {
        let interval = settings.interval.as_secs_f64().max(f64::MIN_POSITIVE);
        Self {
            max: settings.max.into(),
            per_second: f64::from(settings.per_fill) / interval,
            state: Mutex::new(State {
                tokens: settings.max.into(),
                at: Instant::now(),
            }),
        }
    }

    /// Takes a token; false if there is none at this time.
    pub(crate) fn take(&self, now: Instant) -> bool {
        // Only assignments run under the lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at);
        state.tokens = (state.tokens + passed.as_secs_f64() * self.per_second).min(self.max);
        state.at = state.at.max(now);
        let has_one = state.tokens >= 1.0;
        if has_one {
            state.tokens -= 1.0;
        }
        has_one
    }
}

/// Owner of a bucket, and what it is configured like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Listener with filter chain, or cluster.
    chain: String,
    filter: String,
    /// Among the routes.
    place: String,
    /// Of those with the same names.
    number: u32,
    settings: TokenBucket,
}

/// Buckets that are in use, from one snapshot to the next.
#[derive(Debug, Default)]
pub(crate) struct Buckets(HashMap<Key, Weak<Bucket>>);

/// Buckets of a snapshot, by the addresses of the configurations in it.
#[derive(Debug, Default)]
pub(crate) struct Chosen(HashMap<usize, Arc<Bucket>>);

impl Chosen {
    /// The bucket of this configuration, which has to be part of the snapshot.
    pub(crate) fn of(&self, config: &Arc<LocalRateLimit>) -> Option<&Arc<Bucket>> {
        self.0.get(&address(config))
    }
}

fn address(config: &Arc<LocalRateLimit>) -> usize {
    Arc::as_ptr(config).addr()
}

impl Buckets {
    /// The buckets for `snapshot`: those that are in use as long as it asks for the same, and full ones.
    pub(crate) fn of(&mut self, snapshot: &Snapshot) -> Chosen {
        self.0.retain(|_, bucket| bucket.strong_count() > 0);
        let mut taking = Taking {
            known: self,
            chosen: Chosen::default(),
            numbers: HashMap::new(),
            chain: String::new(),
        };
        for (name, filters) in &snapshot.cluster_filters {
            taking.chain = format!("cluster {name}");
            taking.filters(filters);
        }
        for listener in &snapshot.listeners {
            for chain in listener.all_chains() {
                taking.chain = format!("listener {}, {:?}", listener.name, chain.matches);
                taking.filters(&chain.http.filters);
                for said in chain.http.routes.overrides() {
                    for (filter, said) in said.all() {
                        if let OnRoute::As(kind) = said {
                            taking.kind(filter, kind);
                        }
                    }
                }
            }
        }
        taking.chosen
    }
}

struct Taking<'a> {
    known: &'a mut Buckets,
    chosen: Chosen,
    /// The number of those seen so far, by key.
    numbers: HashMap<Key, u32>,
    chain: String,
}

impl Taking<'_> {
    fn filters(&mut self, filters: &[Filter]) {
        for filter in filters {
            self.kind(&filter.name, &filter.kind);
        }
    }

    fn kind(&mut self, filter: &str, kind: &FilterKind) {
        kind.each(&mut |kind| {
            if let FilterKind::LocalRateLimit(config) = kind {
                self.config(filter, config);
            }
        });
    }

    fn config(&mut self, filter: &str, config: &Arc<LocalRateLimit>) {
        let Some(settings) = config.bucket else {
            return;
        };
        // Routes under the same virtual host share its word.
        if self.chosen.of(config).is_some() {
            return;
        }
        let mut key = Key {
            chain: self.chain.clone(),
            filter: filter.to_owned(),
            place: config.place.clone(),
            number: 0,
            settings,
        };
        let number = self.numbers.entry(key.clone()).or_default();
        key.number = *number;
        *number += 1;
        let known = self.known.0.get(&key).and_then(Weak::upgrade);
        let bucket = known.unwrap_or_else(|| {
            let bucket = Arc::new(Bucket::new(&settings));
            self.known.0.insert(key, Arc::downgrade(&bucket));
            bucket
        });
        self.chosen.0.insert(address(config), bucket);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tokens_come_back() {
        let bucket = Bucket::new(&TokenBucket {
            max: 2,
            per_fill: 1,
            interval: Duration::from_secs(1),
        });
        let start = Instant::now();
        assert!(bucket.take(start) && bucket.take(start));
        assert!(!bucket.take(start + Duration::from_millis(900)));
        assert!(bucket.take(start + Duration::from_millis(1100)));
        // Never more than there is room for, and time does not go back.
        let later = start + Duration::from_secs(60);
        assert!(bucket.take(later) && bucket.take(later) && !bucket.take(later));
        assert!(!bucket.take(start));
    }
}
