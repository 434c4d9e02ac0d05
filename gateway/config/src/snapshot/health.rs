//! Rules by which endpoints of a cluster are left out.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

/// Rules that leave endpoints out, and the limit below which too few are left for that.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// `health_checks`: endpoints are asked.
    pub check: Option<HealthCheck>,
    /// `outlier_detection`: the outcome of requests counts.
    pub outliers: Option<Outliers>,
    /// `healthy_panic_threshold`: if less of the endpoints than this share of 100 is fit, all are used.
    pub panic: f64,
    /// `overprovisioning_factor`: the share of 100 of the load of a priority that one endpoint of 100 takes. Default 140.
    pub overprovisioning: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: None,
            outliers: None,
            panic: 50.0,
            overprovisioning: 140,
        }
    }
}

impl Health {
    /// Returns true if endpoints may be left out.
    pub fn is_watched(&self) -> bool {
        self.check.is_some() || self.outliers.is_some()
    }
}

/// `envoy.config.core.v3.HealthCheck`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// Kind of the check.
    pub kind: CheckKind,
    /// The longest wait for an answer.
    pub timeout: Duration,
    /// The time between two checks.
    pub interval: Duration,
    /// Number of failures in a row that leave an endpoint out; the first check alone decides how it begins.
    pub unhealthy_threshold: u32,
    /// Number of successes in a row that take it in again.
    pub healthy_threshold: u32,
}

/// Kind of the check.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// It takes a connection.
    Tcp {
        /// Bytes that are sent; none unless something is to be received.
        send: Bytes,
        /// Pieces that have to come back, in this order; with none, the connection is enough.
        receive: Vec<Bytes>,
    },
    /// It answers a request.
    Http {
        /// The method.
        method: Method,
        /// `:path`.
        path: String,
        /// `:authority`; empty: the cluster's name.
        host: String,
        /// Statuses that are good, first and one beyond the last.
        expected: Vec<(u16, u16)>,
        /// The request's body.
        send: Bytes,
        /// Pieces that have to be in the response's body, in this order.
        receive: Vec<Bytes>,
        /// Bytes of the body that are looked at.
        looked_at: usize,
    },
    /// It says SERVING to `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service that is asked for.
        service: String,
        /// `:authority`; empty: the cluster's name.
        authority: String,
    },
}

/// `envoy.config.cluster.v3.OutlierDetection`.
#[derive(Clone, Debug, PartialEq)]
pub struct Outliers {
    /// `consecutive_5xx`; `None` if it is not enforced.
    pub server_errors: Option<u32>,
    /// `consecutive_gateway_failure`; `None` if it is not enforced.
    pub gateway_failures: Option<u32>,
    /// For how long an endpoint is left out the first time; so much longer each further time.
    pub base_time: Duration,
    /// The longest time.
    pub max_time: Duration,
    /// The share of 100 of the endpoints that may be left out.
    pub most: u32,
    /// `always_eject_one_host`: one may be left out in any case.
    pub always_one: bool,
}
