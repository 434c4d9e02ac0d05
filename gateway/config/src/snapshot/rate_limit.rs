//! The filter `local_ratelimit`.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::StatusCode;

use super::{Fraction, HeaderChange};

/// `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Tokens, one for each request; without them every request passes.
    pub bucket: Option<TokenBucket>,
    /// `filter_enabled`: requests that take a token.
    pub enabled: Fraction,
    /// `filter_enforced`: those of them that are answered where there is none.
    pub enforced: Fraction,
    /// Their answer.
    pub status: StatusCode,
    /// Requests of gRPC get the status 8, not 14.
    pub resource_exhausted: bool,
    /// On the answer.
    pub response_headers: Vec<HeaderChange>,
    /// On requests that pass without a token.
    pub request_headers: Vec<HeaderChange>,
}

/// Tokens that come back at a steady rate.
#[derive(Debug)]
pub struct TokenBucket {
    max: f64,
    per_second: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket that gets `per_fill` tokens each `interval`.
    pub fn new(max: u32, per_fill: u32, interval: Duration) -> Self {
        Self {
            max: f64::from(max),
            per_second: f64::from(per_fill) / interval.as_secs_f64().max(f64::MIN_POSITIVE),
            state: Mutex::new(State {
                tokens: f64::from(max),
                at: Instant::now(),
            }),
        }
    }

    /// Takes a token; false if there is none at this time.
    pub fn take(&self, now: Instant) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        let bucket = TokenBucket::new(2, 1, Duration::from_secs(1));
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
