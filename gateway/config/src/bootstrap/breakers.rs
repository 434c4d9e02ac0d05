//! `CircuitBreakers` of a cluster, and the priority that chooses among them.

use serde::Deserialize;

use super::value::{Enum, ProtoEnum};
use crate::{
    document::{Fault, Located},
    snapshot::{
        CircuitBreakers as Model, Priority, RetryBudget as RetryBudgetModel,
        Thresholds as ThresholdsModel,
    },
};

impl ProtoEnum for Priority {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("DEFAULT", 0, Ok(Self::Default)),
        ("HIGH", 1, Ok(Self::High)),
    ];
}

/// `envoy.config.cluster.v3.CircuitBreakers`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CircuitBreakers {
    thresholds: Vec<Thresholds>,
}

/// `envoy.config.cluster.v3.CircuitBreakers.Thresholds`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Thresholds {
    priority: Enum<Priority>,
    max_connections: Option<u32>,
    max_pending_requests: Option<u32>,
    max_requests: Option<u32>,
    max_retries: Option<u32>,
    retry_budget: Option<RetryBudget>,
    track_remaining: bool,
}

/// `envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RetryBudget {
    budget_percent: Option<Located<Percent>>,
    min_retry_concurrency: Option<u32>,
}

/// `envoy.type.v3.Percent`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Percent {
    value: f64,
}

impl CircuitBreakers {
    /// The limits of each priority: those of the first entry that names it, as in Envoy.
    pub(super) fn build(&self) -> Result<Model, Fault> {
        let of = |priority| {
            let mut entries = self.thresholds.iter();
            match entries.find(|entry| entry.priority.0 == priority) {
                Some(entry) => entry.build(),
                None => Ok(ThresholdsModel::default()),
            }
        };
        Ok(Model {
            default: of(Priority::Default)?,
            high: of(Priority::High)?,
        })
    }
}

impl Thresholds {
    fn build(&self) -> Result<ThresholdsModel, Fault> {
        let default = ThresholdsModel::default();
        Ok(ThresholdsModel {
            connections: self.max_connections.unwrap_or(default.connections),
            pending: self.max_pending_requests.unwrap_or(default.pending),
            requests: self.max_requests.unwrap_or(default.requests),
            retries: self.max_retries.unwrap_or(default.retries),
            retry_budget: self
                .retry_budget
                .as_ref()
                .map(RetryBudget::build)
                .transpose()?,
            track_remaining: self.track_remaining,
        })
    }
}

impl RetryBudget {
    fn build(&self) -> Result<RetryBudgetModel, Fault> {
        let percent = match &self.budget_percent {
            None => 20.0,
            Some(percent) if !(0.0..=100.0).contains(&percent.value.value) => {
                return Err(Fault::at(percent.node, "has to be between 0 and 100"));
            }
            Some(percent) => percent.value.value,
        };
        Ok(RetryBudgetModel {
            percent,
            least: self.min_retry_concurrency.unwrap_or(3),
        })
    }
}
