//! Calls that are made again: `grpc_service.retry_policy`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::ConfigError;
use crate::text::{protojson::ProtoDuration, retry_on::RetryOn};

/// `envoy.config.core.v3.RetryPolicy`: a call that fails in one of these ways before its response
/// begins is made again, with the messages sent so far.
///
/// [`Pool`](crate::transport::Pool) keeps up to 64 KiB of messages for this; a call that sent more
/// is not repeated. The exchange sees one stream, and `message_timeout` goes on meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// `retry_on`. Without a condition nothing is repeated; names that are none are left out, as by Envoy.
    pub on: RetryOn,
    /// `num_retries`, 1 if unset.
    pub retries: u32,
    /// `retry_back_off.base_interval`, 1 s if unset: the first retry comes after a random part of
    /// it, and it doubles with each further one.
    pub base_interval: Duration,
    /// `retry_back_off.max_interval`, ten times the base if unset.
    pub max_interval: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            retries: 1,
            base_interval: Duration::from_secs(1),
            max_interval: Duration::from_secs(10),
        }
    }
}

/// The policy as it is read. What chooses among hosts (`retry_priority`, `retry_host_predicate`) has
/// nothing to choose from where a call goes to the next host anyway.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRetryPolicy {
    #[serde(alias = "retryBackOff")]
    pub(super) retry_back_off: Option<RawBackOff>,
    #[serde(alias = "numRetries")]
    pub(super) num_retries: Option<u32>,
    #[serde(alias = "retryOn")]
    pub(super) retry_on: String,
    #[serde(alias = "retryPriority", rename = "retry_priority")]
    pub(super) _priority: Option<Value>,
    #[serde(alias = "retryHostPredicate", rename = "retry_host_predicate")]
    pub(super) _host_predicate: Vec<Value>,
    #[serde(
        alias = "hostSelectionRetryMaxAttempts",
        rename = "host_selection_retry_max_attempts"
    )]
    pub(super) _host_selections: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBackOff {
    #[serde(alias = "baseInterval")]
    pub(super) base_interval: Option<ProtoDuration>,
    #[serde(alias = "maxInterval")]
    pub(super) max_interval: Option<ProtoDuration>,
}

impl TryFrom<RawRetryPolicy> for RetryPolicy {
    type Error = ConfigError;

    fn try_from(raw: RawRetryPolicy) -> Result<Self, ConfigError> {
        let mut policy = Self {
            on: RetryOn::parse(&raw.retry_on).0,
            retries: raw.num_retries.unwrap_or(1),
            ..Self::default()
        };
        if let Some(back_off) = raw.retry_back_off {
            policy.base_interval = interval(
                "grpc_service.retry_policy.retry_back_off.base_interval",
                back_off.base_interval,
            )?
            .ok_or_else(|| {
                ConfigError::new(
                    "grpc_service.retry_policy.retry_back_off.base_interval",
                    "has to be set",
                )
            })?;
            const MAX: &str = "grpc_service.retry_policy.retry_back_off.max_interval";
            policy.max_interval = interval(MAX, back_off.max_interval)?
                .unwrap_or_else(|| policy.base_interval.saturating_mul(10));
            if policy.max_interval < policy.base_interval {
                return Err(ConfigError::new(MAX, "is less than base_interval"));
            }
        }
        Ok(policy)
    }
}

/// A duration of at least a millisecond, which is what timers tell apart.
fn interval(
    field: &'static str,
    given: Option<ProtoDuration>,
) -> Result<Option<Duration>, ConfigError> {
    let Some(given) = given else { return Ok(None) };
    match given.positive() {
        Some(interval) if interval >= Duration::from_millis(1) => Ok(Some(interval)),
        _ => Err(ConfigError::new(field, "has to be at least 1 ms")),
    }
}
