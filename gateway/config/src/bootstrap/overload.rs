//! `OverloadManager`: the limits of the process.

use std::time::Duration;

use serde::Deserialize;

use super::value::Time;
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::OverloadLimits,
};

const FIXED_HEAP: &str = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
const CONNECTIONS: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
const MONITORS: &[&str] = &[FIXED_HEAP, CONNECTIONS];
const STOP_REQUESTS: &str = "envoy.overload_actions.stop_accepting_requests";
const STOP_CONNECTIONS: &str = "envoy.overload_actions.stop_accepting_connections";
const RESET_STREAMS: &str = "envoy.overload_actions.reset_high_memory_stream";
const REJECT_CONNECTIONS: &str = "envoy.overload_actions.reject_incoming_connections";

/// `envoy.config.overload.v3.OverloadManager`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OverloadManager {
    refresh_interval: Option<Located<Time>>,
    resource_monitors: Vec<Located<ResourceMonitor>>,
    actions: Vec<Located<OverloadAction>>,
}

/// `envoy.config.overload.v3.ResourceMonitor`.
#[derive(Debug, Deserialize)]
struct ResourceMonitor {
    name: String,
    typed_config: Subtree,
}

/// `envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig`.
#[derive(Debug, Deserialize)]
struct FixedHeapConfig {
    max_heap_size_bytes: Located<u64>,
}

/// `envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig`.
#[derive(Debug, Deserialize)]
struct DownstreamConnectionsConfig {
    max_active_downstream_connections: Located<u64>,
}

/// `envoy.config.overload.v3.OverloadAction`.
#[derive(Debug, Deserialize)]
struct OverloadAction {
    name: String,
    triggers: Vec<Located<Trigger>>,
}

/// `envoy.config.overload.v3.Trigger`.
#[derive(Debug, Deserialize)]
struct Trigger {
    name: String,
    threshold: Option<ThresholdTrigger>,
    scaled: Option<ScaledTrigger>,
}

/// `envoy.config.overload.v3.ThresholdTrigger`.
#[derive(Debug, Deserialize)]
struct ThresholdTrigger {
    value: f64,
}

/// `envoy.config.overload.v3.ScaledTrigger`. There is nothing between acting and not, so that the
/// point counts at which Envoy acts in full.
#[derive(Debug, Deserialize)]
struct ScaledTrigger {
    saturation_threshold: f64,
}

impl OverloadManager {
    pub(super) fn build(&self, reader: &Reader<'_>) -> Result<OverloadLimits, Fault> {
        let mut limits = OverloadLimits {
            stop_requests: None,
            stop_connections: None,
            reset_streams: None,
            ..OverloadLimits::default()
        };
        if let Some(interval) = &self.refresh_interval {
            if interval.value.0 < Duration::from_millis(1) {
                return Err(Fault::at(interval.node, "has to be 0.001s or more"));
            }
            limits.refresh = interval.value.0;
        }
        let mut heap = None;
        for monitor in &self.resource_monitors {
            let Located { node, value } = monitor;
            match reader.type_of(value.typed_config.node)? {
                FIXED_HEAP => {
                    let config: FixedHeapConfig = reader.read_typed(value.typed_config.node)?;
                    limits.memory = Some(positive(&config.max_heap_size_bytes)?);
                    heap = Some(value.name.as_str());
                }
                CONNECTIONS => {
                    let config: DownstreamConnectionsConfig =
                        reader.read_typed(value.typed_config.node)?;
                    let most = positive(&config.max_active_downstream_connections)?;
                    limits.connections = Some(usize::try_from(most).unwrap_or(usize::MAX));
                }
                other => return Err(super::any::unsupported(*node, other, MONITORS)),
            }
        }
        for Located { node, value } in &self.actions {
            let place = match value.name.as_str() {
                STOP_REQUESTS => &mut limits.stop_requests,
                STOP_CONNECTIONS | REJECT_CONNECTIONS => &mut limits.stop_connections,
                RESET_STREAMS => &mut limits.reset_streams,
                other => {
                    return Err(Fault::at(
                        *node,
                        format!(
                            "action {other:?} is not supported, only {STOP_REQUESTS}, {RESET_STREAMS} and \
                             {STOP_CONNECTIONS}"
                        ),
                    ));
                }
            };
            for Located { node, value } in &value.triggers {
                if Some(value.name.as_str()) != heap {
                    return Err(Fault::at(
                        *node,
                        format!("no fixed_heap monitor is named {:?}", value.name),
                    ));
                }
                let threshold = match (&value.threshold, &value.scaled) {
                    (Some(threshold), None) => threshold.value,
                    (None, Some(scaled)) => scaled.saturation_threshold,
                    _ => return Err(Fault::at(*node, "needs threshold or scaled")),
                };
                if !(0.0..=1.0).contains(&threshold) {
                    return Err(Fault::at(*node, "the threshold has to be from 0 to 1"));
                }
                *place = Some(place.map_or(threshold, |known| known.min(threshold)));
            }
        }
        Ok(limits)
    }
}

fn positive(number: &Located<u64>) -> Result<u64, Fault> {
    match number.value {
        0 => Err(Fault::at(number.node, "has to be 1 or more")),
        number => Ok(number),
    }
}
