//! `RetryPolicy`.

use std::num::NonZeroUsize;

use serde::Deserialize;

use super::{any::unsupported, matcher::HeaderMatcher, value::Time};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{HeaderMatch, Retry, RetryOn},
};

/// `envoy.config.route.v3.RetryPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RetryPolicy {
    retry_on: Option<Located<String>>,
    num_retries: Option<u32>,
    per_try_timeout: Option<Time>,
    retriable_status_codes: Vec<u16>,
    retriable_headers: Vec<Located<HeaderMatcher>>,
    retriable_request_headers: Vec<Located<HeaderMatcher>>,
    retry_host_predicate: Vec<Located<RetryHostPredicate>>,
    host_selection_retry_max_attempts: Option<u32>,
    retry_priority: Option<Located<RetryPriority>>,
    retry_back_off: Option<Located<RetryBackOff>>,
}

/// `envoy.config.route.v3.RetryPolicy.RetryHostPredicate`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RetryHostPredicate {
    typed_config: Option<Subtree>,
}

/// `envoy.config.route.v3.RetryPolicy.RetryPriority`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RetryPriority {
    typed_config: Option<Subtree>,
}

/// `envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PreviousPrioritiesConfig {
    update_frequency: usize,
}

impl Located<RetryPriority> {
    fn build(&self, reader: &Reader<'_>) -> Result<NonZeroUsize, Fault> {
        let Some(config) = &self.value.typed_config else {
            return Err(Fault::at(self.node, "missing field \"typed_config\""));
        };
        match reader.type_of(config.node)? {
            PREVIOUS_PRIORITIES => {
                let config: Located<PreviousPrioritiesConfig> = reader.read_typed(config.node)?;
                NonZeroUsize::new(config.value.update_frequency)
                    .ok_or_else(|| Fault::at(config.node, "update_frequency has to be 1 or more"))
            }
            other => Err(unsupported(config.node, other, &[PREVIOUS_PRIORITIES])),
        }
    }
}

/// `envoy.config.route.v3.RetryPolicy.RetryBackOff`.
#[derive(Debug, Deserialize)]
struct RetryBackOff {
    base_interval: Time,
    max_interval: Option<Time>,
}

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
const PREVIOUS_PRIORITIES: &str =
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
/// No endpoint is a canary here.
const OMIT_CANARY_HOSTS: &str =
    "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate";

impl RetryPolicy {
    /// The policy; `None` if it never applies.
    pub(super) fn build(&self, reader: &Reader<'_>) -> Result<Option<Retry>, Fault> {
        let mut retry = Retry {
            count: self.num_retries.unwrap_or(1),
            per_try_timeout: self.per_try_timeout.and_then(Time::limit),
            status_codes: self.retriable_status_codes.clone(),
            headers: matches(&self.retriable_headers)?,
            request_headers: matches(&self.retriable_request_headers)?,
            ..Retry::default()
        };
        if let Some(list) = &self.retry_on {
            let (on, unknown) = RetryOn::parse(&list.value);
            if let Some(unknown) = unknown.first() {
                return Err(Fault::at(
                    list.node,
                    format!("{unknown:?} is no condition of Envoy's"),
                ));
            }
            retry.on = on;
        }
        for predicate in &self.retry_host_predicate {
            let Some(config) = &predicate.value.typed_config else {
                return Err(Fault::at(predicate.node, "missing field \"typed_config\""));
            };
            match reader.type_of(config.node)? {
                PREVIOUS_HOSTS => {
                    retry.other_host = self.host_selection_retry_max_attempts.unwrap_or(1);
                }
                OMIT_CANARY_HOSTS => {}
                other => {
                    let known = [PREVIOUS_HOSTS, OMIT_CANARY_HOSTS];
                    return Err(unsupported(config.node, other, &known));
                }
            }
        }
        if let Some(priority) = &self.retry_priority {
            retry.other_priority = Some(priority.build(reader)?);
        }
        if let Some(Located {
            node,
            value: back_off,
        }) = &self.retry_back_off
        {
            retry.base_interval = back_off.base_interval.0;
            retry.max_interval = match back_off.max_interval {
                Some(interval) => interval.0,
                None => retry.base_interval.saturating_mul(10),
            };
            if retry.base_interval.is_zero() || retry.max_interval < retry.base_interval {
                return Err(Fault::at(
                    *node,
                    "0 < base_interval <= max_interval has to hold",
                ));
            }
        }
        if retry.on.is_empty() {
            retry.count = 0;
        }
        // Its limit holds for the only attempt, too.
        let applies = !retry.on.is_empty() || retry.per_try_timeout.is_some();
        Ok(applies.then_some(retry))
    }
}

fn matches(matchers: &[Located<HeaderMatcher>]) -> Result<Vec<HeaderMatch>, Fault> {
    matchers
        .iter()
        .map(Located::<HeaderMatcher>::build)
        .collect()
}
