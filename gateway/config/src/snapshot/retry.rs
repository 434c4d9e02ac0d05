//! When a request is sent again.

use std::{num::NonZeroUsize, time::Duration};

pub use extproc_client::text::retry_on::RetryOn;

use super::HeaderMatch;

/// `RetryPolicy`.
#[derive(Debug)]
pub struct Retry {
    /// `retry_on`.
    pub on: RetryOn,
    /// `num_retries`: additional attempts.
    pub count: u32,
    /// Longest wait for one attempt.
    pub per_try_timeout: Option<Duration>,
    /// `retriable_status_codes`.
    pub status_codes: Vec<u16>,
    /// `retriable_headers`: one of them is enough.
    pub headers: Vec<HeaderMatch>,
    /// `retriable_request_headers`: without one of them a request is not repeated. Empty: all are.
    pub request_headers: Vec<HeaderMatch>,
    /// Number of times that another endpoint is chosen in place of one that was tried before (`previous_hosts`).
    pub other_host: u32,
    /// The priorities of the attempts that went before are left out, looked at after so many of them each
    /// (`previous_priorities`).
    pub other_priority: Option<NonZeroUsize>,
    /// `retry_back_off.base_interval`.
    pub base_interval: Duration,
    /// `retry_back_off.max_interval`.
    pub max_interval: Duration,
}

impl Default for Retry {
    /// No condition is met.
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            count: 1,
            per_try_timeout: None,
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            other_host: 0,
            other_priority: None,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
        }
    }
}
