//! `health_checks`, `outlier_detection` and the panic threshold of a cluster.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::{
    hashing::ConsistentHashing,
    value::{self, Enum, ProtoEnum, Time, Whatever},
};
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
    #[serde(default)]
    method: Enum<Method>,
    send: Option<Located<Payload>>,
    #[serde(default)]
    receive: Vec<Located<Payload>>,
    response_buffer_size: Option<u64>,
}

/// `envoy.config.core.v3.HealthCheck.Payload`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payload {
    /// In hexadecimal.
    text: Option<String>,
    binary: Option<value::Bytes>,
}

/// `envoy.config.core.v3.RequestMethod`; unset is GET.
#[derive(Clone, Copy, Debug, Default)]
struct Method(Option<&'static str>);

impl ProtoEnum for Method {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("METHOD_UNSPECIFIED", 0, Ok(Self(None))),
        ("GET", 1, Ok(Self(None))),
        ("HEAD", 2, Ok(Self(Some("HEAD")))),
        ("POST", 3, Ok(Self(Some("POST")))),
        ("PUT", 4, Ok(Self(Some("PUT")))),
        ("DELETE", 5, Ok(Self(Some("DELETE")))),
        ("CONNECT", 6, Err("is no method of a health check")),
        ("OPTIONS", 7, Ok(Self(Some("OPTIONS")))),
        ("TRACE", 8, Ok(Self(Some("TRACE")))),
        ("PATCH", 9, Ok(Self(Some("PATCH")))),
    ];
}

impl Method {
    fn build(self) -> http::Method {
        let named = self.0.and_then(|name| name.parse().ok());
        named.unwrap_or(http::Method::GET)
    }
}

/// `envoy.type.v3.Int64Range`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Int64Range {
    start: u16,
    end: u16,
}

/// `envoy.config.core.v3.HealthCheck.TcpHealthCheck`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TcpHealthCheck {
    send: Option<Located<Payload>>,
    receive: Vec<Located<Payload>>,
}

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
    pub(super) locality_weighted_lb_config: Option<Whatever>,
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
            (None, Some(tcp), None) => tcp.build()?,
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
            method: self.method.0.build(),
            path: self.path.value.clone(),
            host: self.host.clone(),
            expected,
            send: payload(self.send.as_ref())?,
            receive: payloads(&self.receive)?,
            looked_at: match self.response_buffer_size {
                None => 1024,
                Some(0) => usize::MAX,
                Some(size) => usize::try_from(size).unwrap_or(usize::MAX),
            },
        })
    }
}

impl TcpHealthCheck {
    fn build(&self) -> Result<CheckKind, Fault> {
        Ok(CheckKind::Tcp {
            send: payload(self.send.as_ref())?,
            receive: payloads(&self.receive)?,
        })
    }
}

fn payload(given: Option<&Located<Payload>>) -> Result<Bytes, Fault> {
    given.map_or(Ok(Bytes::new()), Located::<Payload>::build)
}

fn payloads(given: &[Located<Payload>]) -> Result<Vec<Bytes>, Fault> {
    given.iter().map(Located::<Payload>::build).collect()
}

impl Located<Payload> {
    fn build(&self) -> Result<Bytes, Fault> {
        let bytes = match (&self.value.text, &self.value.binary) {
            (Some(text), None) => hexadecimal(text)
                .ok_or_else(|| Fault::at(self.node, format!("{text:?} is not hexadecimal")))?,
            (None, Some(bytes)) => bytes.0.clone(),
            _ => {
                return Err(Fault::at(
                    self.node,
                    "one and only one of text and binary has to be set",
                ));
            }
        };
        match bytes.is_empty() {
            true => Err(Fault::at(self.node, "may not be empty")),
            false => Ok(bytes.into()),
        }
    }
}

/// The bytes of a text such as `50494E47`.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs
        .iter()
        .map(|&[high, low]| u8::try_from(digit(high)? * 16 + digit(low)?).ok())
        .collect()
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
