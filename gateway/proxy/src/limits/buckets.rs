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
    /// Keys and values of the requests that it is for; empty for all.
    entries: Vec<(String, String)>,
    settings: TokenBucket,
}

/// Buckets that are in use, from one snapshot to the next.
#[derive(Debug, Default)]
pub(crate) struct Buckets(HashMap<Key, Weak<Bucket>>);

/// The buckets of one configuration.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// For all requests.
    all: Option<Arc<Bucket>>,
    /// For requests of each of its descriptors, in their order.
    described: Vec<Arc<Bucket>>,
}

impl Tokens {
    /// Takes the tokens that a request needs which these descriptors fit, by their numbers; false if one of them is not there.
    pub(crate) fn take(&self, fitting: &[usize], default_too: bool, now: Instant) -> bool {
        let mut own: Vec<&Arc<Bucket>> = fitting
            .iter()
            .filter_map(|index| self.described.get(*index))
            .collect();
        // The one that fills slowest is asked first.
        own.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
        let all = self.all.iter().filter(|_| own.is_empty() || default_too);
        own.iter()
            .copied()
            .chain(all)
            .all(|bucket| bucket.take(now))
    }
}

/// Buckets of a snapshot, by the addresses of the configurations in it.
#[derive(Debug, Default)]
pub(crate) struct Chosen(HashMap<usize, Tokens>);

impl Chosen {
    /// The buckets of this configuration, which has to be part of the snapshot.
    pub(crate) fn of(&self, config: &Arc<LocalRateLimit>) -> Option<&Tokens> {
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
        // Routes under the same virtual host share its word.
        if self.chosen.of(config).is_some() {
            return;
        }
        let all = config.bucket.map(|settings| {
            let key = self.key(filter, config, settings, Vec::new());
            self.bucket(key)
        });
        let described = config.descriptors.iter().map(|descriptor| {
            let entries = descriptor.entries.clone();
            let key = self.key(filter, config, descriptor.bucket, entries);
            self.bucket(key)
        });
        let described = described.collect();
        let tokens = Tokens { all, described };
        self.chosen.0.insert(address(config), tokens);
    }

    fn key(
        &self,
        filter: &str,
        config: &LocalRateLimit,
        settings: TokenBucket,
        entries: Vec<(String, String)>,
    ) -> Key {
        Key {
            chain: self.chain.clone(),
            filter: filter.to_owned(),
            place: config.place.clone(),
            number: 0,
            entries,
            settings,
        }
    }

    fn bucket(&mut self, mut key: Key) -> Arc<Bucket> {
        let settings = key.settings;
        let number = self.numbers.entry(key.clone()).or_default();
        key.number = *number;
        *number += 1;
        let known = self.known.0.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let bucket = Arc::new(Bucket::new(&settings));
            self.known.0.insert(key, Arc::downgrade(&bucket));
            bucket
        })
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
