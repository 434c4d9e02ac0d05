//! `health_checks`, `outlier_detection` and the panic threshold of a cluster.

use std::time::Duration;

use serde::Deserialize;

use super::{hashing::ConsistentHashing, value::Time};
use crate::{
    document::{Fault, Located, NodeId},
    snapshot::{CheckKind, Health, HealthCheck as CheckModel, Outliers},
};

/// `envoy.config.core.v3.HealthCheck`.
#[derive(Debug, Deserialize)]
#[serde(rename = "ClusterHealthCheck")]
pub(super) struct HealthCheck {
    timeout: Located<Time>,
    interval: Located<Time>,
    unhealthy_threshold: Located<u32>,
    healthy_threshold: Located<u32>,
    http_health_check: Option<HttpHealthCheck>,
    tcp_health_check: Option<TcpHealthCheck>,
    grpc_health_check: Option<GrpcHealthCheck>,
}

/// `envoy.config.core.v3.HealthCheck.HttpHealthCheck`.
#[derive(Debug, Deserialize)]
struct HttpHealthCheck {
    path: Located<String>,
    #[serde(default)]
    host: String,
    #[serde(default)]
    expected_statuses: Vec<Located<Int64Range>>,
}

/// `envoy.type.v3.Int64Range`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Int64Range {
    start: u16,
    end: u16,
}

/// `envoy.config.core.v3.HealthCheck.TcpHealthCheck`.
#[derive(Debug, Deserialize)]
struct TcpHealthCheck {}

/// `envoy.config.core.v3.HealthCheck.GrpcHealthCheck`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GrpcHealthCheck {
    service_name: String,
    authority: String,
}

/// `envoy.config.cluster.v3.OutlierDetection`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OutlierDetection {
    consecutive_5xx: Option<u32>,
    consecutive_gateway_failure: Option<u32>,
    base_ejection_time: Option<Time>,
    max_ejection_time: Option<Time>,
    max_ejection_percent: Option<u32>,
    always_eject_one_host: bool,
    enforcing_consecutive_5xx: Option<u32>,
    enforcing_consecutive_gateway_failure: Option<u32>,
}

/// `envoy.config.cluster.v3.Cluster.CommonLbConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CommonLbConfig {
    healthy_panic_threshold: Option<Percent>,
    pub(super) consistent_hashing_lb_config: Option<ConsistentHashing>,
}

/// `envoy.type.v3.Percent`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Percent {
    value: f64,
}

/// Builds the health checks of a cluster.
pub(super) fn build(
    node: NodeId,
    checks: &[Located<HealthCheck>],
    outliers: Option<&OutlierDetection>,
    common: Option<&CommonLbConfig>,
    overprovisioning: Option<u32>,
) -> Result<Health, Fault> {
    let default = Health::default();
    let panic = common.and_then(|common| common.healthy_panic_threshold.as_ref());
    Ok(Health {
        check: match checks {
            [] => None,
            [check] => Some(check.build()?),
            _ => return Err(Fault::at(node, "only one of health_checks is supported")),
        },
        outliers: outliers.map(OutlierDetection::build),
        panic: panic.map_or(default.panic, |percent| percent.value),
        overprovisioning: overprovisioning.unwrap_or(default.overprovisioning),
    })
}

impl Located<HealthCheck> {
    fn build(&self) -> Result<CheckModel, Fault> {
        let check = &self.value;
        let kinds = (
            &check.http_health_check,
            &check.tcp_health_check,
            &check.grpc_health_check,
        );
        let kind = match kinds {
            (Some(http), None, None) => http.build()?,
            (None, Some(TcpHealthCheck {}), None) => CheckKind::Tcp,
            (None, None, Some(grpc)) => CheckKind::Grpc {
                service: grpc.service_name.clone(),
                authority: grpc.authority.clone(),
            },
            _ => {
                return Err(Fault::at(
                    self.node,
                    "one and only one of http_health_check, tcp_health_check and \
                     grpc_health_check has to be set",
                ));
            }
        };
        let time = |time: &Located<Time>| match time.value.0 {
            time if time >= Duration::from_millis(1) => Ok(time),
            _ => Err(Fault::at(time.node, "has to be 1 ms or longer")),
        };
        let count = |count: &Located<u32>| match count.value {
            0 => Err(Fault::at(count.node, "has to be 1 or more")),
            count => Ok(count),
        };
        Ok(CheckModel {
            kind,
            timeout: time(&check.timeout)?,
            interval: time(&check.interval)?,
            unhealthy_threshold: count(&check.unhealthy_threshold)?,
            healthy_threshold: count(&check.healthy_threshold)?,
        })
    }
}

impl HttpHealthCheck {
    fn build(&self) -> Result<CheckKind, Fault> {
        if !self.path.value.starts_with('/') || self.path.value.parse::<http::Uri>().is_err() {
            return Err(Fault::at(self.path.node, "has to be a path"));
        }
        let mut expected = Vec::with_capacity(self.expected_statuses.len());
        for range in &self.expected_statuses {
            let Int64Range { start, end } = range.value;
            if start < 100 || end > 600 || start >= end {
                return Err(Fault::at(range.node, "has to be within 100 and 600"));
            }
            expected.push((start, end));
        }
        if expected.is_empty() {
            expected.push((200, 201));
        }
        Ok(CheckKind::Http {
            path: self.path.value.clone(),
            host: self.host.clone(),
            expected,
        })
    }
}

impl OutlierDetection {
    fn build(&self) -> Outliers {
        const BASE: Duration = Duration::from_secs(30);
        const MAX: Duration = Duration::from_secs(300);
        let enforced = |threshold: Option<u32>, enforcing: u32| {
            (enforcing > 0)
                .then(|| threshold.unwrap_or(5))
                .filter(|threshold| *threshold > 0)
        };
        let base_time = self.base_ejection_time.map_or(BASE, |time| time.0);
        Outliers {
            server_errors: enforced(
                self.consecutive_5xx,
                self.enforcing_consecutive_5xx.unwrap_or(100),
            ),
            gateway_failures: enforced(
                self.consecutive_gateway_failure,
                self.enforcing_consecutive_gateway_failure.unwrap_or(0),
            ),
            base_time,
            max_time: self
                .max_ejection_time
                .map_or(MAX, |time| time.0)
                .max(base_time),
            most: self.max_ejection_percent.unwrap_or(10),
            always_one: self.always_eject_one_host,
        }
    }
}
